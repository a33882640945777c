package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/bundles/source/gitrepo"
	"github.com/assay-dev/assay/cmd/environment"
	"github.com/assay-dev/assay/outgoing"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/auth"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/server/reports"
	"github.com/assay-dev/assay/store"
)

const day = 24 * time.Hour

func (a *app) serveCommand() *cobra.Command {
	var (
		config                             daemon.Config
		attested                           attestationFlags
		git                                gitrepo.Source
		sign                               signing
		oidc                               auth.OIDC
		login                              auth.Login
		secretFile                         string
		listen                             string
		policies                           string
		database                           string
		listing                            string
		networks                           outgoing.NetworksFlag
		realms                             outgoing.RealmsFlag
		advisories                         []string
		registries                         string
		file                               string
		anonymous                          string
		approve                            string
		review                             string
		bind                               []string
		served                             reports.Config
		reportsAt                          string
		logLevel                           string
		maxAge                             time.Duration
		scanMemory, scanDisk, uploadMemory size = 512 << 20, 2 << 30, 256 << 20
		quota, quotaAll                         = quotaFlag(daemon.DefaultQuota), quotaFlag(daemon.DefaultQuotaAll)
	)
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the server: results kept, rescanned, alerted on, and served to webhooks",
		Long: `Keeps scans, SBOMs, running containers and exceptions, classifies them anew at
every change, matches stored SBOMs every day and with every new database, raises
alerts, and serves the API (/api/v1), bundles for OPA and webhooks (/bundles),
metrics (/metrics) and health (/livez, /readyz).

The data is in SQLite in the folder --data, or in PostgreSQL, which any number of
replicas share. The first start writes the administrator's token to admin.token in
that folder; make others by POST /api/v1/tokens.

Each flag can be given as ASSAY_SERVE_<FLAG>, with underscores, in the environment,
or in the YAML file --config (default ~/.assay-server.yaml); flags go over
environment over file. Variables of OpenTelemetry (OTEL_EXPORTER_OTLP_ENDPOINT, …)
say where --trace sends spans to.`,
		Example: `  assay serve --data /var/lib/assay --policies policies --db-update
  assay serve --database postgres://assay@db/assay --listen :8443 --tls-cert tls.crt --tls-key tls.key --sign-key assay.key
  curl -H "Authorization: Bearer $(cat /var/lib/assay/admin.token)" localhost:8380/api/v1/images`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	flags := c.Flags()
	flags.Lookup("output").Usage = "format of the log"
	flags.StringVar(&file, "config", "", "YAML file of flag names and values")
	flags.StringVar(&config.Data, "data", "assay-data", "folder of the database and the first token")
	flags.StringVar(&config.Database, "database", "", "postgres:// URL, or a SQLite file (default assay.db in --data)")
	flags.StringVar(&listen, "listen", "127.0.0.1:8380", "address to serve on")
	flags.StringVar(&config.CertFile, "tls-cert", "", "certificate in PEM, read anew when it changes")
	flags.StringVar(&config.KeyFile, "tls-key", "", "private key of the certificate")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	flags.StringVar(&policies, "policies", "", "folder of policies, watched")
	gitFlags(flags, &git)
	folderFlags(flags, &git.Options)
	sign.flags(c, "sign-")
	flags.DurationVar(&config.ValidFor, "valid-for", serve.DefaultValidFor, "how long data.assay.fresh admits by the bundles after they were last confirmed")
	flags.StringVar(&config.Notifications, "notifications", "", "YAML file that says who is told of alerts (docs/notifications.md)")
	flags.StringVar(&database, "db", "", "vulnerability database to use instead of that of 'assay db'")
	flags.BoolVar(&config.Update, "db-update", false, "fetch newer vulnerability databases")
	flags.StringVar(&listing, "db-url", "", "listing of databases at a mirror, or the folder above v6/latest.json (default ASSAY_DB_URL, or Grype's)")
	flags.StringSliceVar(&advisories, "advisories", nil, "file or folder of own advisories (OSV JSON), followed and merged into each database; may be repeated")
	flags.DurationVar(&maxAge, "db-max-age", vulndb.DefaultMaxAge, "refuse older vulnerability databases; 0 takes any")
	flags.StringSliceVar(&config.ScanImages, "scan-images", nil, "scan images of these names, such as registry.example.com/shop, or * for all, from their registries when a webhook meets one that nobody scanned; may be repeated")
	flags.Var(&scanMemory, "scan-memory", "bound on the memory of one such scan, which is a process of its own")
	flags.Var(&scanDisk, "scan-disk", "bound on its files, and so on an image's layers, unpacked, with the archives in them")
	flags.DurationVar(&config.Scans.CPU, "scan-cpu-time", 10*time.Minute, "bound on its CPU time")
	flags.IntVar(&config.Scans.Parallel, "scan-parallel", 2, "such scans at a time")
	flags.Var(&uploadMemory, "upload-memory", "memory for the reading of what was uploaded, at a time; what would need more by itself is refused")
	flags.Var(&quota, "quota", "what each identity with a scope may hold of what it hands in: digests, names, and bytes in the database; what is not named keeps its default, and 0 is no bound")
	flags.Var(&quotaAll, "quota-unscoped", "the same of identities without a scope; or off")
	flags.IntVar(&config.Connections.Total, "max-connections", daemon.DefaultConnections, "connections at a time; in the place of the slowest a further one comes")
	flags.IntVar(&config.Connections.PerClient, "max-client-connections", daemon.DefaultClientConnections, "connections of one address (of IPv6: of one /64) at a time; a proxy is one")
	flags.StringVar(&registries, "registries", "", "YAML file of registries to list from time to time, and to scan what is new in them (docs/registries.md)")
	flags.BoolVar(&config.InsecureHTTP, "insecure-http", false, "talk plain HTTP to the registries of --scan-images")
	flags.Var(&networks, "registry-networks", outgoing.NetworksUsage)
	flags.Var(&realms, "token-realm", outgoing.RealmUsage)
	attested.register(c)
	flags.DurationVar(&config.RematchEvery, "rematch-every", day, "match stored SBOMs again with the same database")
	flags.StringVar(&config.Auth.TokenFile, "token-file", "", "static tokens in Kubernetes' form: token,user,uid,\"group,…\" a line")
	flags.StringVar(&config.Auth.ClientCAFile, "client-ca", "", "certificates in PEM that sign client certificates")
	flags.StringVar(&oidc.Issuer, "oidc-issuer", "", "trust the ID tokens of this issuer")
	flags.StringVar(&oidc.ClientID, "oidc-client-id", "", "audience of the ID tokens")
	flags.StringVar(&oidc.CAFile, "oidc-ca", "", "certificates in PEM for the issuer")
	flags.StringVar(&oidc.UsernameClaim, "oidc-username-claim", "", "claim that names the user (default sub)")
	flags.StringVar(&oidc.GroupsClaim, "oidc-groups-claim", "", "claim that names the groups")
	flags.StringVar(&login.RedirectURL, "oidc-redirect-url", "", "let people sign in to the pages at the issuer; this server's address as browsers see it, with the path /signin/callback")
	flags.StringVar(&secretFile, "oidc-client-secret-file", "", "file with the client's secret, for --oidc-redirect-url")
	flags.StringVar(&review, "token-review", "", "kubeconfig of a cluster that is asked about tokens; in-cluster for the one that it runs in")
	flags.StringArrayVar(&bind, "bind", nil, "ROLE=user:NAME or ROLE=group:NAME for who comes by file, OIDC, certificate or review; a role may have a scope: node(cluster=prod)=user:NAME; may be repeated")
	flags.StringVar(&approve, "exceptions-need-approval", "", "role, editor or admin, of which a second person must approve each exception that comes by the API")
	flags.StringVar(&anonymous, "anonymous", "", "role of requests without a token, for trials on loopback")
	flags.StringSliceVar(&config.Auth.TrustedOrigins, "trusted-origin", nil, "origin of browsers besides the server's own; may be repeated")
	flags.DurationVar(&config.Retention.Scans, "keep-scans", 30*day, "keep scans that a newer one replaced; 0 is for ever, here and below")
	flags.DurationVar(&config.Retention.Events, "keep-events", 30*day, "keep events")
	flags.DurationVar(&config.Retention.Decisions, "keep-decisions", 30*day, "keep decisions")
	flags.DurationVar(&config.Retention.Alerts, "keep-alerts", 90*day, "keep alerts that ended")
	flags.DurationVar(&config.Retention.Deliveries, "keep-deliveries", 30*day, "keep notifications that were given up")
	flags.DurationVar(&config.Retention.Audit, "keep-audit", 0, "keep the audit log")
	flags.DurationVar(&config.StaleAfter, "stale-after", 5*time.Minute, "show a node of a cluster as stale after it was silent for so long")
	flags.DurationVar(&config.ForgetNodes, "forget-nodes-after", day, "forget a node of a cluster, and what ran there, after it was silent for so long while others were heard")
	flags.StringVar(&reportsAt, "reports-listen", "", "address to serve reports.assay.dev on, an API that a cluster's API server aggregates")
	flags.StringVar(&served.CertFile, "reports-tls-cert", "", "certificate in PEM of --reports-listen (default --tls-cert)")
	flags.StringVar(&served.KeyFile, "reports-tls-key", "", "private key of that certificate")
	c.MarkFlagsRequiredTogether("reports-tls-cert", "reports-tls-key")
	flags.StringVar(&served.Kubeconfig, "reports-kubeconfig", "", "kubeconfig of the cluster that aggregates the reports (default the one that it runs in)")
	flags.BoolVar(&config.Trace, "trace", false, "send spans to OpenTelemetry's OTLP endpoint")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	must(c.MarkFlagDirname("data"))
	must(c.MarkFlagDirname("policies"))

	c.RunE = func(c *cobra.Command, _ []string) error {
		const prefix = "ASSAY_SERVE_"
		set, _ := environment.Lookup(prefix, "config")
		values, name, err := a.readConfig(c, strictly, cmp.Or(file, set), ".assay-server.yaml")
		if err := errors.Join(environment.Unknown(c, prefix, os.Environ()), err); err != nil {
			return err
		}
		if _, err := a.fill(c, values, name, func(flag string) (string, string) { return environment.Lookup(prefix, flag) }); err != nil {
			return err
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(logLevel)); err != nil {
			return fmt.Errorf("--log-level must be debug, info, warn or error, not %q", logLevel)
		}
		var handler slog.Handler = slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})
		if *out == "json" {
			handler = slog.NewJSONHandler(a.err, &slog.HandlerOptions{Level: level})
		}
		config.Log, config.Version = slog.New(handler), version()
		config.Scans.Memory, config.Scans.Disk, config.Limits.Memory = int64(scanMemory), int64(scanDisk), int64(uploadMemory)
		config.Quotas.Scoped, config.Quotas.All = store.Quota(quota), store.Quota(quotaAll)
		if config.Connections.Total < 1 || config.Connections.PerClient < 1 || config.Scans.Parallel < 1 || config.Scans.CPU <= 0 {
			return errors.New("--max-connections, --max-client-connections, --scan-parallel and --scan-cpu-time must be above 0")
		}
		klog.SetSlogLogger(config.Log)
		switch {
		case config.ValidFor <= serve.HeadEvery:
			return fmt.Errorf("--valid-for must be more than %s", serve.HeadEvery)
		case policies != "" && git.URL != "":
			return errors.New("policies come from a folder or from --git, not from both")
		case policies != "":
			if info, err := os.Stat(policies); err != nil || !info.IsDir() {
				return fmt.Errorf("--policies: %s is no folder", policies)
			}
			config.Source = source.Folder{Path: policies, Options: git.Options, Log: config.Log}
		case git.URL != "":
			git.Log = config.Log
			config.Source = git
		}
		if sign.key != "" {
			if config.Key, err = a.signingKey(sign); err != nil {
				return err
			}
		}
		dir, err := databaseDir()
		if err != nil {
			return err
		}
		if maxAge == 0 {
			maxAge = -1 // any age
		}
		if database != "" && len(advisories) > 0 {
			return errors.New("--advisories are merged into the databases of 'assay db', not into that of --db")
		}
		if config.Vulnerabilities, err = vulndb.New(vulndb.Config{Dir: dir, MaxAge: maxAge, LatestURL: cmp.Or(listing, os.Getenv("ASSAY_DB_URL")), Advisories: advisories, MaxCompareBytes: 256 << 20}); err != nil {
			return err
		}
		config.VulnerabilityPath = database
		config.RegistryNetworks, config.Realms = networks, realms.Realms
		if registries != "" {
			if config.Registries, err = daemon.ReadRegistries(registries); err != nil {
				return err
			}
		}
		if config.Attestations, err = attested.verifier(); err != nil {
			return err
		}
		if oidc.Issuer != "" {
			config.Auth.OIDC = &oidc
		}
		if login.RedirectURL != "" {
			if secretFile != "" {
				text, err := a.readInput(secretFile, 64<<10)
				if err != nil {
					return err
				}
				login.ClientSecret = strings.TrimSpace(string(text))
			}
			config.Auth.Login = &login
		}
		switch review {
		case "":
		case "in-cluster":
			config.Auth.TokenReview = &auth.TokenReview{}
		default:
			config.Auth.TokenReview = &auth.TokenReview{Kubeconfig: review}
		}
		if config.Auth.Bindings, err = bindings(bind); err != nil {
			return err
		}
		switch role := auth.Role(approve); role {
		case "", auth.Editor, auth.Admin:
			config.ApproveExceptions = role
		default:
			return fmt.Errorf("--exceptions-need-approval must be editor or admin, not %q", approve)
		}
		if anonymous != "" {
			if config.Auth.Anonymous, err = auth.ParseRole(anonymous); err != nil {
				return fmt.Errorf("--anonymous: %w", err)
			}
		}
		if served.CertFile == "" {
			served.CertFile, served.KeyFile = config.CertFile, config.KeyFile
		}
		if reportsAt != "" && served.CertFile == "" {
			return errors.New("--reports-listen needs a certificate: --reports-tls-cert and --reports-tls-key, or --tls-cert and --tls-key")
		}
		if config.Listener, err = net.Listen("tcp", listen); err != nil {
			return err
		}
		if reportsAt != "" {
			if served.Listener, err = net.Listen("tcp", reportsAt); err != nil {
				return errors.Join(err, config.Listener.Close())
			}
			config.Reports = &served
		}
		if at, ok := config.Listener.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && config.CertFile == "" {
			config.Log.Warn("tokens cross the network in the clear; --tls-cert and --tls-key protect them")
		}
		return daemon.Run(c.Context(), config)
	}
	return c
}

