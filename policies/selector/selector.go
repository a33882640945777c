// Package selector parses Calico's label selectors, such as
// `app == 'web' && has(tier) || env in {'prod', 'stage'}`. It accepts exactly
// what Calico's own parser accepts (projectcalico/calico, libcalico-go/lib/selector);
// its quirks are listed in the tests. Time is linear in the length.
package selector

import (
	"fmt"
	"strings"
)

// Node is a parsed selector: one of the types of this package.
type Node interface {
	// String is a canonical form that parses to the same node.
	String() string
}

// The nodes. Ne and NotIn hold where the label is absent; In of no values holds
// nowhere.
type (
	All        struct{}                    // all()
	Global     struct{}                    // global()
	Has        struct{ Key string }        // has(k)
	Eq         struct{ Key, Value string } // k == 'v'
	Ne         struct{ Key, Value string } // k != 'v'
	Contains   struct{ Key, Value string } // k contains 's'
	StartsWith struct{ Key, Value string } // k starts with 's'
	EndsWith   struct{ Key, Value string } // k ends with 's'
	In         struct {
		Key    string
		Values []string
	} // k in {'a', 'b'}
	NotIn struct {
		Key    string
		Values []string
	} // k not in {'a', 'b'}
	Not struct{ X Node }    // !x
	And struct{ X, Y Node } // x && y
	Or  struct{ X, Y Node } // x || y
)

func (All) String() string          { return "all()" }
func (Global) String() string       { return "global()" }
func (n Has) String() string        { return "has(" + n.Key + ")" }
func (n Eq) String() string         { return n.Key + " == " + quote(n.Value) }
func (n Ne) String() string         { return n.Key + " != " + quote(n.Value) }
func (n Contains) String() string   { return n.Key + " contains " + quote(n.Value) }
func (n StartsWith) String() string { return n.Key + " starts with " + quote(n.Value) }
func (n EndsWith) String() string   { return n.Key + " ends with " + quote(n.Value) }
func (n In) String() string         { return n.Key + " in " + quoteSet(n.Values) }
func (n NotIn) String() string      { return n.Key + " not in " + quoteSet(n.Values) }
func (n Not) String() string        { return "!" + inParens(n.X, isNot(n.X) || isAnd(n.X) || isOr(n.X)) }
func (n And) String() string {
	return inParens(n.X, isOr(n.X)) + " && " + inParens(n.Y, isOr(n.Y) || isAnd(n.Y))
}
func (n Or) String() string { return n.X.String() + " || " + inParens(n.Y, isOr(n.Y)) }

// inParens puts parentheses around what an operator would tear apart, and no
// more, so that a selector within the bounds prints as one within the bounds.
func inParens(n Node, needed bool) string {
	if needed {
		return "(" + n.String() + ")"
	}
	return n.String()
}

func isNot(n Node) bool { _, is := n.(Not); return is }
func isAnd(n Node) bool { _, is := n.(And); return is }
func isOr(n Node) bool  { _, is := n.(Or); return is }

// quote takes the quote that the text does not hold; there are no escapes, so
// a text never holds both.
func quote(s string) string {
	if strings.Contains(s, "'") {
		return `"` + s + `"`
	}
	return "'" + s + "'"
}

func quoteSet(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = quote(v)
	}
	return "{" + strings.Join(quoted, ", ") + "}"
}

// DependsOnLabels says whether any term of the selector is about a label.
func DependsOnLabels(n Node) bool { return len(Keys(n)) > 0 }

// Keys are the labels that the terms of the selector are about, with repeats.
func Keys(n Node) []string {
	switch n := n.(type) {
	case Not:
		return Keys(n.X)
	case And:
		return append(Keys(n.X), Keys(n.Y)...)
	case Or:
		return append(Keys(n.X), Keys(n.Y)...)
	case Has:
		return []string{n.Key}
	case Eq:
		return []string{n.Key}
	case Ne:
		return []string{n.Key}
	case Contains:
		return []string{n.Key}
	case StartsWith:
		return []string{n.Key}
	case EndsWith:
		return []string{n.Key}
	case In:
		return []string{n.Key}
	case NotIn:
		return []string{n.Key}
	}
	return nil
}

// Error says what is wrong with a selector, and at which byte.
type Error struct {
	Offset  int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("offset %d: %s", e.Offset, e.Message) }

// Bounds of a selector.
const (
	MaxLength = 64 << 10
	// MaxTerms bounds the terms, so that what is generated stays small.
	MaxTerms = 1000
	// MaxDepth bounds the nesting of parentheses.
	MaxDepth = 1000
)

