// Package alerting evaluates the alert rules of the policies at their periods, over
// the events and findings of the store, and brings what changes to the receivers.
// All it knows is in the store: any replica may do any of it, at any time.
package alerting

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/config"
	"github.com/assay-dev/assay/store"
)

// Config says what is evaluated, and who is told.
type Config struct {
	Store  *store.Store
	Engine *engine.Engine
	// Policies are those in force; nil before the first.
	Policies func() *policies.Set
	// Notifications routes to Receivers, opened from it; nil tells nobody.
	Notifications *config.Notifications
	Receivers     map[string]notify.Receiver
	Tracker       notify.Tracker
	Log           *slog.Logger
	Now           func() time.Time // nil: time.Now
}

// Alerting is safe for concurrent use.
type Alerting struct {
	Config
	dispatcher notify.Dispatcher

	mu    sync.Mutex
	of    *policies.Set
	rules []rule
}

// rule is an alert rule of either kind.
type rule struct {
	name     string
	period   time.Duration
	compiled *pushdown.Rules
	verdict  *policies.VerdictAlert // nil for a GlobalAlert
}

// New makes an Alerting; it has nothing to close.
func New(c Config) *Alerting {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Alerting{Config: c, dispatcher: notify.Dispatcher{Receivers: c.Receivers, Log: c.Log}}
}

