package pushdown

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/policies/query"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/rego/compile"
)

// Bounds of a filter. OPA multiplies alternatives out, so that an AND of ORs
// below an OR can grow without end.
const (
	maxBodies  = 1000   // alternatives of one conjunct; a query has up to 1,000 terms
	maxWeight  = 20_000 // values in a filter; SQLite takes 32,766 arguments
	maxPattern = 10_000 // bytes of a text with wildcards; SQLite takes 50,000
)

// filter holds for at least the rows that a query holds for: an event or, where a
// term is about instances, an event and one instance of it.
type filter struct {
	conjuncts []node       // all of them hold
	terms     []query.Node // what input.term.t0, t1, … stand for
	exact     bool         // holds for no other row
}

// node is a condition on a row.
type node struct {
	// op is and, or or not, of the kids; eq, ne, lt, lte, gt, gte or in, of the
	// field and the values; or term, of the terms of the filter.
	op     string
	kids   []node
	field  query.Field
	values []any // string, float64 or bool
	term   int
}

// usesInstance says whether a condition is about an instance.
func (f *filter) usesInstance(n node) bool {
	if n.op == "term" {
		return query.UsesInstances(f.terms[n.term])
	}
	return n.field.Instance || slices.ContainsFunc(n.kids, f.usesInstance)
}

// newFilter compiles a query. Each of its conjuncts is compiled by itself, which
// keeps the alternatives of one from being multiplied with those of another.
func newFilter(ctx context.Context, q query.Node) (filter, error) {
	g := &generator{exact: true}
	g.module.WriteString("package assay.filter\n\n")
	var rules []string
	weight := 0
	for _, c := range g.normal(q, false).conjuncts() {
		if bodies, w := c.size(); bodies > maxBodies || weight+w > maxWeight {
			g.exact = false
			continue
		} else {
			weight += w
		}
		name := fmt.Sprintf("c%d", len(rules))
		g.rule(name, c)
		rules = append(rules, name)
	}
	f := filter{terms: g.terms, exact: g.exact}
	if len(rules) == 0 {
		return f, nil
	}
	compiler, err := ast.CompileModules(map[string]string{"filter.rego": g.module.String()})
	if err != nil {
		return filter{}, err
	}
	for _, name := range rules {
		n, err := reduce(ctx, compiler, name)
		if err != nil {
			return filter{}, err
		}
		f.conjuncts = append(f.conjuncts, n)
	}
	return f, nil
}

// reduce evaluates a rule as far as it goes without a row. What remains is in
// UCAST and not OPA's SQL, because there "not" of an absent value would be NULL and
// not true, values would stand in the text, and texts would compare by locale.
func reduce(ctx context.Context, compiler *ast.Compiler, rule string) (node, error) {
	prepared, err := compile.New(
		compile.Target("ucast", "all"),
		compile.ParsedUnknowns(ast.MustParseTerm("input.event"), ast.MustParseTerm("input.instance"), ast.MustParseTerm("input.term")),
		compile.ParsedQuery(ast.MustParseBody("data.assay.filter."+rule)),
		compile.Rego(rego.Compiler(compiler)),
	).Prepare(ctx)
	if err != nil {
		return node{}, err
	}
	filters, err := prepared.Compile(ctx)
	if err != nil {
		return node{}, err
	}
	return read(filters.One().Query)
}

// read takes a UCAST expression, as it is as JSON.
func read(v any) (node, error) {
	m, _ := v.(map[string]any)
	n := node{}
	n.op, _ = m["operator"].(string)
	switch n.op {
	case "and", "or", "not":
		kids, _ := m["value"].([]any)
		for _, k := range kids {
			kid, err := read(k)
			if err != nil {
				return node{}, err
			}
			n.kids = append(n.kids, kid)
		}
		if len(kids) == 0 || n.op == "not" && len(kids) > 1 {
			return node{}, fmt.Errorf("%s has %d operands", n.op, len(kids))
		}
		return n, nil
	case "eq", "ne", "lt", "lte", "gt", "gte":
		n.values = []any{m["value"]}
	case "in":
		n.values, _ = m["value"].([]any)
	}
	name, _ := m["field"].(string)
	table, name, _ := strings.Cut(name, ".")
	if table == "term" {
		n.op = table
		_, err := fmt.Sscanf(name, "t%d", &n.term)
		return n, err
	}
	var known bool
	if n.field, known = query.Lookup(name); !known || len(n.values) == 0 {
		return node{}, fmt.Errorf("unexpected condition %v", v)
	}
	return n, nil
}

// formula is a query whose negations stand at the terms.
type formula interface {
	// size is the number of alternatives when they are multiplied out, and of all
	// the values in them.
	size() (bodies, weight int)
	conjuncts() []formula
}

type (
	all     []formula // none: true
	some    []formula
	literal struct {
		text   string // a line of Rego
		values int
	}
)

func (l literal) size() (bodies, weight int) { return 1, l.values }

