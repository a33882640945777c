package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source/cluster"
	"github.com/assay-dev/assay/documents"
)

// Records is where decisions go: metrics, a log of receipts, the server, and
// Kubernetes Events of what was refused. None of them makes an answer wait.
type Records struct {
	// Log gets one JSON line (api.Record) for each decision on images; nil gets none.
	Log io.Writer
	// Send gives receipts to the server; nil sends none. What it fails to take is sent again.
	Send func(context.Context, []api.AdmissionRecord) error
	// Cluster names this one in what is sent.
	Cluster string
	// Events takes those of rejections and overrides; nil takes none.
	Events record.EventRecorder
	Logger *slog.Logger

	decisions *prometheus.CounterVec
	images    *prometheus.CounterVec
	seconds   prometheus.Histogram
	dropped   prometheus.Counter
	strangers prometheus.Counter
	notJudged prometheus.Counter

	queue chan api.AdmissionRecord
	write sync.Mutex

	mu     sync.Mutex
	counts map[string]cluster.Count // by policy
}

// Receipts wait for the server up to queued, and go in lots of at most batch.
const (
	queued     = 10_000
	batch      = 500
	sendEvery  = time.Second
	retryEvery = 5 * time.Second
)

// Start makes the metrics.
func (r *Records) Start(registry prometheus.Registerer) {
	r.queue = make(chan api.AdmissionRecord, queued)
	r.decisions = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_admission_decisions_total", Help: "Decisions by outcome: allowed, rejected, unjudged, overridden or error."}, []string{"outcome", "kind"})
	r.images = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_admission_images_total", Help: "Images decided on by result, action and policy."}, []string{"result", "action", "policy"})
	r.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "assay_admission_duration_seconds", Help: "Time from the review to the decision.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)})
	r.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_admission_records_dropped_total", Help: "Receipts that the server did not get since too many waited."})
	r.strangers = prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_admission_unauthenticated_total", Help: "Decisions on reviews whose caller was not authenticated: --client-ca."})
	r.notJudged = prometheus.NewCounter(prometheus.CounterOpts{Name: "assay_admission_not_judged_total", Help: "Images of requests that were not judged, for their kind, namespace or place in the object; the log says why."})
	r.counts = map[string]cluster.Count{}
	registry.MustRegister(r.decisions, r.images, r.seconds, r.dropped, r.strangers, r.notJudged)
}

// outcome is what became of a review.
func outcome(d Decided) string {
	switch {
	case d.Err != nil:
		return "error"
	case !d.Decision.Allowed:
		return "rejected"
	case !d.Decision.Judged:
		return "unjudged"
	case d.Decision.Override != nil:
		return "overridden"
	}
	return "allowed"
}

// Add records a decision. It does not wait.
func (r *Records) Add(d Decided) {
	what := outcome(d)
	kind := d.Decision.Kind
	if what == "unjudged" {
		kind = "" // a user could make up any number of kinds
	}
	r.decisions.WithLabelValues(what, kind).Inc()
	r.seconds.Observe(d.Took.Seconds())
	if !d.Caller.Authenticated {
		r.strangers.Inc()
	}
	for _, i := range d.Decision.Images {
		r.images.WithLabelValues(string(i.Result), i.Action, i.Policy).Inc()
	}
	if !d.Input.DryRun {
		r.count(d)
	}
	if left := d.NotJudged; left != nil {
		r.notJudged.Add(float64(len(left.Images)))
		r.Logger.Info("images are not judged", "why", left.Reason, "kind", d.Input.Review.Group+"/"+d.Decision.Kind, "namespace", d.Decision.Namespace,
			"name", d.Decision.Name, "images", len(left.Images), "first", left.Images[0], "uid", d.Input.UID)
	}
	level := slog.LevelDebug
	switch what {
	case "error":
		level = slog.LevelError
	case "overridden":
		level = slog.LevelWarn
	case "rejected":
		level = slog.LevelInfo
	}
	r.Logger.Log(context.Background(), level, "admission", "outcome", what, "kind", d.Decision.Kind, "namespace", d.Decision.Namespace,
		"name", d.Decision.Name, "user", d.Input.Review.User, "operation", d.Input.Review.Operation, "uid", d.Input.UID, "authenticated", d.Caller.Authenticated, "error", d.Err)
	if what == "unjudged" {
		return
	}
	receipt := api.Record{
		Schema:   api.SchemaRecord,
		Input:    api.FlatReview{Schema: api.SchemaReview, Now: documents.Time(d.At), Review: d.Input.Review},
		Decision: d.Decision,
		Caller:   &d.Caller,
	}
	if r.Log != nil {
		r.line(receipt)
	}
	if d.Input.DryRun {
		return
	}
	if r.Send != nil {
		select {
		case r.queue <- api.AdmissionRecord{UID: d.Input.UID, Cluster: r.Cluster, At: d.At, Record: receipt}:
		default:
			r.dropped.Inc()
		}
	}
	r.event(d, what)
}

