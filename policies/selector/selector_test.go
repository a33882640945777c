package selector

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// What Calico's parser accepts and refuses, quirks included.
func TestParse(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "all()"}, {" \t", "all()"}, {"all()", "all()"}, {"all( )", "all()"}, {"global()", "global()"}, {"has(a/b.c_d-e)", "has(a/b.c_d-e)"},
		{"has( x )", "has(x)"}, {"a=='b'", "a == 'b'"}, {`a == "b"`, "a == 'b'"}, {`a == "it's"`, `a == "it's"`}, {"a != ''", "a != ''"},
		{"a in {}", "a in {}"}, {"a in{'x',}", "a in {'x'}"}, {"a not in {'x', \"y\"}", "a not in {'x', 'y'}"}, {"a notin {'x'}", "a not in {'x'}"},
		{"a contains 'x'", "a contains 'x'"}, {"a starts with 'x'", "a starts with 'x'"}, {"a startswith'x'", "a starts with 'x'"}, {"a ends \twith 'x'", "a ends with 'x'"},
		{"!has(a)", "!has(a)"}, {"!!has(a)", "has(a)"}, {"!!!has(a)", "!has(a)"}, {"! ( has(a) )", "!has(a)"},
		{"!a == 'b'", "!a == 'b'"}, {"a == 'b' && c == 'd' || e == 'f'", "a == 'b' && c == 'd' || e == 'f'"},
		{"a == 'b' && (c == 'd' || e == 'f')", "a == 'b' && (c == 'd' || e == 'f')"}, {"((all()))", "all()"},
		{"!(!has(a))", "!(!has(a))"}, {"has(a) && has(b) && has(c)", "has(a) && has(b) && has(c)"}, {"has(a) && (has(b) && has(c))", "has(a) && (has(b) && has(c))"},
		{"(has(a) || has(b)) && has(c)", "(has(a) || has(b)) && has(c)"}, {"has(a) || (has(b) || has(c))", "has(a) || (has(b) || has(c))"}, {"!(has(a) && has(b))", "!(has(a) && has(b))"},
		{"a in {'b'} || c contains\"d\"&&!e ends with'f'", "a in {'b'} || c contains 'd' && !e ends with 'f'"}, {"startswith starts with 'a'", "startswith starts with 'a'"}, {"-./_ == ''", "-./_ == ''"},
		{"in == 'x'", "in == 'x'"}, {"has == 'x'", "has == 'x'"}, {"all == 'x'", "all == 'x'"}, {"a == 'é\\n'", "a == 'é\\n'"},
	} {
		node, err := Parse(c.in)
		if err != nil {
			t.Errorf("%q: %v", c.in, err)
			continue
		}
		if node.String() != c.want {
			t.Errorf("%q parses to %s, want %s", c.in, node, c.want)
		}
	}
	for in, offset := range map[string]int{
		"a": 1, "a = 'b'": 2, "a == b": 5, "a == 'b": 5, "has (a)": 4, "has()": 0, "has(a": 0, "all(": 0, "all": 3, "a == 'b' c == 'd'": 9,
		"a == 'b' &&": 11, "&& a == 'b'": 0, "(all()": 6, "all())": 5, "a in 'x'": 5, "a in {x}": 6, "a in {'x' 'y'}": 10, "a in {,}": 6,
		"a\n== 'b'": 1, "a & b": 2, "!": 1, "a not 'x'": 2, "a starts 'x'": 2, "'a' == 'b'": 0, "a == 'b' | all()": 9, "é == 'x'": 0, "{": 0, "all() has(a)": 6,
	} {
		_, err := Parse(in)
		if err == nil {
			t.Errorf("%q is accepted", in)
		} else if err.Offset != offset {
			t.Errorf("%q: offset %d, want %d (%s)", in, err.Offset, offset, err.Message)
		}
	}
}

func TestParseBounds(t *testing.T) {
	for _, s := range []string{strings.Repeat("(", MaxLength), strings.Repeat("!", MaxLength), strings.Repeat("!(", MaxLength/2), strings.Repeat("all()&&", 9000) + "all()", strings.Repeat("x", MaxLength+1), strings.Repeat("(", 2000) + "all()" + strings.Repeat(")", 2000)} {
		if _, err := Parse(s); err == nil {
			t.Errorf("%.20s… is accepted", s)
		}
	}
}

// What is at the bounds prints as what is within them.
// A label of 512 bytes is the longest that Calico's parser takes.
func TestLabelsOf513Bytes(t *testing.T) {
	for _, form := range []string{"%s == 'x'", "has(%s)", "!has( %s )", "%s not in {'a'}", "a == 'b' && %s contains 'c'"} {
		for n, accepted := range map[int]bool{511: true, 512: true, 513: false, 5000: false} {
			in := fmt.Sprintf(form, strings.Repeat("a", n))
			if _, err := Parse(in); (err == nil) != accepted {
				t.Errorf("%s with a label of %d bytes: %v", form, n, err)
			} else if oracle := (&calico{in: in}); oracle.accepts() != accepted {
				t.Errorf("%s with a label of %d bytes: Calico accepts it: %t", form, n, !accepted)
			}
		}
	}
}

func TestStringStaysWithinBounds(t *testing.T) {
	for _, s := range []string{
		strings.Repeat("all()&&", MaxTerms-1) + "all()", strings.Repeat("has(a)&&all()||", MaxTerms/2-1) + "global()",
		strings.Repeat("(", MaxDepth) + "all()" + strings.Repeat(")", MaxDepth),
		strings.Repeat("!(all()||", MaxTerms-1) + "all()" + strings.Repeat(")", MaxTerms-1),
	} {
		node, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(node.String())
		if err != nil || !reflect.DeepEqual(again, node) {
			t.Errorf("%.20s… prints as %.20s…: %v", s, node, err)
		}
	}
}

func TestDependsOnLabels(t *testing.T) {
	for s, want := range map[string]bool{
		"": false, "all()": false, "!global() || all() && !(all())": false, "has(a)": true, "all() || a == 'b'": true, "!(global() && a in {})": true, "a != 'b'": true,
	} {
		node, err := Parse(s)
		if err != nil || DependsOnLabels(node) != want {
			t.Errorf("%q: %v, want %v (%v)", s, DependsOnLabels(node), want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "a == 'b' && !has(c) || d in {'e', \"f\"}", "a not in {} && all() || global()", "a starts with 'x' || b ends with 'y' && !(c contains 'z')"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		oracle := &calico{in: s}
		if _, err := Parse(s); len(s) < 900 && (err == nil) != oracle.accepts() {
			t.Fatalf("%q: Calico's rules accept it: %v, we say %v", s, err != nil, err)
		}
		node, err := Parse(s)
		if err != nil {
			if err.Offset < 0 || err.Offset > len(s) || err.Message == "" {
				t.Fatalf("%q: %+v", s, err)
			}
			return
		}
		again, err := Parse(node.String())
		if err != nil || !reflect.DeepEqual(again, node) {
			t.Fatalf("%q prints as %q, which gives %v %v", s, node, again, err)
		}
	})
}
