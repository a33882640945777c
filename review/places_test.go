package review_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/review"
)

// everyKnown has all kinds of the table, named alone.
func everyKnown() (kinds review.Kinds) {
	var s api.AdmissionSettingsSpec
	for _, w := range api.KnownWorkloads() {
		s.CustomKinds = append(s.CustomKinds, api.CustomKind{APIGroup: w.Group, Kind: w.Kind})
	}
	return review.KindsOf(s)
}

// Objects as the projects' own documentation has them, shortened.
var known = map[string]string{
	"jobset.x-k8s.io/JobSet":                   `{"replicatedJobs": [{"name": "a", "template": {"spec": {"template": POD1}}}, {"name": "b", "template": {"spec": {"template": POD2}}}]}`,
	"leaderworkerset.x-k8s.io/LeaderWorkerSet": `{"leaderWorkerTemplate": {"size": 3, "leaderTemplate": POD1, "workerTemplate": POD2}}`,
	"argoproj.io/Rollout":                      `{"replicas": 1, "strategy": {"canary": {}}, "template": POD1}`,
	"argoproj.io/Workflow":                     `{"entrypoint": "a", "templates": [{"name": "a", "container": {"image": "one"}, "sidecars": [{"image": "two"}]}, {"name": "b", "script": {"image": "three", "source": "x"}}, {"name": "c", "dag": {"tasks": [{"name": "d", "inline": {"container": {"image": "four"}}}]}}, {"name": "s", "steps": [[{"name": "e", "inline": {"script": {"image": "five"}}}]]}, {"name": "f", "suspend": {}}]}`,
	"argoproj.io/CronWorkflow":                 `{"schedule": "* * * * *", "workflowSpec": {"templates": [{"containerSet": {"containers": [{"image": "one"}]}, "initContainers": [{"image": "two"}]}]}}`,
	"serving.knative.dev/Service":              `{"template": POD1}`,
	"serving.kserve.io/InferenceService":       `{"predictor": {"minReplicas": 1, "model": {"modelFormat": {"name": "x"}, "image": "one"}, "containers": [{"name": "kserve-container", "image": "two"}]}, "transformer": {"containers": [{"image": "three"}]}}`,
	"apps.kruise.io/CloneSet":                  `{"replicas": 2, "template": POD1}`,
	"apps.kruise.io/SidecarSet":                `{"selector": {}, "containers": [{"name": "x", "image": "one"}]}`,
	"ray.io/RayCluster":                        `{"headGroupSpec": {"template": POD1}, "workerGroupSpecs": [{"groupName": "x", "template": POD2}]}`,
	"sparkoperator.k8s.io/SparkApplication":    `{"type": "Scala", "image": "one", "driver": {"image": "two", "sidecars": [{"image": "three"}]}, "executor": {"template": {"spec": {"containers": [{"image": "four"}]}}}}`,
	"flink.apache.org/FlinkDeployment":         `{"image": "one", "flinkVersion": "v1_17", "podTemplate": {"spec": {"containers": [{"name": "flink-main-container"}, {"name": "x", "image": "two"}]}}, "taskManager": {"podTemplate": {"spec": {"initContainers": [{"image": "three"}]}}}}`,
	"kubevirt.io/VirtualMachine":               `{"runStrategy": "Always", "template": {"spec": {"domain": {}, "volumes": [{"name": "a", "containerDisk": {"image": "one"}}, {"name": "b", "cloudInitNoCloud": {}}]}}}`,
	"tekton.dev/Task":                          `{"params": [], "stepTemplate": {"image": "one"}, "steps": [{"name": "a", "image": "two"}, {"name": "b", "ref": {"name": "x"}}], "sidecars": [{"image": "three"}]}`,
	"tekton.dev/Pipeline":                      `{"tasks": [{"name": "a", "taskRef": {"name": "x"}}, {"name": "b", "taskSpec": {"steps": [{"image": "one"}]}}], "finally": [{"name": "c", "taskSpec": {"steps": [{"image": "two"}]}}]}`,
	"apps.openshift.io/DeploymentConfig":       `{"triggers": [], "template": POD1}`,
	"keda.sh/ScaledJob":                        `{"jobTargetRef": {"template": POD1}, "triggers": []}`,
	"kubeflow.org/TFJob":                       `{"tfReplicaSpecs": {"Worker": {"replicas": 2, "template": POD2}, "PS": {"template": POD1}}}`,
}

