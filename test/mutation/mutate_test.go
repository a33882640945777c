package mutation

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/rego"
	"github.com/open-policy-agent/opa/v1/ast"
)

const sample = `package p

default a := {"k": 1}

# A comment.
a := [x | some x in input.xs; x > 2] if not input.b == "c"

f("s")

f(x) if every y in x { y != "t" }

g(x) := 3 if {
	# Why.
	x with input as {}
} else := true if a
`

func TestMutants(t *testing.T) {
	mutants, err := Mutants("p.rego", sample)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mutants {
		got = append(got, strings.TrimPrefix(m.ID, "p.rego: "))
	}
	want := []string{
		`a: rule dropped: default a := {"k": 1}`, `a: member left out: "k": 1`, `a: constant: "k" → "~"`, `a.k: constant: 1 → 2`,
		`a: rule dropped: a := [x | some x in input.xs; x > 2] if not input.b == "c"`,
		`a: dropped: x > 2`, `a: negated: x > 2`, `a: operator: x > 2 → > >=`, `a: operator: x > 2 → > <`, `a: constant: 2 → 3`,
		`a: dropped: not input.b == "c"`, `a: not removed: not input.b == "c"`, `a: operator: input.b == "c" → == !=`, `a: constant: "c" → "~"`,
		`f: rule dropped: f("s")`, `f: constant: "s" → "~"`,
		`f: rule dropped: f(x) if every y in x { y != "t" }`,
		`f: dropped: every y in x { y != "t" }`, `f: every → some: every y in x`,
		`f: dropped: y != "t"`, `f: negated: y != "t"`, `f: operator: y != "t" → != ==`, `f: constant: "t" → "~"`,
		`g: rule dropped: g(x) := 3 if {`, `g: constant: 3 → 4`, `g: dropped: x with input as {}`, `g: negated: x with input as {}`,
		`g: with removed: x with input as {}`,
		`g: rule dropped: else := true if a`, `g: constant: true → false`, `g: dropped: a`, `g: negated: a`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("mutants are\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Each mutant of the library is Rego, differs from what it was made of, and has
// a name of its own: nothing is left untried for a slip of the mutation.
func TestMutantsOfTheLibrary(t *testing.T) {
	n := 0
	for name, text := range rego.Library() {
		mutants, err := Mutants(name, text)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, m := range mutants {
			changed := m.Apply(text)
			if _, err := ast.ParseModuleWithOpts(name, changed, ast.ParserOptions{RegoVersion: ast.RegoV1}); err != nil || changed == text || seen[m.ID] {
				t.Errorf("%s:%d: %s: unchanged, named twice, or no Rego: %v", name, m.Line, m.ID, err)
			}
			seen[m.ID] = true
			n++
		}
	}
	if n == 0 {
		t.Fatal("there are no mutants")
	}
}
