package daemon_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// world is a server of a test, and a client of it that holds each answer against the
// description.
type world struct {
	t     *testing.T
	base  string
	admin string
	data  string
	log   *lines
	stop  func()
	paths routers.Router
}

// lines is what a server logs.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}
func (l *lines) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.text.String() }

// start runs a server until the test ends; with gives its configuration more.
func start(t *testing.T, database string, with func(*daemon.Config)) *world {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, base: "http://" + l.Addr().String(), data: t.TempDir(), log: &lines{}}
	databases, err := vulndb.New(vulndb.Config{Dir: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	c := daemon.Config{Scans: daemon.Scans{Command: scanCommand()}, Data: w.data, Database: database, Listener: l, Vulnerabilities: databases, Version: "test",
		Log: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if with != nil {
		with(&c)
		w.base = "http://" + c.Listener.Addr().String()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- daemon.Run(ctx, c) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	t.Cleanup(w.stop)
	deadline := time.Now().Add(3 * time.Minute)
	for {
		r, err := http.Get(w.base + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case err := <-done:
			done <- nil // for who stops it
			t.Fatalf("it ended: %v\n%s", err, w.log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready\n%s", w.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if secret, err := os.ReadFile(filepath.Join(c.Data, daemon.AdminToken)); err == nil {
		w.admin = strings.TrimSpace(string(secret))
	}
	_, _, text := w.send("GET", "/api/v1/openapi.json", "", nil, nil)
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		t.Fatal(err)
	}
	doc.Servers = openapi3.Servers{{URL: w.base}}
	if w.paths, err = gorillamux.NewRouter(doc); err != nil {
		t.Fatal(err)
	}
	return w
}

// send sends a request, and validates the answer.
func (w *world) send(method, path, token string, header map[string]string, body []byte) (status int, h http.Header, text []byte) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err = io.ReadAll(answer.Body); err != nil {
		w.t.Fatal(err)
	}
	if w.paths != nil && strings.HasPrefix(path, "/api/v1/") {
		if route, params, err := w.paths.FindRoute(r); err == nil {
			in := &openapi3filter.ResponseValidationInput{
				RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
				Status:                 answer.StatusCode, Header: answer.Header, Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
			}
			in.SetBodyBytes(text)
			kind := answer.Header.Get("Content-Type")
			if !strings.HasPrefix(kind, "text/") {
				if err := openapi3filter.ValidateResponse(w.t.Context(), in); err != nil {
					w.t.Errorf("%s %s: the answer is not what the description says: %v", method, path, err)
				}
			}
		}
	}
	return answer.StatusCode, answer.Header, text
}

// want sends as the administrator, and insists on the status.
func (w *world) want(status int, method, path, body string) map[string]any {
	w.t.Helper()
	var in []byte
	header := map[string]string{}
	if body != "" {
		in = []byte(body)
	}
	if strings.HasPrefix(body, "CVE,") {
		header["Content-Type"] = "text/csv"
	}
	got, _, text := w.send(method, path, w.admin, header, in)
	if got != status {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, got, status, text)
	}
	var answer map[string]any
	if len(text) > 0 && text[0] == '{' {
		if err := json.Unmarshal(text, &answer); err != nil {
			w.t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return answer
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n+1) }

var clock = time.Now().Add(-time.Hour).UTC().Truncate(time.Second)

// report is a scan report of one image.
func report(image string, n int, at time.Time, scores map[string]float64) string {
	scan := api.Scan{Image: image, Digest: digest(n), Source: "registry", Platform: "linux/amd64", ScannedAt: at, Packages: 1,
		Database: &api.ScanDatabase{Built: at, Checksum: "xxh64:1"}}
	for id, score := range scores {
		scan.Vulnerabilities = append(scan.Vulnerabilities, api.Vulnerability{ID: id, Package: "openssl", Version: "3.0.1", Type: "deb", CVSS: &score, Severity: "High", PURL: "pkg:deb/debian/openssl@3.0.1"})
	}
	text, err := json.Marshal(api.ScanReport{Schema: api.SchemaScan, Images: []api.Scan{scan}})
	if err != nil {
		panic(err)
	}
	return string(text)
}

const production = `
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: no-fails}
spec:
  rules:
    - action: Reject
      imageScanStatus: {operator: IsOneOf, values: [Fail, Unknown]}
`

const pod = `{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "namespaceLabels": {}, "request": {"uid": "1", "operation": "CREATE",
 "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "default", "name": "p", "userInfo": {"username": "alice"},
 "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}}}`

func policiesFolder(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(production), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What a team does with the server, on either database.
func TestMainFlow(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		folder := policiesFolder(t)
		key, err := signingKey()
		if err != nil {
			t.Fatal(err)
		}
		w := start(t, url(), func(c *daemon.Config) { c.Source, c.Key = source.Folder{Path: folder, Log: c.Log}, key })
		first := w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8, "CVE-2026-0002": 7.5}))
		if got := first["images"].([]any)[0].(map[string]any); got["result"] != "Fail" || got["new"] != true {
			t.Errorf("uploaded: %v", got)
		}
		if again := w.want(200, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8, "CVE-2026-0002": 7.5})); again["images"].([]any)[0].(map[string]any)["new"] != false {
			t.Errorf("uploaded again: %v", again)
		}
		if d := w.want(200, "POST", "/api/v1/admit", pod); d["allowed"] != false || !strings.Contains(d["message"].(string), "CVE-2026-0001") {
			t.Errorf("decision: %v", d)
		}
		w.want(204, "PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":"prod","instances":[{"namespace":"web","pod":"p","container":"c","image":"nginx:1","digest":%q},{"namespace":"web","pod":"q","container":"c","image":"redis:7","digest":%q}]}`, digest(1), digest(2)))
		if list := w.want(200, "GET", "/api/v1/instances?cluster=prod&sort=", ""); len(list["items"].([]any)) != 2 {
			t.Errorf("instances: %v", list)
		}
		if list := w.want(200, "GET", "/api/v1/images?running=true&cve=cve-2026-0001", ""); len(list["items"].([]any)) != 1 {
			t.Errorf("images that run and have the CVE: %v", list)
		}
		w.want(201, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e1"},"spec":{"cve":"CVE-2026-0001","scope":"repo","repository":"nginx","justification":"not reachable"}}`)
		if d := w.want(200, "POST", "/api/v1/admit", pod); d["allowed"] != true {
			t.Errorf("decision after the exception: %v", d)
		}
		view := w.want(200, "GET", "/api/v1/images/"+digest(1), "")
		if scan := view["scan"].(map[string]any); scan["result"] != "Warn" || !strings.Contains(fmt.Sprint(scan["vulnerabilities"]), "not reachable") {
			t.Errorf("image: %v", scan)
		}
		w.want(409, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e1"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
		w.want(200, "PUT", "/api/v1/exceptions/e1", `{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
		w.want(200, "GET", "/api/v1/exceptions/e1", "")
		w.want(204, "DELETE", "/api/v1/exceptions/e1", "")
		w.want(404, "DELETE", "/api/v1/exceptions/e1", "")
		if counts := w.want(200, "GET", "/api/v1/counts", "")["counts"].(map[string]any); counts["Fail"] != 1.0 || counts["Unknown"] != 1.0 {
			t.Errorf("counts: %v", counts)
		}
		const header = "CVE,Registry,Repository,Tags,Justification,Scope\n"
		w.want(200, "POST", "/api/v1/imports/exceptions?dryRun=true", header+"CVE-2026-0001,,,,why,any\n")
		bad := w.want(422, "POST", "/api/v1/imports/exceptions", header+"CVE-2026-0001,,,,why,any\n,,,,why,any\nCVE-2026-0002,,,,,nowhere\n")
		if list := bad["errors"].([]any); len(list) < 2 || list[0].(map[string]any)["line"] != 3.0 {
			t.Errorf("faults of the import: %v", bad)
		}
		if list := w.want(200, "GET", "/api/v1/exceptions", ""); len(list["items"].([]any)) != 0 {
			t.Errorf("a bad import left %v", list)
		}
		w.want(200, "POST", "/api/v1/imports/exceptions", header+"CVE-2026-0001,,,,why,any\n")
		if _, _, text := w.send("GET", "/api/v1/exports/exceptions.csv", w.admin, nil, nil); !strings.Contains(string(text), "CVE-2026-0001") {
			t.Errorf("exceptions: %s", text)
		}
		w.want(200, "PUT", "/api/v1/thresholds", `{"warn":3,"fail":7}`)
		if list := w.want(200, "GET", "/api/v1/images?result=Fail&sort=-score", ""); len(list["items"].([]any)) != 1 {
			t.Errorf("after the threshold: %v", list)
		}
		w.want(422, "PUT", "/api/v1/thresholds", `{"warn":8,"fail":7}`)
		w.want(400, "PUT", "/api/v1/thresholds", `{"wran":8}`)
		if err := os.WriteFile(filepath.Join(folder, "t.yaml"), []byte("apiVersion: assay.dev/v1alpha1\nkind: Thresholds\nmetadata: {name: default}\nspec: {fail: 9.9}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.until("the folder's thresholds", func() bool {
			return strings.HasPrefix(fmt.Sprint(w.want(200, "GET", "/api/v1/thresholds", "")["origin"]), "t.yaml:")
		})
		w.want(409, "PUT", "/api/v1/thresholds", `{"fail":7}`)
		if err := os.WriteFile(filepath.Join(folder, "bad.yaml"), []byte("kind: Nothing\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.until("the refused state", func() bool {
			list := w.want(200, "GET", "/api/v1/policies", "")
			return strings.Contains(fmt.Sprint(list["refused"]), "bad.yaml") && len(list["items"].([]any)) == 1
		})
		if p := w.want(200, "GET", "/api/v1/policies/no-fails?", ""); !strings.Contains(fmt.Sprint(p["rego"]), "hits") {
			t.Errorf("policy: %v", p)
		}
		for _, path := range []string{"/version", "/vulnerabilities", "/vulnerabilities/CVE-2026-0001", "/packages?name=openssl", "/names?image=nginx", "/events?changed=true", "/clusters", "/namespaces",
			"/registries", "/alerts", "/alerts/rules", "/alerts/deliveries", "/decisions", "/tokens", "/jobs", "/images/" + digest(1) + "/scans", "/exports/images.json", "/images?limit=1"} {
			w.want(200, "GET", "/api/v1"+path, "")
		}
		page := w.want(200, "GET", "/api/v1/images?limit=1&sort=image", "")
		if rest := w.want(200, "GET", "/api/v1/images?limit=1&sort=image&after="+page["next"].(string), ""); fmt.Sprint(rest["items"]) == fmt.Sprint(page["items"]) || rest["next"] != nil {
			t.Errorf("second page: %v", rest)
		}
		w.want(400, "GET", "/api/v1/images?sort=score&after="+page["next"].(string), "")
		for path, want := range map[string]string{"images.csv?pods=true": "web,p,c", "vulnerabilities.csv": "CVE-2026-0002", "images.csv": digest(1)} {
			if _, _, text := w.send("GET", "/api/v1/exports/"+path, w.admin, nil, nil); !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %s: %s", path, want, text)
			}
		}
		w.want(204, "POST", "/api/v1/decisions", `{"items":[{"uid":"u1","cluster":"prod","at":"2026-01-01T00:00:00Z","record":{"schema":"assay.dev/record/v1","input":{"schema":"assay.dev/review/v1","now":"x","operation":"CREATE","group":"","kind":"Pod","subresource":"","namespace":"n","name":"p","labels":{},"namespaceLabels":{},"user":"u","owner":null,"hasOld":false,"oldDeleting":false,"templateChanged":false,"containers":[],"oldImages":[],"malformed":[]},"decision":{"kind":"Pod","name":"p","allowed":true,"judged":true,"images":[]}}}]}`)
		if list := w.want(200, "GET", "/api/v1/decisions?cluster=prod", ""); len(list["items"].([]any)) != 1 {
			t.Errorf("decisions: %v", list)
		}
		w.want(200, "PUT", "/api/v1/images/"+digest(1)+"/dismissed", `{"dismissed":true}`)
		if list := w.want(200, "GET", "/api/v1/images?cve=CVE-2026-0001", ""); len(list["items"].([]any)) != 0 {
			t.Errorf("dismissed: %v", list)
		}
		w.want(204, "DELETE", "/api/v1/images/"+digest(1), "")
		w.want(404, "GET", "/api/v1/images/"+digest(1), "")
		if d := w.want(200, "POST", "/api/v1/admit", pod); d["allowed"] != false {
			t.Errorf("decision without the image: %v", d)
		}
		if _, _, text := w.send("GET", "/metrics", w.admin, nil, nil); !strings.Contains(string(text), `assay_images{result="Unknown"}`) {
			t.Errorf("metrics: %s", text)
		}
		if strings.Contains(w.log.String(), w.admin) {
			t.Error("the token is in the log")
		}
	})
}

func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within 3 min", what)
		}
	}
}

func signingKey() (*bundles.SigningKey, error) {
	private, _, err := bundles.GenerateKey()
	if err != nil {
		return nil, err
	}
	return bundles.ParseSigningKey(private)
}

// makeToken makes a token as no request could.
func makeToken(t *testing.T, s *store.Store, k store.Token) (kept store.Token, secret string) {
	t.Helper()
	if err := s.Write(t.Context(), func(tx *store.Tx) (err error) {
		kept, secret, err = server.MakeToken(t.Context(), tx, k)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return kept, secret
}

var inPath = regexp.MustCompile(`\{[a-z.]+\}`)

// Every route refuses who has no credential, a wrong, an ended or a too weak one.
func TestCredentials(t *testing.T) {
	w := start(t, "", func(c *daemon.Config) { c.Auth.FailuresPerMinute = 10_000 })
	s := storetest.Open(t, filepath.Join(w.data, "assay.db"), nil)
	roles := map[string]string{}
	for _, role := range []string{"viewer", "scanner", "node", "webhook", "editor"} {
		_, secret := makeToken(t, s, store.Token{Name: role, Role: role})
		roles[role] = secret
	}
	_, ended := makeToken(t, s, store.Token{Name: "ended", Role: "admin", Expires: "2020-01-01T00:00:00Z"})
	kept, revoked := makeToken(t, s, store.Token{Name: "revoked", Role: "admin"})
	w.want(204, "DELETE", fmt.Sprintf("/api/v1/tokens/%d", kept.ID), "")
	routes := server.New(server.Config{}).Routes()
	routes["GET /metrics"], routes["GET /bundles/{name}"] = auth.Route{Roles: []auth.Role{auth.Viewer}}, auth.Route{Roles: []auth.Role{auth.Viewer, auth.Webhook}}
	tried := 0
	for pattern, route := range routes {
		least := route.Roles
		method, path, _ := strings.Cut(pattern, " ")
		path = inPath.ReplaceAllString(path, "1")
		if least[0] == auth.Public || strings.HasSuffix(path, "/stream") {
			continue
		}
		try := func(what, token string, status int) {
			t.Helper()
			tried++
			if got, h, text := w.send(method, path, token, nil, nil); got != status || h.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s with %s: %d, want %d: %s", pattern, what, got, status, text)
			}
		}
		try("none", "", 401)
		try("an ended one", ended, 401)
		try("a revoked one", revoked, 401)
		for role, token := range roles {
			weak := true
			for _, l := range least {
				weak = weak && !auth.Role(role).Includes(l)
			}
			if weak {
				try("the role "+role, token, 403)
			}
		}
	}
	if got, _, _ := w.send("GET", "/api/v1/images", auth.NewToken(), nil, nil); got != 401 {
		t.Errorf("a wrong token: %d", got)
	}
	if tried < 150 {
		t.Errorf("only %d tries", tried)
	}
	for _, secret := range []string{ended, revoked, w.admin, roles["viewer"]} {
		hash := auth.Hash(secret)
		if log := w.log.String(); strings.Contains(log, secret) || strings.Contains(log, hex.EncodeToString(hash[:])) {
			t.Error("a credential is in the log")
		}
	}
}

// A token with a scope reaches no more than that.
func TestScopes(t *testing.T) {
	w := start(t, "", nil)
	token := func(role, scope string) string {
		t.Helper()
		return w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","role":%q,"scope":%q}`, role, scope))["token"].(string)
	}
	scanner, viewer := token("scanner", "registry=quay.io/acme"), token("viewer", "registry=quay.io/acme")
	w.want(201, "POST", "/api/v1/scans", report("quay.io/acme-evil/app:1", 7, clock, nil))
	try := func(want int, token, method, path, body string) []byte {
		t.Helper()
		got, _, text := w.send(method, path, token, nil, []byte(body))
		if got != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, got, want, text)
		}
		return text
	}
	try(201, scanner, "POST", "/api/v1/scans", report("quay.io/acme/app:1", 8, clock, nil))
	try(403, scanner, "POST", "/api/v1/scans", report("quay.io/other/app:1", 9, clock, nil))
	try(403, scanner, "POST", "/api/v1/scans", report("quay.io/acme-evil/app:1", 9, clock, nil))
	if text := string(try(200, viewer, "GET", "/api/v1/images", "")); !strings.Contains(text, "quay.io/acme/app") || strings.Contains(text, "evil") {
		t.Errorf("images: %s", text)
	}
	try(404, viewer, "GET", "/api/v1/images/"+digest(7), "")
	try(200, viewer, "GET", "/api/v1/images/"+digest(8), "")
	try(403, viewer, "GET", "/api/v1/images/"+digest(8)+"?reference=quay.io/other/app:1", "")
	for _, path := range []string{"events", "exceptions", "policies", "vulnerabilities", "packages", "stream", "alerts", "jobs"} {
		try(403, viewer, "GET", "/api/v1/"+path, "")
	}
	cluster := token("node", "cluster=prod")
	try(204, cluster, "PUT", "/api/v1/instances", `{"cluster":"prod","instances":[]}`)
	try(403, cluster, "PUT", "/api/v1/instances", `{"cluster":"dev","instances":[]}`)
}

