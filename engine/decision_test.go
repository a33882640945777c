package engine

import (
	"errors"
	"reflect"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/open-policy-agent/opa/v1/ast"
)

// A decision is read as encoding/json reads it, whole.
func TestDecisionOf(t *testing.T) {
	v := ast.MustParseTerm(`{"kind": "Pod", "namespace": "n", "name": "x", "allowed": false, "judged": true, "reason": "r", "message": "m", "now": "t",
		"override": {"by": "u", "reason": "r", "until": "t"}, "warnings": ["w"], "audit": ["a"], "revisions": {"policies": "1"}, "images": [
		{"container": "c", "image": "i", "digest": "d", "action": "Reject", "policy": "p", "rule": 3, "result": "Fail", "max_cvss": 9.8,
		 "cves": ["CVE-1"], "more_cves": 2, "scanned_at": "s", "database": "b", "message": "m", "reason": "n"}]}`).Value
	got, err := decisionOf(v)
	if err != nil {
		t.Fatal(err)
	}
	var want api.Decision
	if err := decode("decision", v, &want); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, by JSON %+v (%v)", got, want, err)
	}
	if covered := reflect.ValueOf(got); true {
		for i := range covered.NumField() {
			if covered.Field(i).IsZero() && covered.Type().Field(i).Name != "Allowed" {
				t.Errorf("%s is not read", covered.Type().Field(i).Name)
			}
		}
		image := reflect.ValueOf(got.Images[0])
		for i := range image.NumField() {
			if image.Field(i).IsZero() {
				t.Errorf("an image's %s is not read", image.Type().Field(i).Name)
			}
		}
	}
	for _, bad := range []string{`7`, `{"allowed": "yes"}`, `{"images": {}}`, `{"images": [{"rule": 1.5}]}`, `{"images": [{"max_cvss": "9"}]}`, `{"new": 1}`, `{"images": [{"new": 1}]}`, `{"warnings": [1]}`, `{"revisions": []}`, `{"override": {"new": "x"}}`, `{"override": 1}`} {
		if _, err := decisionOf(ast.MustParseTerm(bad).Value); !errors.Is(err, ErrEvaluation) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
