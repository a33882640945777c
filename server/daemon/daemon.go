// Package daemon puts the server together: the store, what follows it, the jobs, and
// one HTTP listener for the API, the bundles and the operators.
package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/scanner/attestation"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server"
	"github.com/assay-dev/assay/server/alerting"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/config"
	"github.com/assay-dev/assay/server/rematch"
	"github.com/assay-dev/assay/server/reports"
	"github.com/assay-dev/assay/store"
)

// Config is all that the server can be told.
type Config struct {
	// Data is the folder of the SQLite database and of the first token.
	Data string
	// Database is a postgres:// URL, or a SQLite file; "" is assay.db in Data.
	Database string
	Listener net.Listener
	// CertFile and KeyFile switch TLS on; they are read at each handshake.
	CertFile, KeyFile string
	// Source gives the policies; nil is none.
	Source source.Source
	// Notifications is the file that says who is told of alerts; "" is nobody.
	Notifications string
	Key           *bundles.SigningKey // of the bundles; nil leaves them unsigned
	// ValidFor is for how long data.assay.fresh admits by a head of the bundles; 0 is serve.DefaultValidFor.
	ValidFor time.Duration
	// Vulnerabilities has the databases; VulnerabilityPath is another one, that never
	// changes; Update fetches newer ones. The store's own advisories are followed.
	Vulnerabilities   *vulndb.Store
	VulnerabilityPath string
	Update            bool
	RematchEvery      time.Duration
	// ScanImages lists the names, such as registry.example.com/shop, below which the
	// server scans images from their registries when a webhook asks for it; "*" is all.
	// Empty: it scans none.
	ScanImages []string
	// RegistryNetworks are those in which registries are asked for images that others name,
	// by a request for a scan; other addresses must be public.
	RegistryNetworks []netip.Prefix
	// InsecureHTTP talks plain HTTP to the registries of ScanImages.
	InsecureHTTP bool
	// Realms are the hosts that registries may have their credentials sent to.
	Realms outgoing.Realms
	// Scans bounds what each of these scans may take.
	Scans Scans
	// Registries are listed from time to time, and what is new in them is scanned.
	Registries []Registry
	// StaleAfter is when a node that reports by itself is stale; 0 is 5 minutes.
	StaleAfter time.Duration
	// ForgetNodes is when a node that is silent is forgotten, while others of its cluster are heard. 0 is a day.
	ForgetNodes time.Duration
	// Attestations says whose SBOMs are taken, where images that the server scans have
	// them; nil is nobody's.
	Attestations *attestation.Verifier
	// JobTimeout bounds one background job; what a killed replica did is taken up after it. 0 is 2 minutes.
	JobTimeout time.Duration
	// Auth says who gets in, besides the tokens of the store.
	Auth auth.Config
	// ApproveExceptions is the role of which a second person approves exceptions; "" is nobody.
	ApproveExceptions auth.Role
	Retention         store.Retention
	Limits            server.Limits
	// Quotas bound what each identity may hold of what it hands in; zero members bound nothing.
	Quotas server.Quotas
	// Connections bounds those of Listener; zero members are the defaults here and of package intake.
	Connections intake.Limits
	// Reports is where reports are served to a cluster; nil is nowhere. Its store and
	// engine are those of the server.
	Reports *reports.Config
	// Trace sends spans to an OTLP endpoint, as the variables OTEL_… say.
	Trace   bool
	Version string
	Log     *slog.Logger
}

// AdminToken is the file in Data that has the first token.
const AdminToken = "admin.token"

// Connections at a time: webhooks keep one for each bundle that they wait for, and a proxy has
// those of all its clients.
const (
	DefaultConnections       = 4096
	DefaultClientConnections = 2048
)

// Quotas of identities with a scope, and of the others, that `assay serve` begins with.
var (
	DefaultQuota    = store.Quota{Digests: 200_000, Names: 500_000, Bytes: 16 << 30}
	DefaultQuotaAll = store.Quota{Digests: 2_000_000, Names: 5_000_000, Bytes: 256 << 30}
)

