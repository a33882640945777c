package daemon_test

import (
	"strings"
	"testing"
)

// A review, and a record's flat one, are decided for their own moment; what is read of them is
// all that they need.
func TestReviewsOfTheAPI(t *testing.T) {
	w := start(t, "", nil)
	const flat = `{"schema":"assay.dev/review/v1","now":"2026-01-31T00:00:00.000000000Z","operation":"CREATE","group":"","kind":"Pod","subresource":"","namespace":"n","name":"p","labels":{},"namespaceLabels":{},"user":"u","owner":null,"hasOld":false,"oldDeleting":false,"templateChanged":false,"containers":[],"oldImages":[],"malformed":[]}`
	at := strings.Replace(pod, "{", `{"now":"2026-01-31T00:00:00Z",`, 1)
	for body, path := range map[string]string{at: "/api/v1/admit", flat: "/api/v1/admit"} {
		if d := w.want(200, "POST", path, body); d["now"] != "2026-01-31T00:00:00.000000000Z" {
			t.Errorf("%v", d)
		}
	}
	if d := w.want(200, "POST", "/api/v1/explain", at); d["decision"].(map[string]any)["now"] != "2026-01-31T00:00:00.000000000Z" {
		t.Errorf("%v", d)
	}
	if d := w.want(200, "POST", "/api/v1/admit", pod); d["now"] == "2026-01-31T00:00:00.000000000Z" {
		t.Errorf("without a moment: %v", d)
	}
	for name, body := range map[string]string{
		"no moment":                   strings.Replace(pod, "{", `{"now":"yesterday",`, 1),
		"another version":             strings.Replace(pod, "admission.k8s.io/v1", "admission.k8s.io/v2", 1),
		"another schema":              strings.Replace(pod, "{", `{"schema":"x",`, 1),
		"two reviews":                 pod + pod,
		"a flat one without images":   strings.Replace(flat, `"containers":[],`, "", 1),
		"a flat one of another width": strings.Replace(flat, "00:00:00.000000000Z", "00:00:00Z", 1),
	} {
		for _, path := range []string{"/api/v1/admit", "/api/v1/explain"} {
			if status, _, text := w.send("POST", path, w.admin, nil, []byte(body)); status != 422 {
				t.Errorf("%s %s: %d %s", name, path, status, text)
			}
		}
	}
	// Of other bodies, too, nothing is left unread.
	for path, body := range map[string]string{"/api/v1/scans": report("nginx:1", 1, clock, nil), "/api/v1/classify": `{"image":"nginx:1"}`} {
		for _, more := range []string{"}", "]", body, "x", "null"} {
			if status, _, text := w.send("POST", path, w.admin, nil, []byte(body+more)); status != 400 {
				t.Errorf("%s with %.20q behind: %d %s", path, more, status, text)
			}
		}
	}
	if d := w.want(200, "POST", "/api/v1/admit", strings.Replace(pod, `"operation": "CREATE",`, "", 1)); d["allowed"] != false || !strings.Contains(d["message"].(string), "malformed: the operation") {
		t.Errorf("without an operation: %v", d)
	}
}
