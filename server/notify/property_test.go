package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/notifytest"
)

// world is what survives a restart: states and deliveries, stored together.
type world struct {
	States []notify.State     `json:"states"`
	Outbox *notifytest.Outbox `json:"outbox"`
}

// restart takes a world over its JSON form.
func (w *world) restart(t *testing.T) *world {
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	next := &world{Outbox: &notifytest.Outbox{}}
	if err := json.Unmarshal(text, next); err != nil {
		t.Fatal(err)
	}
	return next
}

// lossy loses acknowledgements: what was done is not always known to be done.
type lossy struct {
	*notifytest.Outbox
	random *rand.Rand
}

var errLost = errors.New("the connection to the database is lost")

func (l lossy) Done(ctx context.Context, id string) error {
	if l.random.IntN(4) == 0 {
		return errLost
	}
	return l.Outbox.Done(ctx, id)
}

func (l lossy) Retry(ctx context.Context, id string, at time.Time, reason string) error {
	if l.random.IntN(4) == 0 {
		return errLost
	}
	return l.Outbox.Retry(ctx, id, at, reason)
}

// inbox is a receiver that fails at random, also after it took a notification.
type inbox struct {
	random *rand.Rand
	got    []notify.Notification
}

func (r *inbox) Takes(notify.Kind) bool { return true }

func (r *inbox) Send(_ context.Context, n notify.Notification) error {
	switch r.random.IntN(6) {
	case 0:
		return &notify.Temporary{Err: errors.New("down")}
	case 1:
		r.got = append(r.got, n)
		return &notify.Temporary{Err: errors.New("connection reset")}
	}
	r.got = append(r.got, n)
	return nil
}

// episode is the model's: from the evaluation that found an alert to the first
// that did not.
type episode struct {
	name, key, summary string
	severity           int
	updates            int
	resolved           bool
}

// Whatever fires, fails, restarts and is lost: a receiver is told of each episode
// by one open and, once it is over, one resolve, in this order; duplicates carry
// the ID of what they repeat.
func TestEpisodes(t *testing.T) {
	for seed := range uint64(50) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 1))
			now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			w := &world{Outbox: &notifytest.Outbox{}}
			receiver := &inbox{random: random}
			tracker := notify.Tracker{Every: time.Minute}
			model := map[[2]string][]*episode{}
			open := map[[2]string]*episode{}

			deliver := func(o notify.Outbox) {
				d := &notify.Dispatcher{Receivers: map[string]notify.Receiver{"inbox": receiver}, Attempts: 1 << 20, Jitter: random.Float64, Batch: 1 + random.IntN(20)}
				if _, err := d.Deliver(t.Context(), o, func() time.Time { return now }); err != nil && !errors.Is(err, errLost) {
					t.Fatal(err)
				}
			}
			// store keeps a step, or loses it in a crash before the commit.
			store := func(step notify.Step) bool {
				if random.IntN(5) == 0 {
					w = w.restart(t)
					return false
				}
				w.States = step.States
				for _, n := range step.Notifications {
					if err := w.Outbox.Add(t.Context(), notify.NewDelivery("inbox", n)); err != nil {
						t.Fatal(err)
					}
				}
				if random.IntN(4) == 0 {
					w = w.restart(t)
				}
				return true
			}
			for range 60 {
				now = now.Add(time.Duration(1 + random.Int64N(int64(90*time.Second))))
				firing := randomAlerts(random)
				if store(tracker.Evaluate(now, firing, w.States)) {
					record(model, open, firing)
				}
				if random.IntN(2) == 0 {
					store(tracker.Repeat(now, w.States))
				}
				if random.IntN(3) > 0 {
					deliver(lossy{w.Outbox, random})
				}
			}
			for range 2000 {
				if len(w.Outbox.Waiting()) == 0 {
					break
				}
				now = now.Add(time.Hour)
				deliver(w.Outbox)
			}
			check(t, model, receiver.got)
			if failed := w.Outbox.Failed(); len(failed) > 0 {
				t.Errorf("%d deliveries failed, the first with %s", len(failed), failed[0].Reason)
			}
		})
	}
}

func randomAlerts(random *rand.Rand) []api.Alert {
	var firing []api.Alert
	for _, name := range []string{"a", "b"} {
		for _, key := range []string{"x", "y", "z"} {
			if random.IntN(2) == 0 {
				value := random.Float64()
				firing = append(firing, api.Alert{Name: name, Key: map[string]string{"image": key}, Value: &value, Count: random.IntN(9),
					Severity: 50 + 10*(random.IntN(6)/5), Summary: fmt.Sprintf("summary %d", random.IntN(6)/5)})
			}
		}
	}
	return firing
}

func record(model map[[2]string][]*episode, open map[[2]string]*episode, firing []api.Alert) {
	fires := map[[2]string]bool{}
	for _, a := range firing {
		of := [2]string{a.Name, a.Key["image"]}
		fires[of] = true
		switch e := open[of]; {
		case e == nil:
			open[of] = &episode{name: a.Name, key: of[1], severity: a.Severity, summary: a.Summary}
			model[of] = append(model[of], open[of])
		case e.severity != a.Severity || e.summary != a.Summary:
			e.severity, e.summary = a.Severity, a.Summary
			e.updates++
		}
	}
	for of, e := range open {
		if !fires[of] {
			e.resolved = true
			delete(open, of)
		}
	}
}

func check(t *testing.T, model map[[2]string][]*episode, got []notify.Notification) {
	t.Helper()
	received := map[[2]string][]notify.Notification{} // without duplicates and refreshes
	seen := map[string]notify.Notification{}
	for _, n := range got {
		of := [2]string{n.Alert.Name, n.Alert.Key["image"]}
		first, again := seen[n.ID]
		switch {
		case n.Kind == notify.Refresh && !again:
			t.Errorf("%v: a refresh %s came before what it repeats", of, n.ID)
		case n.Kind == notify.Refresh:
			if n.Episode != first.Episode {
				t.Errorf("%v: a refresh is of another episode", of)
			}
		case !again:
			seen[n.ID] = n
			received[of] = append(received[of], n)
		case first.Kind != n.Kind || first.Subject != n.Subject || !first.Opened.Equal(n.Opened):
			t.Errorf("%v: two notifications have the ID %s", of, n.ID)
		}
	}
	for of, episodes := range model {
		var want, have []string
		for i, e := range episodes {
			want = append(want, fmt.Sprint(i, notify.Open))
			for range e.updates {
				want = append(want, fmt.Sprint(i, notify.Update))
			}
			if e.resolved {
				want = append(want, fmt.Sprint(i, notify.Resolve))
			}
		}
		var order []string // of episodes
		for _, n := range received[of] {
			if !slices.Contains(order, n.Episode) {
				order = append(order, n.Episode)
			}
			have = append(have, fmt.Sprint(slices.Index(order, n.Episode), n.Kind))
		}
		if !slices.Equal(have, want) {
			t.Errorf("%v: received %v, want %v", of, have, want)
		}
	}
	if len(received) > len(model) {
		t.Errorf("notifications of %d alerts were received, %d fired", len(received), len(model))
	}
}

func TestOutboxInMemory(t *testing.T) {
	notifytest.TestOutbox(t, func(*testing.T) notifytest.Store { return &notifytest.Outbox{} })
}