// shutdown is how long requests that run may go on when the server ends.
const shutdown = 20 * time.Second

// Run serves until the context ends, or until it cannot. The listener is closed.
func Run(ctx context.Context, c Config) (err error) {
	defer func() { _ = c.Listener.Close() }() // the server closes it where it ran
	if c.Reports != nil {
		defer func() { _ = c.Reports.Listener.Close() }()
	}
	url := database(c)
	if !store.Replicated(url) {
		release, err := alone(url)
		if err != nil {
			return err
		}
		defer release()
	}
	s, err := store.Open(ctx, store.Config{URL: url, StaleAfter: c.StaleAfter})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := firstToken(ctx, c, s); err != nil {
		return err
	}
	var bound []auth.Scope
	for _, b := range c.Auth.Bindings {
		bound = append(bound, b.Scope)
	}
	if err := s.Write(ctx, func(t *store.Tx) error { return t.Bound(ctx, bound) }); err != nil {
		return err
	}
	if c.Trace {
		end, err := traces(ctx, c.Version)
		if err != nil {
			return err
		}
		defer end()
	}

	m := newMetrics()
	var follower *follow.Follower
	handler := serve.New(serve.Limits{May: func(r *http.Request, bundle string) bool { return mayFollow(r, bundle, follower) }, Want: func(bundle string) bool { return follower.Want(bundle) }})
	follower = follow.New(follow.Config{Store: s, Source: c.Source, Bundles: handler, Key: c.Key, ValidFor: c.ValidFor, Observe: m.step, Log: c.Log})
	matcher := rematch.New(rematch.Config{Store: s, Databases: c.Vulnerabilities, Path: c.VulnerabilityPath, Update: c.Update, Every: c.RematchEvery, Log: c.Log})
	defer func() { err = errors.Join(err, matcher.Close()) }()

	alerts := alerting.Config{Store: s, Engine: follower.Engine(), Log: c.Log, Policies: func() *policies.Set { set, _, _ := follower.Policies(); return set }}
	if alerts.Notifications, alerts.Receivers, err = notifications(c.Notifications); err != nil {
		return err
	}
	alerter := alerting.New(alerts)
	var work *jobs.Jobs
	scan, err := c.scan(s, func(ctx context.Context, digest string) { work.Kick(ctx, jobs.Match, digest) })
	if err != nil {
		return err
	}
	work, err = jobs.New(ctx, jobs.Config{SQLite: s.SQLiteDB(), Reader: s.SQLiteReader(), Postgres: s.Pool(), Timeout: c.JobTimeout, Observe: m.job, Log: c.Log, Work: jobs.Work{
		Due: func(ctx context.Context, limit int) ([]string, error) {
			due, err := matcher.Due(ctx, limit)
			if errors.Is(err, vulndb.ErrMissing) {
				return nil, nil // a server without scanning is a server all the same; uploads of SBOMs show it
			}
			return due, err
		},
		Match: func(ctx context.Context, digest string) error {
			err := matcher.Match(ctx, digest)
			if errors.Is(err, vulndb.ErrMissing) {
				c.Log.Warn("an SBOM waits to be matched", "digest", digest, "error", err)
				return nil // it stays due, and is found once there is a database
			}
			return err
		},
		Scan:         scan,
		ListRegistry: c.listRegistry(s, func(ctx context.Context, image string) { work.Kick(ctx, jobs.Scan, image) }),
		EvaluateAlerts: func(ctx context.Context) error {
			if follower.Ready() != nil {
				return nil // there are no rules yet
			}
			return alerter.Evaluate(ctx)
		},
		Deliver: alerter.Deliver,
		Idle: func(ctx context.Context, kind string) (bool, error) {
			switch kind {
			case jobs.Alerts:
				return alerter.Idle(ctx)
			case jobs.Deliver:
				next, err := s.NextDelivery(ctx)
				return next.IsZero(), err
			}
			return false, nil
		},
		Retain: func(ctx context.Context) error {
			return errors.Join(s.NoteTrend(ctx), s.ForgetNodes(ctx, c.ForgetNodes), s.Retain(ctx, c.Retention))
		},
		UpdateDatabase: matcher.UpdateDatabase,
	}})
	if err != nil {
		return err
	}

	spool := &intake.Spool{}
	if c.Data != "" {
		spool.Dir = filepath.Join(c.Data, "bodies")
	}
	if err := spool.Clean(); err != nil {
		return err
	}
	c.Quotas.Refused = func(of string) { m.quota.WithLabelValues(of).Inc() }
	api := server.New(server.Config{Store: s, Live: follower, Jobs: work, MayScan: c.mayScan(), ApproveExceptions: c.ApproveExceptions, DecodeSBOM: rematch.Decode, VersionBelow: match.Below, Database: matcher.Database, Databases: matcher.State,
		Observe: m.request, Limits: c.Limits, Quotas: c.Quotas, Spool: spool, Version: c.Version, Log: c.Log})
	disks := newStorage(&c, s)
	m.registry.MustRegister(state{store: s, storage: disks, jobs: work, database: matcher.Database, databases: matcher.State, matching: matcher.Counts, waiting: handler.Waiting,
		refused: func() bool { _, _, refused := follower.Policies(); return refused != nil }, ready: func() bool { return follower.Ready() == nil }})
	var guard *auth.Auth // the pages ask the API as their users would: each of the two needs the other
	pages, err := c.pages(ctx, s, api, func() *auth.Auth { return guard })
	if err != nil {
		return err
	}
	web := newSite(api, pages, forms(spool, pages), handler, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}), ready(s, follower, disks))
	c.Auth.Routes, c.Auth.Tokens, c.Auth.Listener, c.Auth.Observe, c.Auth.Log = web.routes, server.Tokens{Store: s}, c.Listener.Addr(), m.login, c.Log
	c.Auth.Refused = pages.Refused
	if guard, err = auth.New(ctx, c.Auth); err != nil {
		return err
	}
	conns := c.connections(m, spool)
	entry := conns.Handler(guard.Handler(web.mux))
	if c.Trace {
		entry = otelhttp.NewHandler(entry, "http")
	}
	listener := &http.Server{Handler: entry, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug)}
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	listener.BaseContext = func(net.Listener) context.Context { return streams }
	listener.RegisterOnShutdown(handler.Close)
	listen := listener.Serve
	if c.CertFile != "" {
		pair := &serve.KeyPair{CertFile: c.CertFile, KeyFile: c.KeyFile}
		if _, err := pair.Get(nil); err != nil {
			return err
		}
		listener.TLSConfig = guard.TLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.Get})
		listen = func(l net.Listener) error { return listener.ServeTLS(l, "", "") }
	}

	// The followers go on until the requests are answered.
	behind, endBehind := context.WithCancel(context.WithoutCancel(ctx))
	defer endBehind()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follower.Run(behind) })
	group.Go(func() error { return work.Run(ctx) })
	group.Go(func() error {
		return disks.Run(ctx, func(fault string) {
			if fault == "" {
				c.Log.Info("data can be stored again")
				return
			}
			c.Log.Error("nothing can be stored", "error", fault)
		})
	})
	group.Go(func() error { return matcher.Follow(ctx) })
	group.Go(func() error { return api.KeepRanking(ctx) })
	group.Go(func() error {
		c.whenDue(ctx, s, func(registry string) { work.Kick(ctx, jobs.Registry, registry) })
		return nil
	})
	if c.Reports != nil {
		r := *c.Reports
		r.Store, r.Annotate, r.Log = s, annotate(follower), c.Log
		group.Go(func() error { return r.Run(ctx) })
	}
	group.Go(func() error {
		if err := listen(conns); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		defer endBehind()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdown)
		defer cancel()
		time.AfterFunc(shutdown/4, endStreams) // streams never end by themselves
		if err := listener.Shutdown(end); err != nil {
			_ = listener.Close()
		}
		return nil
	})
	c.Log.Info("serving", "address", c.Listener.Addr().String(), "tls", c.CertFile != "", "database", s.Dialect(), "bundles signed", c.Key != nil)
	return group.Wait()
}

