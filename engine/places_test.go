package engine_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/review"
)

const byLabel = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: guarded}
spec:
  selector: team == 'a' && exempt != 'true'
  rules: [{action: Reject}]
---
apiVersion: assay.dev/v1alpha1
kind: AdmissionSettings
metadata: {name: default}
spec: {templateLabels: %t%s}
`

// A label that only the template has does not evade a policy where settings say so, nor do labels
// of the object and of the template exempt each other.
func TestLabelsOfTemplates(t *testing.T) {
	for _, c := range []struct {
		outer, inner     string
		without, allowed bool
	}{
		{`{}`, `{"team": "a"}`, true, false},
		{`{"team": "a"}`, `{}`, false, false},
		{`{"team": "a"}`, `{"team": "a", "exempt": "true"}`, false, false},
		{`{"exempt": "true"}`, `{"team": "a"}`, true, false},
		{`{"team": "a", "exempt": "true"}`, `{"team": "a", "exempt": "true"}`, true, true},
		{`{"team": "a", "exempt": "true"}`, `{"app": "x"}`, true, true},
		{`{"team": "b"}`, `{"team": "b"}`, true, true},
	} {
		for on, want := range map[bool]bool{false: c.without, true: c.allowed} {
			e := load(t, fmt.Sprintf(byLabel, on, ""))
			text := fmt.Sprintf(`{"request": {"operation": "CREATE", "namespace": "shop", "kind": {"group": "apps", "kind": "Deployment"}, "object": {"metadata": {"name": "x", "labels": %s},
				"spec": {"template": {"metadata": {"labels": %s}, "spec": {"containers": [{"name": "c", "image": "one"}]}}}}}}`, c.outer, c.inner)
			in, err := review.FromAdmissionReview([]byte(text), review.KindsOf(api.AdmissionSettingsSpec{}))
			if err != nil {
				t.Fatal(err)
			}
			d, err := e.Admit(t.Context(), in.Review, now)
			if err != nil || d.Allowed != want {
				t.Errorf("%s, %s, setting %t: %+v, %v", c.outer, c.inner, on, d, err)
			}
		}
	}
	// What is not known is never taken for none.
	e := load(t, fmt.Sprintf(byLabel, true, ""))
	if d, err := e.Admit(t.Context(), deployment("shop", "one"), now); err == nil || d.Allowed {
		t.Errorf("labels of templates that are not known: %+v, %v", d, err)
	}
}

// Settings of each shape link and decide: kinds with image paths alone, with lists, without references.
func TestKindsOfSettings(t *testing.T) {
	for custom, spec := range map[string]string{
		`{apiGroup: tekton.dev, kind: Task}`:                                                              `{"steps": [{"image": "one"}]}`,
		`{apiGroup: tekton.dev, kind: StepAction}`:                                                        `{"image": "one"}`,
		`{apiGroup: jobset.x-k8s.io, kind: JobSet}`:                                                       `{"replicatedJobs": [{"template": {"spec": {"template": {"spec": {"containers": [{"image": "one"}]}}}}}]}`,
		`{apiGroup: argoproj.io, kind: Rollout}, {apiGroup: tekton.dev, kind: Task}`:                      `{"template": {"spec": {"containers": [{"image": "one"}]}}}`,
		`{apiGroup: example.com, kind: Fleet, podTemplatePath: spec.ship, imagePaths: ["spec.images[]"]}`: `{"images": ["one"]}`,
	} {
		e := load(t, fmt.Sprintf(byLabel, false, ", defaultAction: Reject, customKinds: ["+custom+"]"))
		settings := e.Settings()
		kinds := review.Kinds{}
		for id, k := range settings.Kinds {
			kinds[id] = k.Places
		}
		for id := range kinds {
			in, err := review.FromManifest(objectOf(t, id, spec), kinds, "shop")
			if err != nil {
				continue // of the other kind
			}
			d, err := e.Admit(t.Context(), in.Review, now)
			if err != nil || d.Allowed || len(d.Images) != 1 || d.Images[0].Image != "one" {
				t.Errorf("%s: %+v, %v", id, d, err)
			}
			custom = ""
		}
		if custom != "" {
			t.Errorf("%s: no kind reads %s", custom, spec)
		}
	}
}

// Bundles say where a kind with one template has it as earlier releases read it, and bundles of earlier
// releases are read: who follows a server may be upgraded before it or after it.
func TestKindsOfOtherReleases(t *testing.T) {
	set, err := policies.Load(fstest.MapFS{"p.yaml": {Data: []byte(fmt.Sprintf(byLabel, false,
		", customKinds: [{apiGroup: argoproj.io, kind: Rollout}, {apiGroup: jobset.x-k8s.io, kind: JobSet}, {apiGroup: example.com, kind: Fleet, podTemplatePath: spec.ship.template, controllers: [fleet]}]"))}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundles.Build(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	rollout, fleet := []string{"spec", "template"}, []string{"spec", "ship", "template"}
	settings := func() map[string]engine.Kind {
		t.Helper()
		e := engine.New(engine.Config{})
		if err := e.Load(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		kinds := e.Settings().Kinds
		for id, path := range map[string][]string{"argoproj.io/Rollout": rollout, "example.com/Fleet": fleet} {
			if k := kinds[id]; !reflect.DeepEqual(k.Path, path) || !reflect.DeepEqual(k.Templates, []api.Path{{path}}) {
				t.Errorf("%s: %+v", id, k)
			}
		}
		return kinds
	}
	if k := settings()["jobset.x-k8s.io/JobSet"]; k.Path != nil {
		t.Errorf("a list of templates has no path: %q", k.Path)
	}
	// As an earlier release would have written it.
	for i := range b.Modules {
		if m := &b.Modules[i]; strings.HasSuffix(m.Path, "generated/settings.rego") {
			text := regexp.MustCompile(`(?s)\nkinds := .*?\n\n`).ReplaceAllLiteralString(string(m.Raw),
				"\nkinds := {\"argoproj.io/Rollout\":{\"path\":[\"spec\",\"template\"],\"controllers\":[]},\"example.com/Fleet\":{\"path\":[\"spec\",\"ship\",\"template\"],\"controllers\":[\"fleet\"]}}\n\n")
			m.Raw, m.Parsed = []byte(text), ast.MustParseModule(text)
		}
	}
	if k := settings(); len(k) != 2 || len(k["example.com/Fleet"].Controllers) != 1 {
		t.Errorf("%+v", k)
	}
}

func objectOf(t *testing.T, id, spec string) map[string]any {
	t.Helper()
	group, kind, _ := strings.Cut(id, "/")
	var object map[string]any
	if err := json.Unmarshal([]byte(`{"apiVersion": "`+group+`/v1", "kind": "`+kind+`", "metadata": {"name": "x"}, "spec": `+spec+`}`), &object); err != nil {
		t.Fatal(err)
	}
	return object
}
