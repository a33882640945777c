package api_test

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

func TestParsePath(t *testing.T) {
	for text, want := range map[string]api.Path{
		"":                              {{}},
		"spec":                          {{"spec"}},
		"spec.template":                 {{"spec", "template"}},
		"spec.jobs[].template.spec":     {{"spec", "jobs"}, {"template", "spec"}},
		"spec.steps[][].inline":         {{"spec", "steps"}, {}, {"inline"}},
		"spec.images[]":                 {{"spec", "images"}, {}},
		"a[].b[].c[].d[].e":             {{"a"}, {"b"}, {"c"}, {"d"}, {"e"}},
		"a[].b[].c[].d[].e[]":           nil,
		"[]":                            nil,
		"spec..template":                nil,
		".spec":                         nil,
		"spec.":                         nil,
		"spec[]template":                nil,
		"spec.[]":                       nil,
		"spec[0]":                       nil,
		"spec.*":                        nil,
		`spec["a.b"]`:                   nil,
		"spec.template\n":               nil,
		strings.Repeat("a[].", 5) + "b": nil,
	} {
		got, err := api.ParsePath(text)
		if (err != nil) != (want == nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// The table has no path that cannot be followed, no kind twice, and none without a place.
func TestWorkloads(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range slices.Concat(api.BuiltinWorkloads(), api.KnownWorkloads()) {
		p := w.Places() // which panics for a path that is none
		if seen[w.ID()] || w.Resource == "" || w.Resource != strings.ToLower(w.Resource) || len(p.Templates)+len(p.Images) == 0 {
			t.Errorf("%+v", w)
		}
		seen[w.ID()] = true
		for _, r := range p.References {
			if len(r) != 1 || len(r[0]) == 0 {
				t.Errorf("%s: %q refers through a list, or is the object itself", w.ID(), r)
			}
		}
		for _, list := range [][]string{w.Templates, w.Images, w.References} {
			if sorted := slices.Sorted(slices.Values(list)); len(slices.Compact(sorted)) != len(list) {
				t.Errorf("%s: a path is there twice: %q", w.ID(), list)
			}
		}
	}
	for _, id := range []string{"jobset.x-k8s.io/JobSet", "argoproj.io/Rollout", "serving.knative.dev/Service", "tekton.dev/Pipeline", "extensions/Deployment"} {
		if !seen[id] {
			t.Errorf("%s is not known", id)
		}
	}
	if !api.IsBuiltinWorkload("/Pod") || api.IsBuiltinWorkload("argoproj.io/Rollout") {
		t.Error("a kind that has to be named in the settings is none of the built-in ones")
	}
}

// What settings say of a kind counts alone; what they do not say is as the table has it.
func TestCustomKind(t *testing.T) {
	for _, c := range []struct {
		kind      api.CustomKind
		templates string
		ok        bool
	}{
		{api.CustomKind{APIGroup: "argoproj.io", Kind: "Rollout"}, "spec.template", true},
		{api.CustomKind{APIGroup: "argoproj.io", Kind: "Rollout", PodTemplatePath: "spec.other"}, "spec.other", true},
		{api.CustomKind{APIGroup: "example.com", Kind: "Fleet", PodTemplatePath: "a", PodTemplatePaths: []string{"b[].c"}}, "a b[].c", true},
		{api.CustomKind{APIGroup: "example.com", Kind: "Fleet", ImagePaths: []string{"spec.image"}}, "", true},
		{api.CustomKind{APIGroup: "example.com", Kind: "Rollout"}, "", false},
		{api.CustomKind{APIGroup: "example.com", Kind: "Fleet", ReferencePaths: []string{"spec.ref"}}, "", false},
	} {
		w, ok := c.kind.Workload()
		if got := strings.Join(w.Templates, " "); got != c.templates || ok != c.ok || w.ID() != c.kind.APIGroup+"/"+c.kind.Kind {
			t.Errorf("%+v: %+v, %t", c.kind, w, ok)
		}
	}
	// What refers to something else belongs to the paths that are beside it.
	rollout := api.CustomKind{APIGroup: "argoproj.io", Kind: "Rollout", PodTemplatePath: "spec.template"}
	if w, _ := rollout.Workload(); !slices.Equal(w.References, []string{"spec.workloadRef"}) {
		t.Errorf("the paths of the table without its references: %q", w.References)
	}
	rollout.PodTemplatePaths = []string{"spec.other"}
	if w, _ := rollout.Workload(); len(w.References) > 0 {
		t.Errorf("paths of the settings, and %q of the table", w.References)
	}
}

// The documentation names each known kind, and no other.
func TestWorkloadsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../docs/kinds.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## Kinds that need no paths\n")
	section, _, _ = strings.Cut(section, "\n## ")
	documented := []string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9.-]+)` \\| ([A-Za-z, ]+)").FindAllStringSubmatch(section, -1) {
		for _, kind := range strings.Split(strings.TrimSpace(row[2]), ", ") {
			documented = append(documented, row[1]+"/"+kind)
		}
	}
	var known []string
	for _, w := range api.KnownWorkloads() {
		known = append(known, w.ID())
	}
	slices.Sort(known)
	if slices.Sort(documented); !slices.Equal(documented, known) {
		t.Errorf("docs/kinds.md has\n%q, the table\n%q", documented, known)
	}
}
