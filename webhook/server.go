package webhook

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/intake"
)

// Serving says how the handlers of an admission server are served: by
// k8s.io/apiserver's generic server, with its health, audit, limits and draining.
type Serving struct {
	Listener net.Listener
	// Certificate is that of the server; it may change at any time.
	Certificate dynamiccertificates.CertKeyContentProvider
	// ClientCAFile, where given, holds the certificates that sign those of API
	// servers: who shows none of ClientNames' has no access to Handlers.
	ClientCAFile string
	ClientNames  []string
	// InCluster delegates authentication and authorization of all but Handlers and
	// health to the cluster of Kubeconfig, or the one that this runs in. Else metrics are open.
	InCluster  bool
	Kubeconfig string
	// Audit says where requests are logged, as kube-apiserver's flags do.
	Audit *options.AuditOptions
	// MaxInFlight bounds the reviews that are decided at a time, once they have come whole.
	MaxInFlight int
	// Connections bounds those, and the time and memory in which requests come.
	Connections intake.Limits
	// ShutdownDelay is the time for which requests are still taken after the end
	// was asked for, so that the cluster's routes can change before.
	ShutdownDelay time.Duration

	// Handlers are by path.
	Handlers map[string]http.Handler
	// Ready are asked by /readyz.
	Ready   []healthz.HealthChecker
	Metrics *prometheus.Registry
	// Notes, where given, are lines that /readyz says besides, where it is ready.
	Notes func() []string
}

// Paths that are open to everyone who reaches the port.
var healthPaths = []string{"/livez", "/livez/*", "/readyz", "/readyz/*", "/healthz", "/healthz/*", "/version"}

// Run serves until the context ends, and then until what was begun is answered.
func (s Serving) Run(ctx context.Context) error {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	c := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	c.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	c.SkipOpenAPIInstallation = true
	c.EnableMetrics, c.EnableProfiling, c.EnableIndex, c.EnableDiscovery = false, false, false, false
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = s.MaxInFlight, s.MaxInFlight
	c.RequestTimeout = 30 * time.Second
	c.ShutdownDelayDuration = s.ShutdownDelay
	c.ReadyzChecks = append(c.ReadyzChecks, s.Ready...)

	serving := options.NewSecureServingOptions().WithLoopback()
	away := turnedAway()
	limits := s.Connections
	limits.Cut = func(reason string) { away.WithLabelValues(reason).Inc() }
	conns := intake.Listen(s.Listener, limits)
	open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "assay_webhook_connections", Help: "Connections that are open."}, func() float64 { return float64(conns.Open()) })
	if err := errors.Join(s.Metrics.Register(away), s.Metrics.Register(open)); err != nil {
		return fmt.Errorf("preparing to serve: %w", err)
	}
	serving.Listener = conns
	serving.MinTLSVersion = "VersionTLS12"
	// An API server keeps connections open, so that HTTP/2 gains nothing here; it makes a review take
	// markedly longer (docs/design/009), and has had attacks of its own.
	serving.DisableHTTP2Serving = true
	if err := serving.ApplyTo(&c.SecureServing, &c.LoopbackClientConfig); err != nil {
		return fmt.Errorf("preparing to serve: %w", err)
	}
	c.SecureServing.Cert = s.Certificate

	public := append([]string{}, healthPaths...)
	for path := range s.Handlers {
		public = append(public, path)
	}
	authentication := options.NewDelegatingAuthenticationOptions()
	authorization := options.NewDelegatingAuthorizationOptions()
	if s.InCluster {
		authentication.RemoteKubeConfigFile, authorization.RemoteKubeConfigFile = s.Kubeconfig, s.Kubeconfig
		authentication.TolerateInClusterLookupFailure = true // who cannot be known is anonymous
	} else {
		authentication.RemoteKubeConfigFileOptional, authentication.SkipInClusterLookup = true, true
		authorization.RemoteKubeConfigFileOptional = true
		public = append(public, "/metrics")
	}
	authorization.WithAlwaysAllowPaths(public...)
	if err := authentication.ApplyTo(&c.Authentication, c.SecureServing, nil); err != nil {
		return fmt.Errorf("preparing authentication: %w", err)
	}
	if err := authorization.ApplyTo(&c.Authorization); err != nil {
		return fmt.Errorf("preparing authorization: %w", err)
	}
	var ca dynamiccertificates.CAContentProvider
	if s.ClientCAFile != "" {
		var err error
		if ca, err = dynamiccertificates.NewDynamicCAContentFromFile("client-ca", s.ClientCAFile); err != nil {
			return fmt.Errorf("reading the certificates of clients: %w", err)
		}
		// The server keeps it up to date, and asks clients for certificates.
		if err := c.Authentication.ApplyClientCert(ca, c.SecureServing); err != nil {
			return fmt.Errorf("preparing authentication: %w", err)
		}
	}
	if s.Audit != nil {
		if err := s.Audit.ApplyTo(c); err != nil {
			return fmt.Errorf("preparing the audit log: %w", err)
		}
	}
	for path, h := range s.Handlers {
		s.Handlers[path] = leaving(ctx, h)
	}
	chain := s.front(conns, ca, away).chain(s.Audit != nil && s.Audit.PolicyFile != "")
	c.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler { return s.noted(chain(api, c)) }
	server, err := c.Complete(nil).New("assay-webhook", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return fmt.Errorf("preparing to serve: %w", err)
	}
	for path, h := range s.Handlers {
		server.Handler.NonGoRestfulMux.Handle(path, h)
	}
	server.Handler.NonGoRestfulMux.Handle("/metrics", promhttp.HandlerFor(
		prometheus.Gatherers{s.Metrics, legacyregistry.DefaultGatherer}, promhttp.HandlerOpts{}))
	return server.PrepareRun().RunWithContext(ctx)
}

// noted adds Notes to what /readyz says where it is ready.
func (s Serving) noted(h http.Handler) http.Handler {
	if s.Notes == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			h.ServeHTTP(w, r)
			return
		}
		answer := &statusOf{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(answer, r)
		if answer.status == http.StatusOK && r.Method == http.MethodGet {
			for _, note := range s.Notes() {
				fmt.Fprintf(w, "\n%s", note)
			}
		}
	})
}

// statusOf remembers the status of an answer.
type statusOf struct {
	http.ResponseWriter
	status int
}

func (w *statusOf) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusOf) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// leaving lets clients go once the end was asked for: each answer is the last one of its
// connection. Without it a connection that closes at the end may lose the review that an API
// server is just writing to it, which HTTP/1.1 has no word for.
func leaving(ctx context.Context, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

type callerKey struct{}

// callerOf is who was let through; nobody is authenticated where everyone is.
func callerOf(ctx context.Context) api.Caller {
	caller, _ := ctx.Value(callerKey{}).(api.Caller)
	return caller
}

// verify says why a request is none of an API server that is known.
func (s Serving) verify(r *http.Request, ca dynamiccertificates.CAContentProvider) error {
	verify, ok := ca.VerifyOptions()
	if !ok || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return fmt.Errorf("a client certificate of the API server is needed")
	}
	verify.Intermediates = x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		verify.Intermediates.AddCert(c)
	}
	leaf := r.TLS.PeerCertificates[0]
	if _, err := leaf.Verify(verify); err != nil {
		return fmt.Errorf("the client certificate does not verify: %w", err)
	}
	if len(s.ClientNames) > 0 && !slices.Contains(s.ClientNames, leaf.Subject.CommonName) {
		return fmt.Errorf("the client certificate is that of %q", leaf.Subject.CommonName)
	}
	return nil
}
