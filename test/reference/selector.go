package reference

import (
	"fmt"
	"slices"
	"strings"
)

// A node is a selector or a part of one. op is all, global, has, ==, !=, in,
// not in, contains, starts with, ends with, !, && or ||.
type node struct {
	op     string
	key    string
	values []string
	kids   []node
}

// matches evaluates a selector over labels; global says that the resource has
// no namespace.
func (n node) matches(labels map[string]string, global bool) bool {
	v, has := labels[n.key]
	switch n.op {
	case "all":
		return true
	case "global":
		return global
	case "has":
		return has
	case "==":
		return has && v == n.values[0]
	case "!=":
		return !has || v != n.values[0]
	case "in":
		return has && slices.Contains(n.values, v)
	case "not in":
		return !has || !slices.Contains(n.values, v)
	case "contains":
		return has && strings.Contains(v, n.values[0])
	case "starts with":
		return has && strings.HasPrefix(v, n.values[0])
	case "ends with":
		return has && strings.HasSuffix(v, n.values[0])
	case "!":
		return !n.kids[0].matches(labels, global)
	case "&&":
		return n.kids[0].matches(labels, global) && n.kids[1].matches(labels, global)
	case "||":
		return n.kids[0].matches(labels, global) || n.kids[1].matches(labels, global)
	}
	panic("selector operator " + n.op)
}

// dependsOnLabels says whether a label term stands anywhere in the selector.
func (n node) dependsOnLabels() bool {
	return n.key != "" || slices.ContainsFunc(n.kids, node.dependsOnLabels)
}

// parseSelector parses a selector; an empty one is all().
func parseSelector(s string) (node, error) {
	p := &selectorParser{rest: s}
	p.space()
	if p.rest == "" {
		return node{op: "all"}, nil
	}
	n, err := p.or()
	if err == nil && p.rest != "" {
		err = fmt.Errorf("selector %q: unexpected %q", s, p.rest)
	}
	return n, err
}

type selectorParser struct{ rest string }

func (p *selectorParser) space() { p.rest = strings.TrimLeft(p.rest, " \t") }

// eat takes a word and the white space after it, if the word is next.
func (p *selectorParser) eat(word string) bool {
	if !strings.HasPrefix(p.rest, word) {
		return false
	}
	p.rest = p.rest[len(word):]
	p.space()
	return true
}

func (p *selectorParser) or() (node, error) { return p.binary("||", p.and) }

func (p *selectorParser) and() (node, error) { return p.binary("&&", p.not) }

func (p *selectorParser) binary(op string, operand func() (node, error)) (node, error) {
	left, err := operand()
	for err == nil && p.eat(op) {
		var right node
		right, err = operand()
		left = node{op: op, kids: []node{left, right}}
	}
	return left, err
}

func (p *selectorParser) not() (node, error) {
	if p.eat("!") {
		n, err := p.not()
		return node{op: "!", kids: []node{n}}, err
	}
	return p.term()
}

func (p *selectorParser) term() (node, error) {
	switch {
	case p.eat("("):
		n, err := p.or()
		if err == nil && !p.eat(")") {
			err = fmt.Errorf("selector: ) expected at %q", p.rest)
		}
		return n, err
	case p.eat("all("):
		return p.closing(node{op: "all"})
	case p.eat("global("):
		return p.closing(node{op: "global"})
	case p.eat("has("):
		key := p.label()
		if key == "" {
			return node{}, fmt.Errorf("selector: a label expected at %q", p.rest)
		}
		return p.closing(node{op: "has", key: key})
	}
	key := p.label()
	if key == "" {
		return node{}, fmt.Errorf("selector: a term expected at %q", p.rest)
	}
	switch {
	case p.eat("=="):
		return p.value(node{op: "==", key: key})
	case p.eat("!="):
		return p.value(node{op: "!=", key: key})
	case p.eat("contains"):
		return p.value(node{op: "contains", key: key})
	case p.eat("starts"):
		if p.eat("with") {
			return p.value(node{op: "starts with", key: key})
		}
	case p.eat("ends"):
		if p.eat("with") {
			return p.value(node{op: "ends with", key: key})
		}
	case p.eat("not"):
		if p.eat("in") {
			return p.set(node{op: "not in", key: key})
		}
	case p.eat("in"):
		return p.set(node{op: "in", key: key})
	}
	return node{}, fmt.Errorf("selector: an operator expected at %q", p.rest)
}

func (p *selectorParser) closing(n node) (node, error) {
	if !p.eat(")") {
		return n, fmt.Errorf("selector: ) expected at %q", p.rest)
	}
	return n, nil
}

// label takes a label key: letters, digits and . _ - /.
func (p *selectorParser) label() string {
	i := 0
	for i < len(p.rest) && isKeyByte(p.rest[i]) {
		i++
	}
	key := p.rest[:i]
	p.rest = p.rest[i:]
	p.space()
	return key
}

func isKeyByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("._-/", b) >= 0
}

// quoted takes a string in single or double quotes, without escapes.
func (p *selectorParser) quoted() (string, bool) {
	if p.rest == "" || p.rest[0] != '\'' && p.rest[0] != '"' {
		return "", false
	}
	end := strings.IndexByte(p.rest[1:], p.rest[0])
	if end < 0 {
		return "", false
	}
	v := p.rest[1 : 1+end]
	p.rest = p.rest[end+2:]
	p.space()
	return v, true
}

func (p *selectorParser) value(n node) (node, error) {
	v, ok := p.quoted()
	if !ok {
		return n, fmt.Errorf("selector: a string expected at %q", p.rest)
	}
	n.values = []string{v}
	return n, nil
}

func (p *selectorParser) set(n node) (node, error) {
	if !p.eat("{") {
		return n, fmt.Errorf("selector: { expected at %q", p.rest)
	}
	for {
		v, ok := p.quoted()
		if !ok {
			break
		}
		n.values = append(n.values, v)
		if !p.eat(",") {
			break
		}
	}
	if !p.eat("}") {
		return n, fmt.Errorf("selector: } expected at %q", p.rest)
	}
	return n, nil
}
