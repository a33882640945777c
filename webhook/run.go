package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/record"

	"github.com/assay-dev/assay/bundles/follow"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/bundles/source/cluster"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/webhook/certificate"
	"github.com/assay-dev/assay/webhook/registration"
)

// Config is that of a whole admission server.
type Config struct {
	// Source, ClusterPolicies or Follow is where policies come from: a folder, the
	// cluster's custom resources, or a server. Scans are reports for the first two.
	Source          source.Source
	ClusterPolicies bool
	Follow          *follow.Config
	// RefuseOld refuses reviews while what is followed is older than Follow.MaxAge. Else that
	// is told alone.
	RefuseOld bool
	Scans     []string
	// Server gets the receipts of decisions; nil gets none.
	Server *client.Client
	// ScanOnSight asks Server to scan images that nobody has scanned.
	ScanOnSight bool
	// ResolveTags are the names below which registries are asked for the digests of tags.
	ResolveTags []string
	// RegistryNetworks are those in which they are asked; other addresses must be public.
	RegistryNetworks []netip.Prefix
	// Realms are the hosts that registries may have their credentials sent to.
	Realms outgoing.Realms
	// Cluster names this one in receipts.
	Cluster string

	// Kubernetes is the cluster that is asked for namespaces and rights; nil is none,
	// and then the labels of namespaces are not known.
	Kubernetes *rest.Config

	// CertFile and KeyFile are the certificate; or it is made, kept in a Secret, and
	// made for a Service.
	CertFile, KeyFile             string
	IssueNamespace, IssueSecret   string
	ServiceNamespace, ServiceName string
	// Registration is the ValidatingWebhookConfiguration to keep up to date; Narrow
	// keeps its rules to what the policies can match too, where these are at hand.
	Registration string
	Narrow       bool
	// Namespaces are requirements of the registration that namespaces must meet to be
	// judged; Narrow keeps them.
	Namespaces []metav1.LabelSelectorRequirement

	Serving  Serving // its listener, limits and clients
	Engine   engine.Config
	FailOpen bool
	// GuardedLabels are those of namespaces that the registration selects by.
	GuardedLabels []string
	DecisionLog   io.Writer
	Metrics       *prometheus.Registry
	Version       string
	Log           *slog.Logger
	// Now is the clock; nil is the usual one.
	Now func() time.Time
}

// program is an admission server that runs.
type program struct {
	Config
	ctx        context.Context // ends after the last answer
	background errgroup.Group
	engine     *engine.Engine
	records    *Records
	clients    *clients // nil without a cluster
	serving    Serving
}

// clients reach the cluster.
type clients struct {
	core     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	mapper   meta.ResettableRESTMapper
}

// Run serves until the context ends.
func Run(ctx context.Context, c Config) (err error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	// What serves needs the rest until its last answer.
	rest, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &program{Config: c, ctx: rest, engine: engine.New(c.Engine), serving: c.Serving}
	defer func() {
		stop()
		err = errors.Join(err, p.background.Wait())
	}()
	p.records = &Records{Log: c.DecisionLog, Cluster: c.Cluster, Logger: c.Log}
	if c.Server != nil {
		p.records.Send = c.Server.Decisions
	}
	p.records.Start(c.Metrics)
	if c.Kubernetes != nil {
		if err := p.reach(); err != nil {
			return fmt.Errorf("reaching the cluster: %w", err)
		}
	}
	ready, tooOld, err := p.data()
	if err != nil {
		return err
	}
	p.check("policies", ready)

	admission := &Admission{
		Engine: p.engine, Ready: ready, TooOld: tooOld, FailOpen: c.FailOpen, Now: c.Now, Log: c.Log, Record: p.records.Add,
		NamespaceLabels: func(context.Context, string) map[string]string { return nil },
	}
	validation := &Validation{Engine: p.engine, GuardedLabels: c.GuardedLabels, Log: c.Log}
	if p.clients != nil {
		access := Access{p.clients.core.AuthorizationV1().SubjectAccessReviews()}
		admission.MayOverride, validation.MayOverride = access.MayOverride, access.MayOverride
		admission.NamespaceLabels = p.namespaces().Labels
		admission.Owner = Owners{Client: p.clients.dynamic, Mapper: p.clients.mapper}.Get
		p.events()
	}
	if len(c.ResolveTags) > 0 {
		resolver := NewResolver(c.ResolveTags, c.RegistryNetworks, c.Log)
		resolver.Realms = c.Realms
		admission.Resolve = resolver.Resolve
	}
	if c.ScanOnSight && c.Server != nil {
		sight := NewSight(c.Server.RequestScans, c.Log)
		admission.Unknown = sight.Unknown
		p.run("asking for scans", func(ctx context.Context) error {
			sight.Run(ctx)
			return nil
		})
	}
	p.run("sending receipts", func(ctx context.Context) error {
		p.records.Run(ctx)
		return nil
	})
	if p.serving.Certificate, err = p.certificate(ctx); err != nil {
		return err
	}
	p.serving.Metrics = c.Metrics
	p.serving.Handlers = map[string]http.Handler{
		"/admit": admission, "/validate": validation, "/gatekeeper": &ExternalData{Engine: p.engine, Now: c.Now, Ready: func() error {
			if err := ready(); err != nil || tooOld == nil {
				return err
			}
			return tooOld()
		}},
	}
	c.Log.Info("serving admission", "address", p.serving.Listener.Addr().String(), "version", c.Version)
	return p.serving.Run(ctx)
}

