package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/console"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
)

// site is all that is served, with what each route needs: nothing is served that is not in both.
type site struct {
	mux    *http.ServeMux
	routes auth.Routes
}

func newSite(api *server.Server, pages *console.Console, forms, bundles, metrics, ready http.Handler) site {
	s := site{http.NewServeMux(), auth.Routes{}}
	all := func(routes auth.Routes, h http.Handler) {
		for pattern, route := range routes {
			s.add(pattern, h, route)
		}
	}
	all(api.Routes(), api)
	all(pages.Routes(), forms)
	s.add("GET "+serve.Prefix+"{name...}", bundles, auth.Route{Roles: []auth.Role{auth.Viewer, auth.Webhook}, Scopes: auth.ScopesHeld})
	s.add("GET /metrics", metrics, auth.Route{Roles: []auth.Role{auth.Viewer}, Scopes: auth.ScopesRefused})
	alive := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	open := auth.Route{Roles: []auth.Role{auth.Public}, Scopes: auth.ScopesOpen}
	s.add("GET /livez", alive, open)
	s.add("GET /healthz", alive, open)
	s.add("GET /readyz", ready, open)
	return s
}

// forms are pages whose requests come whole before they are read.
func forms(spool *intake.Spool, pages http.Handler) http.Handler {
	return spool.Whole(func(r *http.Request) int64 {
		if _, known := auth.FromContext(r.Context()); known {
			return console.MaxForm
		}
		return console.MaxOpenForm
	}, pages)
}

func (s site) add(pattern string, h http.Handler, route auth.Route) {
	s.mux.Handle(pattern, h)
	s.routes[pattern] = route
}

// mayFollow says which bundles who asks may read: who may follow a cluster may follow what its trust
// groups share.
func mayFollow(r *http.Request, bundle string, f *follow.Follower) bool {
	id, _ := auth.FromContext(r.Context())
	return id.MayFollow(bundle) || id.MayFollow(documents.PartCluster(id.Scope.Cluster)) && f.Follows(id.Scope.Cluster, bundle)
}

// annotate says which exceptions cover what a scan found, as it is in a cluster.
func annotate(f *follow.Follower) func(context.Context, string, string, string, *api.Scan, time.Time) error {
	return func(ctx context.Context, cluster, image, digest string, scan *api.Scan, now time.Time) error {
		return f.Engine().In(cluster).Annotate(ctx, image, digest, scan, now)
	}
}

// settingSessions has the keys that sign the cookies of browsers, the same in all replicas.
const settingSessions = "session-keys"

// pages are those of the console.
func (c *Config) pages(ctx context.Context, s *store.Store, api http.Handler, guard func() *auth.Auth) (*console.Console, error) {
	var keys [][]byte
	if err := s.Write(ctx, func(t *store.Tx) error {
		err := t.Setting(ctx, settingSessions, &keys)
		if errors.Is(err, store.ErrNotFound) {
			keys = [][]byte{make([]byte, 32)}
			_, _ = rand.Read(keys[0]) // never fails
			return t.SetSetting(ctx, settingSessions, keys)
		}
		return err
	}); err != nil {
		return nil, err
	}
	c.Auth.Sessions = &auth.Sessions{Keys: keys, Ended: s}
	pages := console.Config{
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { guard().Inner(api).ServeHTTP(w, r) }),
		SignIn: func(w http.ResponseWriter, r *http.Request, token string) (auth.Identity, error) {
			return guard().SignIn(w, r, token)
		},
		SignOut: func(w http.ResponseWriter, r *http.Request) error { return guard().SignOut(w, r) },
		Version: c.Version, Log: c.Log,
	}
	if c.Auth.Login != nil {
		pages.BeginLogin = func(w http.ResponseWriter, r *http.Request, next string) error { return guard().BeginLogin(w, r, next) }
		pages.FinishLogin = func(w http.ResponseWriter, r *http.Request) (string, error) { return guard().FinishLogin(w, r) }
	}
	return console.New(pages)
}
