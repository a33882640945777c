package notify

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
)

// State is an alert that fires, as the store keeps it between evaluations.
type State struct {
	// Alert is what was notified last, with the newest value and count.
	Alert   api.Alert `json:"alert"`
	Subject string    `json:"subject"` // unique among the states
	Opened  time.Time `json:"opened"`
	Changed time.Time `json:"changed"` // when it opened or was updated last
	// Repeated is when it was notified or refreshed last.
	Repeated time.Time `json:"repeated"`
	// Revision counts the updates of the episode.
	Revision int `json:"revision,omitempty"`
}

// Step is what an evaluation, or the passing of time, changes.
type Step struct {
	// States replace those that the step was made from.
	States        []State        `json:"states"`
	Notifications []Notification `json:"notifications"`
}

// Tracker finds what changes from one evaluation of the alerts to the next. It
// has no state and no clock; its methods are pure functions: from the same input
// they give the same [Step]. Times are kept in UTC and to the microsecond, as
// every store can.
type Tracker struct {
	// Every is the time after which a firing alert is repeated to receivers that
	// forget what they do not hear of; 0 is one minute.
	Every time.Duration
}

// Evaluate compares the alerts that fire with the states of the rules that were
// evaluated: the states of a rule that could not be evaluated, or whose turn it
// was not, must be left out, or its alerts would be resolved. Both lists of the
// step are sorted by the names of their alerts, then by subject.
//
// A step is stored whole or not at all, with its notifications as deliveries; two
// steps from the same states must not both be stored. Between two steps time
// passes.
func (Tracker) Evaluate(now time.Time, firing []api.Alert, before []State) Step {
	now = stored(now)
	kept := make(map[string]State, len(before))
	for _, s := range before {
		kept[s.Subject] = s
	}
	var step Step
	seen := map[string]bool{}
	for _, a := range firing {
		subject := digest(a.Name, pairs(a.Key))
		if seen[subject] {
			continue
		}
		seen[subject] = true
		s, was := kept[subject]
		switch {
		case !was:
			s = State{Alert: a, Subject: subject, Opened: now, Changed: now, Repeated: now}
			step.add(s.notification(Open, now))
		case s.differs(a):
			previous := s.Alert.Severity
			s.Alert, s.Changed, s.Repeated = a, now, now
			s.Revision++
			n := s.notification(Update, now)
			if previous != a.Severity {
				n.PreviousSeverity = previous
			}
			step.add(n)
		default:
			s.Alert = a
		}
		step.States = append(step.States, s)
	}
	for _, s := range before {
		if !seen[s.Subject] {
			seen[s.Subject] = true
			step.add(s.notification(Resolve, now))
		}
	}
	return step.sorted()
}

// Repeat gives a [Refresh] for each alert that was not notified for the time
// Every. It is called more often than that, whatever the periods of the rules.
func (t Tracker) Repeat(now time.Time, before []State) Step {
	now = stored(now)
	step := Step{States: slices.Clone(before)}
	for i := range step.States {
		s := &step.States[i]
		if now.Sub(s.Repeated) < cmp.Or(t.Every, time.Minute) {
			continue
		}
		s.Repeated = now
		step.add(s.notification(Refresh, now))
	}
	return step.sorted()
}

func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// differs tells whether what a receiver shows of an alert changed. The value and
// the count alone do not: they change with every event.
func (s State) differs(a api.Alert) bool {
	return s.Alert.Severity != a.Severity || s.Alert.Summary != a.Summary || s.Alert.Description != a.Description
}

func (s State) notification(kind Kind, now time.Time) Notification {
	id := func(kind Kind, revision int) string {
		return digest(s.Alert.Name, pairs(s.Alert.Key), s.Opened.UTC().Format(time.RFC3339Nano), kind, revision)
	}
	n := Notification{Kind: kind, Subject: s.Subject, Episode: id(Open, 0), Alert: s.Alert, Opened: s.Opened, Time: now}
	if n.Time.Before(s.Opened) {
		n.Time = s.Opened // the clocks of replicas differ, and no alert ends before it began
	}
	n.Alert.Key = maps.Clone(n.Alert.Key)
	switch {
	case kind == Resolve:
		n.ID = id(Resolve, 0)
	case s.Revision > 0:
		n.ID = id(Update, s.Revision)
	default:
		n.ID = n.Episode
	}
	return n
}

func (step *Step) add(n Notification) { step.Notifications = append(step.Notifications, n) }

func (step Step) sorted() Step {
	slices.SortFunc(step.States, func(a, b State) int {
		return cmp.Or(cmp.Compare(a.Alert.Name, b.Alert.Name), cmp.Compare(a.Subject, b.Subject))
	})
	slices.SortFunc(step.Notifications, func(a, b Notification) int {
		return cmp.Or(cmp.Compare(a.Alert.Name, b.Alert.Name), cmp.Compare(a.Subject, b.Subject))
	})
	return step
}

// pairs are the members of a key in their order, so that no and an empty key are one.
func pairs(key map[string]string) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(key)) {
		out = append(out, name, key[name])
	}
	return out
}
