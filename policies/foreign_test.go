package policies_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/assay-dev/assay/policies"
	"golang.org/x/tools/txtar"
)

// What is left out is said, all else of the folder is read, and no mistake passes for an object of
// another tool.
func TestSkipForeign(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/foreign.txtar")
	if err != nil {
		t.Fatal(err)
	}
	flows, mistakes := archive.Files[0].Data, archive.Files[1].Data
	const thresholds = "apiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {warn: 5}\n"
	folder := fstest.MapFS{"flows.yaml": {Data: slices.Concat(flows, []byte("---\n"+thresholds))}}
	skip := policies.Options{SkipForeign: true}
	set, err := skip.Load(folder)
	if err != nil || set.Thresholds.Warn == nil || len(set.Alerts) != 0 {
		t.Fatalf("%+v %v", set, err)
	}
	var texts []string
	for _, f := range set.Foreign {
		texts = append(texts, f.String())
	}
	text := strings.Join(texts, "\n")
	if len(set.Foreign) != 4 || strings.Contains(text, "--skip-foreign") {
		t.Errorf("left out: %s", text)
	}
	for _, part := range []string{"flows.yaml:4:17", `not "flows"`, `"ImageAssurance"`, `"GlobalNetworkPolicy"`, `"ConfigMap"`} {
		if !strings.Contains(text, part) {
			t.Errorf("%s is not said to be left out: %s", part, text)
		}
	}
	var without, with policies.Diagnostics
	folder = fstest.MapFS{"mistakes.yaml": {Data: mistakes}}
	_, err = skip.Load(folder)
	errors.As(err, &with)
	_, err = policies.Load(folder)
	errors.As(err, &without)
	if len(with) != 7 || with.Error() != without.Error() {
		t.Errorf("mistakes: %v\nand without the option: %v", with, without)
	}
	// Where no folder is read there is nothing to be left out.
	if _, err := policies.Parse("flows.yaml", flows); err == nil || strings.Contains(err.Error(), "--skip-foreign") {
		t.Errorf("a text: %v", err)
	}
}
