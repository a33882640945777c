package auth

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

func TestRoleIncludes(t *testing.T) {
	all := []Role{Public, Scanner, Node, Webhook, Viewer, Editor, Admin, "", "root"}
	want := map[Role]string{
		Scanner: "scanner",
		Node:    "node",
		Webhook: "webhook",
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

// needs is a route that holds to scopes.
func needs(roles ...Role) Route { return Route{Roles: roles, Scopes: ScopesHeld} }

func TestRoutesMatch(t *testing.T) {
	table := Routes{"GET /a": needs(Viewer), "GET /gone": needs(Viewer)}
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
		if _, err := newTable(Routes{pattern: needs(c.roles...)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", pattern, err, c.want)
		}
	}
	for _, unstated := range []Scopes{0, ScopesRefused + 1, -1} {
		if _, err := newTable(Routes{"GET /a": {Roles: []Role{Viewer}, Scopes: unstated}}); err == nil || !strings.Contains(err.Error(), "scopes") {
			t.Errorf("scopes %d: got %v", unstated, err)
		}
	}
}

// The table judges the route that the server's own mux takes, whatever the
// path looks like.
func TestTableFollowsServeMux(t *testing.T) {
	routes := Routes{
		"GET /api/v1/images": needs(Viewer), "GET /api/v1/images/{digest}": needs(Viewer), "GET /api/v1/images/{digest}/export": needs(Editor),
		"DELETE /api/v1/tokens/{name}": needs(Admin), "GET /bundles/": needs(Scanner), "GET /{$}": needs(Public),
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
			least := table.of(r).Roles
			mux.ServeHTTP(httptest.NewRecorder(), r)
			if served != "" && len(routes[served].Roles) != len(least) {
				t.Errorf("%s %s: the mux serves %q, the table says %v", method, path, served, least)
			}
			if served != "" && routes[served].Roles[0] != least[0] {
				t.Errorf("%s %s: the mux serves %q, the table says %v", method, path, served, least)
			}
		}
	}
}

func TestParseBinding(t *testing.T) {
	for text, want := range map[string]Binding{
		"viewer=group:a(b)=c":                           {Groups: []string{"a(b)=c"}, Role: Viewer},
		"scanner=user:old":                              {Users: []string{"old"}, Role: Scanner, Legacy: true},
		"scanner(all)=user:ci":                          {Users: []string{"ci"}, Role: Scanner},
		"node(cluster=prod,group=eu)=user:system:x:y":   {Users: []string{"system:x:y"}, Role: Node, Scope: Scope{Cluster: "prod", Group: "eu"}},
		"viewer(registry=quay.io/acme)=group:oidc:acme": {Groups: []string{"oidc:acme"}, Role: Viewer, Scope: Scope{Registry: "quay.io/acme"}},
		"webhook(all)=group:hooks":                      {Groups: []string{"hooks"}, Role: Webhook},
	} {
		if got, err := ParseBinding(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "viewer", "viewer=", "viewer=user:", "viewer=team:x", "root=user:x", "node=user:x", "webhook=group:x", "node()=user:x", "node(group=g)=user:x",
		"node(registry=quay.io)=user:x", "webhook(cluster=a,registry=quay.io)=user:x", "scanner(cluster=)=user:x", "node(cluster=a=user:x", "node(cluster=a)user:x",
	} {
		if got, err := ParseBinding(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

func TestMayFollow(t *testing.T) {
	for name, c := range map[string]struct {
		id                       Identity
		shared, own, other, mine bool
	}{
		"no bound":             {Identity{Role: Viewer}, true, true, true, true},
		"a webhook":            {Identity{Role: Webhook, Scope: Scope{Cluster: "a"}}, true, true, false, false},
		"a webhook of a group": {Identity{Role: Webhook, Scope: Scope{Cluster: "a", Group: "g"}}, true, true, false, false},
		"one from before":      {Identity{Role: Scanner, Legacy: true, Scope: Scope{Cluster: "a"}}, true, true, false, false},
		"one of a registry":    {Identity{Role: Scanner, Legacy: true, Scope: Scope{Registry: "evil.example.com"}}, false, false, false, false},
		"a viewer":             {Identity{Role: Viewer, Scope: Scope{Cluster: "a"}}, false, false, false, false},
		"half a cluster":       {Identity{Role: Webhook, Scope: Scope{Cluster: "a", Registry: "quay.io"}}, false, false, false, false},
		"a group alone":        {Identity{Role: Webhook, Scope: Scope{Group: "g"}}, false, false, false, false},
	} {
		for part, want := range map[string]bool{"names": c.shared, "images-00": c.shared, "head": c.shared, "head-" + ClusterPart + "a": c.own, "head-" + ClusterPart + "b": c.other, ClusterPart + "a": c.own, ClusterPart + "b": c.other, ClusterPart: c.mine, ClusterPart + "a/../cluster-b": c.mine,
			ClusterPart + "a/images-00": c.own, ClusterPart + "b/images-00": c.other, GroupPart + "h/images-00": c.other, GroupPart + "g/images-00": c.other || c.own && c.id.Scope.Group == "g"} {
			if got := c.id.MayFollow(part); got != want {
				t.Errorf("%s, %s: %v", name, part, got)
			}
		}
	}
}
