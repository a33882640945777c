package daemon_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store/storetest"
)

// Every route that is served says how it holds to scopes; those that say that they hold nothing
// of a cluster are named here once more.
func TestRoutesStateScopes(t *testing.T) {
	routes, err := daemon.Routes()
	if err != nil {
		t.Fatal(err)
	}
	if len(routes) < 110 {
		t.Errorf("only %d routes", len(routes))
	}
	var open []string
	for _, pattern := range slices.Sorted(maps.Keys(routes)) {
		switch routes[pattern].Scopes {
		case auth.ScopesOpen:
			open = append(open, pattern)
		case auth.ScopesHeld, auth.ScopesRefused:
		default:
			t.Errorf("%s does not say how it holds to scopes", pattern)
		}
	}
	want := []string{"GET /api/v1/database", "GET /api/v1/downloads/assay", "GET /api/v1/openapi.json", "GET /healthz", "GET /livez", "GET /readyz"}
	if !slices.Equal(open, want) {
		t.Errorf("open to all scopes are %q, want %q", open, want)
	}
	// A server with one that does not does not start.
	routes["GET /api/v1/forgotten"] = auth.Route{Roles: []auth.Role{auth.Viewer}}
	if _, err := auth.New(t.Context(), auth.Config{Routes: routes}); err == nil || !strings.Contains(err.Error(), "GET /api/v1/forgotten") {
		t.Errorf("a route that states nothing: %v", err)
	}
}

// secrets are what is outside of the scopes of TestScopesHold: each is in some answer to the
// administrator.
var secrets = []string{"zzout", "CVE-2099-0002", digest(2)}

const outside = "zzout.example.com/zzout/app"

// scoped makes the world of TestScopesHold: one image within, one outside.
func scoped(t *testing.T) *world {
	w := start(t, "", func(c *daemon.Config) { c.Auth.FailuresPerMinute = 10_000 })
	w.want(201, "POST", "/api/v1/scans", report("in.example.com/shop/web:1", 1, clock, map[string]float64{"CVE-2099-0001": 9.8}))
	w.want(201, "POST", "/api/v1/scans", report(outside+":1", 2, clock, map[string]float64{"CVE-2099-0002": 9.8}))
	for cluster, x := range map[string]struct {
		image string
		n     int
	}{"prod": {"in.example.com/shop/web:1", 1}, "zzout": {outside + ":1", 2}} {
		w.want(204, "PUT", "/api/v1/instances", fmt.Sprintf(`{"cluster":%q,"node":"n","instances":[{"namespace":%[1]q,"pod":%[1]q,"container":"c","image":%q,"digest":%q}]}`, cluster, x.image, digest(x.n)))
		w.want(204, "POST", "/api/v1/decisions", fmt.Sprintf(`{"items":[{"uid":%q,"cluster":%[1]q,"at":"2026-01-01T00:00:00Z","record":{"schema":"assay.dev/record/v1","input":{"schema":"assay.dev/review/v1","now":"x","operation":"CREATE","group":"","kind":"Pod","subresource":"","namespace":"n","name":"p","labels":{},"namespaceLabels":{},"user":"u","owner":null,"hasOld":false,"oldDeleting":false,"templateChanged":false,"containers":[],"oldImages":[],"malformed":[]},"decision":{"kind":"Pod","name":"p","allowed":true,"judged":true,"images":[]}}}]}`, cluster))
	}
	return w
}

