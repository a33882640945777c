package notifytest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
)

// Store is an outbox that deliveries are added to, as a test sees it.
type Store interface {
	notify.Outbox
	// Add appends deliveries, without those whose ID waits already.
	Add(context.Context, ...notify.Delivery) error
	// Failed are the deliveries that were dropped, in any order.
	Failed() []Failed
}

// TestOutbox holds an implementation against the contract of [notify.Outbox].
// Each call of open gives an empty one. It asks from one place: deliveries that
// were given out and not settled are asked for again an hour later.
func TestOutbox(t *testing.T, open func(*testing.T) Store) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	opened := func(name string) notify.Notification {
		return notify.Tracker{}.Evaluate(at, []api.Alert{{Name: name, Severity: 50, Key: map[string]string{"image": "a"}}}, nil).Notifications[0]
	}
	kind := func(n notify.Notification, k notify.Kind, id string) notify.Notification {
		n.Kind, n.ID = k, id
		return n
	}
	due := func(t *testing.T, s Store, now time.Time, limit int) []notify.Delivery {
		t.Helper()
		ds, err := s.Due(t.Context(), now, limit)
		if err != nil {
			t.Fatal(err)
		}
		return ds
	}
	ids := func(ds []notify.Delivery) []string {
		var out []string
		for _, d := range ds {
			out = append(out, d.ID)
		}
		return out
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	t.Run("what is added is due once, whole", func(t *testing.T) {
		s := open(t)
		value := 2.5
		n := opened("a")
		n.Alert.Value, n.PreviousSeverity = &value, 3
		d := notify.NewDelivery("x", n)
		must(t, s.Add(t.Context(), d))
		must(t, s.Add(t.Context(), d, notify.NewDelivery("x", kind(n, notify.Refresh, n.ID)))) // of what waits
		got := due(t, s, at, 10)
		if len(got) != 1 {
			t.Fatalf("%d deliveries are due, want 1", len(got))
		}
		if g := got[0]; g.ID != d.ID || g.Receiver != "x" || g.Attempts != 0 || g.Notification.ID != n.ID || *g.Notification.Alert.Value != value ||
			g.Notification.Alert.Key["image"] != "a" || !g.Notification.Opened.Equal(at) || g.Notification.PreviousSeverity != 3 {
			t.Errorf("a delivery came back as %+v, want %+v", g, d)
		}
		must(t, s.Done(t.Context(), d.ID))
		if got := due(t, s, at.Add(time.Hour), 10); len(got) != 0 {
			t.Errorf("%d deliveries are due after Done", len(got))
		}
		must(t, s.Add(t.Context(), d)) // as a refresh is, again and again
		if got := due(t, s, at.Add(time.Hour), 10); len(got) != 1 {
			t.Errorf("%d deliveries are due after adding again, want 1", len(got))
		}
	})
	t.Run("later notifications of a subject wait for earlier ones", func(t *testing.T) {
		s := open(t)
		first := opened("a")
		open := notify.NewDelivery("x", first)
		update := notify.NewDelivery("x", kind(first, notify.Update, "2"))
		resolve := notify.NewDelivery("x", kind(first, notify.Resolve, "3"))
		elsewhere := notify.NewDelivery("y", kind(first, notify.Resolve, "3"))
		other := notify.NewDelivery("x", opened("b"))
		must(t, s.Add(t.Context(), open, update, resolve, elsewhere, other))
		if got, want := ids(due(t, s, at, 10)), []string{open.ID, elsewhere.ID, other.ID}; !slices.Equal(got, want) {
			t.Fatalf("due are %v, want %v", got, want)
		}
		must(t, s.Retry(t.Context(), open.ID, at.Add(2*time.Hour), "down"))
		if got, want := ids(due(t, s, at.Add(time.Hour), 10)), []string{elsewhere.ID, other.ID}; !slices.Equal(got, want) {
			t.Fatalf("due during the backoff are %v, want %v", got, want)
		}
		got := due(t, s, at.Add(2*time.Hour), 10)
		if !slices.Equal(ids(got), []string{open.ID, elsewhere.ID, other.ID}) || got[0].Attempts != 1 {
			t.Fatalf("due after the backoff are %+v", got)
		}
		must(t, s.Done(t.Context(), open.ID))
		must(t, s.Drop(t.Context(), other.ID, "refused"))
		if got, want := ids(due(t, s, at.Add(3*time.Hour), 10)), []string{update.ID, elsewhere.ID}; !slices.Equal(got, want) {
			t.Fatalf("due after Done are %v, want %v", got, want)
		}
		if f := s.Failed(); len(f) != 1 || f[0].Delivery.ID != other.ID || f[0].Reason != "refused" {
			t.Errorf("failed are %+v", f)
		}
	})
	t.Run("the limit is one of each receiver", func(t *testing.T) {
		s := open(t)
		for _, name := range []string{"a", "b", "c"} {
			must(t, s.Add(t.Context(), notify.NewDelivery("x", opened(name))))
		}
		last := notify.NewDelivery("y", opened("a"))
		must(t, s.Add(t.Context(), last))
		if got := ids(due(t, s, at, 2)); len(got) != 3 || got[2] != last.ID {
			t.Errorf("due are %v, want two of x and one of y", got)
		}
	})
}