func ofKind(t *testing.T, id, spec string, kinds review.Kinds) (review.Input, error) {
	t.Helper()
	group, kind, _ := strings.Cut(id, "/")
	pod := `{"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "c", "image": "%s"}]}}`
	spec = strings.NewReplacer("POD1", fmt.Sprintf(pod, "one"), "POD2", fmt.Sprintf(pod, "two")).Replace(spec)
	return review.FromManifest(decoded(t, `{"apiVersion": "`+group+`/v1", "kind": "`+kind+`", "metadata": {"name": "x"}, "spec": `+spec+`}`), kinds, "default")
}

var words = []string{"one", "two", "three", "four", "five"}

// All images of each kind are found, once the settings name it, and said not to be read before.
func TestKnownKinds(t *testing.T) {
	named := everyKnown()
	for id, spec := range known {
		want := words[:strings.Count(spec, `"image": "`)+strings.Count(spec, "POD")]
		in, err := ofKind(t, id, spec, named)
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		found := map[string]bool{}
		for _, c := range in.Review.Containers {
			found[c.Image] = true
		}
		for _, image := range want {
			if !found[image] {
				t.Errorf("%s: %s is not found in %v", id, image, in.Review.Containers)
			}
		}
		if len(found) != len(want) || len(in.Unread) > 0 {
			t.Errorf("%s: %v, and %v unread", id, in.Review.Containers, in.Unread)
		}
		in, err = ofKind(t, id, spec, review.KindsOf(api.AdmissionSettingsSpec{}))
		if err != nil || len(in.Review.Containers) > 0 || len(in.Unread) != len(want) {
			t.Errorf("%s: not named it has %v, and unread %v: %v", id, in.Review.Containers, in.Unread, err)
		}
	}
}

// A kind without what it runs is malformed, unless it says that it runs something else.
func TestReferences(t *testing.T) {
	kinds := everyKnown()
	for id, spec := range map[string]string{
		"argoproj.io/Rollout":        `{"workloadRef": {"kind": "Deployment", "name": "x"}}`,
		"argoproj.io/Workflow":       `{"workflowTemplateRef": {"name": "x"}}`,
		"tekton.dev/Pipeline":        `{"tasks": [{"taskRef": {"name": "x"}}]}`,
		"tekton.dev/TaskRun":         `{"taskRef": {"name": "x"}}`,
		"kubevirt.io/VirtualMachine": `{"template": {"spec": {"domain": {}, "volumes": [{"dataVolume": {"name": "x"}}]}}}`,
	} {
		if in, err := ofKind(t, id, spec, kinds); err != nil || len(in.Review.Containers) > 0 {
			t.Errorf("%s: %v, %v", id, in.Review.Containers, err)
		}
		if _, err := ofKind(t, id, `{}`, kinds); !errors.Is(err, review.ErrInput) || !strings.HasSuffix(err.Error(), "there") && !strings.HasSuffix(err.Error(), "missing") {
			t.Errorf("%s with nothing: %v", id, err)
		}
	}
	for id, spec := range map[string]string{
		"jobset.x-k8s.io/JobSet": `{"replicatedJobs": [{"template": {"spec": {"template": POD1}}}, 7]}`,
		"argoproj.io/Workflow":   `{"templates": {"a": {"container": {"image": 5}}}}`,
		"tekton.dev/Task":        `{"steps": "all"}`,
		"keda.sh/ScaledJob":      `{"jobTargetRef": {"template": "x"}}`,
	} {
		if _, err := ofKind(t, id, spec, kinds); !errors.Is(err, review.ErrInput) {
			t.Errorf("%s: %s: %v", id, spec, err)
		}
	}
}

