package auth

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Role is what an identity may do.
type Role string

const (
	// Public marks routes that need no credential; no identity has it.
	Public Role = "public"
	// Scanner uploads results, and reads those and the database. It stands
	// apart: none of the others includes it, and it includes none of them.
	Scanner Role = "scanner"
	// Viewer reads everything.
	Viewer Role = "viewer"
	// Editor is a Viewer who changes exceptions, thresholds and what else is
	// daily work.
	Editor Role = "editor"
	// Admin is an Editor who makes tokens and changes settings.
	Admin Role = "admin"
)

// ParseRole reads one of scanner, viewer, editor and admin.
func ParseRole(s string) (Role, error) {
	switch r := Role(s); r {
	case Scanner, Viewer, Editor, Admin:
		return r, nil
	}
	return "", fmt.Errorf("unknown role %.40q: want viewer, editor, admin or scanner", s)
}

// Includes says whether a role may do all that another may: viewer, editor and
// admin each include those before, and scanner only itself.
func (r Role) Includes(least Role) bool {
	rank := []Role{Viewer, Editor, Admin}
	has, needs := slices.Index(rank, r), slices.Index(rank, least)
	return r == Scanner && least == Scanner || needs >= 0 && has >= needs
}

// Routes says who may use which route: a pattern of [http.ServeMux] with its
// method, such as "GET /api/v1/images/{digest}", to the least roles, of which
// one is enough. A GET route is open to HEAD too. What is not in the table is
// refused.
type Routes map[string][]Role

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
	for pattern, least := range routes {
		if method, _, ok := strings.Cut(pattern, " "); !ok || strings.Contains(method, "/") {
			return t, fmt.Errorf("table of routes: %q names no method", pattern)
		}
		if len(least) == 0 {
			return t, fmt.Errorf("table of routes: %q names no role", pattern)
		}
		for _, r := range least {
			if _, err := ParseRole(string(r)); err != nil && r != Public {
				return t, fmt.Errorf("table of routes: %q: %w", pattern, err)
			}
		}
		t.mux.Handle(pattern, http.NotFoundHandler())
	}
	return t, nil
}

// least are the roles of which a request needs one; none when it is not in the
// table.
func (t table) least(r *http.Request) []Role {
	_, pattern := t.mux.Handler(r)
	return t.routes[pattern]
}

// Binding gives a role to users and groups by their exact names, as the
// authenticators say them: "oidc:alice@example.com",
// "system:serviceaccount:assay:scanner".
type Binding struct {
	Users  []string
	Groups []string
	Role   Role
	Scope  Scope
}

// bind returns what the first binding that names the user or a group gives.
func bind(bindings []Binding, name string, groups []string) (Role, Scope) {
	for _, b := range bindings {
		if slices.Contains(b.Users, name) || slices.ContainsFunc(groups, func(g string) bool { return slices.Contains(b.Groups, g) }) {
			return b.Role, b.Scope
		}
	}
	return "", Scope{}
}

// Scope narrows an identity; its zero value does not. Its text form, in JSON,
// YAML and stores, is "cluster=prod-eu", "registry=quay.io/acme" or both with a
// comma. The handlers hold to it.
type Scope struct {
	// Cluster is the only cluster that the identity speaks of.
	Cluster string
	// Registry begins every reference that the identity speaks of: a host, and
	// as many whole components of the path as are given.
	Registry string
}

// AllowsCluster says whether a cluster is within the scope.
func (s Scope) AllowsCluster(name string) bool { return s.Cluster == "" || s.Cluster == name }

// AllowsImage says whether an image reference, as a user writes it, is within
// the scope. A malformed one is only when there is no bound.
func (s Scope) AllowsImage(reference string) bool {
	if s.Registry == "" {
		return true
	}
	ref, err := api.ParseReference(reference)
	return err == nil && strings.HasPrefix(ref.Host+"/"+ref.Path+"/", s.Registry+"/")
}

// String is the text form.
func (s Scope) String() string {
	var parts []string
	if s.Cluster != "" {
		parts = append(parts, "cluster="+s.Cluster)
	}
	if s.Registry != "" {
		parts = append(parts, "registry="+s.Registry)
	}
	return strings.Join(parts, ",")
}

// MarshalText gives the text form, or an error when a name has none.
func (s Scope) MarshalText() ([]byte, error) {
	text := s.String()
	if back, err := ParseScope(text); err != nil || back != s {
		return nil, fmt.Errorf("scope %.80q cannot be written as text", text)
	}
	return []byte(text), nil
}

// UnmarshalText reads the text form.
func (s *Scope) UnmarshalText(text []byte) (err error) {
	*s, err = ParseScope(string(text))
	return err
}

// ParseScope reads the text form.
func ParseScope(text string) (Scope, error) {
	var s Scope
	if text == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		value = strings.TrimSuffix(value, "/")
		switch {
		case value == "":
		case key == "cluster" && s.Cluster == "":
			s.Cluster = value
			continue
		case key == "registry" && s.Registry == "":
			s.Registry = value
			continue
		}
		return Scope{}, fmt.Errorf("scope %.80q: want cluster=NAME, registry=PREFIX, or both with a comma", text)
	}
	return s, nil
}
