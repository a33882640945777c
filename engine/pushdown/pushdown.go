// Package pushdown evaluates alerts over the events of a store without reading
// them all. The query of an alert becomes a fragment of Rego, which OPA's
// compile API reduces to a filter, which becomes SQL; where nothing but numbers
// of events and of their scores is asked for, the store groups them too.
// Conditions, texts and order are those of package rego in every case.
//
// The store has a table named events with a column for each member of
// [api.Event], named as in JSON, and an integer id: time as text in the form of
// documents.Time, scores as floating-point numbers, cve, package and instances as
// JSON, the rest as text and booleans. An absent value is NULL or, as text,
// empty. Texts have no NUL, which PostgreSQL cannot hold. Where a key of
// PostgreSQL's index is a text, its collation is "C".
package pushdown

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies"
	library "github.com/assay-dev/assay/rego"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown/cache"
)

// Store is where the events are. Its SQL has a ? for each argument, in either
// dialect, and no other question mark. Arguments are string, float64 and bool.
type Store interface {
	// Dialect is [SQLite] or [PostgreSQL].
	Dialect() string
	// SelectEvents calls fn with each event in (since, until] for which where
	// holds, in any order. The condition names columns as events.tag. An error of
	// fn ends it and is returned.
	SelectEvents(ctx context.Context, since, until time.Time, where string, args []any, fn func(api.Event) error) error
	// SelectRows runs a whole query, and calls fn with the Scan of each row.
	SelectRows(ctx context.Context, query string, args []any, fn func(scan func(dest ...any) error) error) error
}

// Dialects of a [Store], with the names that OPA has for them.
const (
	SQLite     = "sqlite"
	PostgreSQL = "postgresql"
)

// MaxRows bounds the events, or groups, that one alert reads in one evaluation.
const MaxRows = 100_000

// Mode says how much of an alert the store does.
type Mode string

// Modes, from the most to the least.
const (
	Grouped     Mode = "grouped"     // the store filters and groups
	Filtered    Mode = "filtered"    // the store gives exactly the events that the query holds for
	Prefiltered Mode = "prefiltered" // the store gives more events than the query holds for
	Unfiltered  Mode = "unfiltered"  // the store gives the events of the window
)

// Rules are alerts, ready to evaluate. They are safe for concurrent use.
type Rules struct {
	rules  []rule
	firing rego.PreparedEvalQuery
}

type rule struct {
	policies.Alert
	lookback time.Duration
	filter   filter
}

// New compiles alerts, as a valid policies folder has them. Filters and Rego come
// from the same alerts, and stay together: after a change there are new Rules.
func New(ctx context.Context, alerts []policies.Alert) (*Rules, error) {
	generated, err := (&policies.Set{Alerts: alerts}).Compile()
	if err != nil {
		return nil, err
	}
	const ours, theirs = "alerts.rego", "generated/alerts.rego"
	r := &Rules{}
	r.firing, err = rego.New(
		rego.Query("data.assay.alerts.firing"),
		rego.Module(ours, library.Library()[ours]), rego.Module(theirs, generated[theirs]),
		rego.InterQueryBuiltinValueCache(cache.NewInterQueryValueCache(ctx, nil)),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("compiling the alerts: %w", err)
	}
	for _, a := range alerts {
		next := rule{Alert: a}
		if next.lookback, err = time.ParseDuration(cmp.Or(a.Spec.Lookback, api.DefaultLookback)); err != nil {
			return nil, fmt.Errorf("alert %s: %w", a.Metadata.Name, err)
		}
		if next.filter, err = newFilter(ctx, a.Query()); err != nil {
			return nil, fmt.Errorf("alert %s: compiling the filter: %w", a.Metadata.Name, err)
		}
		r.rules = append(r.rules, next)
	}
	return r, nil
}

// Modes says of each alert, by name, how much of it the store does.
func (r *Rules) Modes() map[string]Mode {
	modes := map[string]Mode{}
	for _, rule := range r.rules {
		modes[rule.Metadata.Name] = rule.mode()
	}
	return modes
}

