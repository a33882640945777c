package policies

import (
	"fmt"
	"slices"
	"strings"

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
	g := &generator{selectors: map[string]string{}, spans: map[string]api.Duration{}}
	for i := range s.Policies {
		g.policy(i, &s.Policies[i])
	}
	var b strings.Builder
	b.WriteString(header + "package assay.generated.policies\n\n")
	fmt.Fprintf(&b, "rules := [%s]\n\n", strings.Join(g.table, ",\n"))
	spans := map[string][]int{}
	for key, d := range g.spans {
		spans[key] = []int{d.Years, d.Months, d.Days}
	}
	fmt.Fprintf(&b, "# Years, months and days of imageLastScan.\nspans := %s\n\n", literal(spans))
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
	g.table = append(g.table, literal(struct {
		Policy   string   `json:"policy"`
		Position int      `json:"position"`
		Rule     int      `json:"rule"`
		Action   string   `json:"action"`
		Mode     string   `json:"mode"`
		Criteria []string `json:"criteria"`
		Source   string   `json:"source"`
	}{p.Metadata.Name, position, n, action, p.Mode, criteria, at.String()}))
}

func (r rule) criteria() []string {
	var names []string
	if r.patterns != nil {
		names = append(names, "path")
	}
	if r.results != nil {
		names = append(names, "status")
	}
	if r.span != nil || r.moment != "" {
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

// ruleOf writes the body of a policy's rule: cheap conditions that the index
// knows come first, regular expressions last. The image path is matched in each
// of its forms: as written and as normalised.
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
		times = []string{fmt.Sprintf("input.c.at %s input.c.cuts[%s]", operator, literal(key))}
	case r.moment != "":
		times = []string{fmt.Sprintf("input.c.at %s %s", operator, literal(r.moment))}
	}
	if r.patterns == nil {
		g.rule(set, title, at, slices.Concat(conditions, times))
		return
	}
	helper := g.path(r.patterns)
	if r.noneOf {
		g.rule(set, title, at, slices.Concat(conditions, times,
			[]string{"every form in input.c.forms {\n\t\tnot " + helper + "(form)\n\t}"}))
		return
	}
	var prefix []string
	if prefixes := prefixesOf(r.patterns); prefixes != nil {
		prefix = []string{fmt.Sprintf("strings.any_prefix_match(input.c.forms, %s)", literal(prefixes))}
	}
	g.rule(set, title, at, slices.Concat(conditions, prefix, times, []string{"some form in input.c.forms", helper + "(form)"}))
}

// prefixesOf are the prefixes of patterns, nil when one of them has none.
func prefixesOf(patterns []pattern) []string {
	var prefixes []string
	for _, p := range patterns {
		if p.prefix == "" {
			return nil
		}
		prefixes = append(prefixes, p.prefix)
	}
	slices.Sort(prefixes)
	return slices.Compact(prefixes)
}

// path writes the function that holds when any of the patterns matches.
func (g *generator) path(patterns []pattern) string {
	var key []string
	for _, p := range patterns {
		key = append(key, p.expr)
	}
	id := "path\x00" + literal(key)
	if name, ok := g.selectors[id]; ok {
		return name
	}
	name := g.name("path")
	g.selectors[id] = name
	for _, p := range patterns {
		body := fmt.Sprintf("regex.match(%s, image)", literal(p.expr))
		if p.prefix != "" {
			body = fmt.Sprintf("startswith(image, %s)\n\t%s", literal(p.prefix), body)
		}
		fmt.Fprintf(&g.help, "%s(image) if {\n\t%s\n}\n\n", name, body)
	}
	return name
}

func (g *generator) name(kind string) string {
	g.helpers++
	return fmt.Sprintf("%s_%d", kind, g.helpers)
}
