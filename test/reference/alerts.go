package reference

import (
	"cmp"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// Alerts gives the alerts that fire over the events at the moment now.
func Alerts(w World, events []api.Event, now time.Time) []api.Alert {
	out := []api.Alert{}
	for _, a := range w.Alerts {
		out = append(out, fire(a, events, now)...)
	}
	keyText := func(a api.Alert) string {
		b, err := json.Marshal(a.Key)
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	slices.SortStableFunc(out, func(a, b api.Alert) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(keyText(a), keyText(b)))
	})
	return out
}

// A hit is an event that satisfies a query, with the instances that make it true.
type hit struct {
	event     api.Event
	instances []*api.Instance // one nil where the event has none
}

// A bucket is an aggregation key and the events that have it.
type bucket struct {
	key    map[string]string
	events []api.Event
}

func fire(a api.GlobalAlert, events []api.Event, now time.Time) []api.Alert {
	q, err := parseQuery(a.Spec.Query, a.Spec.Substitutions)
	if err != nil {
		panic(err)
	}
	lookback, err := time.ParseDuration(cmp.Or(a.Spec.Lookback, api.DefaultLookback))
	if err != nil {
		panic(err)
	}
	var hits []hit
	for _, e := range events {
		t, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			panic(err)
		}
		if !t.After(now.Add(-lookback)) || t.After(now) {
			continue
		}
		if matching := matchingInstances(q, e); len(matching) > 0 {
			hits = append(hits, hit{e, matching})
		}
	}

	var out []api.Alert
	add := func(key map[string]string, value *float64, count int, fields map[string]string) {
		summary := cmp.Or(a.Spec.Summary, a.Spec.Description)
		out = append(out, api.Alert{
			Name: a.Metadata.Name, Severity: a.Spec.Severity, Key: key, Value: value, Count: count,
			Summary: render(summary, fields), Description: render(a.Spec.Description, fields),
		})
	}

	if a.Spec.Metric == "" && len(a.Spec.AggregateBy) == 0 {
		for _, h := range hits {
			e := h.event
			add(map[string]string{"image": e.Image, "digest": e.Digest, "time": e.Time}, nil, 1, eventFields(e))
		}
		return out
	}

	for _, b := range bucketsOf(a, hits) {
		fields := map[string]string{}
		for k, v := range b.key {
			fields[k] = v
			for other, name := range otherNames { // by whichever name it is asked for
				if k == other {
					fields[name] = v
				}
				if k == name {
					fields[other] = v
				}
			}
		}
		if a.Spec.Metric == "" {
			add(b.key, nil, len(b.events), fields)
			continue
		}
		value := metricOf(a.Spec.Metric, a.Spec.Field, b.events)
		if value == nil {
			continue
		}
		threshold := new(big.Rat)
		if a.Spec.Threshold != nil {
			threshold = exact(*a.Spec.Threshold)
		}
		if !satisfies(a.Spec.Condition, value.Cmp(threshold)) {
			continue
		}
		f, _ := value.Float64()
		fields[a.Spec.Metric] = formatFloat(f)
		add(b.key, &f, len(b.events), fields)
	}
	return out
}

// matchingInstances gives the instances that make the query true, none when
// the event does not satisfy it.
func matchingInstances(q query, e api.Event) []*api.Instance {
	all := []*api.Instance{nil}
	if len(e.Instances) > 0 {
		all = nil
		for i := range e.Instances {
			all = append(all, &e.Instances[i])
		}
	}
	if !q.aboutInstances() {
		if q.holds(e, nil) {
			return all
		}
		return nil
	}
	var out []*api.Instance
	for _, i := range all {
		if q.holds(e, i) {
			out = append(out, i)
		}
	}
	return out
}

