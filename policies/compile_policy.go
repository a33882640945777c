package policies

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies/selector"
)

// policiesModule generates package assay.generated.policies. The rules of all
// policies are numbered in the order in which they apply, each policy taking
// one number more, before its rules, for the refusal when namespace labels are
// not known. hits is the set of numbers that match an image; the lowest one
// decides. notes is the same for policies in Warn and Audit mode. Conditions
// are on input.c, so that OPA's rule index prunes before it evaluates.
func (s *Set) policiesModule() string {
	g := &generator{selectors: map[string]string{}, spans: map[string]api.Duration{}, offsets: map[int]bool{}}
	for i := range s.Policies {
		g.policy(i, &s.Policies[i])
	}
	var b strings.Builder
	b.WriteString(header + "package assay.generated.policies\n\n")
	fmt.Fprintf(&b, "rules := [%s]\n\n", strings.Join(g.table, ",\n"))
	spans := map[string]any{}
	for key, d := range g.spans {
		if spans[key] = []int{d.Years, d.Months, d.Days}; d.Years == 0 && d.Months == 0 {
			spans[key] = int64(d.Days) * 24 * int64(time.Hour)
		}
	}
	if len(spans) > 0 {
		fmt.Fprintf(&b, "# The durations of imageLastScan: years, months and days, or days alone in nanoseconds.\nspans := %s\n\n", literal(spans))
	}
	offsets := slices.AppendSeq([]int{}, maps.Keys(g.offsets))
	slices.Sort(offsets)
	fmt.Fprintf(&b, "# Where patterns have a literal that the rule index sees, in runes from the start.\noffsets := %s\n\n", literal(offsets))
	if g.noted {
		b.WriteString("has_notes := true\n\n")
	}
	b.WriteString("hits contains -1 if false\n\nnotes contains -1 if false\n\n")
	b.WriteString(g.body.String())
	b.WriteString(g.help.String())
	return b.String()
}

type generator struct {
	table     []string
	body      strings.Builder
	help      strings.Builder
	selectors map[string]string // canonical text and scope → helper
	spans     map[string]api.Duration
	offsets   map[int]bool // of literals in patterns, but for 0
	helpers   int
	noted     bool
}

func (g *generator) policy(position int, p *Policy) {
	set := "hits"
	if p.Mode != api.Enforce {
		set, g.noted = "notes", true
	}
	applies := g.conditions(p.selector, labelsOfResource)
	known := g.conditions(p.namespaceSelector, labelsOfNamespace)

	g.number(position, p, 0, api.Reject, nil, p.Origin)
	if selector.DependsOnLabels(p.namespaceSelector) && !never(applies) {
		g.rule(set, p.Metadata.Name, p.Origin, slices.Concat(applies, []string{"input.namespaceLabels == null"}))
		known = append([]string{"input.namespaceLabels != null"}, known...)
	}
	for i, r := range p.rules {
		g.number(position, p, i+1, r.action, r.criteria(), p.RuleOrigins[i])
		conditions := slices.Concat(applies, known)
		if never(conditions) {
			continue
		}
		title := fmt.Sprintf("%s rule %d", p.Metadata.Name, i+1)
		g.ruleOf(set, title, p.RuleOrigins[i], conditions, r)
	}
}

// number adds a row to the table of rules.
func (g *generator) number(position int, p *Policy, n int, action string, criteria []string, at Origin) {
	if criteria == nil {
		criteria = []string{}
	}
	by := map[string]any{"policy": p.Metadata.Name}
	if n > 0 {
		by["rule"] = n
	}
	g.table = append(g.table, literal(struct {
		Policy   string         `json:"policy"`
		Position int            `json:"position"`
		Rule     int            `json:"rule"`
		Action   string         `json:"action"`
		Mode     string         `json:"mode"`
		Criteria []string       `json:"criteria"`
		Source   string         `json:"source"`
		Message  string         `json:"message,omitempty"` // the author's
		By       map[string]any `json:"by"`                // what a decision says of it
	}{p.Metadata.Name, position, n, action, p.Mode, criteria, at.String(), p.Metadata.Annotations[api.MessageAnnotation], by}))
}

