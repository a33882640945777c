package review_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/review"
)

var kinds = review.KindsOf(api.AdmissionSettingsSpec{CustomKinds: []api.CustomKind{{APIGroup: "argoproj.io", Kind: "Rollout", PodTemplatePath: "spec.template"}}})

const pod = `{"request": {"operation": "CREATE", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "prod",
 "userInfo": {"username": "jane"}, "object": {"metadata": {"generateName": "web-", "labels": {"app": "web"},
  "ownerReferences": [{"kind": "Job", "apiVersion": "batch/v1"}, {"kind": "ReplicaSet", "apiVersion": "apps/v1", "controller": true}]},
 "spec": {"containers": [{"name": "c", "image": "nginx"}], "initContainers": [{"name": "i", "image": "quay.io/x/y:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}],
  "volumes": [{"name": "v", "image": {"reference": "Bad Reference"}}, {"name": "w"}]}}}}`

func TestFromAdmissionReview(t *testing.T) {
	in, err := review.FromAdmissionReview([]byte(pod), kinds)
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + strings.Repeat("a", 64)
	want := api.Review{
		Operation: "CREATE", Kind: "Pod", Namespace: "prod", Name: "web-", Labels: map[string]string{"app": "web"}, TemplateLabels: []map[string]string{{"app": "web"}},
		NamespaceLabels: map[string]string{"kubernetes.io/metadata.name": "prod"}, User: "jane", Owner: &api.Owner{Group: "apps", Kind: "ReplicaSet"},
		TemplateChanged: true,
		Containers: []api.Container{
			{Container: "i", Image: "quay.io/x/y:1@" + digest, Normal: "quay.io/x/y:1@" + digest, Name: "quay.io/x/y", Digest: digest},
			{Container: "c", Image: "nginx", Normal: "docker.io/library/nginx:latest", Name: "docker.io/library/nginx", Tag: "latest"},
			{Container: "volume/v", Image: "Bad Reference", Normal: "Bad Reference"},
		},
		OldImages: []string{}, OldContainers: []api.Container{}, Malformed: []string{},
	}
	if !reflect.DeepEqual(in.Review, want) {
		t.Errorf("got  %+v\nwant %+v", in.Review, want)
	}
}

// decoded is a manifest as encoding/json has it.
func decoded(t testing.TB, text string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

func TestFromManifest(t *testing.T) {
	for manifest, want := range map[string]string{
		`{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "x"}, "spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}`:                "argoproj.io/Rollout a",
		`{"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x"}, "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "b"}]}}}}}}`: "batch/CronJob b",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [], "ephemeralContainers": [{"image": "c"}]}}`:                                   "/Pod c",
	} {
		in, err := review.FromManifest(decoded(t, manifest), kinds, "default")
		if err != nil {
			t.Errorf("%s: %v", manifest, err)
			continue
		}
		r := in.Review
		if got := r.Group + "/" + r.Kind + " " + r.Containers[0].Image; got != want || r.Operation != "CREATE" || r.Namespace != "default" {
			t.Errorf("%s: %+v", manifest, r)
		}
	}
}

// A name or namespace that is no text is not taken for none.
func TestManifestNames(t *testing.T) {
	for manifest, want := range map[string]string{
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": false}, "spec": {"containers": [{"image": "a"}]}}`:      "bad review: Pod: metadata.namespace is false, which is no text: put it in quotes",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": ["shop"]}, "spec": {"containers": [{"image": "a"}]}}`:   "bad review: Pod: metadata.namespace is [shop], which is no text: put it in quotes",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": 12}, "spec": {"containers": [{"image": "a"}]}}`:                           "bad review: Pod: metadata.name is 12, which is no text: put it in quotes",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": null}, "spec": {"containers": [{"image": "a"}]}}`:       "<nil>",
		`{"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x", "namespace": ""}, "spec": {"containers": [{"image": "a"}]}}`: "<nil>",
	} {
		if _, err := review.FromManifest(decoded(t, manifest), kinds, "default"); fmt.Sprint(err) != want {
			t.Errorf("%s: %v", manifest, err)
		}
	}
}

func TestNamespaceLabels(t *testing.T) {
	for manifest, want := range map[string]string{
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"env": "prod"}}}`: "x map[env:prod] <nil>",
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}`:                            "x map[] <nil>",
		`{"apiVersion": "x/v1", "kind": "Namespace", "metadata": {"name": "x"}}`:                          " map[] <nil>",
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {}}`:                                       " map[] bad review: a Namespace needs metadata.name",
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": {"env": 1}}}`:      " map[] bad review: Namespace x: metadata.labels must map strings to strings",
		`{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "labels": ["env"]}}`:         " map[] bad review: Namespace x: metadata.labels must map strings to strings",
	} {
		name, labels, err := review.NamespaceLabels(decoded(t, manifest))
		if got := fmt.Sprint(name, " ", labels, " ", err); got != want {
			t.Errorf("%s: %s", manifest, got)
		}
	}
}

// Nothing panics; what is refused is refused as bad input; what is accepted says which kind it is about.
func FuzzFromAdmissionReview(f *testing.F) {
	f.Add([]byte(pod))
	f.Add([]byte(`{"request": {"operation": "UPDATE", "kind": {"group": "apps", "kind": "Deployment"}, "object": {"spec": {"template": {"x": 1e400}}}, "oldObject": {"spec": {"template": {"x": 1.0}}}}}`))
	f.Add([]byte(`{"now": "2026-01-01T00:00:00Z", "namespaceLabels": null, "request": {}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := review.FromAdmissionReview(text, kinds)
		if err != nil {
			if !errors.Is(err, review.ErrInput) {
				t.Fatal(err)
			}
			return
		}
		if in.Review.Containers == nil || in.Review.Malformed == nil || in.Review.Labels == nil {
			t.Fatalf("%s gives %+v", text, in.Review)
		}
		if _, err := json.Marshal(in.Review); err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if json.Unmarshal(text, &object) != nil {
			return
		}
		if _, err := review.FromManifest(object, kinds, "default"); err != nil && !errors.Is(err, review.ErrInput) {
			t.Fatal(err)
		}
	})
}
