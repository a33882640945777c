// Package server is the HTTP API of the control plane, under /api/v1: JSON, described
// by the OpenAPI document that /api/v1/openapi.json gives, problem details (RFC 9457)
// for errors. Every route needs a role, and says how it holds to scopes (package auth).
package server

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/server/ranking"
	"github.com/assay-dev/assay/store"
)

// Live is what follows the store (package follow).
type Live interface {
	Engine() *engine.Engine
	Policies() (set *policies.Set, revision string, refused error)
	Thresholds() (effective api.ThresholdsSpec, origin string)
	Settle(ctx context.Context) error
	Suppose(ctx context.Context, h follow.Hypothesis) (before, after *engine.Engine, err error)
	Subscribe(ctx context.Context) <-chan store.Change
}

// Jobs are the background jobs (package jobs).
type Jobs interface {
	Kick(ctx context.Context, kind, subject string)
	List(ctx context.Context, f jobs.Filter) ([]jobs.Job, error)
	Retry(ctx context.Context, id int64) (jobs.Job, error)
	Cancel(ctx context.Context, id int64) (jobs.Job, error)
}

// Limits bound requests; zero members have the values named at each.
type Limits struct {
	Upload   int64         // bytes of a scan report or SBOM, packed and unpacked; 128 MiB
	Document int64         // bytes of any other body; 8 MiB
	Uploads  int           // bodies that are measured at a time; 4. Others wait, at most as many as 256.
	Memory   int64         // bytes that the making of bodies may take at a time, as far as can be told before; 256 MiB
	Settle   time.Duration // how long an answer waits for its results; 5 s
	Request  time.Duration // a whole request but for exports and streams; 2 min
}

func (l Limits) withDefaults() Limits {
	l.Upload = cmp.Or(l.Upload, 128<<20)
	l.Document = cmp.Or(l.Document, 8<<20)
	l.Uploads = cmp.Or(l.Uploads, 4)
	l.Memory = cmp.Or(l.Memory, 256<<20)
	l.Settle = cmp.Or(l.Settle, 5*time.Second)
	l.Request = cmp.Or(l.Request, 2*time.Minute)
	return l
}

// Config is what the API speaks for.
type Config struct {
	Store *store.Store
	Live  Live
	Jobs  Jobs
	// DecodeSBOM reads an SBOM in any format; image and digest name what it is of, "" where it says so itself.
	DecodeSBOM func(in io.Reader, image, digest string) (store.SBOM, error)
	// VersionBelow compares two versions of a package of one of Syft's types; nil: versions are not compared.
	VersionBelow func(kind, have, limit string) (bool, error)
	// MayScan says why this server does not scan an image by itself; nil: it scans none.
	MayScan func(image string) error
	// Database is the vulnerability database in use; nil when there is none.
	Database func() *api.ScanDatabase
	// Databases tells of all that are kept; nil: of the one in use alone.
	Databases func(context.Context) (*api.DatabaseState, error)
	// ApproveExceptions is the role, editor or admin, of which somebody else must approve each
	// exception that comes by the API; "" is nobody.
	ApproveExceptions auth.Role
	// Quotas bound what identities hand in.
	Quotas Quotas
	// Observe, where given, is called after each request.
	Observe func(route string, status int, took time.Duration)
	Limits  Limits
	// Spool keeps bodies until they are read; nil is one in the system's folder for temporary files.
	Spool   *intake.Spool
	Version string
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Server answers requests. It is safe for concurrent use.
type Server struct {
	Config
	limits  Limits
	routes  []route
	mux     *http.ServeMux
	ranking *ranking.Ranking
	uploads chan struct{}
	waiting chan struct{}
	memory  memory
	spool   *intake.Spool
	testing sync.Mutex // held while tests of policies run
}

//go:embed openapi.json
var openAPI []byte

// New makes the API.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, int, time.Duration) {}
	}
	s := &Server{Config: c, mux: http.NewServeMux()}
	s.limits = c.Limits.withDefaults()
	s.uploads, s.waiting = make(chan struct{}, s.limits.Uploads), make(chan struct{}, 256)
	s.memory = newMemory(s.limits.Memory)
	if s.spool = c.Spool; s.spool == nil {
		s.spool = &intake.Spool{}
	}
	s.ranking = ranking.New(ranking.Config{Store: c.Store, Live: c.Live, Log: c.Log, Now: c.Now})
	s.routes = s.table()
	for _, r := range s.routes {
		if r.audit != "" && !r.writes() {
			panic("the route " + r.pattern + " is read, and says why it tells the audit log nothing")
		}
		s.mux.Handle(r.pattern, s.handler(r))
	}
	return s
}

// ServeHTTP answers a request that package auth let pass.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Routes are what each route needs.
func (s *Server) Routes() auth.Routes {
	routes := auth.Routes{}
	for _, r := range s.routes {
		routes[r.pattern] = auth.Route{Roles: r.roles, Scopes: r.scopes}
	}
	return routes
}

// handler answers the requests of a route: bounded in time, with an answer to a panic.
func (s *Server) handler(x route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		w = rec
		defer func() { s.Observe(x.pattern, rec.status, time.Since(begun)) }()
		id := rand.Text()[:12]
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		log := s.Log.With("request", id, "method", r.Method, "route", x.pattern)
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // http compares it so
				panic(p)
			}
			log.Error("a handler panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			problem := problemOf(errors.New("panic"))
			problem.Instance = id
			problem.write(w)
		}()
		// A client that sends or takes too slowly loses its connection.
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(begun.Add(s.limits.Request)) // not every writer has one
		if !x.long {
			_ = control.SetWriteDeadline(begun.Add(s.limits.Request + exportTimeout))
			ctx, cancel := context.WithTimeout(r.Context(), s.limits.Request)
			defer cancel()
			r = r.WithContext(ctx)
		}
		r, taken := withHolds(r)
		defer taken.end()
		err := x.knows(r)
		if err == nil && x.body != nil && x.media == "" {
			err = takesJSON(r)
		}
		if err == nil {
			err = x.handle(w, r)
		}
		if err == nil {
			return
		}
		problem := problemOf(err)
		problem.Instance = id
		switch {
		case problem.Status == http.StatusInsufficientStorage:
			log.Warn("what was handed in is beyond a quota", "user", identity(r).Name, "error", err)
		case problem.Status >= http.StatusInternalServerError:
			log.Error("a request failed", "error", err)
		}
		problem.write(w)
	})
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// identity is who sends a request.
func identity(r *http.Request) auth.Identity {
	id, _ := auth.FromContext(r.Context())
	return id
}

// settled waits for the results of what was just written, and says whether they are there.
func (s *Server) settled(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, s.limits.Settle)
	defer cancel()
	return s.Live.Settle(ctx) == nil
}

// upload lets few bodies be measured at a time.
func (s *Server) upload(ctx context.Context) (release func(), err error) {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return nil, &refused{status: http.StatusServiceUnavailable, detail: "too many bodies wait: try again"}
	}
	select {
	case s.uploads <- struct{}{}:
		return func() { <-s.uploads }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
