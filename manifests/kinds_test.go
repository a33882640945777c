package manifests_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/manifests"
	"github.com/assay-dev/assay/review"
	"github.com/assay-dev/assay/test/corpus"
)

// Of manifests of the kinds of other projects, and of old versions, each image is judged where settings
// name the kind, and otherwise said to be not judged; and nothing is taken for an image that does not run.
func TestKinds(t *testing.T) {
	const objects = 4000
	images, kinds := 0, map[string]int{}
	for i, m := range corpus.Manifests(15, objects) {
		want := slices.Sorted(slices.Values(m.Images))
		text := textOf(t, i, m.Object)
		for _, settings := range []api.AdmissionSettingsSpec{{CustomKinds: corpus.KnownKinds()}, {}} {
			r := &manifests.Reader{Kinds: review.KindsOf(settings), Namespace: "default"}
			if err := r.Read("f", strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			if len(r.Faults()) > 0 || len(r.Found()) != 1 {
				t.Fatalf("%d objects, %v\n%s", len(r.Found()), r.Faults(), text)
			}
			in := r.Found()[0].Input
			judged, left := []string{}, in.NotJudged(api.Decision{}, nil)
			for _, c := range in.Review.Containers {
				judged = append(judged, c.Image)
			}
			slices.Sort(judged)
			id := in.Review.Group + "/" + in.Review.Kind
			kinds[id]++
			all := len(settings.CustomKinds) > 0 || api.IsBuiltinWorkload(id)
			switch {
			case len(in.Review.Malformed) > 0:
				t.Fatalf("%q\n%s", in.Review.Malformed, text)
			case all && (!slices.Equal(judged, want) || left != nil):
				t.Fatalf("judged are\n%q and not\n%v, put in were\n%q\n%s", judged, left, want, text)
			case !all && (len(judged) > 0 || (left == nil) != (len(want) == 0) || left != nil && !slices.Equal(left.Images, want)):
				t.Fatalf("judged are\n%q and not\n%v, put in were\n%q\n%s", judged, left, want, text)
			}
		}
		images += len(want)
	}
	t.Logf("%d manifests of %d kinds with %d images", objects, len(kinds), images)
	for _, w := range api.KnownWorkloads() {
		if kinds[w.ID()] < 40 {
			t.Errorf("the corpus is too thin: %d of %s", kinds[w.ID()], w.ID())
		}
	}
}

// textOf writes an object as one does: in YAML, in JSON, behind others, in a List.
func textOf(t *testing.T, i int, object map[string]any) string {
	t.Helper()
	var text []byte
	var err error
	switch i % 4 {
	case 0:
		text, err = json.Marshal(object)
	case 1:
		text, err = yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{object}})
	default:
		text, err = yaml.Marshal(object)
		text = fmt.Appendf(nil, "# Source: chart/templates/it.yaml\n---\n%s---\n", text)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
