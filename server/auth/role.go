package auth

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Scope bounds what an identity may say and see.
type Scope = api.Scope

// ParseScope reads the text form of a scope.
func ParseScope(text string) (Scope, error) { return api.ParseScope(text) }

// Role is what an identity may do.
type Role string

// Roles. Those of programs (scanner, node, webhook) stand apart: none includes another.
const (
	// Public marks routes that need no credential; no identity has it.
	Public Role = "public"
	// Scanner uploads scans and SBOMs, and reads images and the database.
	Scanner Role = "scanner"
	// Node makes SBOMs of what runs in its cluster, and tells what runs there.
	Node Role = "node"
	// Webhook follows bundles, tells of the decisions of its cluster, and asks for scans.
	Webhook Role = "webhook"
	// Viewer reads everything.
	Viewer Role = "viewer"
	// Editor is a Viewer who changes exceptions, thresholds and what else is
	// daily work.
	Editor Role = "editor"
	// Admin is an Editor who makes tokens and changes settings.
	Admin Role = "admin"
)

// ParseRole reads one of viewer, editor, admin, scanner, node and webhook.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case Scanner, Node, Webhook, Viewer, Editor, Admin:
		return r, nil
	}
	return "", fmt.Errorf("unknown role %.40q: want viewer, editor, admin, scanner, node or webhook", s)
}

// Includes says whether a role may do all that another may: viewer, editor and
// admin each include those before, and the roles of programs only themselves.
func (r Role) Includes(least Role) bool {
	rank := []Role{Viewer, Editor, Admin}
	has, needs := slices.Index(rank, r), slices.Index(rank, least)
	return r.IsProgram() && least == r || needs >= 0 && has >= needs
}

// IsProgram says whether a role is that of a program: it must name its scope.
func (r Role) IsProgram() bool { return r == Scanner || r == Node || r == Webhook }

// CheckScope says what is wrong with the text of a new identity's scope; "" is none given.
func (r Role) CheckScope(text string) error {
	s, err := ParseScope(text)
	switch {
	case err != nil:
		return err
	case text == "" && r.IsProgram():
		return fmt.Errorf("the role %s needs a scope: cluster=NAME, group=NAME, registry=PREFIX, some of them with commas, or all for no bound", r)
	case (r == Node || r == Webhook) && !s.All() && (s.Cluster == "" || s.Registry != ""):
		return fmt.Errorf("scope %.80q: the role %s speaks of a whole cluster: want cluster=NAME, with group=NAME where clusters share evidence, or all", text, r)
	}
	return nil
}

// Scopes says how a route holds to the scopes of identities.
type Scopes int

const (
	_ Scopes = iota // not stated: such a route is no route
	// ScopesOpen is a route that holds nothing of a cluster or registry.
	ScopesOpen
	// ScopesHeld is a route whose handler takes and gives only what is within the scope.
	ScopesHeld
	// ScopesRefused is a route about everything: who has a scope is refused.
	ScopesRefused
)

// Route is who may use a route: one of the roles is enough.
type Route struct {
	Roles  []Role
	Scopes Scopes

	methods string // of an address that is served, but not by the method that was asked for
}

// Routes says who may use which route: a pattern of [http.ServeMux] with its
// method, such as "GET /api/v1/images/{digest}". A GET route is open to HEAD too. What is not in
// the table is refused.
type Routes map[string]Route