// bucketsOf sorts the hits by aggregation key. Without aggregateBy there is
// one bucket, even when nothing was hit.
func bucketsOf(a api.GlobalAlert, hits []hit) []*bucket {
	if len(a.Spec.AggregateBy) == 0 {
		b := &bucket{key: map[string]string{}}
		for _, h := range hits {
			b.events = append(b.events, h.event)
		}
		return []*bucket{b}
	}
	var out []*bucket
	for _, h := range hits {
		var mine []map[string]string // the keys of this event, each once
		for _, i := range h.instances {
			keys := []map[string]string{{}}
			for _, field := range a.Spec.AggregateBy {
				values := valuesOf(h.event, i, field)
				if len(values) == 0 && field != "cve" && field != "package" {
					values = []string{""}
				}
				var more []map[string]string
				for _, k := range keys {
					for _, v := range values {
						longer := map[string]string{field: v}
						for f, x := range k {
							longer[f] = x
						}
						more = append(more, longer)
					}
				}
				keys = more
			}
			for _, k := range keys {
				if !slices.ContainsFunc(mine, func(m map[string]string) bool { return sameKey(m, k) }) {
					mine = append(mine, k)
				}
			}
		}
		for _, k := range mine {
			at := slices.IndexFunc(out, func(b *bucket) bool { return sameKey(b.key, k) })
			if at < 0 {
				at = len(out)
				out = append(out, &bucket{key: k})
			}
			out[at].events = append(out[at].events, h.event)
		}
	}
	return out
}

func sameKey(a, b map[string]string) bool {
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return len(a) == len(b)
}

func exact(f float64) *big.Rat {
	r, ok := new(big.Rat).SetString(formatFloat(f))
	if !ok {
		panic("number")
	}
	return r
}

// metricOf is the metric over the events, to 6 decimals; nil when there is nothing to take it of.
func metricOf(metric, field string, events []api.Event) *big.Rat {
	if metric == "count" {
		return new(big.Rat).SetInt64(int64(len(events)))
	}
	var values []*big.Rat
	for _, e := range events {
		f := e.MaxCVSSScore
		if field == "epss" {
			f = e.EPSS
		}
		if f != nil {
			values = append(values, exact(*f))
		}
	}
	if len(values) == 0 {
		return nil
	}
	result := new(big.Rat).Set(values[0])
	for _, v := range values[1:] {
		switch metric {
		case "min":
			if v.Cmp(result) < 0 {
				result = v
			}
		case "max":
			if v.Cmp(result) > 0 {
				result = v
			}
		case "sum", "avg":
			result.Add(result, v)
		}
	}
	if metric == "avg" {
		result.Quo(result, new(big.Rat).SetInt64(int64(len(values))))
	}
	rounded, _ := new(big.Rat).SetString(result.FloatString(6))
	return rounded
}

func satisfies(condition string, order int) bool {
	switch condition {
	case "eq":
		return order == 0
	case "not_eq":
		return order != 0
	case "lt":
		return order < 0
	case "lte":
		return order <= 0
	case "gt":
		return order > 0
	case "gte":
		return order >= 0
	}
	panic("condition " + condition)
}

// eventFields is what a template may name where an alert is about one event.
func eventFields(e api.Event) map[string]string {
	out := map[string]string{}
	for _, f := range []string{
		"time", "type", "registry", "repository", "tag", "digest", "image", "result", "max_cvss_score", "cve", "package",
		"fixable", "kev", "epss", "source", "previous_result", "changed", "error",
	} {
		out[f] = strings.Join(valuesOf(e, nil, f), ", ")
	}
	for _, f := range instanceFields {
		var values []string
		for i := range e.Instances {
			values = append(values, valuesOf(e, &e.Instances[i], f)...)
		}
		slices.Sort(values)
		out[f] = strings.Join(slices.Compact(values), ", ")
	}
	for other, name := range otherNames {
		out[other] = out[name]
	}
	return out
}

// render puts fields into a template; what it does not know stays as it is.
func render(template string, fields map[string]string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(template, "${")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, closed := strings.Cut(rest, "}")
		if v, ok := fields[name]; ok && closed {
			b.WriteString(v)
			template = after
		} else {
			b.WriteString("${")
			template = rest
		}
	}
}
