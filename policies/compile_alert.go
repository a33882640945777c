package policies

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies/query"
)

// Query is the parsed query: nil holds for every event.
func (a *Alert) Query() query.Node { return a.query }

// alertsModule generates package assay.generated.alerts: for each alert its
// parameters (rules), the events and instances that its query holds for (hits),
// and the keys that they contribute to (keys).
func (s *Set) alertsModule() string {
	g := &alertGenerator{}
	table := map[string]any{}
	for i := range s.Alerts {
		a := &s.Alerts[i]
		table[a.Metadata.Name] = alertRow(a.Spec)
		g.alert(a)
	}
	return fmt.Sprintf("%spackage assay.generated.alerts\n\nrules := %s\n\n%s%s", header, literal(table), g.body.String(), g.help.String())
}

func alertRow(s api.GlobalAlertSpec) map[string]any {
	lookback := s.Lookback
	if lookback == "" {
		lookback = api.DefaultLookback
	}
	d, err := time.ParseDuration(lookback)
	if err != nil {
		panic(err) // validated
	}
	summary := s.Summary
	if summary == "" {
		summary = s.Description
	}
	threshold := 0.0
	if s.Threshold != nil {
		threshold = *s.Threshold
	}
	// Every member is there, since OPA checks the types of constants.
	return map[string]any{
		"severity": s.Severity, "lookback": d.Nanoseconds(), "summary": parts(s, summary), "description": parts(s, s.Description),
		"aggregated": len(s.AggregateBy) > 0, "metric": s.Metric, "field": s.Field, "condition": s.Condition, "threshold": threshold,
	}
}

type alertGenerator struct {
	body, help strings.Builder
	helpers    int
}

func (g *alertGenerator) alert(a *Alert) {
	name := literal(a.Metadata.Name)
	instances := query.UsesInstances(a.query) || slices.ContainsFunc(a.Spec.AggregateBy, func(f string) bool {
		field, _ := query.Resolve(f)
		return field.Instance
	})
	conditions := []string{
		"some i, e in data.assay.alerts.events",
		"e.at > data.assay.alerts.since[" + name + "]",
		"e.at <= input.now",
	}
	predicate := g.conditions(a.query)
	_, instance := predicate.uses() // the event is always used, by its time
	switch {
	case instances && instance:
		conditions = append(conditions, "some j, n in data.assay.alerts.instances(e)")
	case instances:
		conditions = append(conditions, "some j, _ in data.assay.alerts.instances(e)")
	case instance:
		conditions = append(conditions, "j := 0", "n := {}")
	default:
		conditions = append(conditions, "j := 0")
	}
	for _, c := range predicate {
		conditions = append(conditions, c.text)
	}
	fmt.Fprintf(&g.body, "# METADATA\n# title: %s\n# custom:\n#   source: %s\nhits[%s][i] contains j if {\n\t%s\n}\n\n",
		name, literal(a.Origin.String()), name, strings.Join(conditions, "\n\t"))
	if len(a.Spec.AggregateBy) > 0 {
		g.keys(name, a.Spec.AggregateBy)
	}
}

// keys writes the rule that turns hits into keys, a value for each field.
func (g *alertGenerator) keys(name string, fields []string) {
	var pairs, lines []string
	bound := false
	for k, f := range fields {
		field, _ := query.Resolve(f)
		from, values := "e", "values"
		if field.List {
			values = "list_values"
		}
		if field.Instance {
			if from = "n"; !bound {
				lines = append(lines, "some j in instances", "n := data.assay.alerts.instances(e)[j]")
				bound = true
			}
		}
		lines = append(lines, fmt.Sprintf("some value_%d in data.assay.alerts.%s(%s, %s)", k, values, from, literal(field.Name)))
		pairs = append(pairs, fmt.Sprintf("%s: value_%d", literal(f), k))
	}
	instances := "_"
	if bound {
		instances = "instances"
	}
	lines = append([]string{fmt.Sprintf("some i, %s in hits[%s]", instances, name), "e := data.assay.alerts.events[i]"}, lines...)
	fmt.Fprintf(&g.body, "keys[%s] contains {\"key\": {%s}, \"event\": i} if {\n\t%s\n}\n\n", name, strings.Join(pairs, ", "), strings.Join(lines, "\n\t"))
}

// condition is a line of Rego, and whether it uses the event e and the instance
// n: strict mode refuses what is bound and not used.
type condition struct {
	text            string
	event, instance bool
	helper          bool // a call of one
}

type conditionList []condition

func (l conditionList) uses() (event, instance bool) {
	for _, c := range l {
		event, instance = event || c.event, instance || c.instance
	}
	return event, instance
}

