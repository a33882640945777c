package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/follow"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/cmd/durations"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/webhook"
	"github.com/assay-dev/assay/webhook/registration"
)

// flags are what the command line says.
type flags struct {
	listen, cert, key string
	issue, service    string
	clientCA          string
	clientNames       []string
	folder            source.Folder // of policies
	scans             []string
	clusterPolicies   bool
	server, token, ca string
	verify            []string
	unsigned          bool
	persist           string
	maxAge            time.Duration
	tooOld            string
	cluster           string
	scanOnSight       bool
	resolveTags       []string
	networks          outgoing.NetworksFlag
	realms            outgoing.RealmsFlag
	kubeconfig        string
	registration      string
	narrow            bool
	guardedLabels     []string
	namespaces        string
	failurePolicy     string
	decisionLog       string
	deadline, drain   time.Duration
	maxInFlight       int
	connections       intake.Limits
	output, logLevel  string
	audit             *options.AuditOptions
}

// release is set by the linker for what is released.
var release = "dev"

func command() *cobra.Command {
	var f flags
	c := &cobra.Command{
		Use:   "assay-webhook",
		Short: "Admit or reject Kubernetes workloads by Assay's policies",
		Long: `Answers AdmissionReviews at /admit, by policies, scan results and exceptions that
it keeps in memory. They come from one of

  --server URL         bundles of 'assay serve' or 'assay bundle serve', followed;
                       the last good ones are kept in --persist and serve while
                       the server is away, from the start on; older ones than
                       were seen are refused
  --policies DIR       a folder, watched, with scan reports as --scans
  --cluster-policies   the cluster's own custom resources, with --scans

Other paths: /validate reviews Assay's own kinds, /gatekeeper answers Gatekeeper's
external data, /livez and /readyz are open, /metrics asks the cluster who may read it.

Whatever goes wrong, a review is refused, unless --failure-policy is Ignore. The
exit status is 0 after SIGTERM, 1 when serving fails, 2 for wrong flags or files.
Each flag can be given as ASSAY_WEBHOOK_<FLAG> in the environment.`,
		Example: `  assay-webhook --policies policies --scans scans.json --tls-cert tls.crt --tls-key tls.key --kubeconfig none
  assay-webhook --server https://assay.assay-system.svc --server-token-file token --verification-key assay.pub \
    --persist /var/lib/assay --issue-certificate assay-system/assay-webhook-tls --service assay-system/assay-webhook \
    --registration assay`,
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       release,
	}
	l := c.Flags()
	l.StringVar(&f.listen, "listen", ":8443", "address to serve on, with TLS")
	l.StringVar(&f.cert, "tls-cert", "", "certificate in PEM, read anew when it changes")
	l.StringVar(&f.key, "tls-key", "", "private key of the certificate")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	l.StringVar(&f.issue, "issue-certificate", "", "NAMESPACE/SECRET: make and renew the certificate in this Secret instead")
	l.StringVar(&f.service, "service", "", "NAMESPACE/NAME of the Service that the certificate is for")
	c.MarkFlagsMutuallyExclusive("tls-cert", "issue-certificate")
	c.MarkFlagsRequiredTogether("issue-certificate", "service")
	l.StringVar(&f.clientCA, "client-ca", "", "certificates in PEM that sign the API server's: no one else is answered")
	l.StringSliceVar(&f.clientNames, "client-name", nil, "common name of the API server's certificate; may be repeated (default any)")
	l.StringVar(&f.folder.Path, "policies", "", "folder of policies, watched")
	l.BoolVar(&f.folder.Options.SkipForeign, "skip-foreign", false, "leave out objects of other tools among the policies, with a warning")
	l.StringSliceVar(&f.scans, "scans", nil, "scan report (JSON of 'assay scan'), watched; may be repeated")
	l.BoolVar(&f.clusterPolicies, "cluster-policies", false, "take policies from the cluster's custom resources")
	l.StringVar(&f.server, "server", "", "URL of the server whose bundles are followed, and that gets the decisions")
	l.StringVar(&f.token, "server-token-file", "", "bearer token for the server, read at each request")
	l.StringVar(&f.ca, "server-ca", "", "further certificates to trust for the server")
	l.StringSliceVar(&f.verify, "verification-key", nil, "public key of which one must have signed each bundle; may be repeated")
	l.BoolVar(&f.unsigned, "unsigned", false, "take bundles without a signature, for trials")
	l.StringVar(&f.persist, "persist", "", "folder of the last good bundles, and of the newest that were seen: older ones are refused")
	l.DurationVar(&f.maxAge, "max-data-age", 15*time.Minute, "how old the server's policies and data may be; 0 is any age")
	l.StringVar(&f.tooOld, "old-data", "warn", "what to do beyond --max-data-age: warn (metric and /readyz), or refuse what such data admits")
	c.MarkFlagsMutuallyExclusive("server", "policies", "cluster-policies")
	c.MarkFlagsOneRequired("server", "policies", "cluster-policies")
	l.StringSliceVar(&f.resolveTags, "resolve-tags", nil, "ask registries which digest a tag means now, below these names, such as registry.example.com, or * for all; may be repeated")
	l.Var(&f.networks, "registry-networks", outgoing.NetworksUsage)
	l.Var(&f.realms, "token-realm", outgoing.RealmUsage)
	l.BoolVar(&f.scanOnSight, "scan-on-sight", false, "ask the server to scan images that are rejected since nobody scanned them")
	l.StringVar(&f.cluster, "cluster-name", "", "name of this cluster, as in the scope of its tokens: evidence of this cluster and its trust groups counts, and decisions are recorded under it")
	l.StringVar(&f.kubeconfig, "kubeconfig", "", "cluster to ask for namespaces and rights; none for no cluster (default the one that this runs in)")
	l.StringVar(&f.registration, "registration", "", "ValidatingWebhookConfiguration that gets the issued certificate's authority")
	l.BoolVar(&f.narrow, "narrow-registration", false, "keep its rules and selectors to what the policies can match")
	l.StringSliceVar(&f.guardedLabels, "guard-namespace-label", nil, "label of namespaces to guard beside those that policies look at, such as one that the registration selects by; may be repeated")
	l.StringVar(&f.namespaces, "namespace-selector", "", "the registration asks about these namespaces alone, such as 'team, env in (a,b)': --narrow-registration keeps it so, and its labels are guarded")
	l.StringVar(&f.failurePolicy, "failure-policy", "Fail", "what to do with a review that cannot be decided: Fail or Ignore")
	l.StringVar(&f.decisionLog, "decision-log", "", "file that gets a JSON line for each decision; - is standard output")
	l.DurationVar(&f.deadline, "deadline", engine.DefaultDeadline, "longest time of one decision")
	l.IntVar(&f.maxInFlight, "max-in-flight", 400, "reviews that are decided at a time, of those that have come whole; a further one is told to try again")
	l.IntVar(&f.connections.Total, "max-connections", 1024, "connections at a time; in the place of the slowest a further one comes")
	l.IntVar(&f.connections.PerClient, "max-client-connections", 512, "connections of one address (of IPv6: of one /64) at a time")
	l.DurationVar(&f.connections.Arrive, "read-timeout", 10*time.Second, "longest time in which a review arrives, from its first byte or the connection")
	l.DurationVar(&f.drain, "shutdown-delay", 5*time.Second, "time to go on serving after SIGTERM, while routes change")
	l.StringVarP(&f.output, "output", "o", "text", "format of the log: text or json")
	l.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.audit = options.NewAuditOptions()
	f.audit.AddFlags(l)
	l.VisitAll(hideRareAudit)
	c.PreRunE = func(c *cobra.Command, _ []string) error { return fromEnvironment(c) }
	c.RunE = func(c *cobra.Command, _ []string) error {
		return f.serve(c.Context(), c.OutOrStdout(), c.ErrOrStderr())
	}
	durations.NotNegative(c)
	return c
}

