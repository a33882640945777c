package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Delivery is a notification on its way to one receiver.
type Delivery struct {
	// ID is unique among the deliveries that wait. It is made of the receiver and
	// the notification's ID, so that adding what waits already changes nothing: a
	// [Refresh] is not added while what it repeats waits.
	ID           string       `json:"id"`
	Receiver     string       `json:"receiver"`
	Notification Notification `json:"notification"`
	// Attempts is how often Retry was called for it.
	Attempts int `json:"attempts"`
}

// NewDelivery is the delivery of a notification to the receiver of a name.
func NewDelivery(receiver string, n Notification) Delivery {
	return Delivery{ID: digest(receiver, n.ID), Receiver: receiver, Notification: n}
}

// Outbox is where deliveries wait. The store has it; package notifytest has the
// tests that it must pass.
type Outbox interface {
	// Due gives the deliveries whose time has come, in the order in which they were
	// added, at most limit for each receiver. One whose receiver has an earlier
	// delivery of the same Notification.Subject is not due before that one left.
	// Where several dispatchers work, what was given to one is not given to another
	// for some minutes.
	Due(ctx context.Context, now time.Time, limit int) ([]Delivery, error)
	// Done removes a delivery that arrived.
	Done(ctx context.Context, id string) error
	// Retry keeps a delivery until a time, counts an attempt and keeps the reason.
	Retry(ctx context.Context, id string, at time.Time, reason string) error
	// Drop keeps a delivery as failed, to be shown with the reason, not to be sent.
	Drop(ctx context.Context, id string, reason string) error
}

// Bounds and defaults of a [Dispatcher].
const (
	DefaultTimeout  = 30 * time.Second
	DefaultAttempts = 60 // a day with the default backoff
	DefaultBatch    = 100

	minBackoff = 2 * time.Second
	maxBackoff = 30 * time.Minute
	maxAfter   = time.Hour // of what a receiver may ask for
	maxReason  = 500       // bytes
)

// Dispatcher sends what waits in an outbox. Fields are not changed after the
// first Deliver.
type Dispatcher struct {
	Receivers map[string]Receiver // by name
	Timeout   time.Duration       // of one attempt; 0: DefaultTimeout
	Attempts  int                 // after which a delivery is dropped; 0: DefaultAttempts
	Batch     int                 // deliveries of a receiver in one Deliver; 0: DefaultBatch
	// Jitter gives numbers from 0 up to 1, by which attempts are spread; nil: random.
	// It is called by several goroutines.
	Jitter func() float64
	Log    *slog.Logger // nil: no log

	mu     sync.Mutex
	paused map[string]time.Time // receivers that asked to be left alone, until when
	busy   map[string]bool      // receivers that another call sends to
}

// Deliver sends what is due, each receiver's deliveries one after the other and
// the receivers side by side, and returns how many left the outbox. After a
// temporary failure a receiver gets nothing more in this call. An error is that
// of the outbox or of ctx; what was not acknowledged then is sent again by a
// later call. It may be called by several goroutines: a receiver that one of them
// sends to is left out by the others.
func (d *Dispatcher) Deliver(ctx context.Context, o Outbox, now func() time.Time) (int, error) {
	due, err := o.Due(ctx, now(), cmp.Or(d.Batch, DefaultBatch))
	if err != nil {
		return 0, fmt.Errorf("reading what is to be delivered: %w", err)
	}
	byReceiver := map[string][]Delivery{}
	for _, delivery := range due {
		byReceiver[delivery.Receiver] = append(byReceiver[delivery.Receiver], delivery)
	}
	var group errgroup.Group // no context: one receiver's trouble does not end the others
	var mu sync.Mutex
	left := 0
	for name, deliveries := range byReceiver {
		group.Go(func() error {
			n, err := d.receiver(ctx, o, now, name, deliveries)
			mu.Lock()
			defer mu.Unlock()
			left += n
			return err
		})
	}
	return left, group.Wait()
}