// Every route, called with tokens of every kind of scope, gives nothing that is outside.
func TestScopesHold(t *testing.T) {
	w := scoped(t)
	routes, err := daemon.Routes()
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{
		"POST /api/v1/classify":          fmt.Sprintf(`{"image":"%s:1","digest":%q}`, outside, digest(2)),
		"POST /api/v1/impact":            `{"thresholds":{"warn":1,"fail":2}}`,
		"POST /api/v1/admit":             pod,
		"POST /api/v1/explain":           pod,
		"POST /api/v1/claims":            `{"cluster":"zzout","node":"n","digests":[]}`,
		"DELETE /api/v1/claims":          `{"cluster":"zzout","node":"n","digests":[]}`,
		"PUT /api/v1/instances":          `{"cluster":"zzout","node":"n","instances":[]}`,
		"POST /api/v1/instances/changes": `{"cluster":"zzout","node":"n","epoch":"e","sequence":0,"set":[],"removed":[]}`,
		"POST /api/v1/scans":             report(outside+":2", 3, clock, nil),
	}
	queries := map[string][]string{
		"GET /api/v1/names":           {"?image=" + outside, "?image=in.example.com/shop/web"},
		"GET /api/v1/decisions":       {"", "?cluster=zzout"},
		"GET /api/v1/instances":       {"", "?cluster=zzout", "?namespace=zzout"},
		"GET /api/v1/images":          {"", "?cluster=zzout", "?cve=CVE-2099-0002", "?search=zzout", "?registry=zzout.example.com/zzout"},
		"GET /api/v1/counts":          {"", "?cluster=zzout"},
		"GET /exports/images.csv":     {"?pods=true"},
		"GET /images":                 {"", "?cluster=zzout"},
		"GET /bundles/{name...}":      {""},
		"GET /api/v1/images/{digest}": {"", "?reference=" + outside + ":1"},
	}
	paths := func(path string) []string {
		list := []string{path}
		for from, to := range map[string][]string{
			"{name...}": {"policies", "exceptions", "names", "images-00", auth.ClusterPart + "zzout"}, "{digest}": {digest(1), digest(2)},
			"{id}": {"1", "2", "CVE-2099-0002"}, "{name}": {"zzout"}, "{file}": {"assay.css"}, "{$}": {""},
		} {
			if strings.Contains(path, from) {
				list = nil
				for _, value := range to {
					list = append(list, strings.Replace(path, from, value, 1))
				}
			}
		}
		return list
	}
	leaks := func(pattern, method, path, token string) (status int, leaked []string) {
		status, _, text := w.send(method, path, token, nil, []byte(bodies[pattern]))
		for _, secret := range secrets {
			if strings.Contains(string(text), secret) && !strings.Contains(path+bodies[pattern], secret) {
				leaked = append(leaked, secret)
			}
		}
		return status, leaked
	}
	each := func(token, methods string, seen func(pattern, path string, status int, leaked []string)) {
		for _, pattern := range slices.Sorted(maps.Keys(routes)) {
			method, path, _ := strings.Cut(pattern, " ")
			if !strings.Contains(methods, method) || strings.HasPrefix(path, "/signin/") || strings.HasSuffix(path, "/stream") || strings.HasPrefix(path, "/api/v1/downloads/") {
				continue // no issuer; what never ends is tried below; and the program is this test
			}
			for _, path := range paths(path) {
				for _, query := range cmpList(queries[pattern], "") {
					status, leaked := leaks(pattern, method, path+query, token)
					seen(pattern, path+query, status, leaked)
				}
			}
		}
	}
	for _, scope := range []string{"registry=in.example.com", "cluster=prod", "cluster=prod,group=eu", "cluster=prod,registry=in.example.com", "group=eu"} {
		token := w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","role":"admin","scope":%q}`, scope))["token"].(string)
		tried, good := 0, 0
		each(token, "GET POST PUT DELETE", func(pattern, path string, status int, leaked []string) {
			tried++
			if status < 300 {
				good++
			}
			if pattern == "POST /api/v1/classify" && strings.HasPrefix(scope, "cluster=") && !strings.Contains(scope, "registry=") {
				return // a cluster may ask of any image what it would be there
			}
			if len(leaked) > 0 {
				t.Errorf("%s: %s %s gives %q (%d)", scope, pattern, path, leaked, status)
			}
			if routes[pattern].Scopes == auth.ScopesRefused && status != http.StatusForbidden {
				t.Errorf("%s: %s is about everything, and answers %d", scope, pattern, status)
			}
		})
		if tried < 120 || good < 5 {
			t.Errorf("%s: %d tries, %d answered", scope, tried, good)
		}
		if status, _, _ := w.send("GET", "/api/v1/stream", token, nil, nil); status != http.StatusForbidden {
			t.Errorf("%s: the stream answers %d", scope, status)
		}
		list, _, text := w.send("GET", "/api/v1/images", token, nil, nil)
		if want := map[bool]int{true: 403, false: 200}[scope == "group=eu"]; list != want || (list == 200) != strings.Contains(string(text), "in.example.com/shop/web") {
			t.Errorf("%s: the images: %d %s", scope, list, text)
		}
	}
	// Nothing was changed outside, and the test would see a leak: each secret is in some answer
	// to who may see it.
	found := map[string]bool{}
	each(w.admin, "GET", func(_, _ string, _ int, leaked []string) {
		for _, s := range leaked {
			found[s] = true
		}
	})
	if len(found) != len(secrets) {
		t.Errorf("the administrator finds only %v", found)
	}
}

func cmpList(list []string, otherwise string) []string {
	if list == nil {
		return []string{otherwise}
	}
	return list
}