// run does something beside serving, until the last answer.
func (p *program) run(what string, f func(context.Context) error) {
	p.background.Go(func() error {
		err := f(p.ctx)
		if err != nil && p.ctx.Err() == nil {
			p.Log.Error(what+" ended", "error", err)
		}
		return err
	})
}

// check is asked by /readyz.
func (p *program) check(name string, f func() error) {
	p.serving.Ready = append(p.serving.Ready, healthz.NamedCheck(name, func(*http.Request) error { return f() }))
}

func (p *program) reach() (err error) {
	p.clients = &clients{}
	if p.clients.core, err = kubernetes.NewForConfig(p.Kubernetes); err != nil {
		return err
	}
	if p.clients.dynamic, err = dynamic.NewForConfig(p.Kubernetes); err != nil {
		return err
	}
	p.clients.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(p.clients.core.Discovery()))
	p.clients.metadata, err = metadata.NewForConfig(p.Kubernetes)
	return err
}

// data begins to follow policies and data. ready says why there are none yet, and tooOld, where it is
// given, why they are too old to admit by.
func (p *program) data() (ready, tooOld func() error, err error) {
	if p.Follow == nil {
		return p.local(), nil, nil
	}
	followed := *p.Follow
	// What decoding leaves behind is given back soon after the last bundle of many.
	tidy := time.AfterFunc(time.Hour, debug.FreeOSMemory)
	followed.Load = func(ctx context.Context, changed iter.Seq2[*bundle.Bundle, error]) error {
		defer tidy.Reset(tidyAfter)
		return p.engine.ReplaceEach(ctx, changed)
	}
	followed.Now = p.Now
	f, err := follow.New(followed)
	if err != nil {
		return nil, nil, err
	}
	if err := p.measure(f); err != nil {
		return nil, nil, err
	}
	p.serving.Notes = func() []string { return notes(f) }
	p.run("following bundles", func(ctx context.Context) error {
		f.Restore(ctx)
		return f.Run(ctx)
	})
	if p.RefuseOld {
		tooOld = f.TooOld
	}
	return f.Ready, tooOld, nil
}

// measure gives the metrics of what is followed.
func (p *program) measure(f *follow.Follower) error {
	truth := func(err error) float64 {
		if err != nil {
			return 1
		}
		return 0
	}
	var all []error
	for _, g := range []struct {
		name, help string
		value      func() float64
	}{
		{"assay_bundles_stale", "1 while the server's bundles cannot be followed.", func() float64 {
			_, fault := f.Fault()
			return truth(fault)
		}},
		{"assay_data_age_seconds", "Age of the policies and data of the server; NaN while there are none, or it is not known.", func() float64 {
			age, err := f.Age()
			if err != nil {
				return math.NaN()
			}
			return age.Seconds()
		}},
		{"assay_data_too_old", "1 while the data is older than --max-data-age.", func() float64 { return truth(f.TooOld()) }},
	} {
		all = append(all, p.Metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value)))
	}
	return errors.Join(all...)
}

