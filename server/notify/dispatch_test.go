package notify_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/notifytest"
)

// script is a receiver that gives errors in order, then none.
type script struct {
	errs []error
	mu   sync.Mutex
	sent []notify.Notification
}

func (s *script) Takes(notify.Kind) bool { return true }

func (s *script) Send(_ context.Context, n notify.Notification) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, n)
	if len(s.errs) == 0 {
		return nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return err
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// clock is a time that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func opened(name string) notify.Notification {
	return notify.Tracker{}.Evaluate(noon, []api.Alert{{Name: name, Severity: 50}}, nil).Notifications[0]
}

func outbox(t *testing.T, deliveries ...notify.Delivery) *notifytest.Outbox {
	t.Helper()
	o := &notifytest.Outbox{}
	if err := o.Add(t.Context(), deliveries...); err != nil {
		t.Fatal(err)
	}
	return o
}

func deliver(t *testing.T, d *notify.Dispatcher, o notify.Outbox, c *clock) int {
	t.Helper()
	n, err := d.Deliver(t.Context(), o, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func down() error { return &notify.Temporary{Err: errors.New("down")} }

// Attempts are spread by a doubling backoff of at most half an hour, then end.
func TestBackoff(t *testing.T) {
	r := &script{}
	for range 100 {
		r.errs = append(r.errs, down())
	}
	for _, jitter := range []float64{0, 0.999} {
		o := outbox(t, notify.NewDelivery("x", opened("a")))
		d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": r}, Attempts: 14, Jitter: func() float64 { return jitter }}
		c := &clock{noon}
		want := 2 * time.Second
		for attempt := range 13 {
			deliver(t, d, o, c)
			from, to := want/2, want
			c.Time = c.Add(from - time.Millisecond)
			if due, _ := o.Due(t.Context(), c.Time, 1); len(due) != 0 {
				t.Fatalf("jitter %v: attempt %d: due before %s", jitter, attempt, from)
			}
			c.Time = c.Add(to - from + time.Millisecond)
			if due, _ := o.Due(t.Context(), c.Time, 1); len(due) != 1 || due[0].Attempts != attempt+1 {
				t.Fatalf("jitter %v: attempt %d: not due after %s: %+v", jitter, attempt, to, due)
			}
			want = min(2*want, 30*time.Minute)
		}
		deliver(t, d, o, c)
		if f := o.Failed(); len(f) != 1 || f[0].Reason != "down" || len(o.Waiting()) != 0 {
			t.Errorf("after the last attempt %+v failed", f)
		}
	}
}

// One receiver's failure neither holds up nor repeats the others.
func TestReceiversAreApart(t *testing.T) {
	bad, good := &script{errs: []error{down(), down()}}, &script{}
	a, b := opened("a"), opened("b")
	o := outbox(t, notify.NewDelivery("bad", a), notify.NewDelivery("bad", b), notify.NewDelivery("good", a), notify.NewDelivery("good", b))
	d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"bad": bad, "good": good}}
	c := &clock{noon}
	if n := deliver(t, d, o, c); n != 2 || len(good.sent) != 2 || len(bad.sent) != 1 {
		t.Errorf("%d left; good got %d, bad was tried %d times", n, len(good.sent), len(bad.sent))
	}
	deliver(t, d, o, c) // the other alert of bad
	c.Time = c.Add(time.Hour)
	deliver(t, d, o, c)
	if len(o.Waiting()) != 0 || len(bad.sent) != 4 || len(good.sent) != 2 {
		t.Errorf("%d wait; good got %d, bad was tried %d times", len(o.Waiting()), len(good.sent), len(bad.sent))
	}
	for _, n := range good.sent {
		if !n.Sent.Equal(noon) {
			t.Errorf("sent at %s", n.Sent)
		}
	}
}

// Who asks to be left alone is, for all that is due to it.
func TestRetryAfter(t *testing.T) {
	r := &script{errs: []error{&notify.Temporary{Err: errors.New("429"), After: 10 * time.Minute}}}
	o := outbox(t, notify.NewDelivery("x", opened("a")), notify.NewDelivery("x", opened("b")))
	d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": r}}
	c := &clock{noon}
	deliver(t, d, o, c)
	c.Time = noon.Add(10*time.Minute - time.Second)
	deliver(t, d, o, c)
	if len(r.sent) != 1 {
		t.Errorf("%d attempts before the time asked for", len(r.sent))
	}
	c.Time = noon.Add(10 * time.Minute)
	deliver(t, d, o, c)
	if len(r.sent) != 3 || len(o.Waiting()) != 0 {
		t.Errorf("%d attempts, %d wait", len(r.sent), len(o.Waiting()))
	}
}

