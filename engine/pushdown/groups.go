package pushdown

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies/query"
)

// A group is the events of a key, or all events of a rule, as package rego takes it.
type group struct {
	Key   map[string]any `json:"key"` // string, number, bool or nil
	Count int64          `json:"count"`
	Taken int64          `json:"taken"` // how many values the metric is taken of
	// Min, Max and Sum are in billionths: EPSS has nine decimals, and sums of whole
	// numbers are the same in every order.
	Min int64 `json:"min"`
	Max int64 `json:"max"`
	Sum int64 `json:"sum"`
}

// groupQuery is the whole query of a rule whose filter is exact.
func (w *writer) groupQuery(r *rule, since, until string) string {
	var keys, names, from []string
	from = append(from, "events")
	where := []string{w.ordered("events.time") + " > " + w.marks([]any{since}), w.ordered("events.time") + " <= " + w.marks([]any{until})}
	perInstance := false
	for i, name := range r.Spec.AggregateBy {
		field, _ := query.Resolve(name)
		key := w.column(field)
		if field.List {
			member := fmt.Sprintf("member_%d", i)
			from = append(from, w.members(field, member))
			key = member + ".value"
			where = append(where, key+" IS NOT NULL")
		}
		perInstance = perInstance || field.Instance
		keys = append(keys, fmt.Sprintf("%s AS key_%d", key, i))
		names = append(names, fmt.Sprintf("key_%d", i))
	}
	if perInstance {
		from = append(from, w.instances())
		where = append(where, w.joined("AND", r.filter.conjuncts))
	} else {
		where = append(where, w.filter(&r.filter))
	}
	// An event counts once for a key, whatever number of members or instances has it.
	// The plus keeps SQLite from reading the whole table in the order of the ids.
	id := "events.id"
	if len(from) > 1 {
		id = "DISTINCT +events.id"
	}
	values, taken := "", ""
	if r.measuresField() {
		values = ", CAST(ROUND(events." + r.Spec.Field + " * 1000000000) AS BIGINT) AS taken"
		taken = ", COUNT(taken), COALESCE(MIN(taken), 0), COALESCE(MAX(taken), 0), CAST(COALESCE(SUM(taken), 0) AS BIGINT)"
	}
	keyed, by := "", ""
	if len(keys) > 0 {
		keyed, by = ", "+strings.Join(keys, ", "), " GROUP BY "+strings.Join(names, ", ")
	}
	return fmt.Sprintf("SELECT COUNT(*)%s%s FROM (SELECT %s%s%s FROM %s WHERE %s) AS hits%s",
		strings.Join(append([]string{""}, names...), ", "), taken, id, keyed, values, strings.Join(from, " CROSS JOIN "), strings.Join(where, " AND "), by)
}

func (r *rule) measuresField() bool { return r.Spec.Metric != "" && r.Spec.Metric != "count" }

// groups are those of a rule whose filter is exact.
func (r *rule) groups(ctx context.Context, s Store, now time.Time) ([]group, error) {
	w := &writer{dialect: s.Dialect(), terms: r.filter.terms}
	text := w.groupQuery(r, documents.Time(now.Add(-r.lookback)), documents.Time(now))
	groups := []group{}
	err := s.SelectRows(ctx, text, w.args, func(scan func(...any) error) error {
		if len(groups) == MaxRows {
			return fmt.Errorf("there are more than %d: aggregateBy must have fewer fields", MaxRows)
		}
		g, err := r.group(scan)
		groups = append(groups, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading groups: %w", err)
	}
	return groups, nil
}

func (r *rule) group(scan func(...any) error) (group, error) {
	g := group{Key: map[string]any{}}
	row := []any{&g.Count}
	keys := make([]any, len(r.Spec.AggregateBy))
	for i, name := range r.Spec.AggregateBy {
		switch field, _ := query.Resolve(name); field.Type {
		case query.Number:
			keys[i] = new(sql.Null[float64])
		case query.Bool:
			keys[i] = new(sql.Null[bool])
		default:
			keys[i] = new(sql.Null[string])
		}
	}
	row = append(row, keys...)
	if r.measuresField() {
		row = append(row, &g.Taken, &g.Min, &g.Max, &g.Sum)
	}
	if err := scan(row...); err != nil {
		return group{}, err
	}
	for i, name := range r.Spec.AggregateBy {
		value, err := keys[i].(driver.Valuer).Value() // nil where it is NULL
		if err != nil {
			return group{}, err
		}
		g.Key[name] = value
	}
	return g, nil
}