// bindings reads ROLE=user:NAME and ROLE=group:NAME.
func bindings(list []string) ([]auth.Binding, error) {
	var all []auth.Binding
	for _, text := range list {
		b, err := auth.ParseBinding(text)
		if err != nil {
			return nil, fmt.Errorf("--bind %s: %w", text, err)
		}
		all = append(all, b)
	}
	return all, nil
}

func (a *app) backupCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the server's SQLite database while it runs",
		Long: `Writes a whole and consistent copy of the database of 'assay serve' to a new file,
while the server goes on. To restore, stop the server and put the copy in the
place of assay.db, without the files assay.db-wal and assay.db-shm. PostgreSQL has
its own means, such as pg_dump.`,
		Example: `  assay backup --data /var/lib/assay /backups/assay-$(date +%F).db`,
		Args:    cobra.ExactArgs(1),
	}
	out := outputFlag(c)
	c.Flags().StringVar(&data, "data", "assay-data", "folder of the database")
	must(c.MarkFlagDirname("data"))
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := store.Backup(c.Context(), filepath.Join(data, "assay.db"), args[0]); err != nil {
			return err
		}
		info, err := os.Stat(args[0])
		if err != nil {
			return err
		}
		if *out == "json" {
			return json.NewEncoder(a.out).Encode(api.Backup{Schema: api.SchemaBackup, File: args[0], Bytes: info.Size()})
		}
		_, err = fmt.Fprintf(a.out, "%s (%d bytes)\n", args[0], info.Size())
		return err
	}
	return c
}
