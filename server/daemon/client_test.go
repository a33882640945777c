package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// Every route of the description is asked through the client: by the method that the client has for it,
// or by Call and Open, which have all.
func TestEveryRouteThroughTheClient(t *testing.T) {
	storetest.Run(t, func(t *testing.T, database func() string) {
		w := start(t, database(), func(c *daemon.Config) {
			c.Source = source.Folder{Path: policiesFolder(t), Log: c.Log}
			c.ApproveExceptions = auth.Editor
			c.ScanImages = []string{"registry.invalid/shop"}
		})
		c, err := client.New(client.Config{URL: w.base, Token: w.admin, Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		other, err := client.New(client.Config{URL: w.base, Token: w.want(201, "POST", "/api/v1/tokens", `{"name":"other","role":"editor"}`)["token"].(string), Attempts: 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx := t.Context()
		var review map[string]any
		if err := json.Unmarshal([]byte(pod), &review); err != nil {
			t.Fatal(err)
		}
		type object = map[string]any
		exception := func(name string) object {
			return object{"metadata": object{"name": name}, "spec": object{"cve": "CVE-2026-0001", "scope": "any", "justification": "j"}}
		}
		asked := map[string]bool{}
		// call asks a route by Call, with path values in the place of {…}.
		call := func(c *client.Client, method, pattern string, query url.Values, body, answer any, values ...string) {
			t.Helper()
			asked[method+" "+pattern] = true
			path := pattern
			for _, v := range values {
				a, b := strings.Index(path, "{"), strings.Index(path, "}")
				path = path[:a] + url.PathEscape(v) + path[b+1:]
			}
			if err := c.Call(ctx, method, path, query, body, answer); err != nil {
				t.Errorf("%s %s: %v", method, pattern, err)
			}
		}
		// through notes that a method of the client asked a route.
		through := func(route string, err error) {
			t.Helper()
			asked[route] = true
			if err != nil {
				t.Errorf("%s: %v", route, err)
			}
		}
		open := func(path string, bytes int) string {
			t.Helper()
			asked["GET "+path] = true
			ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
			defer cancel()
			r, err := c.Open(ctx, path, nil)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				return ""
			}
			defer r.Close()
			text := make([]byte, bytes)
			n, err := io.ReadFull(r, text)
			if n == 0 || err != nil && err != io.ErrUnexpectedEOF {
				t.Errorf("%s: %d bytes, %v", path, n, err)
			}
			return string(text[:n])
		}

		// What scanners, nodes and webhooks send.
		var scans api.ScanReport
		if err := json.Unmarshal([]byte(report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8})), &scans); err != nil {
			t.Fatal(err)
		}
		uploaded, err := c.Scans(ctx, scans)
		if through("POST /scans", err); len(uploaded) != 1 || uploaded[0].Result != api.Fail {
			t.Errorf("uploaded: %+v", uploaded)
		}
		through("POST /sboms", c.SBOM(ctx, "registry.example.com/shop/web:1", digest(2), []byte(`{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"components":[{"type":"library","name":"left-pad","version":"1.1.0","purl":"pkg:npm/left-pad@1.1.0"}]}`)))
		node := client.Claims{Cluster: "prod", Node: "n1", Digests: []string{digest(3)}}
		_, err = c.Claims(ctx, node)
		through("POST /claims", err)
		through("DELETE /claims", c.ReleaseClaims(ctx, node))
		container := client.Instance{Namespace: "web", Pod: "p", Container: "c", Image: "nginx:1", Digest: digest(1)}
		through("PUT /instances", c.PutInstances(ctx, client.Instances{Cluster: "prod", Node: "n1", Epoch: "e", Instances: []client.Instance{container}}))
		through("POST /instances/changes", c.ChangeInstances(ctx, client.InstanceChanges{Cluster: "prod", Node: "n1", Epoch: "e", Sequence: 1, Set: []client.Instance{}, Removed: []client.InstanceKey{{Namespace: "web", Pod: "p", Container: "c"}}}))
		var decision api.Decision
		if call(c, "POST", "/admit", nil, review, &decision); decision.Allowed || decision.Message == "" {
			t.Errorf("decision: %+v", decision)
		}
		through("POST /decisions", c.Decisions(ctx, []api.AdmissionRecord{}))

		// What is read.
		scan, err := c.Image(ctx, "nginx:1", digest(1))
		if through("GET /images/{digest}", err); scan == nil || scan.Result != api.Fail {
			t.Errorf("scan: %+v", scan)
		}
		for _, pattern := range []string{"/version", "/database", "/openapi.json", "/images", "/counts", "/priorities", "/vulnerabilities", "/new-vulnerabilities", "/trend", "/views", "/packages", "/instances",
			"/events", "/clusters", "/namespaces", "/registries", "/exceptions", "/thresholds", "/runtime-view", "/policies", "/alerts", "/alerts/rules", "/alerts/deliveries", "/decisions", "/tokens", "/jobs", "/audit"} {
			var answer any
			if call(c, "GET", pattern, nil, nil, &answer); answer == nil {
				t.Errorf("GET %s: no answer", pattern)
			}
		}
		var images store.List[store.Image]
		if call(c, "GET", "/images", url.Values{"result": {"Fail"}}, nil, &images); len(images.Items) != 1 || images.Items[0].Image != "docker.io/library/nginx:1" {
			t.Errorf("images: %+v", images)
		}
		var names any
		call(c, "GET", "/names", url.Values{"image": {"nginx:1"}}, nil, &names)
		for _, rest := range []string{"/scans", "/priorities"} {
			call(c, "GET", "/images/{digest}"+rest, nil, nil, &names, digest(1))
		}
		var document client.Text
		if call(c, "GET", "/images/{digest}/sbom", nil, nil, &document, digest(2)); !json.Valid(document.Bytes) {
			t.Errorf("SBOM: %.100s", document.Bytes)
		}
		var vulnerability any
		call(c, "GET", "/vulnerabilities/{id}", nil, nil, &vulnerability, "CVE-2026-0001")
		var policy any
		call(c, "GET", "/policies/{name}", nil, nil, &policy, "no-fails")
		for path, want := range map[string]string{"/exports/images.csv": "Regis", "/exports/vulnerabilities.csv": "CVE", "/exports/images.json": "{", "/exports/exceptions.csv": "CVE", "/exports/audit.csv": "ID,At", "/exports/audit.json": "{", "/stream": ":", "/downloads/assay": ""} {
			if text := open(path, 5); !strings.Contains(strings.ToLower(text), strings.ToLower(want[:min(len(want), 5)])) {
				t.Errorf("%s begins with %q", path, text)
			}
		}

		// What is asked.
		var answer any
		call(c, "POST", "/impact", nil, object{"exceptions": []object{exception("e")}}, &answer)
		call(c, "POST", "/policies/test", nil, nil, &answer)
		call(c, "POST", "/classify", nil, object{"image": "nginx:1"}, &answer)
		call(c, "POST", "/explain", nil, review, &answer)
		call(c, "POST", "/alerts/test", nil, object{"rule": "apiVersion: projectcalico.org/v3\nkind: GlobalAlert\nmetadata: {name: a}\nspec: {summary: s, description: d, severity: 100, dataSet: vulnerability, query: 'result = Fail', metric: count, condition: gt, threshold: 0}\n"}, &answer)

		// What people change; another person approves.
		var added server.AddedException
		call(c, "POST", "/exceptions", nil, exception("e1"), &added)
		call(c, "PUT", "/exceptions/{name}", nil, exception("e2"), nil, "e2")
		requests, err := c.ExceptionRequests(ctx, "pending")
		if through("GET /exception-requests", err); len(requests) != 2 {
			t.Fatalf("requests: %+v", requests)
		}
		for i, r := range requests {
			_, err := other.DecideException(ctx, r.ID, i == 0, "because")
			through(map[bool]string{true: "POST /exception-requests/{id}/approve", false: "POST /exception-requests/{id}/refuse"}[i == 0], err)
		}
		approved := requests[0].Exception.Metadata.Name
		var kept api.VulnerabilityException
		if call(c, "GET", "/exceptions/{name}", nil, nil, &kept, approved); kept.Metadata.Name != approved {
			t.Errorf("kept: %+v", kept)
		}
		call(c, "DELETE", "/exceptions/{name}", nil, nil, nil, approved)
		call(c, "POST", "/imports/exceptions", url.Values{"dry_run": {"true"}}, client.Text{Type: "text/csv", Bytes: []byte("CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-0002,,,,why,any\n")}, &answer)
		call(c, "PUT", "/thresholds", nil, object{"warn": 3, "fail": 7}, &answer)
		call(c, "PUT", "/runtime-view", nil, object{"enabled": true}, &answer)
		call(c, "PUT", "/views/{name}", nil, object{"address": "/images?result=Fail"}, nil, "a b/c%")
		call(c, "DELETE", "/views/{name}", nil, nil, nil, "a b/c%")
		call(c, "PUT", "/images/{digest}/dismissed", nil, object{"dismissed": true}, &answer, digest(1))
		call(c, "DELETE", "/images/{digest}", nil, nil, nil, digest(1))
		call(c, "DELETE", "/clusters/{name}", nil, nil, nil, "prod")
		through("POST /scan-requests", c.RequestScans(ctx, []string{"registry.invalid/shop/web:1"}))
		var made struct {
			ID int64 `json:"id"`
		}
		call(c, "POST", "/tokens", nil, object{"name": "made", "role": "scanner", "scope": "all"}, &made)
		call(c, "DELETE", "/tokens/{id}", nil, nil, nil, fmt.Sprint(made.ID))
		for _, do := range []string{"retry", "cancel"} { // one that was tried again is another from then on
			id := ""
			w.until("a job", func() bool {
				var list struct {
					Items []struct {
						ID json.Number `json:"id"`
					} `json:"items"`
				}
				call(c, "GET", "/jobs", url.Values{"kind": {"retain"}}, nil, &list)
				if len(list.Items) > 0 {
					id = list.Items[0].ID.String()
				}
				return id != ""
			})
			call(c, "POST", "/jobs/{id}/"+do, nil, nil, &answer, id)
		}

		var described struct {
			Paths map[string]map[string]any `json:"paths"`
		}
		if err := c.Call(ctx, http.MethodGet, "/openapi.json", nil, nil, &described); err != nil {
			t.Fatal(err)
		}
		n := 0
		for path, methods := range described.Paths {
			for method := range methods {
				n++
				if route := strings.ToUpper(method) + " " + strings.TrimPrefix(path, "/api/v1"); !asked[route] {
					t.Errorf("%s is not asked through the client", route)
				}
			}
		}
		if n < 70 || n != len(asked) {
			t.Errorf("%d routes, and %d were asked", n, len(asked))
		}

		// What is refused says why, by either way.
		var refused *client.Error
		if err := c.Call(ctx, "PUT", "/thresholds", nil, object{"warn": 8, "fail": 7}, nil); !errors.As(err, &refused) || refused.Status != 422 {
			t.Errorf("bad thresholds: %v", err)
		}
		if _, err := c.Open(ctx, "/exports/nothing", nil); !errors.As(err, &refused) || refused.Status != 404 {
			t.Errorf("no such export: %v", err)
		}
	})
}