func about(f query.Field, format string, args ...any) condition {
	return condition{text: fmt.Sprintf(format, args...), event: !f.Instance, instance: f.Instance}
}

// not negates a condition, through a helper: of what is inline OPA evaluates the
// arguments first, and a field that is absent would end the rule.
func (g *alertGenerator) not(c condition) condition {
	if !c.helper {
		c = g.helper(conditionList{c})
	}
	c.text = "not " + c.text
	return c
}

// conditions are those of a query over the event e and one instance n of it.
func (g *alertGenerator) conditions(n query.Node) conditionList {
	switch n := n.(type) {
	case nil:
		return nil
	case query.And:
		return append(g.conditions(n.X), g.conditions(n.Y)...)
	case query.Or:
		return conditionList{g.helper(g.conditions(n.X), g.conditions(n.Y))}
	case query.Not:
		return conditionList{g.not(g.helper(g.conditions(n.X)))}
	case query.Compare:
		return conditionList{g.compare(n)}
	case query.In:
		c := g.member(n)
		if n.Negated {
			c = g.not(c)
		}
		return conditionList{c}
	}
	panic(fmt.Sprintf("policies: unknown query node %T", n))
}

// helper writes a function that holds when any of the bodies does, and is the
// condition that calls it.
func (g *alertGenerator) helper(bodies ...conditionList) condition {
	g.helpers++
	name := fmt.Sprintf("query_%d", g.helpers)
	for _, b := range bodies {
		args := []string{"_", "_"}
		event, instance := b.uses()
		if event {
			args[0] = "e"
		}
		if instance {
			args[1] = "n"
		}
		var lines []string
		for _, c := range b {
			lines = append(lines, c.text)
		}
		fmt.Fprintf(&g.help, "%s(%s) if {\n\t%s\n}\n\n", name, strings.Join(args, ", "), strings.Join(lines, "\n\t"))
	}
	return condition{text: name + "(e, n)", event: true, instance: true, helper: true}
}

func refOf(f query.Field) string {
	if f.Instance {
		return "n[" + literal(f.Name) + "]"
	}
	if f.Type == query.Time {
		return "e.at"
	}
	return "e[" + literal(f.Name) + "]"
}

func literalOf(f query.Field, v query.Value) string {
	switch f.Type {
	case query.Number:
		return v.Number
	case query.Bool:
		return literal(v.Bool)
	case query.Time:
		return literal(documents.Time(v.Time))
	}
	return literal(v.Text)
}

func (g *alertGenerator) compare(n query.Compare) condition {
	ref, value := refOf(n.Field), literalOf(n.Field, n.Value)
	op := n.Op
	if op == "=" || op == "!=" {
		op = "=="
	}
	c := about(n.Field, "%s %s %s", ref, op, value)
	switch {
	case n.Field.List && op == "==":
		c = about(n.Field, "%s in %s", value, ref)
	case n.Field.List:
		c = g.helper(conditionList{about(n.Field, "some member in %s", ref), {text: "member " + op + " " + value}})
	}
	if n.Op == "!=" {
		c = g.not(c)
	}
	return c
}

// member is the condition that a field, or a member of it, is in a set.
func (g *alertGenerator) member(n query.In) condition {
	ref := refOf(n.Field)
	var exact []string
	var tests []string
	subject := ref
	if n.Field.List {
		subject = "member"
	}
	for _, v := range n.Values {
		if v.Wildcard {
			tests = append(tests, fmt.Sprintf("regex.match(%s, %s)", literal(wildcard(v.Text)), subject))
			continue
		}
		exact = append(exact, literalOf(n.Field, v))
	}
	if len(exact) > 0 {
		slices.Sort(exact)
		tests = append(tests, fmt.Sprintf("%s in {%s}", subject, strings.Join(slices.Compact(exact), ", ")))
	}
	if len(tests) == 1 && !n.Field.List {
		return about(n.Field, "%s", tests[0])
	}
	var bodies []conditionList
	for _, test := range tests {
		body := conditionList{about(n.Field, "%s", test)}
		if n.Field.List {
			body = conditionList{about(n.Field, "some member in %s", ref), {text: test}}
		}
		bodies = append(bodies, body)
	}
	return g.helper(bodies...)
}

// wildcard is the regular expression of a text with * and ?.
func wildcard(s string) string {
	quoted := regexp.QuoteMeta(s)
	quoted = strings.ReplaceAll(quoted, `\*`, `.*`)
	return `(?s)^` + strings.ReplaceAll(quoted, `\?`, `.`) + `$`
}