func (d *Dispatcher) receiver(ctx context.Context, o Outbox, now func() time.Time, name string, deliveries []Delivery) (left int, err error) {
	if !d.take(name, now()) {
		return 0, nil
	}
	defer d.release(name)
	for _, delivery := range deliveries {
		result, err := d.attempt(ctx, o, now, delivery)
		if err != nil {
			return left, fmt.Errorf("delivering to %s: %w", name, err)
		}
		if result == waits {
			return left, nil
		}
		left++
	}
	return left, nil
}

type outcome int

const (
	leaves outcome = iota
	waits          // and with it the receiver
)

// attempt sends one delivery and tells the outbox.
func (d *Dispatcher) attempt(ctx context.Context, o Outbox, now func() time.Time, delivery Delivery) (outcome, error) {
	sent := d.send(ctx, now, delivery)
	if ctx.Err() != nil && sent != nil {
		return waits, ctx.Err() // shut down, which is no fault of the receiver
	}
	// What arrived is acknowledged even while shutting down.
	ack, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultTimeout)
	defer cancel()
	log := d.logger().With("receiver", delivery.Receiver, "alert", delivery.Notification.Alert.Name,
		"kind", delivery.Notification.Kind, "id", delivery.Notification.ID, "attempt", delivery.Attempts+1)
	if sent == nil {
		log.Info("notification delivered")
		return leaves, o.Done(ack, delivery.ID)
	}
	log = log.With("error", sent)
	again := temporary(sent)
	if again != nil && again.After > 0 {
		d.pause(delivery.Receiver, now().Add(min(again.After, maxAfter)))
	}
	reason := cut(sent.Error(), maxReason)
	switch {
	case delivery.Notification.Kind == Refresh:
		// The next refresh is its retry.
		log.Warn("notification not repeated")
		if err := o.Done(ack, delivery.ID); err != nil || again == nil {
			return leaves, err
		}
		return waits, nil
	case again == nil:
		log.Error("notification refused")
		return leaves, o.Drop(ack, delivery.ID, reason)
	case delivery.Attempts+1 >= cmp.Or(d.Attempts, DefaultAttempts):
		log.Error("notification given up")
		return leaves, o.Drop(ack, delivery.ID, reason)
	}
	at := now().Add(max(d.backoff(delivery.Attempts), min(again.After, maxAfter)))
	log.Warn("notification to be sent again", "at", at)
	return waits, o.Retry(ack, delivery.ID, at, reason)
}

func (d *Dispatcher) send(ctx context.Context, now func() time.Time, delivery Delivery) error {
	receiver, ok := d.Receivers[delivery.Receiver]
	if !ok {
		return errors.New("there is no such receiver any more")
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.Timeout, DefaultTimeout))
	defer cancel()
	n := delivery.Notification
	n.Sent = now().UTC()
	err := receiver.Send(ctx, n)
	if err != nil && ctx.Err() != nil && temporary(err) == nil {
		return &Temporary{Err: err} // a deadline ended it, not an answer
	}
	return err
}

// backoff is the time to wait after a number of attempts before the present one:
// from half to the whole of two seconds, doubled each time, up to half an hour.
func (d *Dispatcher) backoff(attempts int) time.Duration {
	jitter := d.Jitter
	if jitter == nil {
		jitter = rand.Float64
	}
	wait := maxBackoff
	if attempts < 10 {
		wait = min(minBackoff<<attempts, maxBackoff)
	}
	return wait/2 + time.Duration(jitter()*float64(wait/2))
}

// take makes a receiver the caller's, unless it is another's or paused.
func (d *Dispatcher) take(name string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[name] || now.Before(d.paused[name]) {
		return false
	}
	if d.busy == nil {
		d.busy, d.paused = map[string]bool{}, map[string]time.Time{}
	}
	d.busy[name] = true
	return true
}

func (d *Dispatcher) release(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, name)
}

func (d *Dispatcher) pause(name string, until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.paused[name] = until
}

func (d *Dispatcher) logger() *slog.Logger {
	if d.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Log
}

// cut shortens a text to at most so many bytes, at the end of a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	at := 0
	for i := range text {
		if i > limit {
			break
		}
		at = i
	}
	return text[:at]
}
