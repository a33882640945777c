package policies

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies/query"
)

// Bounds of the two durations of an alert.
const (
	minPeriod   = time.Second
	maxLookback = 10 * 366 * 24 * time.Hour
)

// DataSet is the only data set of alerts.
const DataSet = "vulnerability"

var (
	metrics    = []string{"count", "min", "max", "sum", "avg"}
	conditions = []string{"eq", "not_eq", "lt", "lte", "gt", "gte"}
	variable   = regexp.MustCompile(`\$\{([^{}]*)\}`)
)

func (c checker) alert(a *Alert) {
	s := &a.Spec
	a.Origin = c.origin("metadata.name")
	if s.Type != "" {
		c.oneOf("spec.type", s.Type, "RuleBased", "RuleBased")
	}
	if s.DataSet != DataSet {
		c.at("spec.dataSet", "must be %s, the only data set here, not %q", DataSet, s.DataSet)
	}
	if s.Description == "" {
		c.at("spec.description", "is missing")
	}
	if s.Severity < 1 || s.Severity > 100 {
		c.at("spec.severity", "must be from 1 to 100, not %d", s.Severity)
	}
	c.duration("spec.period", s.Period)
	c.duration("spec.lookback", s.Lookback)
	c.alertMetric(*s)
	for i, f := range s.AggregateBy {
		path := fmt.Sprintf("spec.aggregateBy[%d]", i)
		field, ok := query.Resolve(f)
		if !ok {
			c.at(path, "unknown field %q; known are %s", f, fieldNames())
		}
		if _, twice := aggregated(s.AggregateBy[:i], f); ok && twice {
			c.at(path, "%s is given twice", field.Name)
		}
	}
	c.template("spec.summary", s.Summary, *s)
	c.template("spec.description", s.Description, *s)
	c.alertQuery(a)
}

func (c checker) duration(path, text string) {
	if text == "" {
		return
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < minPeriod || d > maxLookback {
		c.at(path, "must be a duration from 1s to ten years, such as 5m or 24h, not %q", text)
	}
}

func (c checker) alertMetric(s api.GlobalAlertSpec) {
	if s.Metric != "" {
		c.oneOf("spec.metric", s.Metric, metrics...)
	}
	if s.Condition != "" {
		c.oneOf("spec.condition", s.Condition, conditions...)
	}
	switch {
	case s.Metric != "" && s.Condition == "":
		c.at("spec.condition", "is missing: a metric is compared by a condition")
	case s.Metric == "" && s.Condition != "":
		c.at("spec.metric", "is missing: a condition compares a metric")
	case s.Metric == "" && s.Threshold != nil:
		c.at("spec.threshold", "needs a metric and a condition")
	}
	numeric := []string{"max_cvss_score", "epss"}
	switch {
	case s.Metric != "" && s.Metric != "count":
		c.oneOf("spec.field", s.Field, numeric...)
	case s.Field != "" && s.Metric == "":
		c.at("spec.field", "needs a metric")
	case s.Field != "":
		if _, ok := query.Resolve(s.Field); !ok {
			c.at("spec.field", "unknown field %q; known are %s", s.Field, fieldNames())
		}
	}
}

func fieldNames() string {
	var names []string
	for _, f := range query.Fields() {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// template checks that each ${field} is one that the alert has.
func (c checker) template(path, text string, s api.GlobalAlertSpec) {
	for _, m := range variable.FindAllStringSubmatchIndex(text, -1) {
		name := text[m[2]:m[3]]
		_, isField := query.Resolve(name)
		_, isKey := aggregated(s.AggregateBy, name)
		switch {
		case isKey, s.Metric != "" && name == s.Metric:
		case s.Metric == "" && len(s.AggregateBy) == 0 && isField:
		default:
			c.inside(path, m[0], "${%s} is neither in aggregateBy nor the metric", name)
		}
	}
}

func (c checker) alertQuery(a *Alert) {
	substitutions := map[string][]string{}
	for i, sub := range a.Spec.Substitutions {
		path := fmt.Sprintf("spec.substitutions[%d]", i)
		if sub.Name == "" {
			c.at(path+".name", "is missing")
		}
		if _, twice := substitutions[sub.Name]; twice {
			c.at(path+".name", "%s is given twice", sub.Name)
		}
		if len(sub.Values) == 0 {
			c.at(path+".values", "must have at least one value")
		}
		substitutions[sub.Name] = sub.Values
	}
	node, err := query.Parse(a.Spec.Query, substitutions)
	if err != nil {
		c.inside("spec.query", err.Offset, "%s", err.Message)
		return
	}
	a.query = node
}

// aggregated is the name under which a field, by whichever of its names, is in aggregateBy.
func aggregated(by []string, name string) (key string, is bool) {
	field, known := query.Resolve(name)
	at := slices.IndexFunc(by, func(f string) bool { other, ok := query.Resolve(f); return known && ok && other.Name == field.Name })
	if at < 0 {
		return "", false
	}
	return by[at], true
}

// variableOf is how the evaluator names what a template has in ${name}.
func variableOf(s api.GlobalAlertSpec, name string) string {
	if key, is := aggregated(s.AggregateBy, name); is {
		return key
	}
	if field, ok := query.Resolve(name); ok {
		return field.Name
	}
	return name
}

// parts splits a template of an alert into texts and {"field": name}.
func parts(s api.GlobalAlertSpec, text string) []any {
	out := []any{}
	at := 0
	for _, m := range variable.FindAllStringSubmatchIndex(text, -1) {
		if m[0] > at {
			out = append(out, text[at:m[0]])
		}
		out = append(out, map[string]string{"field": variableOf(s, text[m[2]:m[3]])})
		at = m[1]
	}
	if at < len(text) {
		out = append(out, text[at:])
	}
	return out
}