// criteria are the names of a rule's criteria, as [api.MatchedRule] has them.
func (r rule) criteria() []string {
	var names []string
	switch {
	case r.patterns != nil && r.noneOf:
		names = append(names, "path not")
	case r.patterns != nil:
		names = append(names, "path")
	}
	if r.results != nil {
		names = append(names, "status")
	}
	switch {
	case r.span == nil && r.moment == "":
	case r.later:
		names = append(names, "time after")
	default:
		names = append(names, "time")
	}
	return names
}

const impossible = "false"

func never(conditions []string) bool { return slices.Contains(conditions, impossible) }

// rule writes one body of the last number of the table.
func (g *generator) rule(set, title string, at Origin, conditions []string) {
	if len(conditions) == 0 {
		conditions = []string{"true"}
	}
	fmt.Fprintf(&g.body, "# METADATA\n# title: %s\n# custom:\n#   source: %s\n%s contains %d if {\n\t%s\n}\n\n",
		literal(title), literal(at.String()), set, len(g.table)-1, strings.Join(conditions, "\n\t"))
}

// ruleOf writes the body of a policy's rule. The rule index has asked what it can
// ask before a body is evaluated, in whatever order they stand: so these conditions,
// then true, come last; first what fails cheaply, then regular expressions. The image
// path is matched in each of its forms: as written, as normalised and as canonical.
func (g *generator) ruleOf(set, title string, at Origin, conditions []string, r rule) {
	if r.results != nil {
		if len(r.results) == 0 {
			return
		}
		if len(r.results) < len(results) {
			conditions = append(conditions, "input.c.result in "+setLiteral(r.results))
		}
	}
	operator := "<"
	if r.later {
		operator = ">"
	}
	var times []string
	switch {
	case r.span != nil:
		key := fmt.Sprintf("%d-%d-%d", r.span.Years, r.span.Months, r.span.Days)
		g.spans[key] = *r.span
		times = []string{fmt.Sprintf("input.c.status.scanned_at %s input.c.cuts[%s]", operator, literal(key))}
	case r.moment != "":
		times = []string{fmt.Sprintf("input.c.status.scanned_at %s %s", operator, literal(r.moment))}
	}
	var asked, open []string
	for _, c := range conditions {
		if indexed(c) {
			asked = append(asked, c)
		} else {
			open = append(open, c)
		}
	}
	first := slices.Concat(times, open)
	if r.patterns == nil {
		g.rule(set, title, at, slices.Concat(first, asked))
		return
	}
	var exprs []string
	for _, p := range r.patterns {
		exprs = append(exprs, p.expr)
	}
	exprs = compactSorted(exprs)
	match, each := fmt.Sprintf("regex.match(%s, form)", literal(exprs[0])), ""
	if len(exprs) > 1 {
		match, each = "regex.match(pattern, form)", "pattern in "+literal(exprs)
	}
	if r.noneOf {
		match = "not " + match
		if each != "" {
			match = "every " + each + " {\n\t\t\t" + match + "\n\t\t}"
		}
		g.rule(set, title, at, slices.Concat(first, []string{"every form in input.c.forms {\n\t\t" + match + "\n\t}"}, asked))
		return
	}
	var prefix []string
	switch offset, texts := g.prefilter(r.patterns); {
	case offset == 0:
		prefix = []string{fmt.Sprintf("strings.any_prefix_match(input.c.forms, %s)", literal(compactSorted(texts)))}
	case offset > 0:
		prefix = []string{fmt.Sprintf("strings.any_prefix_match(input.c.from[%d], %s)", offset, literal(compactSorted(texts)))}
	}
	matching := []string{"some form in input.c.forms"}
	if each != "" {
		matching = append(matching, "some "+each)
	}
	g.rule(set, title, at, slices.Concat(first, matching, []string{match}, prefix, asked))
}

// indexed says that OPA's rule index asks a condition: input.x == "…" and input.x in {…}.
// It decides on the order alone.
func indexed(condition string) bool {
	return strings.HasPrefix(condition, "input.") && (strings.Contains(condition, " == ") || strings.Contains(condition, " in {"))
}

func compactSorted(list []string) []string {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

func (g *generator) name(kind string) string {
	g.helpers++
	return fmt.Sprintf("%s_%d", kind, g.helpers)
}
