package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// audited are the entries of the audit log, the newest first.
func (w *world) audited(query string) (list []store.AuditEntry) {
	w.t.Helper()
	status, _, text := w.send("GET", "/api/v1/audit"+query, w.admin, nil, nil)
	var items struct {
		Items []store.AuditEntry `json:"items"`
	}
	if err := json.Unmarshal(text, &items); err != nil || status != 200 {
		w.t.Fatalf("the audit log: %d %v %s", status, err, text)
	}
	return items.Items
}

// Each route that changes something tells the audit log in the same transaction, or its
// description says why it does not: a new one is missing here, and fails.
func TestAudit(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		folder := policiesFolder(t)
		w := start(t, url(), func(c *daemon.Config) { c.Source = source.Folder{Path: folder, Log: c.Log} })
		w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
		w.want(204, "PUT", "/api/v1/instances", `{"cluster":"gone","node":"n","instances":[]}`)
		ended := w.want(201, "POST", "/api/v1/tokens", `{"name":"to be ended","role":"viewer"}`)
		exception := func(name string) string {
			return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`, name)
		}
		job := func() (id string) { // one that was tried again is another from then on
			w.until("a job", func() bool {
				_, _, text := w.send("GET", "/api/v1/jobs?kind=retain", w.admin, nil, nil)
				var list struct{ Items []jobs.Job }
				if err := json.Unmarshal(text, &list); err != nil {
					t.Fatal(err)
				}
				if len(list.Items) > 0 {
					id = fmt.Sprint(list.Items[0].ID)
				}
				return id != ""
			})
			return id
		}
		type change struct {
			method, path, body   string
			status               int
			action, kind, name   string
			before, after, never string // what each side holds
		}
		changes := []change{
			{"POST", "/exceptions", exception("e1"), 201, "add", "exception", "e1", "", `"justification":"x"`, ""},
			{"PUT", "/exceptions/{name}", exception("e1"), 200, "replace", "exception", "e1", `"name":"e1"`, `"name":"e1"`, ""},
			{"DELETE", "/exceptions/{name}", "", 204, "remove", "exception", "e1", `"name":"e1"`, "", ""},
			{"POST", "/imports/exceptions", "CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-0001,,,,why,any\n", 200, "import", "exception", "", "", `"justification":"why"`, ""},
			{"PUT", "/thresholds", `{"warn":3,"fail":7}`, 200, "set", "thresholds", "default", "", `"fail":7`, ""},
			{"PUT", "/thresholds", `{"warn":3,"fail":8}`, 200, "set", "thresholds", "default", `"fail":7`, `"fail":8`, ""},
			{"PUT", "/runtime-view", `{"enabled":false}`, 200, "set", "setting", "runtime-view", "", "false", ""},
			{"PUT", "/images/{digest}/dismissed", `{"dismissed":true}`, 200, "dismiss", "image", digest(1), `"dismissed":false`, `"dismissed":true`, ""},
			{"DELETE", "/images/{digest}", "", 204, "remove", "image", digest(1), "nginx:1", "", ""},
			{"DELETE", "/clusters/{name}", "", 204, "remove", "cluster", "gone", "", "", ""},
			{"POST", "/jobs/{id}/retry", "", 200, "retry", "job", "", `"kind":"`, "", ""},
			{"POST", "/jobs/{id}/cancel", "", 200, "cancel", "job", "", `"kind":"`, "", ""},
			{"POST", "/tokens", `{"name":"made","role":"scanner","scope":"all"}`, 201, "add", "token", "", "", `"role":"scanner"`, "assay_"},
			{"DELETE", "/tokens/{id}", "", 204, "end", "token", fmt.Sprintf("%v to be ended", ended["id"]), "", `"revoked":"`, "assay_"},
		}
		var described struct {
			Paths map[string]map[string]struct {
				Description string `json:"description"`
			} `json:"paths"`
		}
		if _, _, text := w.send("GET", "/api/v1/openapi.json", "", nil, nil); json.Unmarshal(text, &described) != nil {
			t.Fatalf("the description: %s", text)
		}
		tried, silent := map[string]bool{}, 0
		for _, c := range changes {
			tried[strings.ToLower(c.method)+" /api/v1"+c.path] = true
		}
		for _, decided := range []string{"approve", "refuse"} { // TestApproval has these
			tried["post /api/v1/exception-requests/{id}/"+decided] = true
		}
		for path, methods := range described.Paths {
			for method, op := range methods {
				switch why, isSilent := strings.CutPrefix(op.Description[strings.LastIndex(op.Description, ". ")+2:], "Not in the audit log: "); {
				case method == "get":
				case isSilent && len(why) > 10:
					silent++
				case !tried[method+" "+path]:
					t.Errorf("%s %s changes something, and no test sees it in the audit log", method, path)
				}
			}
		}
		if silent > 20 {
			t.Errorf("%d routes tell the audit log nothing", silent)
		}
		for _, c := range changes {
			id := fmt.Sprint(ended["id"])
			if c.kind == "job" {
				id = job()
				c.name = id + " retain"
			}
			path := "/api/v1" + strings.NewReplacer("{name}", c.name, "{digest}", digest(1), "{id}", id).Replace(c.path)
			newest := int64(0)
			if list := w.audited("?limit=1"); len(list) > 0 {
				newest = list[0].ID
			}
			w.want(c.status, c.method, path, c.body)
			e := w.audited("?limit=1")[0]
			if e.ID <= newest || e.Action != c.action || e.Kind != c.kind || c.name != "" && e.Name != c.name || e.Who != "first administrator" || e.Via != "store" || e.Address != "127.0.0.1" || e.At == "" {
				t.Errorf("%s %s: the audit log says %+v", c.method, c.path, e)
			}
			if !strings.Contains(string(e.Before), c.before) || !strings.Contains(string(e.After), c.after) {
				t.Errorf("%s %s: from %s to %s", c.method, c.path, e.Before, e.After)
			}
			if c.never != "" && strings.Contains(string(e.Before)+string(e.After), c.never) {
				t.Errorf("%s %s: a secret is in %+v", c.method, c.path, e)
			}
		}
		// What fails leaves no entry.
		n := len(w.audited("?limit=1000"))
		w.want(404, "DELETE", "/api/v1/exceptions/none", "")
		w.want(422, "PUT", "/api/v1/thresholds", `{"warn":8,"fail":7}`)
		w.want(404, "DELETE", "/api/v1/tokens/4711", "")
		w.want(404, "DELETE", "/api/v1/clusters/none", "")
		w.want(404, "POST", "/api/v1/jobs/9223372036854775807/cancel", "")
		w.want(404, "POST", "/api/v1/jobs/471100/retry", "")
		w.want(200, "POST", "/api/v1/imports/exceptions?dryRun=true", "CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-0009,,,,why,any\n")
		if again := len(w.audited("?limit=1000")); again != n {
			t.Errorf("%d entries became %d", n, again)
		}
		// Pages, filters and exports.
		if list := w.audited("?kind=thresholds"); len(list) != 2 {
			t.Errorf("of thresholds: %v", list)
		}
		if list := w.audited("?who=nobody"); len(list) != 0 {
			t.Errorf("of nobody: %v", list)
		}
		if list := w.audited("?until=2020-01-01T00:00:00Z"); len(list) != 0 {
			t.Errorf("of long ago: %v", list)
		}
		first := w.audited("?limit=3")
		if rest := w.audited(fmt.Sprintf("?limit=1000&before=%d", first[2].ID)); len(rest) != n-3 {
			t.Errorf("the rest: %d of %d", len(rest), n)
		}
		if list := w.audited("?kind=policies"); len(list) != 1 || list[0].Via != "" || list[0].After == nil {
			t.Errorf("the policies: %v", list)
		}
		if status, header, text := w.send("GET", "/api/v1/exports/audit.csv?kind=exception", w.admin, nil, nil); status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") || strings.Count(string(text), "\n") != 5 {
			t.Errorf("the export: %d %s", status, text)
		}
		if status, _, text := w.send("GET", "/api/v1/exports/audit.json?kind=exception", w.admin, nil, nil); status != 200 || strings.Count(string(text), `"action"`) != 4 || !json.Valid(text) {
			t.Errorf("the export: %d %s", status, text)
		}
		// Only administrators read it.
		viewer := w.want(201, "POST", "/api/v1/tokens", `{"name":"v","role":"editor"}`)["token"].(string)
		for _, path := range []string{"audit", "exports/audit.csv", "exports/audit.json"} {
			if status, _, _ := w.send("GET", "/api/v1/"+path, viewer, nil, nil); status != http.StatusForbidden {
				t.Errorf("an editor reads %s: %d", path, status)
			}
		}
	})
}

