package daemon_test

import (
	"fmt"
	"strings"
	"testing"
)

// A node claims images, reports what runs and what changed, and is seen.
func TestNodes(t *testing.T) {
	w := start(t, "", nil)
	claims := func(node string) []any {
		t.Helper()
		return w.want(200, "POST", "/api/v1/claims", fmt.Sprintf(`{"cluster":"eu","node":%q,"digests":[%q]}`, node, digest(1)))["items"].([]any)
	}
	state := func(list []any) any { return list[0].(map[string]any)["state"] }
	if got := state(claims("n1")); got != "scan" {
		t.Errorf("the first is told %v", got)
	}
	if got := state(claims("n2")); got != "claimed" {
		t.Errorf("the second is told %v", got)
	}
	w.want(204, "DELETE", "/api/v1/claims", fmt.Sprintf(`{"cluster":"eu","node":"n1","digests":[%q]}`, digest(1)))
	if got := state(claims("n2")); got != "scan" {
		t.Errorf("after it was given back: %v", got)
	}
	w.want(422, "POST", "/api/v1/claims", `{"cluster":"","node":"","digests":["x"]}`)

	one := fmt.Sprintf(`{"namespace":"web","pod":"p","container":"c","image":"nginx:1","digest":%q}`, digest(1))
	change := func(status, sequence int, set, removed string) {
		t.Helper()
		w.want(status, "POST", "/api/v1/instances/changes", fmt.Sprintf(`{"cluster":"eu","node":"n1","epoch":"e","sequence":%d,"set":[%s],"removed":[%s]}`, sequence, set, removed))
	}
	change(409, 1, one, "")
	w.want(204, "PUT", "/api/v1/instances", `{"cluster":"eu","node":"n1","epoch":"e","sequence":0,"instances":[]}`)
	change(204, 1, one, "")
	change(204, 1, one, "")
	change(204, 1, "", "")
	change(409, 3, one, "")
	w.want(422, "POST", "/api/v1/instances/changes", `{"cluster":"eu","node":"","epoch":"","sequence":-1,"set":[{"image":":"}],"removed":[]}`)
	if got := len(w.want(200, "GET", "/api/v1/instances?cluster=eu", "")["items"].([]any)); got != 1 {
		t.Errorf("%d run", got)
	}
	cluster := w.want(200, "GET", "/api/v1/clusters", "")["items"].([]any)[0].(map[string]any)
	if cluster["name"] != "eu" || cluster["nodes"] != 1.0 || cluster["count"] != 1.0 || cluster["stale"] != false {
		t.Errorf("the cluster is %v", cluster)
	}
	if _, _, metrics := w.send("GET", "/metrics", w.admin, nil, nil); !strings.Contains(string(metrics), `assay_cluster_last_heard_timestamp_seconds{cluster="eu"}`) {
		t.Error("the metrics do not tell of the cluster")
	}
	w.want(204, "DELETE", "/api/v1/clusters/eu", "")
	w.want(404, "DELETE", "/api/v1/clusters/eu", "")

	// A token of one cluster speaks of no other.
	scoped := w.want(201, "POST", "/api/v1/tokens", `{"name":"us","role":"node","scope":"cluster=us"}`)["token"].(string)
	for path, body := range map[string]string{"/api/v1/claims": `{"cluster":"eu","node":"n","digests":[]}`, "/api/v1/instances/changes": `{"cluster":"eu","node":"n","epoch":"e","sequence":1,"set":[],"removed":[]}`} {
		if status, _, _ := w.send("POST", path, scoped, map[string]string{"Content-Type": "application/json"}, []byte(body)); status != 403 {
			t.Errorf("%s of another cluster: %d", path, status)
		}
	}
}