// servingError is what fails after flags and files were found good.
type servingError struct{ error }

func (e servingError) Unwrap() error { return e.error }

func isServing(err error) bool { return errors.As(err, new(servingError)) }

func (f *flags) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", f.logLevel)
	}
	switch o := (&slog.HandlerOptions{Level: level}); f.output {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("--output must be text or json, not %q", f.output)
}

// config is that of the webhook.
func (f *flags) config(log *slog.Logger, stdout io.Writer) (c webhook.Config, err error) {
	c = webhook.Config{
		Log: log, Version: release, Cluster: f.cluster, ScanOnSight: f.scanOnSight, ResolveTags: f.resolveTags, RegistryNetworks: f.networks, Realms: f.realms.Realms, Scans: f.scans,
		Engine: engine.Config{Deadline: f.deadline}, Registration: f.registration, Narrow: f.narrow, GuardedLabels: f.guardedLabels,
		Serving: webhook.Serving{
			ClientCAFile: f.clientCA, ClientNames: f.clientNames, Audit: f.audit, MaxInFlight: f.maxInFlight, Connections: f.connections, ShutdownDelay: f.drain,
		},
	}
	if f.maxInFlight < 1 || f.connections.Total < 1 || f.connections.PerClient < 1 || f.connections.Arrive <= 0 {
		return c, errors.New("--max-in-flight, --max-connections, --max-client-connections and --read-timeout must be above 0")
	}
	if f.namespaces != "" {
		if c.Namespaces, err = registration.Requirements(f.namespaces); err != nil {
			return c, fmt.Errorf("--namespace-selector: %w", err)
		}
		for _, r := range c.Namespaces {
			c.GuardedLabels = append(c.GuardedLabels, r.Key)
		}
	}
	switch f.failurePolicy {
	case "Fail":
	case "Ignore":
		c.FailOpen = true
	default:
		return c, fmt.Errorf("--failure-policy must be Fail or Ignore, not %q", f.failurePolicy)
	}
	if c.Kubernetes, err = f.kubernetes(); err != nil {
		return c, err
	}
	c.Serving.InCluster = c.Kubernetes != nil
	if f.kubeconfig != "none" {
		c.Serving.Kubeconfig = f.kubeconfig
	}
	switch {
	case f.cert != "":
		c.CertFile, c.KeyFile = f.cert, f.key
	case f.issue != "":
		if c.IssueNamespace, c.IssueSecret, err = pair("--issue-certificate", f.issue); err != nil {
			return c, err
		}
		if c.ServiceNamespace, c.ServiceName, err = pair("--service", f.service); err != nil {
			return c, err
		}
		if c.Kubernetes == nil {
			return c, errors.New("--issue-certificate needs a cluster")
		}
	default:
		return c, errors.New("the API server speaks TLS alone: give --tls-cert and --tls-key, or --issue-certificate")
	}
	if err := f.sources(&c); err != nil {
		return c, err
	}
	switch f.decisionLog {
	case "":
	case "-":
		c.DecisionLog = stdout
	default:
		file, err := os.OpenFile(f.decisionLog, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return c, fmt.Errorf("--decision-log: %w", err)
		}
		c.DecisionLog = file
	}
	return c, nil
}

