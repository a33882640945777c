// Package query parses the query language of Calico's GlobalAlert over the
// vulnerability data set:
//
//	registry = "quay.io/tigera" AND (result = Fail OR max_cvss_score >= 9) AND NOT cve IN {"CVE-2021-*"}
//
// Keys and values are identifiers, strings in quotes or numbers; keywords may be
// in either case. All that Calico's grammar and validator accept over the fields of its
// vulnerability data set is accepted, apart from an empty operand of OR and empty
// parentheses; so are other comparisons of the fields that have a name here, numbers
// in sets, and && and ||.
// "key EMPTY" holds where the field is absent. Time is linear in the length.
package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
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
	// Text is the value of a Text field.
	Text string
	// Number is the value of a Number field, in decimal without exponent.
	Number string
	Bool   bool
	// Time is the value of a Time field; a day, or a time without zone, is UTC.
	Time time.Time
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
	MaxDepth  = 1000 // of parentheses
	MaxValues = 10_000
)

// Parse parses a query with the values of its substitutions, whose names may be
// in any case, as in Calico; values that are empty do not count. An empty query
// is nil. The error is nil or describes the first fault.
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
	for err == nil && p.peek().is(keyword) {
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
	for p.peek().is("NOT") {
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
	switch {
	case t.is("("):
		if p.depth++; p.depth > MaxDepth {
			return nil, &Error{t.at, fmt.Sprintf("more than %d parentheses are open", MaxDepth)}
		}
		n, err := p.or()
		p.depth--
		if err != nil {
			return nil, err
		}
		if c := p.next(); !c.is(")") {
			return nil, &Error{c.at, fmt.Sprintf("expected ) for the ( at offset %d, found %s", t.at, c)}
		}
		return n, nil
	case t.isValue() && !t.anyKeyword():
		if p.terms++; p.terms > MaxTerms {
			return nil, &Error{t.at, fmt.Sprintf("the query has more than %d terms", MaxTerms)}
		}
		return p.comparison(t)
	}
	return nil, &Error{t.at, fmt.Sprintf("expected a field, NOT or (, found %s", t)}
}

func (p *parser) comparison(key token) (Node, *Error) {
	field, ok := Resolve(key.text)
	if !ok {
		return nil, &Error{key.at, unknownField(key.text)}
	}
	op := p.next()
	switch {
	case op.is("IN"), op.is("NOTIN"):
		values, err := p.set(field)
		if err != nil {
			return nil, err
		}
		return In{Field: field, Negated: op.is("NOTIN"), Values: values}, nil
	case op.is("EMPTY"):
		return empty(field, op.at)
	case op.kind != operator:
		return nil, &Error{op.at, fmt.Sprintf("expected =, !=, <, <=, >, >=, IN, NOTIN or EMPTY after %s, found %s", key.text, op)}
	case vendors[key.text] != "" && op.text != "=":
		return nil, &Error{op.at, onlyEqual(key.text, field)}
	case field.Type == Bool && op.text != "=" && op.text != "!=":
		return nil, &Error{op.at, fmt.Sprintf("%s is true or false: compare it with = or !=", field.Name)}
	}
	t := p.next()
	if t.kind == substitution {
		return nil, &Error{t.at, fmt.Sprintf("${%s} stands for a set: use IN or NOTIN", t.text)}
	}
	if !t.isValue() {
		return nil, &Error{t.at, fmt.Sprintf("expected a value, found %s", t)}
	}
	value, err := typed(field, t.text, t.at)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(field.Name, "result") && (op.text == "=" || op.text == "!=") && t.text != "" &&
		!slices.Contains([]string{"Pass", "Warn", "Fail", "Unknown"}, t.text) {
		return nil, &Error{t.at, fmt.Sprintf("%s is Pass, Warn, Fail or Unknown, not %.60q", field.Name, t.text)}
	}
	if field.Name == "type" && t.text != string(api.ImageDetection) && t.text != string(api.PodDetection) {
		return nil, &Error{t.at, fmt.Sprintf("type is %s or %s, not %.60q", api.ImageDetection, api.PodDetection, t.text)}
	}
	return Compare{Field: field, Op: op.text, Value: value}, nil
}

// onlyEqual says how a name of Calico's is compared.
func onlyEqual(name string, field Field) string {
	text := name + " takes = and IN only, as in Calico"
	if field.Name != name {
		text += "; " + field.Name + " takes every comparison"
	}
	return text
}

// empty holds where a field is absent, in terms of the other nodes: a text that
// is there matches *, and no number of the data set is under 0.
func empty(field Field, at int) (Node, *Error) {
	switch field.Type {
	case Text:
		return In{Field: field, Negated: true, Values: []Value{{Text: "*", Wildcard: true}}}, nil
	case Number:
		return Not{Compare{Field: field, Op: ">=", Value: Value{Number: "0"}}}, nil
	}
	return nil, &Error{at, fmt.Sprintf("%s is never absent", field.Name)}
}

// set parses {a, "b*", ${c}} or ${c}.
func (p *parser) set(field Field) ([]Value, *Error) {
	t := p.next()
	if t.kind == substitution {
		return p.substitute(field, t)
	}
	if !t.is("{") {
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
		case t.isValue():
			v, err := p.member(field, t.text, t.at)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		default:
			return nil, &Error{t.at, fmt.Sprintf("expected a value of the set, found %s", t)}
		}
		t = p.next()
		if t.is("}") {
			return values, nil
		}
		if !t.is(",") {
			return nil, &Error{t.at, fmt.Sprintf("expected , or } in the set, found %s", t)}
		}
	}
}

func (p *parser) substitute(field Field, t token) ([]Value, *Error) {
	var list []string
	found := 0
	for name, values := range p.substitutions {
		if strings.EqualFold(name, t.text) {
			list = values
			found++
		}
	}
	if found == 0 {
		return nil, &Error{t.at, fmt.Sprintf("there is no substitution named %.60q", t.text)}
	}
	if found > 1 {
		return nil, &Error{t.at, fmt.Sprintf("there are %d substitutions named %.60q, but for upper and lower case", found, t.text)}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == "" })
	if len(list) == 0 {
		return nil, &Error{t.at, fmt.Sprintf("the substitution %.60q has no values", t.text)}
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
		if err != nil || strings.Trim(s, "0123456789.+-eE") != "" {
			return Value{}, &Error{at, fmt.Sprintf("%s is a number, which %.60q is not", field.Name, s)}
		}
		highest := 10.0
		if field.Name == "epss" {
			highest = 1
		}
		if f < 0 || f > highest {
			return Value{}, &Error{at, fmt.Sprintf("%s is from 0 to %v, not %.60q", field.Name, highest, s)}
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
		for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
			if t, err := time.Parse(layout, s); err == nil {
				return Value{Time: t}, nil
			}
		}
		return Value{}, &Error{at, fmt.Sprintf("%s is RFC 3339, such as \"2026-01-31T00:00:00Z\", not %.60q", field.Name, s)}
	}
	return Value{Text: s}, nil
}