// notes are what /readyz says of what is followed, beside whether it is ready. Everyone may read them.
func notes(f *follow.Follower) []string {
	if err := f.TooOld(); err != nil {
		return []string{"warning: " + oneLine(err.Error())}
	}
	age, err := f.Age()
	if err != nil {
		return []string{"warning: " + oneLine(err.Error())}
	}
	said := []string{fmt.Sprintf("the policies and scan results are %s old", age.Round(time.Second))}
	if since, fault := f.Fault(); fault != nil {
		said = append(said, "warning: the server cannot be followed since "+since.UTC().Format(time.RFC3339)+"; the log says why")
	}
	return said
}

// tidyAfter is how long after a bundle memory is given back to the system.
const tidyAfter = 3 * time.Second

// local follows policies without a server.
func (p *program) local() (ready func() error) {
	local := &Local{Source: p.Source, Scans: p.Scans, Engine: p.engine, Log: p.Log}
	if p.ClusterPolicies {
		host, err := os.Hostname()
		if err != nil {
			host = "assay-webhook"
		}
		local.Source = cluster.Source{Client: p.clients.dynamic, Replica: host, Counts: p.records.Counts, Now: p.Now, Log: p.Log}
	}
	if p.Narrow && p.Registration != "" && p.clients != nil {
		mapper := p.clients.mapper
		keep := &registration.Keep{Client: p.clients.core, Name: p.Registration, Log: p.Log, Namespaces: p.Namespaces, Resource: func(k schema.GroupKind) (string, error) {
			m, err := mapper.RESTMapping(k)
			if meta.IsNoMatchError(err) {
				mapper.Reset()
			}
			if err != nil {
				return "", err
			}
			return m.Resource.Resource, nil
		}}
		local.Before = func(ctx context.Context, set *policies.Set, load func() error) error {
			return keep.Load(ctx, set, load)
		}
		p.run("keeping the registration", keep.Run)
	}
	p.run("following policies", local.Run)
	return local.Ready
}

// namespaces begins to follow the cluster's namespaces.
func (p *program) namespaces() *Namespaces {
	n := NewNamespaces(p.clients.metadata, p.Log)
	p.run("following namespaces", func(ctx context.Context) error {
		n.Run(ctx)
		return nil
	})
	p.check("namespaces", func() error {
		if !n.Synced() {
			return errors.New("the cluster's namespaces are not known yet")
		}
		return nil
	})
	return n
}

// events sends Kubernetes Events of what is refused.
func (p *program) events() {
	broadcaster := record.NewBroadcaster(record.WithContext(p.ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.clients.core.CoreV1().Events("")})
	scheme := runtime.NewScheme()
	_ = clientscheme.AddToScheme(scheme) // for references to objects, which ours are already
	p.records.Events = broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "assay-webhook"})
}

// certificate is that of files, or one that is made and renewed.
func (p *program) certificate(ctx context.Context) (dynamiccertificates.CertKeyContentProvider, error) {
	if p.IssueSecret == "" {
		return certificate.NewFiles("serving", p.CertFile, p.KeyFile)
	}
	service := p.ServiceName + "." + p.ServiceNamespace
	issuer := &certificate.Issuer{
		Client: p.clients.core, Namespace: p.IssueNamespace, Secret: p.IssueSecret, Now: p.Now, Log: p.Log,
		Names: []string{service + ".svc", service, service + ".svc.cluster.local"},
	}
	if p.Registration != "" {
		issuer.Publish = func(ctx context.Context, bundle []byte) error {
			return registration.CABundle(ctx, p.clients.core, []string{p.Registration}, bundle)
		}
	}
	for {
		err := issuer.Sync(ctx)
		if err == nil || issuer.Bundle() != nil { // that it is not published yet keeps no one from asking
			break
		}
		p.Log.Error("making the serving certificate; trying again", "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
	p.run("renewing the certificate", issuer.Run)
	return issuer, nil
}