func (f *flags) sources(c *webhook.Config) error {
	switch {
	case f.tooOld != "warn" && f.tooOld != "refuse":
		return fmt.Errorf("--old-data must be warn or refuse, not %q", f.tooOld)
	case f.maxAge < 0 || f.maxAge == 0 && f.tooOld == "refuse":
		return errors.New("--old-data refuse needs a --max-data-age of more than 0")
	case f.server == "" && f.tooOld == "refuse":
		return errors.New("--old-data goes with --server")
	case f.server == "" && (f.token != "" || f.ca != "" || f.persist != "" || len(f.verify) > 0 || f.unsigned):
		return errors.New("--server-token-file, --server-ca, --verification-key, --unsigned and --persist go with --server")
	case f.scanOnSight && f.token == "":
		return errors.New("--scan-on-sight needs --server and --server-token-file")
	case f.server != "" && len(f.scans) > 0:
		return errors.New("--scans go with --policies or --cluster-policies: a server has its own")
	case f.clusterPolicies && c.Kubernetes == nil:
		return errors.New("--cluster-policies needs a cluster")
	case f.clusterPolicies:
		c.ClusterPolicies = true
		return nil
	case f.folder.Path != "":
		if info, err := os.Stat(f.folder.Path); err != nil || !info.IsDir() {
			return fmt.Errorf("--policies: %s is no folder", f.folder.Path)
		}
		f.folder.Log = c.Log
		c.Source = f.folder
		return nil
	case len(f.verify) == 0 && !f.unsigned:
		return errors.New("bundles must be signed: give --verification-key, or --unsigned for a trial")
	}
	c.Follow = &follow.Config{URL: f.server, TokenFile: f.token, CAFile: f.ca, Persist: f.persist, MaxAge: f.maxAge, Log: c.Log}
	if f.cluster != "" { // and what this cluster alone, and its groups, are told
		c.Follow.View = documents.PartCluster(f.cluster)
		c.Follow.Parts = append(bundles.Parts(), documents.ClusterParts(f.cluster, nil)...)
	}
	c.RefuseOld = f.tooOld == "refuse"
	for _, name := range f.verify {
		text, err := os.ReadFile(filepath.Clean(name))
		if err != nil {
			return fmt.Errorf("--verification-key: %w", err)
		}
		key, err := bundles.ParseVerificationKey(text)
		if err != nil {
			return fmt.Errorf("--verification-key: %s: %w", name, err)
		}
		c.Follow.Keys = append(c.Follow.Keys, key)
	}
	if f.token != "" {
		var err error
		c.Server, err = client.New(client.Config{
			URL: f.server, TokenFile: f.token, CAFile: f.ca, UserAgent: "assay-webhook/" + release,
			Warn: func(err error) { c.Log.Debug("asking the server again", "error", err) },
		})
		return err
	}
	return nil
}

