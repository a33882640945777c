package webhook

import (
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Images that are not judged, for their kind, namespace or place, are counted and logged; what the
// lifecycle of an object lets through is none of them.
func TestNotJudged(t *testing.T) {
	const settings = allowAll + `---
apiVersion: assay.dev/v1alpha1
kind: AdmissionSettings
metadata: {name: default}
spec: {customKinds: [{apiGroup: example.com, kind: Fleet, podTemplatePath: spec.template}]}
`
	const (
		one  = `{"containers":[{"name":"c","image":"nginx"}]}`
		task = `{"steps":[{"image":"a"},{"image":"b"}]}`
		both = `{"template":{"spec":` + one + `},"extra":{"containers":[{"image":"c"}]}}`
	)
	for _, c := range []struct {
		op, group, kind, namespace, spec string
		want                             int
		why                              string
	}{
		{"CREATE", "", "Pod", "shop", one, 0, ""},
		{"CREATE", "", "Pod", "kube-system", one, 1, "namespace kube-system is excluded by AdmissionSettings"},
		{"CREATE", "tekton.dev", "Task", "shop", task, 2, "kind tekton.dev/Task is not judged"},
		{"UPDATE", "tekton.dev", "Task", "shop", task, 2, "kind tekton.dev/Task is not judged"},
		{"DELETE", "tekton.dev", "Task", "shop", task, 0, ""},
		{"CREATE", "example.com", "Fleet", "shop", both, 1, "its kind is judged by other paths"},
		{"CREATE", "example.com", "Fleet", "kube-system", both, 2, "namespace kube-system is excluded by AdmissionSettings"},
		{"CREATE", "", "ConfigMap", "shop", `{}`, 0, ""},
	} {
		a, decided := admission(t, settings)
		text := fmt.Sprintf(`{"request":{"uid":"u1","kind":{"group":%q,"version":"v1","kind":%q},"operation":%q,"namespace":%q,"name":"p","userInfo":{"username":"jane"},"object":{"metadata":{"name":"p"},"spec":%s}}}`,
			c.group, c.kind, c.op, c.namespace, c.spec)
		if _, r := ask(t, a, "POST", text); !r.Allowed {
			t.Fatalf("%+v: %+v", c, r.Result)
		}
		d := (*decided)[0]
		if left := d.NotJudged; (left == nil) != (c.want == 0) || left != nil && (len(left.Images) != c.want || left.Reason != c.why) {
			t.Errorf("%+v: %+v", c, left)
		}
		records := Records{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
		records.Start(prometheus.NewRegistry())
		records.Add(d)
		if got := testutil.ToFloat64(records.notJudged); got != float64(c.want) {
			t.Errorf("%+v: the metric says %v", c, got)
		}
	}
}
