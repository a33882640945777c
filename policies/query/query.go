// Package query parses the query language of Calico's GlobalAlert over the
// vulnerability data set:
//
//	registry = "quay.io/tigera" AND (result = Fail OR max_cvss_score >= 9) AND NOT cve IN {"CVE-2021-*"}
//
// Keys and values are identifiers, quoted strings or numbers; keywords may be in
// either case. Time is linear in the length.
package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Node is a parsed query: one of the types of this package. A nil Node holds for
// every event.
type Node interface{ node() }

// The nodes.
type (
	And struct{ X, Y Node }
	Or  struct{ X, Y Node }
	Not struct{ X Node }
	// Compare is key op value; Op is one of = != < <= > >=.
	Compare struct {
		Field Field
		Op    string
		Value Value
	}
	// In is key IN {…}, or NOTIN when Negated.
	In struct {
		Field   Field
		Negated bool
		Values  []Value
	}
)

func (And) node()     {}
func (Or) node()      {}
func (Not) node()     {}
func (Compare) node() {}
func (In) node()      {}

// Value is a literal of the field's type.
type Value struct {
	// Text is the value of a Text field, and of a Time field in UTC.
	Text string
	// Number is the value of a Number field, as written.
	Number string
	Bool   bool
	Time   time.Time
	// Wildcard says that * and ? of Text stand for any text and any character.
	Wildcard bool
}

// UsesInstances says whether a term is about a running instance.
func UsesInstances(n Node) bool {
	switch n := n.(type) {
	case And:
		return UsesInstances(n.X) || UsesInstances(n.Y)
	case Or:
		return UsesInstances(n.X) || UsesInstances(n.Y)
	case Not:
		return UsesInstances(n.X)
	case Compare:
		return n.Field.Instance
	case In:
		return n.Field.Instance
	}
	return false
}

// Error says what is wrong with a query, and at which byte.
type Error struct {
	Offset  int
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("offset %d: %s", e.Offset, e.Message) }

// Bounds of a query.
const (
	MaxLength = 64 << 10
	MaxTerms  = 1000
	MaxValues = 10_000
)

// Parse parses a query with the values of its substitutions. An empty query is nil.
func Parse(text string, substitutions map[string][]string) (Node, *Error) {
	if len(text) > MaxLength {
		return nil, &Error{0, fmt.Sprintf("the query has %d bytes; at most %d are allowed", len(text), MaxLength)}
	}
	tokens, err := tokenize(text)
	if err != nil {
		return nil, err
	}
	if tokens[0].kind == end {
		return nil, nil
	}
	p := &parser{tokens: tokens, substitutions: substitutions}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != end {
		return nil, &Error{t.at, fmt.Sprintf("expected AND or OR, found %s", t)}
	}
	return n, nil
}

type parser struct {
	tokens        []token
	pos           int
	terms, depth  int
	values        int
	substitutions map[string][]string
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
	return p.chain("OR", p.and, func(x, y Node) Node { return Or{x, y} })
}

func (p *parser) and() (Node, *Error) {
	return p.chain("AND", p.not, func(x, y Node) Node { return And{x, y} })
}

func (p *parser) chain(keyword string, operand func() (Node, *Error), build func(x, y Node) Node) (Node, *Error) {
	x, err := operand()
	for err == nil && p.peek().isKeyword(keyword) {
		p.next()
		var y Node
		if y, err = operand(); err == nil {
			x = build(x, y)
		}
	}
	return x, err
}

func (p *parser) not() (Node, *Error) {
	negated := false
	for p.peek().isKeyword("NOT") {
		p.next()
		negated = !negated
	}
	n, err := p.term()
	if err == nil && negated {
		n = Not{n}
	}
	return n, err
}

func (p *parser) term() (Node, *Error) {
	t := p.next()
	if p.terms++; p.terms > MaxTerms || p.depth > MaxTerms {
		return nil, &Error{t.at, fmt.Sprintf("the query has more than %d terms", MaxTerms)}
	}
	switch {
	case t.kind == symbol && t.text == "(":
		p.depth++
		n, err := p.or()
		p.depth--
		if err != nil {
			return nil, err
		}
		if c := p.next(); c.kind != symbol || c.text != ")" {
			return nil, &Error{c.at, fmt.Sprintf("expected ) for the ( at offset %d, found %s", t.at, c)}
		}
		return n, nil
	case t.isValue() && !t.anyKeyword():
		return p.comparison(t)
	}
	return nil, &Error{t.at, fmt.Sprintf("expected a field, NOT or (, found %s", t)}
}

