package policies

import (
	"slices"
	"testing"
)

// Labels that a user's own Rego looks at are known, or any may be.
func TestCustomNamespaceKeys(t *testing.T) {
	for rego, want := range map[string][]string{
		`reject contains "x" if input.labels.team == "a"`:                                                    nil,
		`reject contains "x" if input.namespaceLabels.team == "a"`:                                           {"team"},
		`reject contains "x" if input.namespaceLabels["a.io/b"] != input.namespaceLabels.env`:                {"a.io/b", "env"},
		`reject contains "x" if not input.namespaceLabels.team`:                                              {"team"},
		`reject contains "x" if object.get(input.namespaceLabels, "team", "") == "a"`:                        {"team"},
		`reject contains "x" if { v := object.get(input.namespaceLabels, "a", input.namespaceLabels.b); v }`: {"a", "b"},
		`reject contains "x" if { some c in input.containers; c.image == input.namespaceLabels.base }`:       {"base"},
		`reject contains "x" if { some k in input.keys; input.namespaceLabels[k] }`:                          {AllLabels},
		`reject contains "x" if { some k, "a" in input.namespaceLabels }`:                                    {AllLabels},
		`reject contains "x" if object.get(input.namespaceLabels, input.name, "") == "a"`:                    {AllLabels},
		`reject contains "x" if object.get(input, ["namespaceLabels", "a"], "") == "a"`:                      {AllLabels},
		`reject contains "x" if { some m; input[m].team }`:                                                   {AllLabels},
		`reject contains "x" if input["namespaceLabels"].team`:                                               {"team"},
		`reject contains "x" if walk(input, [["namespaceLabels", _], "a"])`:                                  {AllLabels},
		`reject contains "x" if { x := input; x.namespaceLabels.team }`:                                      {AllLabels},
		`f(o) := o.namespaceLabels.team` + "\n" + `reject contains "x" if f(input)`:                          {AllLabels},
		`import input.namespaceLabels as l` + "\n" + `reject contains "x" if l.team`:                         {AllLabels},
		`import input as i` + "\n" + `reject contains "x" if i.namespaceLabels.team`:                         {AllLabels},
		`reject contains "x" if input.labels[input.namespaceLabels.key]`:                                     {"key"},
	} {
		got := customNamespaceKeys(map[string]string{"a.rego": "package assay.custom.a\n\n" + rego})
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%s\n%q, want %q", rego, got, want)
		}
	}
}