func (f all) size() (bodies, weight int) {
	bodies = 1
	for _, x := range f {
		b, w := x.size()
		bodies, weight = bound(bodies*b), bound(weight*b+w*bodies)
	}
	return bodies, weight
}

func (f some) size() (bodies, weight int) {
	for _, x := range f {
		b, w := x.size()
		bodies, weight = bound(bodies+b), bound(weight+w)
	}
	return bodies, weight
}

// bound keeps products of what is far too large from overflowing.
func bound(n int) int { return min(n, 1<<24) }

func (l literal) conjuncts() []formula { return []formula{l} }
func (f some) conjuncts() []formula    { return []formula{f} }
func (f all) conjuncts() []formula     { return f }

// generator writes the module of a filter. Its rules use only what the compile
// API accepts: comparisons of a field of the row with values, and their negation.
// Of a term that is more than that, input.term.tN says whether it holds.
type generator struct {
	module  strings.Builder
	helpers int
	terms   []query.Node
	exact   bool
}

// normal is a query, or its negation. What the store cannot judge is left out as
// true: since no negation stands above a term, more rows hold then, not fewer.
func (g *generator) normal(n query.Node, negated bool) formula {
	switch n := n.(type) {
	case nil:
		return all{}
	case query.Not:
		return g.normal(n.X, !negated)
	case query.And:
		return join(g.normal(n.X, negated), g.normal(n.Y, negated), negated)
	case query.Or:
		return join(g.normal(n.X, negated), g.normal(n.Y, negated), !negated)
	case query.Compare:
		if n.Op == "!=" {
			n.Op, negated = "=", !negated
		}
		return g.term(n.Field, n, []query.Value{n.Value}, negated)
	case query.In:
		return g.term(n.Field, query.In{Field: n.Field, Values: n.Values}, n.Values, negated != n.Negated)
	}
	panic(fmt.Sprintf("pushdown: unknown query node %T", n))
}

// join is X OR Y, or X AND Y, in one list with theirs.
func join(x, y formula, or bool) formula {
	if !or {
		return append(slices.Clip(all(x.conjuncts())), y.conjuncts()...)
	}
	var out some
	for _, f := range []formula{x, y} {
		switch f := f.(type) {
		case some:
			out = append(out, f...)
		case all:
			switch len(f) {
			case 0:
				return all{} // true
			case 1:
				out = append(out, f[0])
			default:
				out = append(out, f)
			}
		default:
			out = append(out, f)
		}
	}
	return out
}

func (g *generator) term(field query.Field, n query.Node, values []query.Value, negated bool) formula {
	wildcards := slices.ContainsFunc(values, func(v query.Value) bool { return v.Wildcard })
	if slices.ContainsFunc(values, beyondSQL) {
		g.exact = false
		return all{}
	}
	ref := "input.event." + field.Name
	if field.Instance {
		ref = "input.instance." + field.Name
	}
	l := literal{values: len(values)}
	switch n := n.(type) {
	case query.Compare:
		op := n.Op
		if op == "=" {
			op = "=="
		}
		l.text = fmt.Sprintf("%s %s %s", ref, op, valueOf(field, n.Value))
	case query.In:
		members := make([]string, len(values))
		for i, v := range values {
			members[i] = valueOf(field, v)
		}
		l.text = fmt.Sprintf("%s in {%s}", ref, strings.Join(members, ", "))
	}
	if field.List || wildcards {
		l.text = fmt.Sprintf("input.term.t%d == true", len(g.terms))
		g.terms = append(g.terms, n)
	}
	if negated {
		l.text = "not " + l.text
	}
	return l
}

// beyondSQL says whether a value is one that SQL does not take.
func beyondSQL(v query.Value) bool {
	return !utf8.ValidString(v.Text) || strings.ContainsRune(v.Text, 0) || v.Wildcard && len(v.Text) > maxPattern
}

// valueOf is a value as Rego, which takes JSON as it is.
func valueOf(f query.Field, v query.Value) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(plain(f, v)); err != nil {
		panic(err) // plain values only: cannot fail
	}
	return strings.TrimSpace(b.String())
}

// plain is a value as it stands in a row.
func plain(f query.Field, v query.Value) any {
	switch f.Type {
	case query.Number:
		return json.Number(v.Number)
	case query.Bool:
		return v.Bool
	case query.Time:
		return documents.Time(v.Time)
	}
	return v.Text
}

// rule writes a rule that holds when the formula does.
func (g *generator) rule(name string, f formula) {
	alternatives, ok := f.(some)
	if !ok {
		alternatives = some{f}
	}
	for _, a := range alternatives {
		var lines []string
		for _, c := range a.conjuncts() {
			switch c := c.(type) {
			case literal:
				lines = append(lines, c.text)
			default:
				helper := fmt.Sprintf("h%d", g.helpers)
				g.helpers++
				lines = append(lines, helper)
				defer g.rule(helper, c)
			}
		}
		fmt.Fprintf(&g.module, "%s if {\n\t%s\n}\n\n", name, strings.Join(lines, "\n\t"))
	}
}
