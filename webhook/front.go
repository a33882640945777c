package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/review"
)

const (
	// elementsPerSlot is how many values of JSON the work of one slot is: a usual review has
	// fewer, and a larger one takes more slots, so that what all of them unfold to is bounded.
	elementsPerSlot = 2000
	// maxElements bounds one review: two objects of Kubernetes' own bound of size have fewer.
	maxElements = 400_000
	// answerIn bounds the time in which a client takes an answer.
	answerIn = 20 * time.Second
	// otherSlots are for paths that are neither reviews nor health.
	otherSlots = 16
)

// front is what every request meets first. A review has come whole before it takes one of the
// slots of its path, so that who sends slowly, or never, takes nothing from others; health is
// answered whatever else is asked.
type front struct {
	conns   *intake.Connections
	ca      dynamiccertificates.CAContentProvider // nil where API servers are not known by certificates
	serving Serving
	slots   map[string]*slots // by path
	others  *slots
	away    *prometheus.CounterVec
}

func (s Serving) front(conns *intake.Connections, ca dynamiccertificates.CAContentProvider, away *prometheus.CounterVec) *front {
	f := &front{conns: conns, ca: ca, serving: s, slots: map[string]*slots{}, others: &slots{free: otherSlots, all: otherSlots}, away: away}
	for path := range s.Handlers {
		n := max(s.MaxInFlight, 1)
		if path != "/admit" {
			n = max(n/4, 1) // what is not admission leaves its slots alone
		}
		f.slots[path] = &slots{free: n, all: n}
	}
	return f
}

// turnedAway counts requests that were not answered, by why; readiness does not depend on it.
func turnedAway() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_webhook_turned_away_total",
		Help: "Requests and connections that were turned away: busy (status 429), slow, connections, memory, certificate or body."}, []string{"reason"})
}

// chain puts it before the generic server's handlers. Reviews go straight to their handlers,
// but where they are audited: the chain of an API server runs each request in goroutines of
// their own, which takes longer than a decision.
func (f *front) chain(audited bool) func(http.Handler, *genericapiserver.Config) http.Handler {
	return func(api http.Handler, c *genericapiserver.Config) http.Handler {
		whole := genericapiserver.DefaultBuildHandlerChain(api, c)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerIn)) // not every writer has one
			h, review := f.serving.Handlers[r.URL.Path]
			switch {
			case !review:
				f.other(w, r, whole)
			case audited:
				f.review(w, r, whole)
			default:
				if err := c.NonLongRunningRequestWaitGroup.Add(1); err != nil {
					w.Header().Set("Retry-After", "1")
					http.Error(w, "the webhook is shutting down", http.StatusServiceUnavailable)
					return
				}
				defer c.NonLongRunningRequestWaitGroup.Done()
				f.review(w, r, h)
			}
		})
	}
}

// refuse ends a request whose body is not read, and its connection with it.
func (f *front) refuse(w http.ResponseWriter, reason, message string, status int) {
	f.away.WithLabelValues(reason).Inc()
	w.Header().Set("Connection", "close")
	http.Error(w, message, status)
}

func (f *front) busy(w http.ResponseWriter) {
	f.away.WithLabelValues(intake.ReasonBusy).Inc()
	w.Header().Set("Retry-After", "1")
	http.Error(w, "too many reviews at a time", http.StatusTooManyRequests)
}

// other serves what has no body: health, metrics and what is not there.
func (f *front) other(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.ContentLength != 0 {
		f.refuse(w, "body", "nothing here takes a body", http.StatusBadRequest)
		return
	}
	defer f.conns.Begin(r, false)()
	if isHealth(r.URL.Path) {
		// Everyone may ask, so that a token would only have the cluster asked whose it is.
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
		return
	}
	release, ok := f.others.take(1)
	if !ok {
		f.busy(w)
		return
	}
	defer release()
	next.ServeHTTP(w, r)
}

func isHealth(path string) bool {
	for _, p := range healthPaths {
		if path == p || strings.HasSuffix(p, "/*") && strings.HasPrefix(path, strings.TrimSuffix(p, "*")) {
			return true
		}
	}
	return false
}

func (f *front) review(w http.ResponseWriter, r *http.Request, next http.Handler) {
	known := false
	if f.ca != nil {
		if err := f.serving.verify(r, f.ca); err != nil {
			f.refuse(w, "certificate", err.Error(), http.StatusForbidden)
			return
		}
		known = true
		caller := api.Caller{Authenticated: true, Name: r.TLS.PeerCertificates[0].Subject.CommonName}
		r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller))
	}
	text, err := f.conns.Read(w, r, review.MaxReview)
	if err != nil {
		status := http.StatusBadRequest
		switch tooLarge := new(http.MaxBytesError); {
		case errors.As(err, &tooLarge):
			status = http.StatusRequestEntityTooLarge
		case errors.Is(err, intake.ErrSlow):
			status = http.StatusRequestTimeout
		}
		f.refuse(w, "body", err.Error(), status)
		return
	}
	defer f.conns.Begin(r, known)()
	var shape intake.Shape
	_, err = shape.Write(text.Bytes)
	if err == nil && shape.Elements > maxElements {
		err = fmt.Errorf("the review has more than %d values", maxElements)
	}
	if err != nil {
		f.refuse(w, "body", err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	release, ok := f.slots[r.URL.Path].take(1 + int(shape.Elements/elementsPerSlot))
	if !ok {
		f.busy(w)
		return
	}
	defer release()
	r.Body = text
	next.ServeHTTP(w, r)
}

// slots bound what is done at a time.
type slots struct {
	mu        sync.Mutex
	free, all int
}

// take takes n slots, or all of them where there are fewer.
func (s *slots) take(n int) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.all)
	if s.free < n {
		return nil, false
	}
	s.free -= n
	return func() {
		s.mu.Lock()
		s.free += n
		s.mu.Unlock()
	}, true
}
