package notify_test

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/notify"
)

func kinds(step notify.Step) []notify.Kind {
	var out []notify.Kind
	for _, n := range step.Notifications {
		out = append(out, n.Kind)
	}
	return out
}

// The life of an alert, with what each step tells and with which ID.
func TestTracker(t *testing.T) {
	tracker := notify.Tracker{Every: time.Minute}
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	one := func(step notify.Step, want notify.Kind) notify.Notification {
		t.Helper()
		if got := kinds(step); len(got) != 1 || got[0] != want {
			t.Fatalf("notifications are %v, want %s", got, want)
		}
		return step.Notifications[0]
	}
	a := api.Alert{Name: "a", Severity: 50, Summary: "s", Key: map[string]string{"image": "x"}, Count: 1}
	step := tracker.Evaluate(at(0), []api.Alert{a, a}, nil)
	open := one(step, notify.Open)
	if open.ID != open.Episode || len(open.ID) != 64 || !open.Opened.Equal(noon) {
		t.Errorf("%+v", open)
	}
	if again := tracker.Evaluate(at(0), []api.Alert{a}, nil).Notifications[0]; again.ID != open.ID {
		t.Error("the ID differs from one run to the next")
	}
	a.Count = 7 // not worth telling, but known at the resolution
	step = tracker.Evaluate(at(1), []api.Alert{a}, step.States)
	if len(step.Notifications) != 0 {
		t.Errorf("still firing: %v", kinds(step))
	}
	step = tracker.Repeat(at(1), step.States)
	if n := one(step, notify.Refresh); n.ID != open.ID || n.Alert.Count != 7 || !n.Time.Equal(at(1)) {
		t.Errorf("refresh %+v", n)
	}
	if again := tracker.Repeat(at(1).Add(time.Second), step.States); len(again.Notifications) != 0 {
		t.Errorf("repeated too early: %v", kinds(again))
	}
	a.Severity = 90
	step = tracker.Evaluate(at(2), []api.Alert{a}, step.States)
	update := one(step, notify.Update)
	if update.ID == open.ID || update.Episode != open.Episode || update.PreviousSeverity != 50 {
		t.Errorf("update %+v", update)
	}
	a.Severity = 50
	step = tracker.Evaluate(at(3), []api.Alert{a}, step.States)
	back := one(step, notify.Update)
	if back.ID == update.ID || back.ID == open.ID || back.PreviousSeverity != 90 {
		t.Errorf("update back %+v", back)
	}
	if n := one(tracker.Repeat(at(4), step.States), notify.Refresh); n.ID != back.ID || n.PreviousSeverity != 0 {
		t.Errorf("refresh after the update %+v", n)
	}
	step = tracker.Evaluate(at(5), nil, step.States)
	resolve := one(step, notify.Resolve)
	if resolve.Episode != open.Episode || resolve.Alert.Count != 7 || len(step.States) != 0 || resolve.ID == open.ID {
		t.Errorf("resolve %+v, states %+v", resolve, step.States)
	}
	step = tracker.Evaluate(at(6), []api.Alert{a}, step.States)
	if n := one(step, notify.Open); n.ID == open.ID || n.Subject != open.Subject {
		t.Errorf("reopened %+v", n)
	}
}

// Alerts whose texts run into each other have IDs of their own, and a key without
// members is the same in all its forms.
func TestSubjects(t *testing.T) {
	alerts := []api.Alert{
		{Name: "a", Key: map[string]string{"b": "c"}}, {Name: "ab", Key: map[string]string{"": "c"}}, {Name: "a"},
		{Name: "a", Key: map[string]string{"b": ""}}, {Name: "a", Key: map[string]string{"b": "c", "d": ""}}, {Name: "a", Key: map[string]string{"b": `c","d`}},
	}
	step := notify.Tracker{}.Evaluate(noon, alerts, nil)
	seen := map[string]bool{}
	for _, n := range step.Notifications {
		seen[n.ID] = true
	}
	if len(seen) != len(alerts) {
		t.Errorf("%d IDs for %d alerts", len(seen), len(alerts))
	}
	if got := notify.Tracker.Evaluate(notify.Tracker{}, noon.Add(time.Second), []api.Alert{{Name: "a", Key: map[string]string{}}}, step.States); len(got.States) != 1 || kinds(got)[0] != notify.Resolve || len(got.Notifications) != len(alerts)-1 {
		t.Errorf("an empty key is another than none: %v", kinds(got))
	}
}

// A state that a store kept in another time zone, to the microsecond, gives the
// same IDs.
func TestStoredTimes(t *testing.T) {
	now := noon.Add(123456789)
	step := notify.Tracker{}.Evaluate(now, []api.Alert{{Name: "a"}}, nil)
	text, err := json.Marshal(step.States)
	if err != nil {
		t.Fatal(err)
	}
	var states []notify.State
	if err := json.Unmarshal(text, &states); err != nil {
		t.Fatal(err)
	}
	states[0].Opened = states[0].Opened.Truncate(time.Microsecond).In(time.FixedZone("elsewhere", 3600))
	got := notify.Tracker{}.Evaluate(now.Add(time.Second), nil, states).Notifications[0]
	if got.Episode != step.Notifications[0].ID {
		t.Error("the episode has another ID after it was stored")
	}
}

// A replica whose clock is behind resolves an alert no earlier than it opened.
func TestClockBehind(t *testing.T) {
	step := notify.Tracker{}.Evaluate(noon, []api.Alert{{Name: "a"}}, nil)
	n := notify.Tracker{}.Evaluate(noon.Add(-time.Second), nil, step.States).Notifications[0]
	if n.Time.Before(n.Opened) {
		t.Errorf("opened at %s, resolved at %s", n.Opened, n.Time)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	var firing []api.Alert
	for i := range 10_000 {
		firing = append(firing, api.Alert{Name: "a", Severity: 50, Summary: "s", Key: map[string]string{"image": strconv.Itoa(i), "namespace": "shop"}})
	}
	states := notify.Tracker{}.Evaluate(noon, firing, nil).States
	for b.Loop() {
		if step := (notify.Tracker{}).Evaluate(noon.Add(time.Minute), firing, states); len(step.Notifications) != 0 {
			b.Fatal("nothing changed")
		}
	}
}

// Package notify and those below it stay apart from the store, the engine and OPA.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	allowed := []string{"github.com/assay-dev/assay/api", "github.com/assay-dev/assay/outgoing", "github.com/assay-dev/assay/server/notify", "github.com/assay-dev/assay/stream", "golang.org/x/sync/", "go.yaml.in/yaml/"}
	for _, dep := range strings.Fields(string(out)) {
		outside := strings.Contains(strings.SplitN(dep, "/", 2)[0], ".")
		if outside && !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(dep, prefix) }) {
			t.Errorf("%s is linked", dep)
		}
	}
}