// A refusal is kept at once, also of a receiver that is gone; its log and its
// reason are bounded and say why.
func TestRefused(t *testing.T) {
	var log bytes.Buffer
	r := &script{errs: []error{errors.New(strings.Repeat("ü", 10_000))}}
	o := outbox(t, notify.NewDelivery("x", opened("a")), notify.NewDelivery("gone", opened("a")))
	d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": r}, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if n := deliver(t, d, o, &clock{noon}); n != 2 {
		t.Errorf("%d left", n)
	}
	for _, f := range o.Failed() {
		if f.Reason == "" || len(f.Reason) > 500 {
			t.Errorf("%s failed for a reason of %d bytes", f.Delivery.Receiver, len(f.Reason))
		}
	}
	if len(o.Failed()) != 2 || !strings.Contains(log.String(), "receiver=gone") {
		t.Errorf("%+v; %s", o.Failed(), log.String())
	}
}

// A refresh is neither retried nor shown as failed: the next one comes.
func TestRefreshFails(t *testing.T) {
	tracker := notify.Tracker{}
	step := tracker.Evaluate(noon, []api.Alert{{Name: "a", Severity: 50}}, nil)
	refresh := tracker.Repeat(noon.Add(time.Minute), step.States).Notifications[0]
	for _, err := range []error{down(), errors.New("refused")} {
		r := &script{errs: []error{err}}
		o := outbox(t, notify.NewDelivery("x", refresh))
		deliver(t, &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": r}}, o, &clock{noon})
		if len(o.Waiting()) != 0 || len(o.Failed()) != 0 {
			t.Errorf("%v: %d wait, %d failed", err, len(o.Waiting()), len(o.Failed()))
		}
	}
}

// hang is a receiver that answers when its context ends.
type hang struct{ started chan struct{} }

func (hang) Takes(notify.Kind) bool { return true }

func (h hang) Send(ctx context.Context, _ notify.Notification) error {
	if h.started != nil {
		h.started <- struct{}{}
	}
	<-ctx.Done()
	return ctx.Err()
}

// An attempt ends at its deadline, and counts.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := outbox(t, notify.NewDelivery("x", opened("a")))
		d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": hang{}}, Timeout: 7 * time.Second}
		before := time.Now()
		if _, err := d.Deliver(t.Context(), o, time.Now); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(before); took != 7*time.Second {
			t.Errorf("the attempt took %s", took)
		}
		if w := o.Waiting(); len(w) != 1 || w[0].Attempts != 1 {
			t.Errorf("waiting are %+v", w)
		}
	})
}

// Shutting down leaves a delivery as it was; what arrived meanwhile is
// acknowledged. While one call sends to a receiver, another leaves it out.
func TestShutdown(t *testing.T) {
	o := outbox(t, notify.NewDelivery("x", opened("a")))
	receiver := hang{started: make(chan struct{})}
	d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": receiver}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := d.Deliver(ctx, o, func() time.Time { return noon })
		done <- err
	}()
	<-receiver.started
	if n, err := d.Deliver(t.Context(), o, func() time.Time { return noon }); n != 0 || err != nil {
		t.Errorf("a second call sent %d, %v", n, err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if w := o.Waiting(); len(w) != 1 || w[0].Attempts != 0 {
		t.Errorf("waiting are %+v", w)
	}
	ctx, cancel = context.WithCancel(t.Context())
	d = &notify.Dispatcher{Receivers: map[string]notify.Receiver{"x": arrives{cancel}}}
	if _, err := d.Deliver(ctx, strict{o}, func() time.Time { return noon }); err != nil {
		t.Error(err)
	}
	if w := o.Waiting(); len(w) != 0 {
		t.Errorf("%d wait after they arrived", len(w))
	}
}

// arrives is a receiver during whose success everything is shut down.
type arrives struct{ cancel func() }

func (arrives) Takes(notify.Kind) bool                                { return true }
func (a arrives) Send(_ context.Context, _ notify.Notification) error { a.cancel(); return nil }

// strict is an outbox that refuses contexts that ended, as databases do.
type strict struct{ *notifytest.Outbox }

func (s strict) Done(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Outbox.Done(ctx, id)
}