// Parse parses a selector; an empty one is All. The error is nil or describes the
// first fault.
func Parse(text string) (Node, *Error) {
	if len(text) > MaxLength {
		return nil, &Error{0, fmt.Sprintf("the selector has %d bytes; at most %d are allowed", len(text), MaxLength)}
	}
	tokens, err := tokenize(text)
	if err != nil {
		return nil, err
	}
	if tokens[0].kind == end {
		return All{}, nil
	}
	p := &parser{tokens: tokens}
	node, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != end {
		return nil, &Error{t.at, fmt.Sprintf("expected && or || before %s", t)}
	}
	return node, nil
}

type parser struct {
	tokens []token
	pos    int
	terms  int
	depth  int
}

func (p *parser) peek() token { return p.tokens[p.pos] }

func (p *parser) next() token {
	t := p.tokens[p.pos]
	if t.kind != end {
		p.pos++
	}
	return t
}

func (p *parser) or() (Node, *Error) {
	return p.chain(or, p.and, func(x, y Node) Node { return Or{x, y} })
}

func (p *parser) and() (Node, *Error) {
	return p.chain(and, p.operation, func(x, y Node) Node { return And{x, y} })
}

// chain parses operands joined by one operator.
func (p *parser) chain(operator kind, operand func() (Node, *Error), build func(x, y Node) Node) (Node, *Error) {
	x, err := operand()
	for err == nil && p.peek().kind == operator {
		p.next()
		var y Node
		if y, err = operand(); err == nil {
			x = build(x, y)
		}
	}
	return x, err
}

func (p *parser) operation() (Node, *Error) {
	negated := false
	for p.peek().kind == not {
		p.next()
		negated = !negated
	}
	t := p.next()
	if t.kind != open {
		p.terms++
	}
	if p.terms > MaxTerms {
		return nil, &Error{t.at, fmt.Sprintf("the selector has more than %d terms", MaxTerms)}
	}
	node, err := p.term(t)
	if err == nil && negated {
		node = Not{node}
	}
	return node, err
}

func (p *parser) term(t token) (Node, *Error) {
	switch t.kind {
	case has:
		return Has{t.text}, nil
	case all:
		return All{}, nil
	case global:
		return Global{}, nil
	case label:
		return p.comparison(t.text)
	case open:
		if p.depth++; p.depth > MaxDepth {
			return nil, &Error{t.at, fmt.Sprintf("more than %d parentheses are open", MaxDepth)}
		}
		node, err := p.or()
		p.depth--
		if err != nil {
			return nil, err
		}
		if closing := p.next(); closing.kind != closed {
			return nil, &Error{closing.at, fmt.Sprintf("expected ) for the ( at offset %d, found %s", t.at, closing)}
		}
		return node, nil
	}
	return nil, &Error{t.at, fmt.Sprintf("expected a label, has(…), all(), global(), ! or (, found %s", t)}
}

func (p *parser) comparison(key string) (Node, *Error) {
	operator := p.next()
	switch operator.kind {
	case in, notIn:
		values, err := p.set()
		if err != nil {
			return nil, err
		}
		if operator.kind == in {
			return In{key, values}, nil
		}
		return NotIn{key, values}, nil
	case eq, ne, contains, startsWith, endsWith:
	default:
		return nil, &Error{operator.at, fmt.Sprintf("expected ==, !=, in, not in, contains, starts with or ends with after the label %s, found %s", key, operator)}
	}
	value := p.next()
	if value.kind != text {
		return nil, &Error{value.at, fmt.Sprintf("expected a value in quotes, found %s", value)}
	}
	switch operator.kind {
	case eq:
		return Eq{key, value.text}, nil
	case ne:
		return Ne{key, value.text}, nil
	case contains:
		return Contains{key, value.text}, nil
	case startsWith:
		return StartsWith{key, value.text}, nil
	}
	return EndsWith{key, value.text}, nil
}

// set parses {'a', 'b'}; a comma may follow the last value, as in Calico.
func (p *parser) set() ([]string, *Error) {
	if t := p.next(); t.kind != openSet {
		return nil, &Error{t.at, fmt.Sprintf("expected a set such as {'a', 'b'}, found %s", t)}
	}
	values := []string{}
	for p.peek().kind == text {
		values = append(values, p.next().text)
		if p.peek().kind != comma {
			break
		}
		p.next()
	}
	if t := p.next(); t.kind != closeSet {
		return nil, &Error{t.at, fmt.Sprintf("expected } at the end of the set, found %s", t)}
	}
	return values, nil
}
