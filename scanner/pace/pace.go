// Package pace keeps requests to registries to the pace that these allow: a rate,
// the waits that they ask for, and few attempts at what failed for the moment.
package pace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"
)

// Defaults of [Config].
const (
	DefaultAttempts      = 6
	DefaultBackoff       = 500 * time.Millisecond
	DefaultMaxWait       = 5 * time.Minute
	DefaultHeaderTimeout = time.Minute
)

// maxBackoff bounds one wait that no registry asked for.
const maxBackoff = 30 * time.Second

// maxHosts bounds the hosts that are remembered: registries redirect to others.
const maxHosts = 1000

// Config bounds requests. Its zero value works.
type Config struct {
	// Base carries the requests. Absent: http.DefaultTransport.
	Base http.RoundTripper
	// Rate is how many requests a second one host may get. 0: any number.
	Rate float64
	// Attempts at one request. 0: 6.
	Attempts int
	// Backoff is the first wait after a failure, which doubles with each. 0: 500 ms.
	Backoff time.Duration
	// MaxWait is the longest wait that a registry may ask for. 0: 5 minutes.
	MaxWait time.Duration
	// HeaderTimeout bounds the time to the beginning of an answer. 0: a minute.
	HeaderTimeout time.Duration
}

// ErrBusy is wrapped when a registry asks to be left alone for longer than MaxWait.
// Requests fail with it at once until the time has come.
var ErrBusy = errors.New("the rate limit is reached")

// Transport is safe for concurrent use. What one request is told to wait, all wait
// that go to the same host.
type Transport struct {
	config Config
	mu     sync.Mutex
	hosts  map[string]*host
}

// host is what is known of one host.
type host struct {
	limiter *rate.Limiter // nil: no limit
	mu      sync.Mutex
	until   time.Time // nothing is sent before
}

// New makes a Transport.
func New(c Config) *Transport {
	if c.Base == nil {
		c.Base = http.DefaultTransport
	}
	if c.Attempts <= 0 {
		c.Attempts = DefaultAttempts
	}
	if c.Backoff <= 0 {
		c.Backoff = DefaultBackoff
	}
	if c.MaxWait <= 0 {
		c.MaxWait = DefaultMaxWait
	}
	if c.HeaderTimeout <= 0 {
		c.HeaderTimeout = DefaultHeaderTimeout
	}
	return &Transport{config: c, hosts: map[string]*host{}}
}

// host gives what is known of the host of a request.
func (t *Transport) host(name string) *host {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[name]
	if h == nil {
		if len(t.hosts) >= maxHosts {
			clear(t.hosts)
		}
		h = &host{}
		if t.config.Rate > 0 {
			h.limiter = rate.NewLimiter(rate.Limit(t.config.Rate), max(1, int(t.config.Rate)))
		}
		t.hosts[name] = h
	}
	return h
}

// RoundTrip implements [http.RoundTripper]. A request with a body that cannot be
// read twice is sent once.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	h := t.host(r.URL.Host)
	attempts := t.config.Attempts
	if r.Body != nil && r.Body != http.NoBody {
		attempts = 1
	}
	for attempt := 1; ; attempt++ {
		if err := t.wait(r.Context(), r.URL.Host, h); err != nil {
			return nil, err
		}
		response, err := t.send(r)
		last := attempt >= attempts || r.Context().Err() != nil
		switch {
		case err != nil:
			if last || !passing(err) {
				return nil, err
			}
		case !temporary(response.StatusCode):
			return response, nil
		}
		delay := t.backoff(attempt)
		if err == nil {
			asked, ok := RetryAfter(response.Header.Get("Retry-After"), time.Now())
			switch {
			case ok && (response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable):
				// Waiters do not all come back in the same instant.
				h.pause(time.Now().Add(asked + rand.N(t.config.Backoff)))
				delay = 0
			case response.StatusCode == http.StatusTooManyRequests:
				h.pause(time.Now().Add(delay))
				delay = 0
			}
			if last {
				return response, nil
			}
			_, _ = io.CopyN(io.Discard, response.Body, 64<<10) // so that the connection is used again
			response.Body.Close()
		}
		if err := sleep(r.Context(), delay); err != nil {
			return nil, err
		}
	}
}

// backoff is a time around that which doubles with each attempt.
func (t *Transport) backoff(attempt int) time.Duration {
	d := min(t.config.Backoff<<min(attempt-1, 16), maxBackoff)
	return d/2 + rand.N(d)
}

// pause keeps all from sending before a moment.
func (h *host) pause(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until.After(h.until) {
		h.until = until
	}
}

// wait returns when a request may be sent.
func (t *Transport) wait(ctx context.Context, name string, h *host) error {
	for {
		h.mu.Lock()
		d := time.Until(h.until)
		until := h.until
		h.mu.Unlock()
		if d > t.config.MaxWait+t.config.Backoff {
			return fmt.Errorf("%w: %s asks to wait until %s", ErrBusy, name, until.UTC().Format(time.RFC3339))
		}
		if d <= 0 {
			break
		}
		if err := sleep(ctx, d); err != nil {
			return err
		}
	}
	if h.limiter == nil {
		return ctx.Err()
	}
	return h.limiter.Wait(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// errSilent says that an answer did not begin in time.
var errSilent = errors.New("no answer in time")

// send sends a request once, with a bound on the time to the head of the answer.
func (t *Transport) send(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(t.config.HeaderTimeout, func() { cancel(errSilent) })
	response, err := t.config.Base.RoundTrip(r.WithContext(ctx))
	timer.Stop()
	if err != nil {
		if r.Context().Err() == nil && context.Cause(ctx) == errSilent {
			err = fmt.Errorf("%w (%s)", errSilent, t.config.HeaderTimeout)
		}
		cancel(nil)
		return nil, err
	}
	response.Request = r
	response.Body = &body{response.Body, cancel}
	return response, nil
}

// body ends the context of its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// temporary says whether a status may be another one soon.
func temporary(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// passing says whether an error may be gone at the next attempt. A host that does
// not exist, refuses connections or has no valid certificate stays so.
func passing(err error) bool {
	var timeout net.Error
	return errors.Is(err, errSilent) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED) ||
		errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

// RetryAfter reads the value of a Retry-After header, seconds or a date; false
// where it is neither. A date that is past is no wait.
func RetryAfter(value string, now time.Time) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 63); err == nil {
		return time.Duration(min(seconds, 1<<31)) * time.Second, true
	} else if errors.Is(err, strconv.ErrRange) {
		return 1 << 31 * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), 1<<31*time.Second), true
	}
	return 0, false
}