// Match compares the table with the patterns that a server registered, and
// returns an error that names each pattern that is in only one of them: for the
// tests of the server, and for its start.
func (t Routes) Match(registered []string) error {
	var errs []error
	for _, p := range registered {
		if _, ok := t[p]; !ok {
			errs = append(errs, fmt.Errorf("route %q is not in the table of routes", p))
		}
	}
	for p := range t {
		if !slices.Contains(registered, p) {
			errs = append(errs, fmt.Errorf("route %q is in the table of routes, but not served", p))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// table finds the entry of a request with the very matching of [http.ServeMux].
type table struct {
	mux    *http.ServeMux
	routes Routes
}

func newTable(routes Routes) (t table, err error) {
	// ServeMux panics on a malformed pattern and on a conflict.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("table of routes: %v", p)
		}
	}()
	t = table{http.NewServeMux(), routes}
	for pattern, route := range routes {
		if method, _, ok := strings.Cut(pattern, " "); !ok || strings.Contains(method, "/") {
			return t, fmt.Errorf("table of routes: %q names no method", pattern)
		}
		if len(route.Roles) == 0 {
			return t, fmt.Errorf("table of routes: %q names no role", pattern)
		}
		if route.Scopes < ScopesOpen || route.Scopes > ScopesRefused {
			return t, fmt.Errorf("table of routes: %q does not say how it holds to scopes", pattern)
		}
		for _, r := range route.Roles {
			if _, err := ParseRole(string(r)); err != nil && r != Public {
				return t, fmt.Errorf("table of routes: %q: %w", pattern, err)
			}
		}
		t.mux.Handle(pattern, http.NotFoundHandler())
	}
	return t, nil
}

// of is the entry of a request. Where there is none it has no role, and the methods that the
// address is served by, if any.
func (t table) of(r *http.Request) Route {
	h, pattern := t.mux.Handler(r)
	if pattern != "" {
		return t.routes[pattern]
	}
	answer := headers{}
	h.ServeHTTP(answer, r) // ServeMux tells the methods to nobody but the client
	return Route{methods: answer.Header().Get("Allow")}
}

// headers take those of an answer, and nothing else.
type headers http.Header

// Header implements [http.ResponseWriter].
func (h headers) Header() http.Header { return http.Header(h) }

// Write implements [http.ResponseWriter].
func (h headers) Write(text []byte) (int, error) { return len(text), nil }

// WriteHeader implements [http.ResponseWriter].
func (h headers) WriteHeader(int) {}

// Binding gives a role to users and groups by their exact names, as the
// authenticators say them: "oidc:alice@example.com",
// "system:serviceaccount:assay:scanner".
type Binding struct {
	Users  []string
	Groups []string
	Role   Role
	Scope  Scope
	// Legacy is a scanner without a scope: see [Identity].
	Legacy bool
}

// ParseBinding reads ROLE=user:NAME or ROLE=group:NAME; the role may have a scope, as in
// node(cluster=prod,group=eu)=user:NAME.
func ParseBinding(text string) (b Binding, err error) {
	head, who, ok := strings.Cut(text, "=")
	scope := ""
	if role, rest, scoped := strings.Cut(text, "("); scoped && len(role) < len(head) {
		head = role
		if scope, who, ok = strings.Cut(rest, ")="); scope == "" {
			ok = false
		}
	}
	kind, name, _ := strings.Cut(who, ":")
	switch {
	case !ok || name == "":
	case kind == "user":
		b.Users = []string{name}
	case kind == "group":
		b.Groups = []string{name}
	}
	if b.Users == nil && b.Groups == nil {
		return b, errors.New("want ROLE=user:NAME or ROLE=group:NAME, where ROLE may have a scope: node(cluster=NAME)")
	}
	if b.Role, err = ParseRole(head); err != nil {
		return b, err
	}
	if b.Legacy = b.Role == Scanner && scope == ""; b.Legacy {
		return b, nil
	}
	if err := b.Role.CheckScope(scope); err != nil {
		return b, err
	}
	b.Scope, err = ParseScope(scope)
	return b, err
}

// bind returns the first binding that names the user or a group.
func bind(bindings []Binding, name string, groups []string) Binding {
	for _, b := range bindings {
		if slices.Contains(b.Users, name) || slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(b.Groups, g) }) {
			return b
		}
	}
	return Binding{}
}

// ClusterPart begins the name of the bundle that holds what is of one cluster.
const ClusterPart = "cluster-"

// GroupPart begins the names of the bundles that hold what the clusters of a trust group share.
const GroupPart = "group-"

// headOf begins the name of the head of a view, such as that of a cluster: it names the bundles of
// the view, and may be read by who may read these.
const headOf = "head-"

// MayFollow says whether an identity may read a bundle: without a scope any; a webhook of a cluster
// what all share, and its cluster's own. Other scopes are narrower than what bundles hold.
func (id Identity) MayFollow(bundle string) bool {
	bundle = strings.TrimPrefix(bundle, headOf)
	if id.Scope.All() {
		return true
	}
	if !id.has(Webhook) || !id.Scope.AllowsCluster(id.Scope.Cluster) {
		return false
	}
	part, inner, _ := strings.Cut(bundle, "/")
	switch {
	case strings.ContainsAny(inner, "/."):
		return false
	case strings.HasPrefix(part, ClusterPart):
		return part == ClusterPart+url.PathEscape(id.Scope.Cluster)
	case strings.HasPrefix(part, GroupPart):
		return id.Scope.Group != "" && part == GroupPart+url.PathEscape(id.Scope.Group)
	}
	return true
}

// has says whether an identity may do what a role may.
func (id Identity) has(least Role) bool {
	return id.Role.Includes(least) || id.Legacy && (least == Node || least == Webhook)
}
