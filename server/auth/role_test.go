package auth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRoleIncludes(t *testing.T) {
	all := []Role{Public, Scanner, Viewer, Editor, Admin, "", "root"}
	want := map[Role]string{
		Scanner: "scanner",
		Viewer:  "viewer",
		Editor:  "viewer editor",
		Admin:   "viewer editor admin",
	}
	for _, has := range all {
		for _, least := range all {
			expect := strings.Contains(" "+want[has]+" ", " "+string(least)+" ") && least != ""
			if got := has.Includes(least); got != expect {
				t.Errorf("%q includes %q: %v, want %v", has, least, got, expect)
			}
		}
	}
}

func TestRoutesMatch(t *testing.T) {
	table := Routes{"GET /a": {Viewer}, "GET /gone": {Viewer}}
	err := table.Match([]string{"GET /a", "POST /a"})
	want := `route "GET /gone" is in the table of routes, but not served
route "POST /a" is not in the table of routes`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := table.Match([]string{"GET /gone", "GET /a"}); err != nil {
		t.Error(err)
	}
}

func TestTableRefusesNonsense(t *testing.T) {
	for pattern, c := range map[string]struct {
		roles []Role
		want  string
	}{
		"/a":           {[]Role{Viewer}, "names no method"},
		"GET /a":       {nil, "names no role"},
		"GET /b":       {[]Role{"root"}, "unknown role"},
		"GET /{":       {[]Role{Viewer}, "bad wildcard"},
		"G@T /strange": {[]Role{Viewer}, "invalid method"},
	} {
		if _, err := newTable(Routes{pattern: c.roles}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", pattern, err, c.want)
		}
	}
}

// The table judges the route that the server's own mux takes, whatever the
// path looks like.
func TestTableFollowsServeMux(t *testing.T) {
	routes := Routes{
		"GET /api/v1/images": {Viewer}, "GET /api/v1/images/{digest}": {Viewer}, "GET /api/v1/images/{digest}/export": {Editor},
		"DELETE /api/v1/tokens/{name}": {Admin}, "GET /bundles/": {Scanner}, "GET /{$}": {Public},
	}
	table, err := newTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	var served string
	for p := range routes {
		mux.HandleFunc(p, func(_ http.ResponseWriter, r *http.Request) { served = r.Pattern })
	}
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS", "CONNECT"} {
		for _, path := range []string{
			"/", "/api/v1/images", "/api/v1/images/", "/api/v1/images/x", "/api/v1/images/x%2fexport", "/api/v1/images/x/export",
			"/api/v1/images/x/../../tokens/t", "/api/v1//images", "/bundles", "/bundles/a/b", "/api/v1/tokens/%2e%2e", "//", "/nothing",
		} {
			served = ""
			r := httptest.NewRequest(method, path, nil)
			least := table.least(r)
			mux.ServeHTTP(httptest.NewRecorder(), r)
			if served != "" && len(routes[served]) != len(least) {
				t.Errorf("%s %s: the mux serves %q, the table says %v", method, path, served, least)
			}
			if served != "" && routes[served][0] != least[0] {
				t.Errorf("%s %s: the mux serves %q, the table says %v", method, path, served, least)
			}
		}
	}
}

func TestScope(t *testing.T) {
	for text, want := range map[string]Scope{
		"":                                 {},
		"cluster=prod-eu":                  {Cluster: "prod-eu"},
		"registry=quay.io/acme/":           {Registry: "quay.io/acme"},
		"registry=quay.io,cluster=prod-eu": {Cluster: "prod-eu", Registry: "quay.io"},
	} {
		got, err := ParseScope(text)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
		text, err := json.Marshal(got)
		var back Scope
		if err != nil || json.Unmarshal(text, &back) != nil || back != want {
			t.Errorf("%s comes back as %v, %v", text, back, err)
		}
	}
	for _, text := range []string{"prod", "cluster=", "cluster=a,cluster=b", "registry=/", "cluster=a,", "namespace=a"} {
		if s, err := ParseScope(text); err == nil {
			t.Errorf("%q is read as %v", text, s)
		}
	}
	if _, err := json.Marshal(Scope{Cluster: "a,registry=b"}); err == nil {
		t.Error("a name with a comma is written")
	}
}

func TestScopeAllows(t *testing.T) {
	acme := Scope{Registry: "quay.io/acme"}
	for reference, want := range map[string]bool{
		"quay.io/acme/app:1":        true,
		"quay.io/acme/team/app":     true,
		"quay.io/acme":              true,
		"quay.io/acmecorp/app":      false,
		"quay.io/other/app":         false,
		"evil.io/quay.io/acme/app":  false,
		"app":                       false,
		"quay.io/acme/../other/app": false,
		"":                          false,
	} {
		if got := acme.AllowsImage(reference); got != want {
			t.Errorf("%q: %v", reference, got)
		}
	}
	if !(Scope{Registry: "docker.io/library"}).AllowsImage("nginx") || !(Scope{}).AllowsImage("anything at all") {
		t.Error("a normalised reference, or any without bound, is refused")
	}
	if !(Scope{}).AllowsCluster("a") || !(Scope{Cluster: "a"}).AllowsCluster("a") || (Scope{Cluster: "a"}).AllowsCluster("A") {
		t.Error("AllowsCluster is wrong")
	}
}
