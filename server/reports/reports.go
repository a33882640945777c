// Package reports serves what the store knows as an aggregated, read-only API of
// Kubernetes: ImageScans, ImageScanSummaries and RunningImages in kubectl, and
// nothing in etcd.
//
// Who asks is authenticated and authorized by the cluster: through the front proxy of
// its API server, its TokenReviews and its SubjectAccessReviews.
package reports

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/webhook/certificate"
)

// Config is what the API is served from. All but Kubeconfig, Annotate and Now is required.
type Config struct {
	// Listener is closed at the end.
	Listener net.Listener
	// CertFile and KeyFile are read anew when they change.
	CertFile, KeyFile string
	// Kubeconfig is of the cluster that aggregates the API; "" is the one that this
	// runs in. Its user may create TokenReviews and SubjectAccessReviews, and read the
	// ConfigMap extension-apiserver-authentication in kube-system.
	Kubeconfig string
	Store      *store.Store
	// Annotate says which exceptions cover the vulnerabilities of a scan; nil leaves them out.
	Annotate func(ctx context.Context, cluster, image, digest string, scan *api.Scan, now time.Time) error
	// Now is the clock; nil is the usual one.
	Now func() time.Time
	Log *slog.Logger
}

// again is the time after which a cluster that did not answer is asked again.
const again = 2 * time.Second

// Run serves until the context ends. It waits for a cluster that does not answer yet.
func (c Config) Run(ctx context.Context) error {
	defer func() { _ = c.Listener.Close() }() // the server closes it where it ran
	if err := c.cluster(); err != nil {
		return fmt.Errorf("reports: reading the kubeconfig: %w", err)
	}
	for {
		generic, err := c.generic()
		if err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		if err := c.delegate(generic); err != nil {
			c.Log.Warn("reports wait for the cluster's authentication", "error", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(again):
			}
			continue
		}
		server, err := c.install(generic)
		if err != nil {
			return fmt.Errorf("reports: %w", err)
		}
		c.Log.Info("serving reports", "address", c.Listener.Addr().String(), "api", GroupVersion.String())
		return server.PrepareRun().RunWithContext(ctx)
	}
}

// cluster says whether there is one to ask.
func (c Config) cluster() (err error) {
	if c.Kubeconfig == "" {
		_, err = restclient.InClusterConfig()
		return err
	}
	_, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	return err
}

// generic is the server without its API and without authentication.
func (c Config) generic() (*genericapiserver.Config, error) {
	scheme := newScheme()
	g := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	g.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	g.EnableMetrics, g.EnableProfiling, g.EnableIndex = false, false, false
	g.RequestTimeout = 20 * time.Second // requests that run at the end have as long, too
	g.MaxRequestsInFlight = 50          // each may hold MaxItems objects
	namer := openapi.NewDefinitionNamer(scheme)
	g.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	g.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	g.OpenAPIConfig.Info.Title, g.OpenAPIV3Config.Info.Title = "Assay reports", "Assay reports"

	serving := options.NewSecureServingOptions().WithLoopback()
	conns := intake.Listen(c.Listener, intake.Limits{})
	serving.Listener = conns
	g.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		return conns.Handler(genericapiserver.DefaultBuildHandlerChain(api, c))
	}
	serving.MinTLSVersion = "VersionTLS12"
	if err := serving.ApplyTo(&g.SecureServing, &g.LoopbackClientConfig); err != nil {
		return nil, fmt.Errorf("preparing to serve: %w", err)
	}
	files, err := certificate.NewFiles("reports", c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	g.SecureServing.Cert = files
	return g, nil
}

// delegate leaves authentication and authorization to the cluster.
func (c Config) delegate(g *genericapiserver.Config) error {
	authentication, authorization := options.NewDelegatingAuthenticationOptions(), options.NewDelegatingAuthorizationOptions()
	authentication.RemoteKubeConfigFile, authorization.RemoteKubeConfigFile = c.Kubeconfig, c.Kubeconfig
	if err := authentication.ApplyTo(&g.Authentication, g.SecureServing, g.OpenAPIConfig); err != nil {
		return err
	}
	return authorization.ApplyTo(&g.Authorization)
}

// install makes the server of the API.
func (c Config) install(g *genericapiserver.Config) (*genericapiserver.GenericAPIServer, error) {
	server, err := g.Complete(nil).New("assay-reports", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("preparing to serve: %w", err)
	}
	api := group(newScheme())
	api.VersionedResourcesStorageMap[GroupVersion.Version] = c.storage()
	if err := server.InstallAPIGroup(&api); err != nil {
		return nil, fmt.Errorf("preparing the API: %w", err)
	}
	return server, nil
}

// group is the API without its resources.
func group(scheme *runtime.Scheme) genericapiserver.APIGroupInfo {
	g := genericapiserver.NewDefaultAPIGroupInfo(GroupVersion.Group, scheme, metav1.ParameterCodec, serializer.NewCodecFactory(scheme))
	g.NegotiatedSerializer = textOnly{g.NegotiatedSerializer}
	return g
}

func (c Config) storage() map[string]rest.Storage {
	s := &images{store: c.Store, annotate: c.Annotate, now: c.Now}
	if s.now == nil {
		s.now = time.Now
	}
	all := map[string]rest.Storage{}
	for _, r := range s.resources() {
		all[r.plural] = r
	}
	return all
}

// newScheme knows the kinds and their selectors.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, r := range (&images{}).resources() {
		kind := GroupVersion.WithKind(r.kind)
		scheme.AddKnownTypeWithName(kind, r.object())
		scheme.AddKnownTypeWithName(GroupVersion.WithKind(r.kind+"List"), r.list())
		// It errs for unregistered kinds alone.
		_ = scheme.AddFieldLabelConversionFunc(kind, func(name, value string) (string, string, error) { return name, value, r.field(r.kind, name) })
	}
	metav1.AddToGroupVersion(scheme, GroupVersion)
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, v1)
	scheme.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return scheme
}

// textOnly leaves out protobuf, which the kinds do not have: clients that would rather
// have it get JSON.
type textOnly struct{ runtime.NegotiatedSerializer }

func (t textOnly) SupportedMediaTypes() []runtime.SerializerInfo {
	return slices.DeleteFunc(slices.Clone(t.NegotiatedSerializer.SupportedMediaTypes()), func(i runtime.SerializerInfo) bool { return !i.EncodesAsText })
}
