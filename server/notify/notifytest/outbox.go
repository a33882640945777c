// Package notifytest has an outbox in memory, and the tests that every
// implementation of [notify.Outbox] must pass.
package notifytest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/assay-dev/assay/server/notify"
)

// Outbox is a [notify.Outbox] in memory. Its JSON form holds all of it, so that a
// test may take it over a restart. It is safe for concurrent use.
type Outbox struct {
	mu      sync.Mutex
	waiting []waiting
	failed  []Failed
}

type waiting struct {
	Delivery notify.Delivery `json:"delivery"`
	At       time.Time       `json:"at"` // not before
	Reason   string          `json:"reason,omitempty"`
}

// Failed is a delivery that was dropped.
type Failed struct {
	Delivery notify.Delivery `json:"delivery"`
	Reason   string          `json:"reason"`
}

// Add appends deliveries, without those whose ID waits already.
func (o *Outbox) Add(_ context.Context, deliveries ...notify.Delivery) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range deliveries {
		if o.index(d.ID) < 0 {
			o.waiting = append(o.waiting, waiting{Delivery: d})
		}
	}
	return nil
}

// Due implements [notify.Outbox].
func (o *Outbox) Due(_ context.Context, now time.Time, limit int) ([]notify.Delivery, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var due []notify.Delivery
	count := map[string]int{}
	earlier := map[[2]string]bool{}
	for _, w := range o.waiting {
		of := [2]string{w.Delivery.Receiver, w.Delivery.Notification.Subject}
		if !earlier[of] && !w.At.After(now) && count[w.Delivery.Receiver] < limit {
			count[w.Delivery.Receiver]++
			due = append(due, w.Delivery)
		}
		earlier[of] = true
	}
	return due, nil
}

// Done implements [notify.Outbox].
func (o *Outbox) Done(_ context.Context, id string) error {
	_, err := o.remove(id)
	return err
}

// Retry implements [notify.Outbox].
func (o *Outbox) Retry(_ context.Context, id string, at time.Time, reason string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.index(id)
	if i < 0 {
		return fmt.Errorf("no delivery %s waits", id)
	}
	w := &o.waiting[i]
	w.At, w.Reason = at, reason
	w.Delivery.Attempts++
	return nil
}

// Drop implements [notify.Outbox].
func (o *Outbox) Drop(_ context.Context, id, reason string) error {
	d, err := o.remove(id)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = append(o.failed, Failed{Delivery: d, Reason: reason})
	return nil
}

// Waiting are the deliveries that wait, due or not.
func (o *Outbox) Waiting() []notify.Delivery {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []notify.Delivery
	for _, w := range o.waiting {
		out = append(out, w.Delivery)
	}
	return out
}

// Failed are the deliveries that were dropped.
func (o *Outbox) Failed() []Failed {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.failed)
}

func (o *Outbox) remove(id string) (notify.Delivery, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := o.index(id)
	if i < 0 {
		return notify.Delivery{}, fmt.Errorf("no delivery %s waits", id)
	}
	d := o.waiting[i].Delivery
	o.waiting = slices.Delete(o.waiting, i, i+1)
	return d, nil
}

func (o *Outbox) index(id string) int {
	return slices.IndexFunc(o.waiting, func(w waiting) bool { return w.Delivery.ID == id })
}

type stored struct {
	Waiting []waiting `json:"waiting"`
	Failed  []Failed  `json:"failed"`
}

// MarshalJSON gives all of the outbox.
func (o *Outbox) MarshalJSON() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return json.Marshal(stored{o.waiting, o.failed})
}

// UnmarshalJSON replaces all of the outbox.
func (o *Outbox) UnmarshalJSON(text []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	o.waiting, o.failed = s.Waiting, s.Failed
	return nil
}