func (p *parser) comparison(key token) (Node, *Error) {
	field, ok := Lookup(key.text)
	if !ok {
		return nil, &Error{key.at, unknownField(key.text)}
	}
	op := p.next()
	if op.isKeyword("IN") || op.isKeyword("NOTIN") {
		values, err := p.set(field)
		return In{Field: field, Negated: op.isKeyword("NOTIN"), Values: values}, err
	}
	if op.kind != operator {
		return nil, &Error{op.at, fmt.Sprintf("expected =, !=, <, <=, >, >=, IN or NOTIN after %s, found %s", key.text, op)}
	}
	if field.Type == Bool && op.text != "=" && op.text != "!=" {
		return nil, &Error{op.at, fmt.Sprintf("%s is true or false: compare it with = or !=", field.Name)}
	}
	t := p.next()
	if t.kind == substitution {
		return nil, &Error{t.at, fmt.Sprintf("${%s} stands for a set: use IN or NOTIN", t.text)}
	}
	if !t.isValue() || t.anyKeyword() {
		return nil, &Error{t.at, fmt.Sprintf("expected a value, found %s", t)}
	}
	value, err := typed(field, t.text, t.at)
	return Compare{Field: field, Op: op.text, Value: value}, err
}

func unknownField(name string) string {
	var names []string
	hint := ""
	for _, f := range Fields() {
		names = append(names, f.Name)
		if hint == "" && name != "" && (strings.EqualFold(f.Name, name) || strings.HasPrefix(f.Name, strings.ToLower(name)) || strings.HasPrefix(strings.ToLower(name), f.Name)) {
			hint = fmt.Sprintf(" (did you mean %s?)", f.Name)
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("unknown field %.60q%s; known are %s", name, hint, strings.Join(names, ", "))
}

// set parses {a, "b*", ${c}} or ${c}.
func (p *parser) set(field Field) ([]Value, *Error) {
	t := p.next()
	if t.kind == substitution {
		return p.substitute(field, t)
	}
	if t.kind != symbol || t.text != "{" {
		return nil, &Error{t.at, fmt.Sprintf("expected a set such as {\"a\", \"b\"} or a ${substitution}, found %s", t)}
	}
	var values []Value
	for {
		t = p.next()
		switch {
		case t.kind == substitution:
			more, err := p.substitute(field, t)
			if err != nil {
				return nil, err
			}
			values = append(values, more...)
		case t.isValue() && !t.anyKeyword():
			v, err := p.member(field, t.text, t.at)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		default:
			return nil, &Error{t.at, fmt.Sprintf("expected a value of the set, found %s", t)}
		}
		t = p.next()
		if t.kind == symbol && t.text == "}" {
			return values, nil
		}
		if t.kind != symbol || t.text != "," {
			return nil, &Error{t.at, fmt.Sprintf("expected , or } in the set, found %s", t)}
		}
	}
}

func (p *parser) substitute(field Field, t token) ([]Value, *Error) {
	list, ok := p.substitutions[t.text]
	if !ok {
		return nil, &Error{t.at, fmt.Sprintf("there is no substitution named %q", t.text)}
	}
	var values []Value
	for _, s := range list {
		v, err := p.member(field, s, t.at)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

func (p *parser) member(field Field, s string, at int) (Value, *Error) {
	if p.values++; p.values > MaxValues {
		return Value{}, &Error{at, fmt.Sprintf("the query has more than %d values in its sets", MaxValues)}
	}
	v, err := typed(field, s, at)
	v.Wildcard = field.Type == Text && strings.ContainsAny(s, "*?")
	return v, err
}

// typed reads a literal as the type of the field.
func typed(field Field, s string, at int) (Value, *Error) {
	switch field.Type {
	case Number:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f != f || f > 1e15 || f < -1e15 {
			return Value{}, &Error{at, fmt.Sprintf("%s is a number, which %.60q is not", field.Name, s)}
		}
		return Value{Number: strconv.FormatFloat(f, 'f', -1, 64)}, nil
	case Bool:
		switch strings.ToLower(s) {
		case "true":
			return Value{Bool: true}, nil
		case "false":
			return Value{}, nil
		}
		return Value{}, &Error{at, fmt.Sprintf("%s is true or false, not %.60q", field.Name, s)}
	case Time:
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return Value{}, &Error{at, fmt.Sprintf("%s is RFC 3339, such as \"2026-01-31T00:00:00Z\", not %.60q", field.Name, s)}
		}
		return Value{Time: t}, nil
	}
	return Value{Text: s}, nil
}