// Each program has its own routes, and no other's.
func TestRolesOfPrograms(t *testing.T) {
	w := start(t, "", nil)
	token := func(role, scope string) string {
		t.Helper()
		return w.want(201, "POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","role":%q,"scope":%q}`, role, scope))["token"].(string)
	}
	tokens := map[string]string{"scanner": token("scanner", "registry=quay.io"), "node": token("node", "cluster=prod,group=eu"), "webhook": token("webhook", "cluster=prod")}
	failed := strings.Replace(strings.Replace(report("quay.io/a/b:1", 5, clock, nil), `"vulnerabilities":null`, `"vulnerabilities":[]`, 1), `"image":`, `"error":"it could not be pulled","image":`, 1)
	decision := `{"items":[]}`
	for _, x := range []struct {
		method, path, body string
		may                string // roles
	}{
		{"POST", "/api/v1/scans", report("quay.io/a/b:1", 4, clock, nil), "scanner"},
		{"POST", "/api/v1/scans", failed, "scanner node"},
		{"POST", "/api/v1/claims", `{"cluster":"prod","node":"n","digests":[]}`, "node"},
		{"POST", "/api/v1/claims", `{"cluster":"dev","node":"n","digests":[]}`, ""},
		{"PUT", "/api/v1/instances", `{"cluster":"prod","node":"n","instances":[]}`, "node"},
		{"PUT", "/api/v1/instances", `{"cluster":"dev","node":"n","instances":[]}`, ""},
		{"POST", "/api/v1/decisions", decision, "webhook"},
		{"GET", "/bundles/names", "", "webhook"},
		{"GET", "/bundles/names.tar.gz", "", "webhook"},
		{"GET", "/bundles/" + auth.ClusterPart + "dev", "", ""},
		{"GET", "/api/v1/images", "", "scanner"},
		{"GET", "/api/v1/database", "", "scanner"},
		{"GET", "/api/v1/decisions", "", ""},
		{"GET", "/api/v1/tokens", "", ""},
	} {
		for role, secret := range tokens {
			status, header, text := w.send(x.method, x.path, secret, nil, []byte(x.body))
			if may := strings.Contains(" "+x.may+" ", " "+role+" "); may != (status < 300) || !may && status != 403 {
				t.Errorf("%s: %s %s: %d %s", role, x.method, x.path, status, text)
			}
			if header.Get("Warning") != "" {
				t.Errorf("%s is warned: %s", role, header.Get("Warning"))
			}
		}
	}
	for _, body := range []string{
		`{"name":"x","role":"scanner"}`, `{"name":"x","role":"node"}`, `{"name":"x","role":"webhook","scope":""}`, `{"name":"x","role":"node","scope":"registry=quay.io"}`,
		`{"name":"x","role":"webhook","scope":"cluster=a,registry=quay.io"}`, `{"name":"x","role":"node","scope":"group=eu"}`, `{"name":"x","role":"scanner","scope":"namespace=a"}`,
	} {
		if p := w.want(422, "POST", "/api/v1/tokens", body); !strings.Contains(fmt.Sprint(p["errors"]), "/scope") {
			t.Errorf("%s: %v", body, p)
		}
	}
	for _, body := range []string{`{"name":"x","role":"scanner","scope":"all"}`, `{"name":"x","role":"node","scope":"all"}`, `{"name":"x","role":"viewer"}`, `{"name":"x","role":"scanner","scope":"group=eu"}`} {
		w.want(201, "POST", "/api/v1/tokens", body)
	}
}

// A database of version 7 of the schema, with tokens of scanners and what they handed in, is brought to this version:
// they go on for now, and are told; and what there was counts as it did.
func TestLegacyScanner(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) { testLegacyScanner(t, url()) })
}

func testLegacyScanner(t *testing.T, at string) {
	secrets := map[string]string{}
	const seen = "2026-01-01T00:00:00.000000000Z"
	statements := []string{
		"INSERT INTO tokens (hash, name, role, scope, created, creator, expires, revoked) VALUES ('00', 'ended', 'scanner', '', '" + seen + "', 'jane', '', '" + seen + "')",
		"INSERT INTO images (id, digest, packages) VALUES (7, '" + digest(1) + "', 3)",
		"INSERT INTO contents (id, sha256, document) VALUES (1000, 'x', " + storetest.Packed(t, at, `[{"id":"CVE-2026-0001","package":"openssl","version":"3","type":"deb","cvss":9.8}]`) + ")",
		"INSERT INTO scans (id, image_id, reference, digest, source, scanned_at, database, checksum, stored_at, error, header, content_id) VALUES (1000, 7, 'docker.io/library/nginx:1', '" + digest(1) + "', 'registry', '" + seen + "', '', '', '" + seen + "', '', '{\"image\":\"nginx:1\",\"digest\":\"" + digest(1) + "\",\"scanned_at\":\"2026-01-01T00:00:00Z\",\"packages\":3,\"vulnerabilities\":null}', 1000)",
		"UPDATE images SET scan_id = 1000",
		"INSERT INTO image_documents (image_id, document, details, cve, package) VALUES (7, '{\"at\":\"" + seen + "\",\"db\":\"\",\"ids\":[\"CVE-2026-0001\"],\"s\":[9.8]}', " + storetest.Packed(t, at, "{}") + ", '[\"CVE-2026-0001\"]', '[\"openssl\"]')",
		"INSERT INTO observations (name, tag, digest, first, last) VALUES ('docker.io/library/nginx', '1', '" + digest(1) + "', '" + seen + "', '" + seen + "')",
		"INSERT INTO listings (id, image_id, digest, name, tag, registry, repository, image, source, result, max_cvss, scanned_at, first_seen, error) VALUES (3, 7, '" + digest(1) + "', 'docker.io/library/nginx', '1', 'docker.io/library', 'nginx', 'docker.io/library/nginx:1', 'registry', 'Fail', 9.8, '" + seen + "', '" + seen + "', '')",
	}
	for scope, name := range map[string]string{"": "everywhere", "cluster=prod": "prod", "registry=evil.example.com": "evil"} {
		secrets[name] = auth.NewToken()
		hash := auth.Hash(secrets[name])
		statements = append(statements, fmt.Sprintf("INSERT INTO tokens (hash, name, role, scope, created, creator, expires, revoked) VALUES ('%x', '%s', 'scanner', '%s', '%s', 'jane', '', '')", hash[:], name, scope, seen))
	}
	admin := auth.NewToken()
	hash := auth.Hash(admin)
	statements = append(statements, fmt.Sprintf("INSERT INTO tokens (hash, name, role, scope, created, creator, expires, revoked) VALUES ('%x', 'jane', 'admin', '', '%s', '', '', '')", hash[:], seen))
	storetest.Before(t, at, 7, statements...)
	w := start(t, at, nil)
	w.admin = admin
	view := w.want(200, "GET", "/api/v1/images/"+digest(1), "")
	evidence := view["evidence"].([]any)
	if len(evidence) != 1 || evidence[0].(map[string]any)["scope"] != "all" || evidence[0].(map[string]any)["identity"] != "before origin" || view["scan"].(map[string]any)["result"] != "Fail" {
		t.Errorf("what was stored before: %v", view)
	}
	for _, cluster := range []string{"", "prod"} {
		if got := w.said("docker.io/library/nginx:1", digest(1), cluster); !strings.HasPrefix(got, "Fail") {
			t.Errorf("what was stored before is %s in %q", got, cluster)
		}
	}
	for _, x := range []struct {
		name, method, path, body string
		status                   int
	}{
		{"everywhere", "PUT", "/api/v1/instances", `{"cluster":"dev","node":"n","instances":[]}`, 204},
		{"everywhere", "GET", "/bundles/names", "", 200},
		{"everywhere", "POST", "/api/v1/decisions", `{"items":[]}`, 204},
		{"prod", "PUT", "/api/v1/instances", `{"cluster":"prod","node":"n","instances":[]}`, 204},
		{"prod", "PUT", "/api/v1/instances", `{"cluster":"dev","node":"n","instances":[]}`, 403},
		{"prod", "GET", "/bundles/names", "", 200},
		{"prod", "GET", "/bundles/" + auth.ClusterPart + "dev", "", 403},
		{"evil", "PUT", "/api/v1/instances", `{"cluster":"prod","node":"n","instances":[]}`, 403},
		{"evil", "GET", "/bundles/names", "", 403},
		{"evil", "POST", "/api/v1/claims", `{"cluster":"prod","node":"n","digests":[]}`, 403},
		{"evil", "POST", "/api/v1/decisions", `{"items":[{"uid":"u","cluster":"prod","at":"2026-01-01T00:00:00Z","record":{"schema":"assay.dev/record/v1"}}]}`, 403},
	} {
		status, header, text := w.send(x.method, x.path, secrets[x.name], nil, []byte(x.body))
		if status != x.status {
			t.Errorf("%s: %s %s: %d, want %d: %s", x.name, x.method, x.path, status, x.status, text)
		}
		if status < 300 && !strings.HasPrefix(header.Get("Warning"), `299 - "the role scanner`) {
			t.Errorf("%s: %s %s: no warning: %q", x.name, x.method, x.path, header.Get("Warning"))
		}
	}
	if n := strings.Count(w.log.String(), "user=everywhere"); n != 1 {
		t.Errorf("the log tells %d times", n)
	}
	list := w.want(200, "GET", "/api/v1/tokens", "")["items"].([]any)
	for _, item := range list {
		k := item.(map[string]any)
		if (k["warning"] != nil) != (k["role"] == "scanner" && k["revoked"] == nil) || (k["legacy"] == true) != (k["role"] == "scanner") {
			t.Errorf("the list says %v", k)
		}
	}
}
