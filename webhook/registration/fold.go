package registration

import "github.com/assay-dev/assay/policies/selector"

// term is a term of a selector, or its negation.
type term struct {
	op      operator
	key     string
	values  []string // one, but for in
	negated bool
}

type operator int

const (
	all operator = iota
	global
	has
	in
	contains
	startsWith
	endsWith
)

// fold gives a selector, or its negation, from its terms: negations are moved down to
// these, so that a term which cannot be told may be taken for one that holds.
func fold[T any](n selector.Node, negated bool, of func(term) T, and, or func(x, y T) T) T {
	one := func(op operator, key string, values ...string) T { return of(term{op, key, values, negated}) }
	switch n := n.(type) {
	case selector.Global:
		return one(global, "")
	case selector.Has:
		return one(has, n.Key)
	case selector.Eq:
		return one(in, n.Key, n.Value)
	case selector.Ne:
		negated = !negated
		return one(in, n.Key, n.Value)
	case selector.In:
		return one(in, n.Key, n.Values...)
	case selector.NotIn:
		negated = !negated
		return one(in, n.Key, n.Values...)
	case selector.Contains:
		return one(contains, n.Key, n.Value)
	case selector.StartsWith:
		return one(startsWith, n.Key, n.Value)
	case selector.EndsWith:
		return one(endsWith, n.Key, n.Value)
	case selector.Not:
		return fold(n.X, !negated, of, and, or)
	case selector.And:
		return join(and, or, negated)(fold(n.X, negated, of, and, or), fold(n.Y, negated, of, and, or))
	case selector.Or:
		return join(or, and, negated)(fold(n.X, negated, of, and, or), fold(n.Y, negated, of, and, or))
	}
	return one(all, "")
}

// join is how the parts of a node go together, by De Morgan's laws.
func join[T any](plain, dual func(x, y T) T, negated bool) func(x, y T) T {
	if negated {
		return dual
	}
	return plain
}