// compiled are the rules of the policies in force.
func (a *Alerting) compiled(ctx context.Context) ([]rule, error) {
	set := a.Policies()
	if set == nil {
		return nil, engine.ErrNotLoaded
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == set {
		return a.rules, nil
	}
	var rules []rule
	add := func(alert policies.Alert, v *policies.VerdictAlert) error {
		period, err := time.ParseDuration(cmp.Or(alert.Spec.Period, api.DefaultPeriod))
		if err != nil {
			return fmt.Errorf("alert %s: %w", alert.Metadata.Name, err)
		}
		compiled, err := pushdown.New(ctx, []policies.Alert{alert})
		if err != nil {
			return fmt.Errorf("alert %s: %w", alert.Metadata.Name, err)
		}
		rules = append(rules, rule{name: alert.Metadata.Name, period: period, compiled: compiled, verdict: v})
		return nil
	}
	for _, alert := range set.Alerts {
		if err := add(alert, nil); err != nil {
			return nil, err
		}
	}
	for i := range set.VerdictAlerts {
		if err := add(set.VerdictAlerts[i].Alert, &set.VerdictAlerts[i]); err != nil {
			return nil, err
		}
	}
	a.of, a.rules = set, rules
	return rules, nil
}

// Evaluate evaluates the rules whose period has passed, ends the alerts of rules that
// are gone, and repeats those that fire to receivers that forget. One rule that cannot
// be evaluated does not hold up the others: its alerts stay as they are, and its error is kept.
func (a *Alerting) Evaluate(ctx context.Context) error {
	rules, err := a.compiled(ctx)
	if err != nil {
		return err
	}
	var known map[string]store.AlertRule
	if err := a.Store.View(ctx, func(t *store.Tx) (err error) {
		known, err = t.AlertRules(ctx)
		return err
	}); err != nil {
		return err
	}
	var failed []error
	present := map[string]bool{}
	for _, r := range rules {
		present[r.name] = true
		before := known[r.name]
		at, due := next(before.Evaluated, a.Now(), r.period)
		if !due {
			continue
		}
		firing, err := a.firing(ctx, r, at)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fault := ""
		if err != nil {
			fault = err.Error()
			failed = append(failed, err)
			a.Log.Error("an alert rule could not be evaluated", "rule", r.name, "error", err)
		}
		err = a.Store.Write(ctx, func(t *store.Tx) error {
			now, err := t.AlertRules(ctx)
			if err != nil || !now[r.name].Evaluated.Equal(before.Evaluated) {
				return err // another replica was faster
			}
			if fault == "" {
				if err := a.step(ctx, t, r.name, firing); err != nil {
					return err
				}
			}
			return t.SetAlertRule(ctx, store.AlertRule{Name: r.name, Evaluated: at, Error: fault})
		})
		if err != nil {
			return err
		}
	}
	for name := range known {
		if present[name] {
			continue
		}
		if err := a.Store.Write(ctx, func(t *store.Tx) error {
			if err := a.step(ctx, t, name, nil); err != nil {
				return err
			}
			return t.RemoveAlertRule(ctx, name)
		}); err != nil {
			return err
		}
	}
	if err := a.repeat(ctx); err != nil {
		return err
	}
	return errors.Join(failed...)
}

// next is the moment to evaluate a rule at, and whether it has come: a period after it was last, so that
// windows as long as the period meet, however late it is looked at; now where more than a period was missed.
func next(last, now time.Time, period time.Duration) (at time.Time, due bool) {
	at = last.Add(period)
	if now.Sub(at) >= period {
		at = now
	}
	return at, !now.Before(at)
}

// Idle says that there is no rule, and none that is gone with alerts that fire.
func (a *Alerting) Idle(ctx context.Context) (idle bool, err error) {
	set := a.Policies()
	if set == nil || len(set.Alerts)+len(set.VerdictAlerts) > 0 {
		return set == nil, nil
	}
	err = a.Store.View(ctx, func(t *store.Tx) error {
		known, err := t.AlertRules(ctx)
		idle = len(known) == 0
		return err
	})
	return idle, err
}

func (a *Alerting) firing(ctx context.Context, r rule, now time.Time) ([]api.Alert, error) {
	if r.verdict == nil {
		return r.compiled.Firing(ctx, a.Store, now)
	}
	return a.verdicts(ctx, r, now)
}

// states are those that the store has of rules, all where none is named.
func states(ctx context.Context, t *store.Tx, rules ...string) ([]notify.State, error) {
	kept, err := t.AlertStates(ctx, rules...)
	if err != nil {
		return nil, err
	}
	list := make([]notify.State, len(kept))
	for i, k := range kept {
		if err := json.Unmarshal(k.State, &list[i]); err != nil {
			return nil, fmt.Errorf("reading an alert of %s: %w", k.Rule, err)
		}
	}
	return list, nil
}

// step stores what an evaluation of a rule changes, with its notifications.
func (a *Alerting) step(ctx context.Context, t *store.Tx, rule string, firing []api.Alert) error {
	before, err := states(ctx, t, rule)
	if err != nil {
		return err
	}
	step := a.Tracker.Evaluate(a.Now(), firing, before)
	ended := map[string]bool{}
	for _, s := range before {
		ended[s.Subject] = true
	}
	for _, s := range step.States {
		delete(ended, s.Subject)
	}
	var gone []string
	for subject := range ended {
		gone = append(gone, subject)
	}
	slices.Sort(gone)
	if err := a.keep(ctx, t, step, gone); err != nil {
		return err
	}
	for _, n := range step.Notifications {
		resolved := time.Time{}
		if n.Kind == notify.Resolve {
			resolved = n.Time
		}
		if err := t.SetEpisode(ctx, n.Episode, n.Opened, resolved, n.Alert); err != nil {
			return err
		}
	}
	return nil
}

func (a *Alerting) keep(ctx context.Context, t *store.Tx, step notify.Step, ended []string) error {
	set := make([]store.AlertState, len(step.States))
	for i, s := range step.States {
		text, err := json.Marshal(s)
		if err != nil {
			return fmt.Errorf("writing an alert: %w", err)
		}
		set[i] = store.AlertState{Subject: s.Subject, Rule: s.Alert.Name, State: text}
	}
	if err := t.SetAlertStates(ctx, set, ended); err != nil {
		return err
	}
	if a.Notifications == nil {
		return nil
	}
	var out []store.Delivery
	for _, n := range step.Notifications {
		for _, d := range a.Notifications.Deliveries(a.Receivers, n) {
			text, err := json.Marshal(d.Notification)
			if err != nil {
				return fmt.Errorf("writing a notification: %w", err)
			}
			out = append(out, store.Delivery{ID: d.ID, Receiver: d.Receiver, Subject: d.Notification.Subject, Notification: text})
		}
	}
	return t.AddDeliveries(ctx, out)
}

// repeat tells receivers that forget of the alerts that fire.
func (a *Alerting) repeat(ctx context.Context) error {
	if a.Notifications == nil {
		return nil
	}
	return a.Store.Write(ctx, func(t *store.Tx) error {
		before, err := states(ctx, t)
		if err != nil {
			return err
		}
		step := a.Tracker.Repeat(a.Now(), before)
		if len(step.Notifications) == 0 {
			return nil
		}
		repeated := map[string]bool{}
		for _, n := range step.Notifications {
			repeated[n.Subject] = true
		}
		step.States = slices.DeleteFunc(step.States, func(s notify.State) bool { return !repeated[s.Subject] })
		return a.keep(ctx, t, step, nil)
	})
}

// maxWorkloads is how many workloads the text of an alert names.
const maxWorkloads = 10

// verdicts are the alerts of a rule for new vulnerabilities.
func (a *Alerting) verdicts(ctx context.Context, r rule, now time.Time) ([]api.Alert, error) {
	var found []store.Found
	err := a.Store.View(ctx, func(t *store.Tx) error {
		found = nil
		return t.Findings(ctx, r.verdict.Spec.Results, r.verdict.Spec.FirstScan, func(f store.Found) error {
			found = append(found, f)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return Verdicts(ctx, a.Engine, r.compiled, found, now)
}

// Verdicts are the alerts of a VerdictAlert, compiled, for what scans found in images of its results. The
// engine says which vulnerabilities count, the rule which of those it is about.
func Verdicts(ctx context.Context, e *engine.Engine, compiled *pushdown.Rules, found []store.Found, now time.Time) ([]api.Alert, error) {
	var events []api.Event
	type key struct{ cve, digest string }
	where := map[key]map[string]bool{}
	for _, f := range found {
		raw, err := e.ExplainClassification(ctx, f.Event.Image, f.Event.Digest, now)
		if err != nil {
			return nil, err
		}
		var said struct {
			Vulnerabilities []struct {
				ID string `json:"id"`
			} `json:"vulnerabilities"`
		}
		if err := json.Unmarshal(raw, &said); err != nil {
			return nil, fmt.Errorf("evaluating: %w", err)
		}
		for _, v := range said.Vulnerabilities {
			packages, ok := f.CVEs[v.ID]
			if !ok {
				continue
			}
			if len(events) == pushdown.MaxRows {
				return nil, fmt.Errorf("more than %d findings: its query or its results must be narrower", pushdown.MaxRows)
			}
			event := f.Event
			event.Time, event.CVE, event.Package = now.UTC().Format(time.RFC3339Nano), []string{v.ID}, packages
			if event.Instances == nil {
				event.Instances = []api.Instance{}
			}
			events = append(events, event)
			k := key{v.ID, event.Digest}
			if where[k] == nil {
				where[k] = map[string]bool{}
			}
			for _, i := range event.Instances {
				where[k][strings.Trim(strings.Join([]string{i.Cluster, i.Namespace, i.Container}, "/"), "/")] = true
			}
		}
	}
	firing, err := compiled.Over(ctx, events, now)
	if err != nil {
		return nil, err
	}
	for i := range firing {
		f := &firing[i]
		f.Description += workloads(where[key{f.Key["cve"], f.Key["digest"]}])
	}
	return firing, nil
}

// workloads say where an image runs, as cluster/namespace/container.
func workloads(set map[string]bool) string {
	if len(set) == 0 {
		return "\nIt runs nowhere that is known."
	}
	var names []string
	for n := range set {
		names = append(names, n)
	}
	slices.Sort(names)
	more := ""
	if len(names) > maxWorkloads {
		more = fmt.Sprintf(" and %d more", len(names)-maxWorkloads)
		names = names[:maxWorkloads]
	}
	return "\nIt runs in " + strings.Join(names, ", ") + more + "."
}

// Deliver sends what waits, and gives when there is more to do; the zero time when
// nothing waits.
func (a *Alerting) Deliver(ctx context.Context) (next time.Time, err error) {
	if _, err := a.dispatcher.Deliver(ctx, Outbox{a.Store}, a.Now); err != nil {
		return time.Time{}, err
	}
	return a.Store.NextDelivery(ctx)
}

// lease is how long a delivery is one dispatcher's.
const lease = 5 * time.Minute

// Outbox is the store as package notify wants it.
type Outbox struct{ Store *store.Store }

// Add appends deliveries, without those whose ID waits already.
func (o Outbox) Add(ctx context.Context, deliveries ...notify.Delivery) error {
	return o.Store.Write(ctx, func(t *store.Tx) error {
		list := make([]store.Delivery, len(deliveries))
		for i, d := range deliveries {
			text, err := json.Marshal(d.Notification)
			if err != nil {
				return fmt.Errorf("writing a notification: %w", err)
			}
			list[i] = store.Delivery{ID: d.ID, Receiver: d.Receiver, Subject: d.Notification.Subject, Notification: text}
		}
		return t.AddDeliveries(ctx, list)
	})
}

// Due implements [notify.Outbox].
func (o Outbox) Due(ctx context.Context, now time.Time, limit int) (due []notify.Delivery, err error) {
	err = o.Store.Write(ctx, func(t *store.Tx) error {
		list, err := t.DueDeliveries(ctx, now, limit, lease)
		due = make([]notify.Delivery, len(list))
		for i, d := range list {
			due[i] = notify.Delivery{ID: d.ID, Receiver: d.Receiver, Attempts: d.Attempts}
			if err := json.Unmarshal(d.Notification, &due[i].Notification); err != nil {
				return fmt.Errorf("reading a notification: %w", err)
			}
		}
		return err
	})
	return due, err
}

// Done implements [notify.Outbox].
func (o Outbox) Done(ctx context.Context, id string) error {
	return o.Store.Write(ctx, func(t *store.Tx) error { return t.EndDelivery(ctx, id) })
}

// Retry implements [notify.Outbox].
func (o Outbox) Retry(ctx context.Context, id string, at time.Time, reason string) error {
	return o.Store.Write(ctx, func(t *store.Tx) error { return t.RetryDelivery(ctx, id, at, reason) })
}

// Drop implements [notify.Outbox].
func (o Outbox) Drop(ctx context.Context, id, reason string) error {
	return o.Store.Write(ctx, func(t *store.Tx) error { return t.DropDelivery(ctx, id, reason) })
}
