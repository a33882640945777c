package webhook

import (
	"context"
	"crypto/x509"
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
	// MaxInFlight bounds the requests served at a time.
	MaxInFlight int
	// ShutdownDelay is the time for which requests are still taken after the end
	// was asked for, so that the cluster's routes can change before.
	ShutdownDelay time.Duration

	// Handlers are by path.
	Handlers map[string]http.Handler
	// Ready are asked by /readyz.
	Ready   []healthz.HealthChecker
	Metrics prometheus.Gatherer
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
	serving.Listener = s.Listener
	serving.MinTLSVersion = "VersionTLS12"
	// An API server keeps connections open, so that HTTP/2 gains nothing here; it makes a review take
	// markedly longer (docs/design/009), and has had attacks of its own.
	serving.DisableHTTP2Serving = true
	if err := serving.ApplyTo(&c.SecureServing, &c.LoopbackClientConfig); err != nil {
		return fmt.Errorf("preparing to serve: %w", err)
	}
	c.SecureServing.Cert = s.Certificate

	open := append([]string{}, healthPaths...)
	for path := range s.Handlers {
		open = append(open, path)
	}
	authentication := options.NewDelegatingAuthenticationOptions()
	authorization := options.NewDelegatingAuthorizationOptions()
	if s.InCluster {
		authentication.RemoteKubeConfigFile, authorization.RemoteKubeConfigFile = s.Kubeconfig, s.Kubeconfig
		authentication.TolerateInClusterLookupFailure = true // who cannot be known is anonymous
	} else {
		authentication.RemoteKubeConfigFileOptional, authentication.SkipInClusterLookup = true, true
		authorization.RemoteKubeConfigFileOptional = true
		open = append(open, "/metrics")
	}
	authorization.WithAlwaysAllowPaths(open...)
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
	guard := s.guard(ca)
	for path, h := range s.Handlers {
		s.Handlers[path] = leaving(ctx, guard(h))
	}
	if s.Audit == nil || s.Audit.PolicyFile == "" {
		c.BuildHandlerChainFunc = s.shortcut
	}
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

// shortcut leads reviews straight to their handlers: the chain of an API server runs each
// request in goroutines of their own, which takes longer than a decision. What of the
// chain reviews need is here: their number is bounded, and an end waits for them. All
// other paths, and reviews where they are audited, go through the whole chain.
func (s Serving) shortcut(api http.Handler, c *genericapiserver.Config) http.Handler {
	whole := genericapiserver.DefaultBuildHandlerChain(api, c)
	inFlight := make(chan struct{}, max(s.MaxInFlight, 1))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, ok := s.Handlers[r.URL.Path]
		if !ok {
			whole.ServeHTTP(w, r)
			return
		}
		if err := c.NonLongRunningRequestWaitGroup.Add(1); err != nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "the webhook is shutting down", http.StatusServiceUnavailable)
			return
		}
		defer c.NonLongRunningRequestWaitGroup.Done()
		select {
		case inFlight <- struct{}{}:
			defer func() { <-inFlight }()
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many reviews at a time", http.StatusTooManyRequests)
			return
		}
		h.ServeHTTP(w, r)
	})
}

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

// guard lets only API servers through, where their certificates are known.
func (s Serving) guard(ca dynamiccertificates.CAContentProvider) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		if ca == nil {
			return h
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := s.verify(r, ca); err != nil {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			caller := api.Caller{Authenticated: true, Name: r.TLS.PeerCertificates[0].Subject.CommonName}
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
		})
	}
}

type callerKey struct{}

// callerOf is who guard let through; nobody is authenticated where it lets everyone.
func callerOf(ctx context.Context) api.Caller {
	caller, _ := ctx.Value(callerKey{}).(api.Caller)
	return caller
}

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
