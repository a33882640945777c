package selector

import (
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// calico tells what Calico's parser accepts, and what that means, written from
// the facts of libcalico-go/lib/selector and in another manner than the parser
// of this package: it rewrites text by regular expressions. Calico's own module
// cannot be had where this is tested. The facts:
//
//   - White space is blanks and tabs, nothing else.
//   - A key has at most 512 bytes.
//   - A string runs to the next quote of its sort; there are no escapes.
//   - Right after a key, only an operator may stand; its words need no space
//     between them nor after them ("notin", "startswith'x'").
//   - has(, all( and global( are written together; inside them space is free.
//   - A set may be empty, and may have a comma after its last value.
//   - Any number of "!" may precede a term; a pair of them cancels.
//   - "&&" binds stronger than "||".
type calico struct{ in string }

var (
	stringPattern = regexp.MustCompile(`^(?:"([^"]*)"|'([^']*)')`)
	keyPattern    = regexp.MustCompile(`^[a-zA-Z0-9_./-]{1,512}`)
	termPatterns  = []*regexp.Regexp{ // the last two after their key
		regexp.MustCompile(`^()(all)\([ \t]*\)`),
		regexp.MustCompile(`^()(global)\([ \t]*\)`),
		regexp.MustCompile(`^(has)\([ \t]*([a-zA-Z0-9_./-]{1,512})[ \t]*\)`),
		regexp.MustCompile(`^()[ \t]*(==|!=|contains|starts[ \t]*with|ends[ \t]*with)[ \t]*('[^']*'|"[^"]*")`),
		regexp.MustCompile(`^()[ \t]*(in|not[ \t]*in)[ \t]*\{((?:[ \t]*(?:'[^']*'|"[^"]*")[ \t]*,)*(?:[ \t]*(?:'[^']*'|"[^"]*"))?)[ \t]*\}`),
	}
)

// holds gives the value over labels, and whether the selector is accepted.
func (c *calico) holds(labels map[string]string) (value, accepted bool) {
	rest := strings.Trim(c.in, " \t")
	if rest == "" {
		return true, true
	}
	value, rest, ok := c.sum(rest, labels)
	return value, ok && rest == ""
}

func (c *calico) accepts() bool {
	_, ok := c.holds(nil)
	return ok
}

func (c *calico) sum(rest string, labels map[string]string) (value bool, left string, ok bool) {
	for {
		product := true
		for {
			var v bool
			if v, rest, ok = c.factor(rest, labels); !ok {
				return false, rest, false
			}
			product = product && v
			if !strings.HasPrefix(rest, "&&") {
				break
			}
			rest = rest[2:]
		}
		value = value || product
		if !strings.HasPrefix(rest, "||") {
			return value, rest, true
		}
		rest = rest[2:]
	}
}

func (c *calico) factor(rest string, labels map[string]string) (value bool, left string, ok bool) {
	rest = strings.TrimLeft(rest, " \t")
	negated := false
	for strings.HasPrefix(rest, "!") {
		negated = !negated
		rest = strings.TrimLeft(rest[1:], " \t")
	}
	if strings.HasPrefix(rest, "(") {
		if value, rest, ok = c.sum(rest[1:], labels); !ok || !strings.HasPrefix(rest, ")") {
			return false, rest, false
		}
		return value != negated, strings.TrimLeft(rest[1:], " \t"), true
	}
	for i, p := range termPatterns {
		text, key := rest, ""
		if i > 2 {
			key = keyPattern.FindString(rest)
			text = rest[len(key):]
		}
		m := p.FindStringSubmatch(text)
		if m == nil || i > 2 && key == "" {
			continue
		}
		rest = text
		if i > 2 {
			m[1] = key
		}
		after := strings.TrimLeft(rest[len(m[0]):], " \t")
		return truth(m, labels) != negated, after, true
	}
	return false, rest, false
}

func truth(m []string, labels map[string]string) bool {
	if m[1] == "" {
		return true // all() and global()
	}
	if m[1] == "has" && len(m) == 3 {
		_, there := labels[m[2]]
		return there
	}
	have, there := labels[m[1]]
	var values []string
	for list := m[3]; ; {
		list = strings.TrimLeft(list, " \t,")
		v := stringPattern.FindString(list)
		if v == "" {
			break
		}
		values, list = append(values, v[1:len(v)-1]), list[len(v):]
	}
	switch strings.Join(strings.Fields(m[2]), "") {
	case "==", "in":
		return there && slices.Contains(values, have)
	case "!=", "notin":
		return !there || !slices.Contains(values, have)
	case "contains":
		return there && strings.Contains(have, values[0])
	case "startswith":
		return there && strings.HasPrefix(have, values[0])
	}
	return there && strings.HasSuffix(have, values[0])
}

// eval is the meaning of a node.
func eval(n Node, labels map[string]string) bool {
	value := func(key string) string { return labels[key] }
	there := func(key string) bool { _, ok := labels[key]; return ok }
	switch n := n.(type) {
	case Has:
		return there(n.Key)
	case Eq:
		return there(n.Key) && value(n.Key) == n.Value
	case Ne:
		return !there(n.Key) || value(n.Key) != n.Value
	case In:
		return there(n.Key) && slices.Contains(n.Values, value(n.Key))
	case NotIn:
		return !there(n.Key) || !slices.Contains(n.Values, value(n.Key))
	case Contains:
		return there(n.Key) && strings.Contains(value(n.Key), n.Value)
	case StartsWith:
		return there(n.Key) && strings.HasPrefix(value(n.Key), n.Value)
	case EndsWith:
		return there(n.Key) && strings.HasSuffix(value(n.Key), n.Value)
	case Not:
		return !eval(n.X, labels)
	case And:
		return eval(n.X, labels) && eval(n.Y, labels)
	case Or:
		return eval(n.X, labels) || eval(n.Y, labels)
	}
	return true
}

var soup = []string{
	"a", "b", "a.b/c", "has", "all", "in", "not", "x-1", "==", "!=", "=", "!", "!!", "&&", "||", "&", "|", "(", ")", "((", "{", "}", "{}", ",", "'a'", `"b"`, `'it"s'`, "'", `"`, "''",
	" in ", " not in ", "notin", " contains ", " starts with ", "startswith", "ends  with", "starts", "has(a)", "has( b )", "has(", "has (a)", "all()", "all( )", "global()", "global(", " ", "\t", "\n", "é",
}

var terms = []string{
	"a == 'a'", `b=="b"`, "a != 'b'", "b!=''", "a in {'a', 'b'}", "b in {}", "a not in {'a',}", "b notin{\"ab\"}", "a contains 'a'", "b starts with 'a'", "a ends with'b'", "has(a)", "has( b )", "all()", "global( )",
}

func join(r *rand.Rand, depth int) string {
	if depth == 0 {
		return strings.Repeat("!", max(0, r.IntN(6)-3)) + terms[r.IntN(len(terms))]
	}
	left, right := join(r, r.IntN(depth)), join(r, r.IntN(depth))
	switch r.IntN(5) {
	case 0:
		return "(" + left + ")"
	case 1:
		return "! ( " + left + "||" + right + " )"
	case 2:
		return left + "&&" + right
	}
	return left + " || " + right
}

// Soups of tokens, and valid selectors with a token put in, taken out or moved,
// are accepted by both or by none, and mean the same.
func TestAgreesWithCalicosRules(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 60_000 {
		var s string
		if r.IntN(3) == 0 {
			for range 1 + r.IntN(8) {
				s += soup[r.IntN(len(soup))]
			}
		} else {
			s = join(r, r.IntN(4))
			for range r.IntN(3) {
				at := r.IntN(len(s) + 1)
				s = s[:at] + soup[r.IntN(len(soup))] + s[min(len(s), at+r.IntN(3)):]
			}
		}
		node, err := Parse(s)
		oracle := &calico{in: s}
		if (err == nil) != oracle.accepts() {
			t.Fatalf("%q: Calico's rules accept it: %v; we say %v", s, err != nil, err)
		}
		if err != nil {
			continue
		}
		accepted++
		for range 6 {
			labels := map[string]string{}
			for _, k := range []string{"a", "b", "a.b/c", "x-1", "has"} {
				if r.IntN(2) == 0 {
					labels[k] = []string{"", "a", "b", "ab", "ba"}[r.IntN(5)]
				}
			}
			if want, _ := oracle.holds(labels); eval(node, labels) != want {
				t.Fatalf("%q over %v: Calico's rules say %v", s, labels, want)
			}
		}
		again, err := Parse(node.String())
		if err != nil || !reflect.DeepEqual(again, node) {
			t.Fatalf("%q prints as %q: %v", s, node, err)
		}
	}
	if accepted < 5000 {
		t.Errorf("only %d selectors were accepted: the generator is off", accepted)
	}
}
