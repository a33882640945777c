package registration

import (
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

// celOf is a selector over the labels of the object. Match conditions see of a
// namespace the name alone: other terms about it hold always, negated or not. No
// expression errs, whatever the object.
func celOf(n selector.Node, ofNamespace bool) cel {
	return fold(n, false, func(t term) cel { return celOfTerm(t, ofNamespace) }, and, or)
}

func celOfTerm(t term, ofNamespace bool) cel {
	const inNamespace = "has(request.namespace) && request.namespace != ''"
	key := quote(t.key)
	exists, value := "has(object.metadata.labels) && "+key+" in object.metadata.labels", "object.metadata.labels["+key+"]"
	if ofNamespace {
		exists, value = inNamespace, "request.namespace"
	}
	var text string
	switch {
	case t.op == all || t.op == in && len(t.values) == 0:
		return constant((t.op == all) != t.negated)
	case t.op == global:
		text = "!(" + inNamespace + ")"
	case ofNamespace && t.key != metadataName:
		return constant(true)
	case t.op == has:
		text = exists
	case t.op == in && len(t.values) == 1:
		text = exists + " && " + value + " == " + quote(t.values[0])
	case t.op == in:
		values := make([]string, len(t.values))
		for i, v := range t.values {
			values[i] = quote(v)
		}
		text = exists + " && " + value + " in [" + strings.Join(values, ", ") + "]"
	default:
		text = exists + " && " + value + functions[t.op] + "(" + quote(t.values[0]) + ")"
	}
	if t.negated {
		text = "!(" + text + ")"
	}
	return cel{text: text}
}

var functions = map[operator]string{contains: ".contains", startsWith: ".startsWith", endsWith: ".endsWith"}

func constant(holds bool) cel {
	if holds {
		return cel{text: always}
	}
	return cel{text: never}
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