func (r *rule) mode() Mode {
	switch {
	case r.filter.exact && (len(r.Spec.AggregateBy) > 0 || r.Spec.Metric != ""):
		return Grouped
	case r.filter.exact:
		return Filtered
	case len(r.filter.conjuncts) > 0:
		return Prefiltered
	}
	return Unfiltered
}

// Firing are the alerts that fire at a moment, sorted by name and key. One that
// cannot be evaluated does not hold up the others: its error names it, and comes
// beside the alerts of the others.
func (r *Rules) Firing(ctx context.Context, s Store, now time.Time) ([]api.Alert, error) {
	if d := s.Dialect(); d != SQLite && d != PostgreSQL {
		return nil, fmt.Errorf("evaluating alerts: unknown dialect %q", d)
	}
	firing := []api.Alert{}
	var failed []error
	for i := range r.rules {
		alerts, err := r.evaluate(ctx, s, &r.rules[i], now)
		if err != nil {
			failed = append(failed, fmt.Errorf("alert %s: %w", r.rules[i].Metadata.Name, err))
		}
		firing = append(firing, alerts...)
	}
	slices.SortStableFunc(firing, func(a, b api.Alert) int { return cmp.Compare(a.Name, b.Name) })
	return firing, errors.Join(failed...)
}

// evaluate gives the alerts of one rule, sorted by key.
func (r *Rules) evaluate(ctx context.Context, s Store, rule *rule, now time.Time) ([]api.Alert, error) {
	input := map[string]any{"now": documents.Time(now), "timed": true, "rules": []string{rule.Metadata.Name}, "events": []any{}}
	if rule.mode() == Grouped {
		groups, err := rule.groups(ctx, s, now)
		if err != nil {
			return nil, err
		}
		input["groups"] = map[string]any{rule.Metadata.Name: groups}
	} else {
		events, err := rule.events(ctx, s, now)
		if err != nil {
			return nil, err
		}
		input["events"] = events
	}
	return r.ask(ctx, input)
}

// Over are the alerts that fire at a moment over events that are given, whatever
// their window, sorted by name and key.
func (r *Rules) Over(ctx context.Context, events []api.Event, now time.Time) ([]api.Alert, error) {
	list := make([]timedEvent, len(events))
	for i, e := range events {
		list[i] = timedEvent{e, documents.Time(now)}
	}
	names := []string{}
	for _, rule := range r.rules {
		names = append(names, rule.Metadata.Name)
	}
	return r.ask(ctx, map[string]any{"now": documents.Time(now), "timed": true, "rules": names, "events": list})
}

// ask evaluates an input.
func (r *Rules) ask(ctx context.Context, input map[string]any) ([]api.Alert, error) {
	value, err := ast.InterfaceToValue(input)
	if err != nil {
		return nil, fmt.Errorf("evaluating: %w", err)
	}
	results, err := r.firing.Eval(ctx, rego.EvalParsedInput(value))
	if err != nil {
		return nil, fmt.Errorf("evaluating: %w", err)
	}
	if len(results) != 1 {
		return nil, errors.New("evaluating: the result is undefined")
	}
	text, err := json.Marshal(results[0].Expressions[0].Value)
	if err != nil {
		return nil, fmt.Errorf("evaluating: %w", err)
	}
	var alerts []api.Alert
	if err := json.Unmarshal(text, &alerts); err != nil {
		return nil, fmt.Errorf("evaluating: the result has an unexpected shape: %w", err)
	}
	return alerts, nil
}

type timedEvent struct {
	api.Event
	At string `json:"at"`
}

// events are those of the window that the filter lets through.
func (r *rule) events(ctx context.Context, s Store, now time.Time) ([]timedEvent, error) {
	events := []timedEvent{}
	w := &writer{dialect: s.Dialect(), terms: r.filter.terms}
	where := w.filter(&r.filter)
	err := s.SelectEvents(ctx, now.Add(-r.lookback), now, where, w.args, func(e api.Event) error {
		if len(events) == MaxRows {
			return fmt.Errorf("more than %d events are to be read: its query must be narrower, its lookback shorter, or aggregateBy or a metric must group them", MaxRows)
		}
		at, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			return fmt.Errorf("an event's time must be RFC 3339, not %.60q", e.Time)
		}
		events = append(events, timedEvent{e, documents.Time(at)})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading events: %w", err)
	}
	return events, nil
}