// What is hostile is refused, and changes nothing.
func TestHostile(t *testing.T) {
	w := start(t, "", func(c *daemon.Config) {
		c.Limits = server.Limits{Upload: 1 << 20, Document: 1 << 16, Request: 2 * time.Second}
	})
	bomb := func() []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(`{"schema":"assay.dev/scan/v1","images":[`)); err != nil {
			t.Fatal(err)
		}
		for range 64 {
			if _, err := z.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	big := []byte(`{"schema":"` + strings.Repeat("x", 2<<20) + `"}`)
	future := report("a/b:1", 1, time.Now().Add(time.Hour), nil)
	for what, x := range map[string]struct {
		method, path string
		header       map[string]string
		body         []byte
		status       int
	}{
		"a body that is too large":          {"POST", "/api/v1/scans", nil, big, 413},
		"a bomb":                            {"POST", "/api/v1/scans", map[string]string{"Content-Encoding": "gzip"}, bomb, 413},
		"no gzip":                           {"POST", "/api/v1/scans", map[string]string{"Content-Encoding": "gzip"}, []byte("{}"), 400},
		"an unknown encoding":               {"POST", "/api/v1/scans", map[string]string{"Content-Encoding": "br"}, []byte("{}"), 415},
		"half a document":                   {"POST", "/api/v1/scans", nil, []byte(`{"schema":"assay.dev/scan/v1","images":[{"image":`), 400},
		"a list":                            {"POST", "/api/v1/scans", nil, []byte(`[]`), 400},
		"nothing":                           {"POST", "/api/v1/scans", nil, []byte(``), 400},
		"no schema":                         {"POST", "/api/v1/scans", nil, []byte(`{"images":[]}`), 422},
		"no images":                         {"POST", "/api/v1/scans", nil, []byte(`{"schema":"assay.dev/scan/v1","images":[]}`), 422},
		"a scan from the future":            {"POST", "/api/v1/scans", nil, []byte(future), 422},
		"no reference":                      {"POST", "/api/v1/scans", nil, []byte(report("../../etc/passwd", 1, clock, nil)), 422},
		"no digest":                         {"POST", "/api/v1/scans", nil, []byte(`{"image":"a/b:1","scanned_at":"2026-01-01T00:00:00Z","vulnerabilities":[]}`), 422},
		"a digest of another kind":          {"POST", "/api/v1/scans", nil, []byte(`{"image":"a/b:1","digest":"md5:1","scanned_at":"2026-01-01T00:00:00Z"}`), 422},
		"a score over ten":                  {"POST", "/api/v1/scans", nil, []byte(report("a/b:1", 1, clock, map[string]float64{"CVE-2026-0001": 11})), 422},
		"no packages":                       {"POST", "/api/v1/scans", nil, []byte(strings.Replace(report("a/b:1", 1, clock, nil), `"packages":1`, `"packages":0`, 1)), 422},
		"less than no packages":             {"POST", "/api/v1/scans", nil, []byte(strings.Replace(report("a/b:1", 1, clock, nil), `"packages":1`, `"packages":-1`, 1)), 422},
		"no packages and a distribution":    {"POST", "/api/v1/scans", nil, []byte(strings.Replace(report("a/b:1", 1, clock, nil), `"packages":1`, `"packages":0,"distro":"debian 12"`, 1)), 422},
		"an SBOM of nothing":                {"POST", "/api/v1/sboms?image=a/b:1&digest=" + digest(1), nil, []byte(`{"bomFormat":"CycloneDX","specVersion":"1.5","components":[]}`), 422},
		"an SBOM of a distribution alone":   {"POST", "/api/v1/sboms?image=a/b:1&digest=" + digest(1), nil, []byte(`{"bomFormat":"CycloneDX","specVersion":"1.5","components":[{"type":"operating-system","name":"debian","version":"12"}]}`), 422},
		"an SBOM that is none":              {"POST", "/api/v1/sboms?image=a/b:1", nil, []byte(`{"a":1}`), 422},
		"a document that is too large":      {"PUT", "/api/v1/thresholds", nil, []byte(`{"warn":` + strings.Repeat("1", 1<<17) + `}`), 413},
		"deep JSON":                         {"POST", "/api/v1/classify", nil, []byte(strings.Repeat(`{"a":`, 20_000)), 413},
		"two documents":                     {"POST", "/api/v1/classify", nil, []byte(`{"image":"a"}{"image":"b"}`), 400},
		"an exception with a path":          {"PUT", "/api/v1/exceptions/..%2f..%2fetc", nil, []byte(`{"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`), 422},
		"a digest with a path":              {"GET", "/api/v1/images/..%2f..%2fetc%2fpasswd", nil, nil, 404},
		"a bundle with a path":              {"GET", "/bundles/..%2f..%2fetc%2fpasswd", nil, nil, 404},
		"a parameter that is too long":      {"GET", "/api/v1/images?search=" + strings.Repeat("a", 5000), nil, nil, 400},
		"a parameter twice":                 {"GET", "/api/v1/images?search=a&search=b", nil, nil, 400},
		"a cursor of another's making":      {"GET", "/api/v1/images?after=AAAA", nil, nil, 400},
		"an order that there is not":        {"GET", "/api/v1/images?sort=id;drop%20table", nil, nil, 400},
		"a state of jobs that there is not": {"GET", "/api/v1/jobs?state=x", nil, nil, 400},
		"a token for ever in the past":      {"POST", "/api/v1/tokens", nil, []byte(`{"name":"x","role":"admin","expires":"2020-01-01T00:00:00Z"}`), 422},
		"a token of a role that is none":    {"POST", "/api/v1/tokens", nil, []byte(`{"name":"x","role":"root"}`), 422},
		"instances of no cluster":           {"PUT", "/api/v1/instances", nil, []byte(`{"cluster":"","instances":[{"image":":"}]}`), 422},
		"a route that there is not":         {"GET", "/api/v1/nothing", nil, nil, 404},
		"a method that there is not":        {"PATCH", "/api/v1/images", nil, nil, 405},
		"a review that is none":             {"POST", "/api/v1/admit", nil, []byte(`{"kind":"Pod"}`), 422},
	} {
		got, h, text := w.send(x.method, x.path, w.admin, x.header, x.body)
		if got != x.status {
			t.Errorf("%s: %d, want %d: %.300s", what, got, x.status, text)
		}
		if h.Get("Content-Type") != "application/problem+json" && !strings.Contains(what, "bundle") {
			t.Errorf("%s: the answer is %s: %.300s", what, h.Get("Content-Type"), text)
		}
	}
	if list := w.want(200, "GET", "/api/v1/images", ""); len(list["items"].([]any)) != 0 {
		t.Errorf("something was stored: %v", list)
	}
	// A client that stops in the middle of its body loses its connection, and no one else waits.
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /api/v1/scans HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n{", w.admin); err != nil {
		t.Fatal(err)
	}
	w.want(201, "POST", "/api/v1/scans", report("a/b:1", 1, clock, nil))
	if err := conn.SetReadDeadline(time.Now().Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(conn); err != nil || strings.Contains(string(text), " 200 ") || strings.Contains(string(text), " 201 ") {
		t.Errorf("the slow client: %s %v", text, err)
	}
}

// A stock OPA that follows the bundles decides as the server does, goes on while the
// server is away, and takes no bundle that another key signed.
func TestStockOPA(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "opa")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/open-policy-agent/opa").CombinedOutput(); err != nil {
		t.Fatalf("building opa: %v\n%s", err, out)
	}
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	other, err := signingKey()
	if err != nil {
		t.Fatal(err)
	}
	folder := policiesFolder(t)
	data := t.TempDir()
	serve := func(key *bundles.SigningKey, address string) *world {
		return start(t, "", func(c *daemon.Config) {
			c.Data = data
			c.Source, c.Key = source.Folder{Path: folder, Log: c.Log}, key
			if address != "" {
				c.Listener.Close()
				if c.Listener, err = net.Listen("tcp", address); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	w := serve(key, "")
	address := strings.TrimPrefix(w.base, "http://")
	names := []string{bundles.PartHead, "policies", "exceptions", "names"}
	for i := range 16 {
		names = append(names, fmt.Sprintf("images-%02d", i))
	}
	var followed strings.Builder
	for _, n := range names {
		fmt.Fprintf(&followed, "  %s:\n    service: assay\n    resource: bundles/%[1]s\n    polling: {long_polling_timeout_seconds: 10, min_delay_seconds: 1, max_delay_seconds: 2}\n    signing: {keyid: assay}\n", n)
	}
	config := fmt.Sprintf("services:\n  assay:\n    url: %s\n    credentials: {bearer: {token: %q}}\nkeys:\n  assay:\n    algorithm: ES256\n    key: |\n      %s\nbundles:\n%s",
		w.base, w.admin, strings.ReplaceAll(strings.TrimSpace(string(public)), "\n", "\n      "), followed.String())
	file := filepath.Join(dir, "opa.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	var log lines
	opa := exec.Command(bin, "run", "--server", "--addr", at, "--config-file", file)
	opa.Stdout, opa.Stderr = &log, &log
	if err := opa.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = opa.Process.Kill()
		_ = opa.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	var input map[string]any
	if err := json.Unmarshal([]byte(pod), &input); err != nil {
		t.Fatal(err)
	}
	decision := func(path string, input map[string]any) string {
		text, err := json.Marshal(map[string]any{"input": input})
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.Post("http://"+at+"/v1/data/assay/"+path+"/decision", "application/json", bytes.NewReader(text))
		if err != nil {
			return ""
		}
		defer r.Body.Close()
		var answer struct {
			Result api.Decision `json:"result"`
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || len(answer.Result.Images) == 0 {
			return ""
		}
		return fmt.Sprint(answer.Result.Allowed, " ", answer.Result.Images[0].Result)
	}
	ask := func() string { return decision("admission", input) }
	// fresh is the decision that minds the age of the bundles, some time from now.
	fresh := func(later time.Duration) string {
		in := maps.Clone(input)
		in["now"] = time.Now().Add(later).UTC().Format(time.RFC3339)
		return decision("fresh", in)
	}
	agree := func(what, want string) {
		t.Helper()
		w.until(what, func() bool { return ask() == want })
		d := w.want(200, "POST", "/api/v1/admit", pod)
		if got := fmt.Sprint(d["allowed"], " ", d["images"].([]any)[0].(map[string]any)["result"]); got != want {
			t.Errorf("%s: the server says %s, OPA %s", what, got, want)
		}
	}
	agree("nothing is known", "false Unknown")
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 0xab, clock, map[string]float64{"CVE-2026-0001": 9.8}))
	agree("a scan", "false Fail")
	w.want(201, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
	agree("an exception", "true Pass")
	w.until("the head", func() bool { return fresh(0) == "true Pass" })
	if got := fresh(11 * time.Minute); got != "false Pass" {
		t.Errorf("past the head's end: %s", got)
	}
	w.stop()
	if got := ask(); got != "true Pass" {
		t.Errorf("while the server is away: %s", got)
	}
	w = serve(key, address)
	w.want(204, "DELETE", "/api/v1/exceptions/e", "")
	agree("after the server's restart", "false Fail")
	w.stop()
	w = serve(other, address)
	w.want(201, "POST", "/api/v1/exceptions", `{"metadata":{"name":"e"},"spec":{"cve":"CVE-2026-0001","scope":"any","justification":"x"}}`)
	w.until("the refusal", func() bool { return strings.Contains(log.String(), "Bundle load failed") })
	if got := ask(); got != "false Fail" {
		t.Errorf("with bundles of another key: %s", got)
	}
}

var (
	metricName = regexp.MustCompile(`\bassay_[a-z_]+\b`)
	helpLine   = regexp.MustCompile(`(?m)^# TYPE (assay_[a-z_]+) `)
)

// The documentation and the dashboard name the metrics that there are.
func TestMetrics(t *testing.T) {
	w := start(t, "", nil)
	w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, nil))
	w.want(204, "PUT", "/api/v1/instances", `{"cluster":"prod","node":"n","instances":[]}`)
	w.until("jobs", func() bool {
		_, _, text := w.send("GET", "/metrics", w.admin, nil, nil)
		return strings.Contains(string(text), "assay_job_duration_seconds_count")
	})
	_, _, text := w.send("GET", "/metrics", w.admin, nil, nil)
	known := map[string]bool{"assay_notifications_undelivered": true, "assay_jobs": true, "assay_jobs_oldest_due_timestamp_seconds": true, "assay_vulnerability_database_built_timestamp_seconds": true, "assay_job_errors_total": true, "assay_follow_errors_total": true}
	for _, m := range helpLine.FindAllStringSubmatch(string(text), -1) {
		for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
			known[m[1]+suffix] = true
		}
	}
	if len(known) < 20 {
		t.Fatalf("only %d metrics: %s", len(known), text)
	}
	for _, file := range []string{"../../docs/server.md", "../../deploy/grafana/assay.json"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := metricName.FindAllString(string(content), -1)
		if len(names) < 8 {
			t.Errorf("%s names %d metrics", file, len(names))
		}
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", file, name)
			}
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(content) {
			t.Errorf("%s is no JSON", file)
		}
	}
}
