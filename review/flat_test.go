package review_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/review"
)

const flatNow = "2026-06-01T12:00:00.000000000Z"

func flatPod(t testing.TB) map[string]any {
	t.Helper()
	in, err := review.FromAdmissionReview([]byte(pod), kinds)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(api.FlatReview{Schema: api.SchemaReview, Now: flatNow, Review: in.Review})
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// A flat review is read whole, or refused: no member of it may be missing, whichever it is.
func TestFromFlat(t *testing.T) {
	doc := flatPod(t)
	read := func(doc map[string]any) (review.Input, error) {
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if !review.IsFlat(text) {
			t.Fatalf("%s is none", text)
		}
		return review.FromFlat(text)
	}
	in, err := read(doc)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := in.Now(time.Time{}); err != nil || now.Format(time.RFC3339) != "2026-06-01T12:00:00Z" || len(in.Review.Containers) != 3 || in.Review.Owner.Kind != "ReplicaSet" {
		t.Errorf("%v %v %+v", now, err, in.Review)
	}
	for name, value := range doc {
		if name == "schema" || name == "owner" || name == "ownerImages" || name == "templateLabels" || name == "override" || name == "oldContainers" {
			continue
		}
		for _, other := range []any{nil, 5, "x", []any{5}, map[string]any{"x": 5}} {
			if _, isText := value.(string); isText && other == any("x") && name != "now" || name == "namespaceLabels" && other == nil {
				continue
			}
			doc[name] = other
			if _, err := read(doc); !errors.Is(err, review.ErrInput) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s is %v: %v", name, other, err)
			}
		}
		delete(doc, name)
		if _, err := read(doc); !errors.Is(err, review.ErrInput) {
			t.Errorf("without %s: %v", name, err)
		}
		doc[name] = value
	}
	// The labels of templates may be missing, as older records have none: that is not known, as opposed to none.
	for _, given := range []struct {
		value any
		known bool
	}{{[]any{}, true}, {[]any{map[string]any{"app": "x"}}, true}, {nil, false}} {
		doc["templateLabels"] = given.value
		if in, err := read(doc); err != nil || (in.Review.TemplateLabels != nil) != given.known {
			t.Errorf("labels of templates %v: %v, %v", given.value, in.Review.TemplateLabels, err)
		}
	}
	doc["templateLabels"] = []any{map[string]any{"app": 5}}
	if _, err := read(doc); !errors.Is(err, review.ErrInput) {
		t.Errorf("labels that are no texts: %v", err)
	}
	delete(doc, "templateLabels")
	// Members count by their exact names alone.
	doc["Owner"], doc["Containers"] = nil, []any{}
	if in, err := read(doc); err != nil || len(in.Review.Containers) != 3 || in.Review.Owner == nil {
		t.Errorf("%v %+v", err, in.Review)
	}
	if _, err := review.FromFlat([]byte(`{"schema":"assay.dev/review/v1"} {}`)); err == nil || !strings.Contains(err.Error(), "more after the JSON value") {
		t.Error(err)
	}
}

func TestNow(t *testing.T) {
	clock := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	for now, want := range map[string]string{``: "2020-01-01T00:00:00Z", `"now":"2026-06-01T12:00:00Z",`: "2026-06-01T12:00:00Z", `"now":"tomorrow",`: "", `"now":null,`: "", `"now":7,`: ""} {
		in, err := review.FromAdmissionReview([]byte(`{`+now+pod[1:]), kinds)
		if err != nil {
			t.Fatal(err)
		}
		got, err := in.Now(clock)
		if want == "" && !errors.Is(err, review.ErrInput) || want != "" && (err != nil || got.Format(time.RFC3339) != want) {
			t.Errorf("%s: %v %v", now, got, err)
		}
	}
}

func TestVersions(t *testing.T) {
	for head, ok := range map[string]bool{
		``: true, `"apiVersion":"admission.k8s.io/v1",`: true, `"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview",`: true,
		`"apiVersion":"admission.k8s.io/v2",`: false, `"apiVersion":"",`: false, `"apiVersion":null,`: false, `"apiVersion":["admission.k8s.io/v1"],`: false,
		`"kind":"Pod",`: false, `"kind":null,`: false, `"kind":"",`: false, `"schema":"x",`: false, `"schema":null,`: false,
	} {
		if _, err := review.FromAdmissionReview([]byte(`{`+head+pod[1:]), kinds); (err == nil) != ok || err != nil && !errors.Is(err, review.ErrInput) {
			t.Errorf("%s: %v", head, err)
		}
	}
}

func FuzzFromFlat(f *testing.F) {
	text, err := json.Marshal(flatPod(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := review.FromFlat(text)
		if err != nil {
			if !errors.Is(err, review.ErrInput) {
				t.Fatal(err)
			}
			return
		}
		if in.Review.Containers == nil || in.Review.Malformed == nil || in.Review.Labels == nil {
			t.Fatalf("%s gives %+v", text, in.Review)
		}
	})
}
