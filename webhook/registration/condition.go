package registration

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/policies/selector"
)

// What CEL expressions are folded to.
const (
	always = "true"
	never  = "false"
)

// Bounds of a match condition. One that exceeds them is left out: then the webhook is
// called for more.
const (
	maxCondition = 32 << 10 // the parser's bound is 100,000 code points; all of it is evaluated for each request
	maxNesting   = 50       // the parser's bound is 250
)

// cel is an expression; open says that it must stand in parentheses within an &&.
type cel struct {
	text string
	open bool
}

// condition is the match condition that one of the expressions holds; "" is none.
func condition(each []cel) string {
	out, seen := cel{text: never}, map[cel]bool{}
	size := 0
	for _, e := range each {
		if seen[e] {
			continue
		}
		seen[e] = true
		if size += len(e.text); size > maxCondition {
			return ""
		}
		out = or(out, e)
	}
	depth, deepest := 0, 0
	for _, r := range out.text {
		switch r {
		case '(':
			depth++
		case ')':
			depth--
		}
		deepest = max(deepest, depth)
	}
	if out.text == always || len(out.text) > maxCondition || deepest > maxNesting {
		return ""
	}
	return out.text
}

// celOf is a selector, or its negation, over the labels of the object. Match conditions see
// of a namespace the name alone: other terms about it hold always, negated or not. No
// expression errs, whatever the object.
func celOf(n selector.Node, ofNamespace, negated bool) cel {
	switch n := n.(type) {
	case selector.All:
		return constant(!negated)
	case selector.Global:
		return literal("!("+inNamespace+")", negated)
	case selector.Has:
		return term(n.Key, "", ofNamespace, negated)
	case selector.Eq:
		return term(n.Key, " == "+quote(n.Value), ofNamespace, negated)
	case selector.Ne:
		return term(n.Key, " == "+quote(n.Value), ofNamespace, !negated)
	case selector.In:
		return in(n, ofNamespace, negated)
	case selector.NotIn:
		return in(selector.In(n), ofNamespace, !negated)
	case selector.Contains:
		return term(n.Key, ".contains("+quote(n.Value)+")", ofNamespace, negated)
	case selector.StartsWith:
		return term(n.Key, ".startsWith("+quote(n.Value)+")", ofNamespace, negated)
	case selector.EndsWith:
		return term(n.Key, ".endsWith("+quote(n.Value)+")", ofNamespace, negated)
	case selector.Not:
		return celOf(n.X, ofNamespace, !negated)
	case selector.And:
		return both(celOf(n.X, ofNamespace, negated), celOf(n.Y, ofNamespace, negated), !negated)
	case selector.Or:
		return both(celOf(n.X, ofNamespace, negated), celOf(n.Y, ofNamespace, negated), negated)
	}
	return constant(true)
}

const inNamespace = "has(request.namespace) && request.namespace != ''"

func in(n selector.In, ofNamespace, negated bool) cel {
	if len(n.Values) == 0 {
		return constant(negated)
	}
	values := make([]string, len(n.Values))
	for i, v := range n.Values {
		values[i] = quote(v)
	}
	return term(n.Key, " in ["+strings.Join(values, ", ")+"]", ofNamespace, negated)
}

// term says that a label is there and that its value is as it should be.
func term(key, is string, ofNamespace, negated bool) cel {
	exists, value := fmt.Sprintf("has(object.metadata.labels) && %s in object.metadata.labels", quote(key)), fmt.Sprintf("object.metadata.labels[%s]", quote(key))
	if ofNamespace {
		if key != metadataName {
			return constant(true)
		}
		exists, value = inNamespace, "request.namespace"
	}
	if is == "" {
		return literal(exists, negated)
	}
	return literal(exists+" && "+value+is, negated)
}

func literal(text string, negated bool) cel {
	if negated {
		text = "!(" + text + ")"
	}
	return cel{text: text}
}

func constant(holds bool) cel {
	if holds {
		return cel{text: always}
	}
	return cel{text: never}
}

func both(x, y cel, conjunction bool) cel {
	if conjunction {
		return and(x, y)
	}
	return or(x, y)
}

func and(x, y cel) cel {
	switch {
	case x.text == always:
		return y
	case y.text == always:
		return x
	case x.text == never || y.text == never:
		return constant(false)
	}
	return cel{text: x.inParens() + " && " + y.inParens()}
}

func or(x, y cel) cel {
	switch {
	case x.text == never:
		return y
	case y.text == never:
		return x
	case x.text == always || y.text == always:
		return constant(true)
	}
	return cel{text: x.text + " || " + y.text, open: true}
}

func (x cel) inParens() string {
	if x.open {
		return "(" + x.text + ")"
	}
	return x.text
}

// quote writes a text for CEL, which knows Go's escapes of ASCII.
func quote(s string) string { return strconv.QuoteToASCII(s) }