// Every other route that is served and not read, those of the pages, tells the audit log too, or is named here
// with the reason why it does not.
func TestPagesAreAudited(t *testing.T) {
	w := start(t, "", nil)
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
	w.want(201, "POST", "/api/v1/exceptions", `{"metadata":{"name":"gone"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
	ended := fmt.Sprint(w.want(201, "POST", "/api/v1/tokens", `{"name":"to be ended","role":"viewer"}`)["id"])
	silent := map[string]string{
		"POST /signin":        "a session is its user's own",
		"POST /signout":       "a session is its user's own",
		"POST /views":         "a list of addresses is its user's own",
		"POST /alerts/test":   "it changes nothing",
		"POST /policies/test": "it changes nothing",
	}
	forms := map[string]struct {
		form         url.Values
		action, kind string
	}{
		"POST /images":              {url.Values{"id": {digest(1)}, "action": {"dismiss"}}, "dismiss", "image"},
		"POST /exceptions/new":      {url.Values{"cve": {"CVE-2026-0002"}, "scope": {"any"}, "justification": {"because"}, "do": {"save"}}, "add", "exception"},
		"POST /exceptions/delete":   {url.Values{"id": {"gone"}}, "remove", "exception"},
		"POST /exceptions/import":   {url.Values{"text": {"CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-0003,,,,why,any\n"}, "name": {"e.csv"}, "do": {"save"}}, "import", "exception"},
		"POST /settings/thresholds": {url.Values{"warn": {"1"}, "fail": {"2"}, "do": {"save"}}, "set", "thresholds"},
		"POST /settings/runtime":    {url.Values{"do": {"off"}}, "set", "setting"},
		"POST /settings/tokens":     {url.Values{"name": {"made"}, "role": {"viewer"}}, "add", "token"},
		"POST /settings/tokens/end": {url.Values{"id": {ended}}, "end", "token"},
	}
	routes, err := daemon.Routes()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, pattern := range slices.Sorted(maps.Keys(routes)) {
		method, path, _ := strings.Cut(pattern, " ")
		if method == "GET" || strings.HasPrefix(path, "/api/v1/") { // TestAudit has these
			continue
		}
		f, ok := forms[pattern]
		if silent[pattern] != "" && !ok {
			continue
		}
		if !ok {
			t.Errorf("%s may change something: it is not seen in the audit log, and no reason is given", pattern)
			continue
		}
		tried++
		newest := w.audited("?limit=1")
		body, kind := []byte(f.form.Encode()), "application/x-www-form-urlencoded"
		if pattern == "POST /exceptions/import" { // it has a file
			var parts bytes.Buffer
			m := multipart.NewWriter(&parts)
			for name, values := range f.form {
				if err := m.WriteField(name, values[0]); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			body, kind = parts.Bytes(), m.FormDataContentType()
		}
		_, _, text := w.send(method, path, w.admin, map[string]string{"Content-Type": kind, "Accept": "text/html"}, body)
		e := w.audited("?limit=1")[0]
		if len(newest) > 0 && e.ID <= newest[0].ID || e.Action != f.action || e.Kind != f.kind || e.Who != "first administrator" || e.Address != "127.0.0.1" {
			t.Errorf("%s: the audit log says %+v: %.2000s", pattern, e, text)
		}
	}
	if tried != len(forms) {
		t.Errorf("%d forms of %d are served", tried, len(forms))
	}
}

// With approval on, no way puts an exception in force by oneself.
func TestApproval(t *testing.T) {
	w := start(t, "", func(c *daemon.Config) { c.ApproveExceptions = auth.Editor })
	token := func(name, role string) string {
		t.Helper()
		return w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":%q,"role":%q}`, name, role))["token"].(string)
	}
	alice, bob, viewer := token("alice", "editor"), token("bob", "editor"), token("carol", "viewer")
	alsoAlice := token("alice", "admin")
	as := func(who string, want int, method, path, body string) map[string]any {
		t.Helper()
		admin := w.admin
		defer func() { w.admin = admin }()
		w.admin = who
		return w.want(want, method, path, body)
	}
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
	result := func() string {
		t.Helper()
		return w.want(200, "POST", "/api/v1/classify", fmt.Sprintf(`{"image":"nginx:1","digest":%q}`, digest(1)))["result"].(string)
	}
	spec := `{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`
	ids := []any{
		as(alice, 202, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e1"},`+spec[1:])["request"],
		as(alice, 202, "PUT", "/api/v1/exceptions/e2", spec)["request"],
		as(alice, 202, "POST", "/api/v1/imports/exceptions", "CVE,Registry,Repository,Tags,Justification,Scope\nCVE-2026-0001,,,,why,any\n")["requests"].([]any)[0],
		as(alice, 202, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e4"},`+spec[1:])["request"],
	}
	for i, id := range ids {
		if id == nil {
			t.Fatalf("way %d makes no request", i)
		}
	}
	if list := w.want(200, "GET", "/api/v1/exceptions", "")["items"].([]any); len(list) != 0 || result() != "Fail" {
		t.Fatalf("requests are in force: %v, %s", list, result())
	}
	at := func(id any, do string) string { return fmt.Sprintf("/api/v1/exception-requests/%v/%s", id, do) }
	yes := `{"reason":"looked at it"}`
	as(alice, 403, "POST", at(ids[0], "approve"), yes)
	as(alsoAlice, 403, "POST", at(ids[0], "approve"), yes)
	as(viewer, 403, "POST", at(ids[0], "approve"), yes)
	as(bob, 422, "POST", at(ids[0], "approve"), `{"reason":" "}`)
	as(bob, 404, "POST", at(4711, "approve"), yes)
	if result() != "Fail" {
		t.Error("a refused approval counts")
	}
	as(bob, 200, "POST", at(ids[3], "refuse"), `{"reason":"no"}`)
	as(bob, 409, "POST", at(ids[3], "approve"), yes)
	if got := as(bob, 200, "POST", at(ids[0], "approve"), yes); got["state"] != "approved" || got["decider"] != "bob" || got["requester"] != "alice" {
		t.Errorf("approved: %v", got)
	}
	as(bob, 409, "POST", at(ids[0], "refuse"), `{"reason":"again"}`)
	if result() != "Pass" {
		t.Errorf("the approved exception: %s", result())
	}
	if list := w.want(200, "GET", "/api/v1/exception-requests?state=pending", "")["items"].([]any); len(list) != 2 {
		t.Errorf("pending: %v", list)
	}
	// What stands is replaced by the approval alone, and removed without one.
	as(alice, 202, "PUT", "/api/v1/exceptions/e1", `{"spec":{"cve":"CVE-2026-0002","scope":"any","justification":"other"}}`)
	if result() != "Pass" {
		t.Error("a request took the exception away")
	}
	as(alice, 409, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e1"},`+spec[1:])
	as(alice, 204, "DELETE", "/api/v1/exceptions/e1", "")
	if result() != "Fail" {
		t.Error("the removed exception is in force")
	}
	var actions []string
	for _, e := range w.audited("?kind=exception-request") {
		actions = append(actions, e.Who+" "+e.Action)
	}
	if got := strings.Join(actions, ", "); got != "alice request, bob approve, bob refuse, alice request, alice request, alice request, alice request" {
		t.Errorf("the audit log: %s", got)
	}
}

// Requests are decided by the role that the server was told, and no less.
func TestApprovalByAdmins(t *testing.T) {
	w := start(t, "", func(c *daemon.Config) { c.ApproveExceptions = auth.Admin })
	bob := w.want(201, "POST", "/api/v1/tokens", `{"name":"bob","role":"editor"}`)["token"].(string)
	alice := w.want(201, "POST", "/api/v1/tokens", `{"name":"alice","role":"editor"}`)["token"].(string)
	_, _, text := w.send("POST", "/api/v1/exceptions", alice, nil, []byte(`{"metadata":{"name":"e"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`))
	if !strings.Contains(string(text), `"request":1`) {
		t.Fatalf("the request: %s", text)
	}
	if status, _, text := w.send("POST", "/api/v1/exception-requests/1/approve", bob, nil, []byte(`{"reason":"x"}`)); status != 403 {
		t.Errorf("an editor approves: %d %s", status, text)
	}
	c, err := client.New(client.Config{URL: w.base, Token: w.admin})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := c.ExceptionRequests(t.Context(), "pending"); err != nil || len(list) != 1 || list[0].Requester != "alice" || list[0].Exception.Spec.CVE != "CVE-2026-0001" {
		t.Fatalf("pending: %v %v", list, err)
	}
	if got, err := c.DecideException(t.Context(), 1, true, "looked at it"); err != nil || got.State != "approved" || got.Reason != "looked at it" {
		t.Errorf("approved: %+v %v", got, err)
	}
	if _, err := c.DecideException(t.Context(), 1, false, "x"); err == nil || !strings.Contains(err.Error(), "approved by") {
		t.Errorf("approved, and then refused: %v", err)
	}
	if list, err := c.ExceptionRequests(t.Context(), ""); err != nil || len(list) != 1 {
		t.Errorf("all: %v %v", list, err)
	}
}

// A first token that cannot be written is none: the next start makes one.
func TestFirstToken(t *testing.T) {
	data := t.TempDir()
	file := filepath.Join(data, daemon.AdminToken)
	if err := os.Mkdir(file, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := daemon.Config{Data: data, Listener: l, Log: slog.New(slog.DiscardHandler)}
	if err := daemon.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), daemon.AdminToken) {
		t.Fatalf("it starts without its token: %v", err)
	}
	s := storetest.Open(t, filepath.Join(data, "assay.db"), nil)
	if list, err := s.Tokens(t.Context()); err != nil || len(list) != 0 {
		t.Fatalf("a token that nobody has: %v %v", list, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w := start(t, "", func(c *daemon.Config) { c.Data = data })
	w.want(200, "GET", "/api/v1/tokens", "")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v %v", info, err)
	}
}