// connections bounds those of the listener, and tells of them.
func (c *Config) connections(m *metrics, spool *intake.Spool) *intake.Connections {
	limits := c.Connections
	limits.Total, limits.PerClient = cmp.Or(limits.Total, DefaultConnections), cmp.Or(limits.PerClient, DefaultClientConnections)
	limits.Cut = func(reason string) { m.cut.WithLabelValues(reason).Inc() }
	conns := intake.Listen(c.Listener, limits)
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "assay_http_connections", Help: "Connections that are open."}, func() float64 { return float64(conns.Open()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "assay_http_bodies_bytes", Help: "Bodies of requests that have come and wait or are answered."}, func() float64 { return float64(spool.Used()) }))
	return conns
}

func database(c Config) string {
	if c.Database != "" {
		return c.Database
	}
	return filepath.Join(c.Data, "assay.db")
}

// firstToken makes a token for the first administrator, once, where the store has none.
func firstToken(ctx context.Context, c Config, s *store.Store) error {
	if c.Data == "" {
		return nil
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	file := filepath.Join(c.Data, AdminToken)
	written := false
	err := s.Write(ctx, func(t *store.Tx) error {
		if made, err := t.HasTokens(ctx); err != nil || made {
			return err
		}
		k, secret, err := server.MakeToken(ctx, t, store.Token{Name: "first administrator", Role: string(auth.Admin), Creator: "assay serve"})
		if err != nil {
			return err
		}
		text, err := json.Marshal(k)
		if err != nil {
			return err
		}
		if err := t.Audit(ctx, store.AuditEntry{Who: k.Creator, Action: "add", Kind: "token", Name: fmt.Sprintf("%d %s", k.ID, k.Name), After: text}); err != nil {
			return err
		}
		// Before the store has it: a token that nobody can read would be the only one for good.
		if err := writeSecret(file, secret); err != nil {
			return err
		}
		written = true
		return nil
	})
	if err != nil {
		if written {
			_ = os.Remove(file) // what it has is no token
		}
		return fmt.Errorf("making the first token: %w", err)
	}
	if written {
		c.Log.Info("the first administrator's token was made", "file", file)
	}
	return nil
}

// writeSecret puts a secret on the disk, in a file for its owner alone.
func writeSecret(file, secret string) error {
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file: remove it", file)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(secret + "\n")
	return errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
}

// notifications reads who is told of alerts.
func notifications(file string) (*config.Notifications, map[string]notify.Receiver, error) {
	if file == "" {
		return nil, nil, nil
	}
	info, err := os.Stat(file)
	if err == nil && info.Size() > config.MaxFile {
		err = fmt.Errorf("%s is larger than %d bytes", file, config.MaxFile)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the notifications: %w", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the notifications: %w", err)
	}
	n, err := config.Parse(file, text)
	if err != nil {
		return nil, nil, err
	}
	receivers, err := n.Open()
	return n, receivers, err
}

// ready says whether decisions can be made and data be stored.
func ready(s *store.Store, f *follow.Follower, disks *storage) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
		defer cancel()
		var faults []string
		if s.Ping(ctx) != nil {
			faults = append(faults, "the database does not answer")
		}
		if disks.Fault() != "" {
			faults = append(faults, "nothing can be stored: the disk is full, or the database takes no writes") // which is in the log
		}
		if f.Ready() != nil {
			faults = append(faults, "policies and data are not loaded") // why is in the log, and for viewers at /api/v1/policies
		}
		if len(faults) > 0 {
			http.Error(w, strings.Join(faults, "\n"), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
		if _, _, refused := f.Policies(); refused != nil {
			fmt.Fprintln(w, "warning: the newest state of the policies is refused")
		}
	})
}

// traces sends spans to where OTEL_EXPORTER_OTLP_ENDPOINT says.
func traces(ctx context.Context, version string) (end func(), err error) {
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("sending traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(attribute.String("service.name", "assay"), attribute.String("service.version", version)))
	if err != nil {
		return nil, fmt.Errorf("sending traces: %w", err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = provider.Shutdown(ctx) // what could not be sent is lost
	}, nil
}