// Counts are the images on which each policy decided.
func (r *Records) Counts() map[string]cluster.Count {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.counts)
}

func (r *Records) count(d Decided) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range d.Decision.Images {
		if i.Policy == "" {
			continue
		}
		c, ok := r.counts[i.Policy]
		if !ok {
			c.Since = d.At
		}
		if i.Action == api.Allow {
			c.Allowed++
		} else {
			c.Rejected++
		}
		r.counts[i.Policy] = c
	}
}

func (r *Records) line(receipt api.Record) {
	text, err := json.Marshal(receipt)
	if err == nil {
		r.write.Lock()
		defer r.write.Unlock()
		_, err = r.Log.Write(append(text, '\n'))
	}
	if err != nil {
		r.Logger.Error("writing a receipt", "error", err)
	}
}

// maxEvent bounds the message of an Event, as the API server does.
const maxEvent = 1000

func (r *Records) event(d Decided, what string) {
	reason, said := "ImageRejected", d.Decision.Message
	switch {
	case r.Events == nil:
		return
	case what == "overridden":
		o := d.Decision.Override
		reason, said = "PolicyOverridden", fmt.Sprintf("until %s: %s", o.Until, o.Reason)
	case what == "allowed":
		return
	}
	review := d.Input.Review
	version := "v1"
	if review.Group != "" {
		version = review.Group + "/v1"
	}
	namespace := review.Namespace
	if namespace == "" {
		namespace = "default"
	}
	about := &corev1.ObjectReference{APIVersion: version, Kind: review.Kind, Namespace: namespace, Name: review.Name}
	r.Events.Event(about, corev1.EventTypeWarning, reason, lines(fmt.Sprintf("%s by %s: %s", review.Operation, review.User, said), maxEvent))
}

// Run sends receipts until the context ends, and what is left then.
func (r *Records) Run(ctx context.Context) {
	if r.Send == nil {
		return
	}
	var lot []api.AdmissionRecord
	failing := false
	ticker := time.NewTicker(sendEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), retryEvery)
			defer cancel()
			lot = r.drain(lot, queued+batch)
			for len(lot) > 0 {
				n := min(len(lot), batch)
				if err := r.Send(last, lot[:n]); err != nil {
					r.Logger.Error("the server did not get the last receipts", "lost", len(lot), "error", err)
					return
				}
				lot = lot[n:]
			}
			return
		case <-ticker.C:
		}
		for lot = r.drain(lot, batch); len(lot) > 0; lot = r.drain(nil, batch) {
			if err := r.Send(ctx, lot); err != nil {
				if !failing {
					r.Logger.Error("sending receipts to the server; they wait", "error", err)
				}
				failing = true
				select {
				case <-ctx.Done():
				case <-time.After(retryEvery):
				}
				break
			}
			failing = false
		}
	}
}

func (r *Records) drain(lot []api.AdmissionRecord, most int) []api.AdmissionRecord {
	for len(lot) < most {
		select {
		case x := <-r.queue:
			lot = append(lot, x)
		default:
			return lot
		}
	}
	return lot
}