func pair(flag, text string) (namespace, name string, err error) {
	namespace, name, ok := strings.Cut(text, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return "", "", fmt.Errorf("%s must be NAMESPACE/NAME, not %q", flag, text)
	}
	return namespace, name, nil
}

// kubernetes is the cluster that is asked; nil for none.
func (f *flags) kubernetes() (*rest.Config, error) {
	var c *rest.Config
	var err error
	switch f.kubeconfig {
	case "none":
		return nil, nil
	case "":
		if c, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("this does not run in a cluster: give --kubeconfig FILE, or none: %w", err)
		}
	default:
		if c, err = clientcmd.BuildConfigFromFlags("", f.kubeconfig); err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
	}
	c.UserAgent = "assay-webhook/" + release
	c.QPS, c.Burst = 100, 200
	return c, nil
}

func (f *flags) serve(ctx context.Context, stdout, stderr io.Writer) error {
	log, err := f.logger(stderr)
	if err != nil {
		return err
	}
	klog.SetSlogLogger(log)
	config, err := f.config(log, stdout)
	if err != nil {
		return err
	}
	config.Metrics = prometheus.NewRegistry()
	config.Metrics.MustRegister(collectors.NewBuildInfoCollector())
	if config.Serving.Listener, err = net.Listen("tcp", f.listen); err != nil {
		return servingError{err}
	}
	if err := webhook.Run(ctx, config); err != nil {
		return servingError{err}
	}
	return nil
}