// What looks like containers is said, wherever it stands; what is read is not.
func TestUnread(t *testing.T) {
	kinds := review.KindsOf(api.AdmissionSettingsSpec{CustomKinds: []api.CustomKind{{APIGroup: "example.com", Kind: "Fleet", PodTemplatePath: "spec.template"}}})
	for _, c := range []struct{ id, spec, want string }{
		{"example.com/Fleet", `{"template": POD1}`, "[]"},
		{"example.com/Fleet", `{"template": POD1, "extra": [{"initContainers": [{"image": "b"}, {"image": "one"}]}]}`, "[b]"},
		{"example.com/Boat", `{"deep": [{"er": POD1}], "volumes": [{"image": {"reference": "v"}}], "steps": [{"image": "s"}]}`, "[one s v]"},
		{"example.com/Boat", `{"image": "a", "container": {"image": ""}, "containers": {"image": "c"}}`, "[]"},
		{"/PodTemplate", `{"containers": [{"image": "a"}]}`, "[a]"},
		{"apps/Deployment", `{"template": POD1, "other": POD2}`, "[]"},
		{"extensions/Deployment", `{"template": POD1}`, "[]"},
	} {
		in, err := ofKind(t, c.id, c.spec, kinds)
		if got := fmt.Sprint(in.Unread); err != nil || got != c.want {
			t.Errorf("%s %s: %s, %v", c.id, c.spec, got, err)
		}
	}
	text := `{"request": {"operation": "OP", "subResource": "SUB", "kind": {"group": "example.com", "kind": "Boat"}, "object": {"spec": {"containers": [{"image": "a"}]}}}}`
	for _, c := range []struct{ op, sub, want string }{{"CREATE", "", "[a]"}, {"UPDATE", "", "[a]"}, {"DELETE", "", "[]"}, {"UPDATE", "status", "[]"}} {
		in, err := review.FromAdmissionReview([]byte(strings.NewReplacer("OP", c.op, "SUB", c.sub).Replace(text)), kinds)
		if got := fmt.Sprint(in.Unread); err != nil || got != c.want {
			t.Errorf("%s %s: %s, %v", c.op, c.sub, got, err)
		}
	}
}

// Nothing of what the places of a kind lead to makes anything panic, and an image is either read or malformed.
func FuzzPlaces(f *testing.F) {
	kinds := everyKnown()
	for id, spec := range known {
		group, kind, _ := strings.Cut(id, "/")
		f.Add(group, kind, []byte(strings.NewReplacer("POD1", `{"spec": {"containers": [{"image": "one"}]}}`, "POD2", `{}`).Replace(spec)))
	}
	f.Fuzz(func(t *testing.T, group, kind string, spec []byte) {
		if !json.Valid(spec) {
			return
		}
		text, err := json.Marshal(map[string]any{"request": map[string]any{
			"operation": "CREATE", "kind": map[string]any{"group": group, "kind": kind}, "object": map[string]any{"spec": json.RawMessage(spec)},
		}})
		if err != nil {
			return
		}
		in, err := review.FromAdmissionReview(text, kinds)
		if err != nil {
			t.Fatal(err)
		}
		places, judged := kinds[group+"/"+kind]
		refers := false
		for _, r := range places.References {
			refers = refers || len(r) > 0
		}
		if judged && len(in.Review.Containers)+len(in.Review.Malformed) == 0 && !refers && !strings.Contains(string(spec), `"containers"`) {
			t.Fatalf("%s/%s %s: nothing found, and nothing wrong", group, kind, spec)
		}
	})
}
