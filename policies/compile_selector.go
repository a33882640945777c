package policies

import (
	"fmt"
	"strings"

	"github.com/assay-dev/assay/policies/selector"
)

// What a selector is over.
const (
	labelsOfResource  = "input.labels"
	labelsOfNamespace = "input.namespaceLabels"
)

// conditions are the Rego conditions, all of which must hold, of a selector over
// labels. None means always, impossible never. Equality stays inline, where the
// rule index sees it.
func (g *generator) conditions(n selector.Node, labels string) []string {
	key := func(k string) string { return labels + "[" + literal(k) + "]" }
	switch n := n.(type) {
	case selector.All:
		return nil
	case selector.Global:
		return []string{`input.namespace == ""`}
	case selector.Has:
		return []string{key(n.Key)}
	case selector.Eq:
		return []string{key(n.Key) + " == " + literal(n.Value)}
	case selector.Ne:
		return []string{"not " + key(n.Key) + " == " + literal(n.Value)}
	case selector.In:
		if len(n.Values) == 0 {
			return []string{impossible}
		}
		return []string{key(n.Key) + " in " + setLiteral(n.Values)}
	case selector.NotIn:
		if len(n.Values) == 0 {
			return nil
		}
		// Only an equality may be negated inline: OPA evaluates the arguments of
		// other calls first, and a label that is absent would end the rule.
		is := selector.In(n)
		return []string{"not " + g.selectorHelper(is, labels, [][]string{g.conditions(is, labels)})}
	case selector.Contains:
		return []string{fmt.Sprintf("contains(%s, %s)", key(n.Key), literal(n.Value))}
	case selector.StartsWith:
		return []string{fmt.Sprintf("startswith(%s, %s)", key(n.Key), literal(n.Value))}
	case selector.EndsWith:
		return []string{fmt.Sprintf("endswith(%s, %s)", key(n.Key), literal(n.Value))}
	case selector.And:
		return g.all(n, labels)
	case selector.Not:
		inner := g.conditions(n.X, labels)
		if len(inner) == 0 {
			return []string{impossible}
		}
		if never(inner) {
			return nil
		}
		return []string{"not " + g.selectorHelper(n.X, labels, [][]string{inner})}
	case selector.Or:
		var bodies [][]string
		for _, x := range []selector.Node{n.X, n.Y} {
			c := g.conditions(x, labels)
			if len(c) == 0 {
				return nil
			}
			if !never(c) {
				bodies = append(bodies, c)
			}
		}
		switch len(bodies) {
		case 0:
			return []string{impossible}
		case 1:
			return bodies[0]
		}
		return []string{g.selectorHelper(n, labels, bodies)}
	}
	panic(fmt.Sprintf("policies: unknown selector node %T", n))
}

func (g *generator) all(n selector.And, labels string) []string {
	out := append(g.conditions(n.X, labels), g.conditions(n.Y, labels)...)
	if never(out) {
		return []string{impossible}
	}
	return out
}

// selectorHelper writes a rule that holds when any of the bodies does, once for
// each distinct selector.
func (g *generator) selectorHelper(n selector.Node, labels string, bodies [][]string) string {
	id := labels + "\x00" + n.String()
	if name, ok := g.selectors[id]; ok {
		return name
	}
	name := g.name("selector")
	g.selectors[id] = name
	for _, body := range bodies {
		fmt.Fprintf(&g.help, "%s if {\n\t%s\n}\n\n", name, strings.Join(body, "\n\t"))
	}
	return name
}
