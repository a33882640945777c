package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/assay-dev/assay/bundles/follow"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/client"
)

// Config is that of a whole admission server.
type Config struct {
	// Source, ClusterPolicies or Follow is where policies come from: a folder, the
	// cluster's custom resources, or a server. Scans are reports for the first two.
	Source          source.Source
	ClusterPolicies bool
	Follow          *follow.Config
	Scans           []string
	// Server gets the receipts of decisions; nil gets none.
	Server  *client.Client
	Cluster string

	// Kubernetes is the cluster that is asked for namespaces and rights; nil is none,
	// and then the labels of namespaces are not known.
	Kubernetes *rest.Config

	// CertFile and KeyFile are the certificate, or it is made and kept in a Secret.
	CertFile, KeyFile             string
	IssueNamespace, IssueSecret   string
	ServiceNamespace, ServiceName string
	// Registration is the ValidatingWebhookConfiguration to keep up to date; Narrow
	// keeps its rules to what the policies can match too.
	Registration string
	Narrow       bool

	Serving     Serving // its listener, limits and clients
	Engine      engine.Config
	FailOpen    bool
	DecisionLog io.Writer
	Metrics     *prometheus.Registry
	Version     string
	Log         *slog.Logger
	// Now is the clock; nil is the usual one.
	Now func() time.Time
}

// Run serves until the context ends.
func Run(ctx context.Context, c Config) (err error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	engine := engine.New(c.Engine)
	group, ctx := errgroup.WithContext(ctx)
	// What serves needs the rest until its last answer.
	rest, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	background := errgroup.Group{}
	run := func(f func(context.Context) error) {
		background.Go(func() error {
			err := f(rest)
			if err != nil && rest.Err() == nil {
				c.Log.Error("a part of the webhook ended", "error", err)
			}
			return err
		})
	}

	records := &Records{Log: c.DecisionLog, Cluster: c.Cluster, Logger: c.Log}
	if c.Server != nil {
		records.Send = c.Server.Decisions
	}
	admission := &Admission{
		Engine: engine, FailOpen: c.FailOpen, Now: c.Now, Log: c.Log, Record: records.Add,
		NamespaceLabels: func(context.Context, string) map[string]string { return nil },
	}
	ready := []healthz.HealthChecker{}
	check := func(name string, f func() error) {
		ready = append(ready, healthz.NamedCheck(name, func(*http.Request) error { return f() }))
	}

	loaded, err := c.data(rest, engine, run)
	if err != nil {
		return err
	}
	admission.Ready = loaded
	check("policies", loaded)

	if c.Kubernetes != nil {
		namespaces, err := c.cluster(rest, records, run)
		if err != nil {
			return err
		}
		admission.NamespaceLabels = namespaces.Labels
		check("namespaces", func() error {
			if !namespaces.Synced() {
				return errors.New("the cluster's namespaces are not known yet")
			}
			return nil
		})
	}
	records.Start(c.Metrics)
	run(func(ctx context.Context) error {
		records.Run(ctx)
		return nil
	})

	serving := c.Serving
	serving.Ready, serving.Metrics = ready, c.Metrics
	serving.Handlers = map[string]http.Handler{"/admit": admission}
	if serving.Certificate, err = c.certificate(); err != nil {
		return err
	}
	c.Log.Info("serving admission", "address", serving.Listener.Addr().String(), "version", c.Version)
	group.Go(func() error { return serving.Run(ctx) })
	err = group.Wait()
	stop()
	return errors.Join(err, background.Wait())
}

// data begins to follow policies and data, and gives what says why there are none yet.
func (c Config) data(ctx context.Context, e *engine.Engine, run func(func(context.Context) error)) (func() error, error) {
	if c.Follow == nil {
		local := &Local{Source: c.Source, Scans: c.Scans, Engine: e, Log: c.Log, Loaded: func(*policies.Set) {}}
		run(local.Run)
		return local.Ready, nil
	}
	followed := *c.Follow
	followed.Load = func(ctx context.Context, b *bundle.Bundle) error { return e.Replace(ctx, b) }
	followed.Now = c.Now
	f, err := follow.New(followed)
	if err != nil {
		return nil, err
	}
	stale := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "assay_bundles_stale", Help: "Bundles that cannot be followed now."},
		func() float64 { return float64(len(f.Stale())) })
	if err := c.Metrics.Register(stale); err != nil {
		return nil, err
	}
	run(func(ctx context.Context) error {
		f.Restore(ctx)
		return f.Run(ctx)
	})
	return f.Ready, nil
}

// cluster begins to follow the cluster.
func (c Config) cluster(ctx context.Context, records *Records, run func(func(context.Context) error)) (*Namespaces, error) {
	meta, err := metadata.NewForConfig(c.Kubernetes)
	if err != nil {
		return nil, fmt.Errorf("reaching the cluster: %w", err)
	}
	core, err := kubernetes.NewForConfig(c.Kubernetes)
	if err != nil {
		return nil, fmt.Errorf("reaching the cluster: %w", err)
	}
	namespaces := NewNamespaces(meta, c.Log)
	run(func(ctx context.Context) error {
		namespaces.Run(ctx)
		return nil
	})
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: core.CoreV1().Events("")})
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	records.Events = broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "assay-webhook"})
	return namespaces, nil
}

func (c Config) certificate() (dynamiccertificates.CertKeyContentProvider, error) {
	files, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving", c.CertFile, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	return files, nil
}
