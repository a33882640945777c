package reference

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

func TestPlaces(t *testing.T) {
	p := places{templates: []string{"spec.first", "spec.more[].template"}, images: []string{"spec.steps[][].image", "list[]"}, references: []string{"spec.ref"}}
	const pod = `{"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "IMAGE"}]}}`
	for text, want := range map[string]string{
		`{"spec": {"first": POD}}`:                                                            "spec.first/c=x",
		`{"spec": {"more": [{"template": POD}, {}, {"template": POD}]}}`:                      "spec.more[0].template/c=x spec.more[2].template/c=x",
		`{"spec": {"more": {"b": {"template": POD}, "a": {"template": POD}}}}`:                "spec.more[a].template/c=x spec.more[b].template/c=x",
		`{"spec": {"steps": [[{"image": "y"}], null, [{}, {"image": null}]]}, "list": ["z"]}`: "spec.steps[0][0].image=y list[0]=z",
		`{"spec": {"ref": {}}}`:                                                               "",
		`{"spec": {}}`:                                                                        "nothing to run",
		`{"spec": {"ref": null}}`:                                                             "nothing to run",
		`{"spec": 5}`:                                                                         "nothing to run",
		`{"spec": {"first": POD, "more": "x"}}`:                                               "spec.more is no list",
		`{"spec": {"first": POD, "more": [null]}}`:                                            "spec.more[0] is no object",
		`{"spec": {"first": POD, "steps": [5]}}`:                                              "spec.steps[0] is no list",
		`{"spec": {"first": POD, "steps": [["x"]]}}`:                                          "spec.steps[0][0] is no object",
		`{"list": [5]}`:                                                                       "list[0] is no string",
		`{"spec": {"first": "x"}}`:                                                            "spec.first is no object",
		`{"spec": {"first": {}}}`:                                                             "no pod spec",
		`{"spec": {"first": {"metadata": {"labels": {"a": 5}}, "spec": {"containers": []}}}}`: "labels of spec.first",
	} {
		var o object
		if err := json.Unmarshal([]byte(strings.ReplaceAll(text, "POD", strings.Replace(pod, "IMAGE", "x", 1))), &o); err != nil {
			t.Fatal(err)
		}
		run, err := p.find(o)
		var got []string
		for _, c := range run.containers {
			got = append(got, c.Container+"="+c.Image)
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if said := strings.Join(got, " "); said != want {
			t.Errorf("%s: %s, want %s", text, said, want)
		}
	}
}

func TestLabelsOfTemplates(t *testing.T) {
	p := pol("p", nil, "", reject)
	p.Spec.Selector = "team == 'a' && exempt != 'true'"
	w := World{Policies: []api.ContainerAdmissionPolicy{p}, Settings: &api.AdmissionSettings{}}
	deployment := func(outer, inner string) json.RawMessage {
		return review("", `{"operation":"CREATE","kind":{"group":"apps","kind":"Deployment"},"namespace":"prod","object":{"metadata":{"labels":{%s}},"spec":{"template":{"metadata":{"labels":{%s}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}}`, outer, inner)
	}
	for _, c := range []struct {
		outer, inner string
		off, on      bool
	}{{``, `"team":"a"`, true, false}, {`"exempt":"true"`, `"team":"a"`, true, false}, {`"team":"a"`, `"team":"a","exempt":"true"`, false, false}, {``, `"team":"b"`, true, true}} {
		for setting, want := range map[bool]bool{false: c.off, true: c.on} {
			w.Settings.Spec.TemplateLabels = setting
			if d := Admit(w, deployment(c.outer, c.inner), now); d.Allowed != want {
				t.Errorf("%s, %s with %t: %s", c.outer, c.inner, setting, fmt.Sprint(d))
			}
		}
	}
}
