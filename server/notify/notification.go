// Package notify turns the alerts that fire into notifications and delivers
// them. [Tracker] compares what fires now with what fired before; [Dispatcher]
// sends what an [Outbox] holds. Neither keeps anything of its own: states and
// deliveries are plain values that a store keeps, and a step of the tracker is
// stored with the deliveries it caused in one transaction. So each notification
// is delivered at least once, and a duplicate carries the same [Notification.ID].
//
// Below it, notify/receiver has the receivers and notify/config their
// configuration.
package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/assay-dev/assay/api"
)

// Kind says what a notification tells.
type Kind string

// Kinds of notifications. An episode of an alert has one Open, any number of
// Refresh and Update, and one Resolve.
const (
	Open    Kind = "open"
	Refresh Kind = "refresh" // the alert still fires: the newest Open or Update again, with its ID
	Update  Kind = "update"  // severity or a text changed while it fires
	Resolve Kind = "resolve"
)

// Notification is what a receiver is told about one alert.
type Notification struct {
	// ID is the idempotency key: 64 hexadecimal digits, the same for every attempt
	// and every repetition, also after a restart.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// Subject is the same for all notifications of a name and key, and Episode for
	// those from one opening to its resolution. Both are 64 hexadecimal digits.
	Subject string `json:"subject"`
	Episode string `json:"episode"`
	// Alert is as it fires, or fired last.
	Alert api.Alert `json:"alert"`
	// PreviousSeverity is that of the notification before, where an Update changed it.
	PreviousSeverity int       `json:"previous_severity,omitempty"`
	Opened           time.Time `json:"opened"`
	// Time is that of the transition, Sent that of the attempt, which the
	// [Dispatcher] sets.
	Time time.Time `json:"time"`
	Sent time.Time `json:"sent,omitzero"`
}

// Receiver sends notifications somewhere. Send is given a context with a
// deadline, and is not called by two goroutines at once. An error that wraps
// [Temporary] is worth another attempt, any other is not. Errors have no secrets.
type Receiver interface {
	Send(context.Context, Notification) error
	// Takes tells whether notifications of a kind are of use to the receiver.
	Takes(Kind) bool
}

// Temporary is an error that may be gone at the next attempt.
type Temporary struct {
	Err error
	// After is how long the receiver asks to be left alone; 0 when it does not ask.
	After time.Duration
}

func (t *Temporary) Error() string { return t.Err.Error() }
func (t *Temporary) Unwrap() error { return t.Err }

// temporary is the Temporary that an error wraps, nil when there is none.
func temporary(err error) *Temporary {
	var t *Temporary
	errors.As(err, &t)
	return t
}

// digest is the SHA-256 of parts in their JSON form, in which maps are sorted.
func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err) // texts, numbers and maps of texts always have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
