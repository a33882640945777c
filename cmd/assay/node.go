package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/assay-dev/assay/cmd/environment"
	"github.com/assay-dev/assay/node"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/child"
	"github.com/assay-dev/assay/server/client"
)

// clusterWait bounds asking the cluster for its name.
const clusterWait = 30 * time.Second

func (a *app) nodeCommand() *cobra.Command {
	config := node.Config{}
	memory, disk, queueSize := size(node.DefaultMemory), size(node.DefaultDisk), size(node.DefaultQueueSize)
	var (
		server     client.Config
		kubeconfig string
		listen     string
		logLevel   string
		once       bool
	)
	c := &cobra.Command{
		Use:   "node",
		Short: "Scan the images of this node's containerd, and tell a server what runs",
		Long: `Reads the images that this machine's containerd holds, makes their SBOMs in place,
and sends them to an Assay server, with the containers that run. It pulls nothing,
mounts nothing and runs no container: it needs containerd's socket, CRI's, and the
right to read them. One runs on each node of a cluster (docs/node.md).

The server says which node makes the SBOM of an image that several hold. What runs
comes first. Each scan is a process of its own, of the lowest priority, held to --cpu,
--memory, --disk and --timeout; an image that needs more is reported as not scanned,
and tried again a few times. What the server does not take waits in --queue.

In a cluster, or with --kubeconfig, the ImageAssurance named default switches the
scanner on and off and adds namespaces to leave out. The cluster's name is --cluster,
else cluster-<UID of its namespace kube-system>.

--once scans all that is there, tells the server if one is given, and ends: for a
trial, 'assay node --once --cluster try --cri-socket none --queue /tmp/queue'.

Each flag can be given as ASSAY_NODE_<FLAG>, with underscores, in the environment
(ASSAY_NODE_TOKEN keeps the token out of the process list). --node defaults to
NODE_NAME, else the host's name.

Exit status: 0; 2 usage, or containerd, the cluster or the server cannot be used;
with --once also 3 where an image could not be scanned.`,
		Example: `  assay node --apiurl https://assay.example.com --token-file /etc/assay/token --cluster prod
  assay node --once --cluster try --cri-socket none -o json`,
		Args: cobra.NoArgs,
	}
	out := outputFlag(c)
	flags := c.Flags()
	flags.Lookup("output").Usage = "format of the log, and of what --once prints"
	flags.StringVar(&config.Cluster, "cluster", "", "name of the cluster (default that of its namespace kube-system)")
	flags.StringVar(&config.Node, "node", "", "name of the node (default NODE_NAME, else the host's)")
	flags.StringVarP(&server.URL, "apiurl", "a", "", "URL of the Assay server")
	flags.StringVarP(&server.Token, "token", "t", "", "token for the server, of the role node")
	flags.StringVar(&server.TokenFile, "token-file", "", "file that holds the token, read at each request")
	c.MarkFlagsMutuallyExclusive("token", "token-file")
	flags.StringVar(&server.CAFile, "api-ca", "", "further certificates to trust for the server, in PEM")
	flags.StringVar(&config.Address, "containerd-address", "/run/containerd/containerd.sock", "containerd's socket")
	flags.StringVar(&config.Namespace, "containerd-namespace", node.DefaultNamespace, "containerd's namespace that holds the images")
	flags.StringVar(&config.Root, "containerd-root", "", "where containerd's root, usually /var/lib/containerd, can be read: for images whose packed layers it has discarded")
	flags.StringVar(&config.CRISocket, "cri-socket", "", "socket of the container runtime interface (default that of containerd); none leaves out what runs")
	flags.StringSliceVar(&config.ExcludeNamespaces, "exclude-namespace", nil, "leave out the containers of this namespace, and images that run there alone; may be repeated")
	flags.BoolVar(&config.RunningOnly, "running-only", false, "leave out images that no container uses")
	flags.StringVar(&config.Dir, "queue", "/var/lib/assay-node", "folder for what waits to be sent, and for the files of scans; this agent's alone")
	flags.Var(&queueSize, "queue-size", "bound on what waits there; images at rest are dropped first")
	flags.DurationVar(&config.Poll, "poll", node.DefaultPoll, "how often images are listed, and containers where CRI sends no events")
	flags.DurationVar(&config.Heartbeat, "heartbeat", node.DefaultHeartbeat, "how often the server hears of a node where nothing changes")
	flags.IntVar(&config.Parallel, "parallel", 1, "images scanned at a time; each has the bounds below")
	flags.Float64Var(&config.CPU, "cpu", node.DefaultCPU, "bound on a scan's CPU, in cores")
	flags.Var(&memory, "memory", "bound on a scan's memory")
	flags.Var(&disk, "disk", "bound on a scan's files, and so on an image's layers, unpacked")
	flags.DurationVar(&config.Timeout, "timeout", scanner.DefaultTimeout, "bound on one scan")
	flags.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig of the cluster (default the one that it runs in); none asks no cluster")
	flags.StringVar(&listen, "listen", "", "address to serve /metrics, /healthz and /readyz on (default none)")
	flags.BoolVar(&once, "once", false, "scan all that is there, tell of it, and end")
	flags.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	must(c.MarkFlagDirname("queue"))
	must(c.MarkFlagDirname("containerd-root"))

	c.RunE = func(c *cobra.Command, _ []string) error {
		const prefix = "ASSAY_NODE_"
		given, err := a.fill(c, nil, "", func(flag string) (string, string) {
			value, name := environment.Lookup(prefix, flag)
			if v := os.Getenv("NODE_NAME"); flag == "node" && name == "" && v != "" {
				return v, "NODE_NAME"
			}
			return value, name
		})
		if err := errors.Join(environment.Unknown(c, prefix, os.Environ()), err); err != nil {
			return err
		}
		var level slog.Level
		if err := level.UnmarshalText([]byte(logLevel)); err != nil {
			return fmt.Errorf("--log-level must be debug, info, warn or error, not %q", logLevel)
		}
		if once && !given["log-level"] {
			level = slog.LevelWarn
		}
		var handler slog.Handler = slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})
		if *out == "json" && !once {
			handler = slog.NewJSONHandler(a.err, &slog.HandlerOptions{Level: level})
		}
		config.Log, config.Version = slog.New(handler), version()
		klog.SetSlogLogger(config.Log)
		config.Memory, config.Disk, config.QueueSize = int64(memory), int64(disk), int64(queueSize)
		if config.Node == "" {
			if config.Node, err = os.Hostname(); err != nil {
				return fmt.Errorf("naming the node: %w: --node", err)
			}
		}
		if server.URL != "" {
			server.UserAgent, server.Attempts = "assay/"+version(), 1
			if config.Server, err = client.New(server); err != nil {
				return fmt.Errorf("--apiurl: %w", err)
			}
		} else if !once {
			return errors.New("--apiurl is missing: the URL of an Assay server to send to, or --once for a trial without one")
		}
		if config.Assurance, err = reachCluster(kubeconfig); err != nil {
			return err
		}
		if config.Cluster == "" {
			if config.Assurance == nil {
				return errors.New("the cluster needs a name: --cluster, or --kubeconfig of a cluster to name it by")
			}
			ctx, cancel := context.WithTimeout(c.Context(), clusterWait)
			defer cancel()
			if config.Cluster, err = node.ClusterName(ctx, config.Assurance); err != nil {
				return fmt.Errorf("%w; or name it by --cluster", err)
			}
		}
		if listen != "" && !once {
			if config.Listener, err = net.Listen("tcp", listen); err != nil {
				return err
			}
		}
		agent, err := node.New(config)
		if err != nil {
			return err
		}
		defer agent.Close()
		if once {
			return a.nodeOnce(c.Context(), agent, *out == "json")
		}
		config.Log.Info("the node's agent has started", "cluster", config.Cluster, "node", config.Node, "version", config.Version)
		return agent.Run(c.Context())
	}
	return c
}

// scanOneCommand is what the agent of a node and the server run for each scan.
func (a *app) scanOneCommand() *cobra.Command {
	return &cobra.Command{
		Use: "scan-one", Hidden: true, Args: cobra.NoArgs,
		Short: "Make one SBOM, as standard input says, within bounds on this process",
		RunE:  func(c *cobra.Command, _ []string) error { return child.Run(c.Context(), a.in, a.out) },
	}
}

// reachCluster is a client of the cluster, or nil where there is none to ask.
func reachCluster(kubeconfig string) (dynamic.Interface, error) {
	if kubeconfig == "none" {
		return nil, nil
	}
	var config *rest.Config
	var err error
	if kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	} else if config, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.UserAgent = "assay/" + version()
	return dynamic.NewForConfig(config)
}

func (a *app) nodeOnce(ctx context.Context, agent *node.Agent, json bool) error {
	report, err := agent.Once(ctx, func(s node.Scanned) {
		if isTerminal(a.err) {
			fmt.Fprintf(a.err, "%s %s\n", s.State, printable(s.Images[0]))
		}
	})
	if err != nil {
		return err
	}
	if json {
		err = writeJSON(a.out, report)
	} else {
		err = a.nodeTable(report)
	}
	for _, s := range report.Images {
		if s.State == "failed" && err == nil {
			return answer(exitUnscaned)
		}
	}
	return err
}

func (a *app) nodeTable(report node.Report) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tDIGEST\tRUNS\tSTATE\tPACKAGES\tCPU\tMEMORY")
	for _, s := range report.Images {
		runs := "no"
		if s.Running {
			runs = "yes"
		}
		packages, cpu, memory := "", "", ""
		if s.State == "scanned" {
			packages = fmt.Sprint(s.Packages)
		}
		if s.PeakMemory > 0 {
			cpu, memory = fmt.Sprintf("%.1fs", s.CPUSeconds), fmt.Sprintf("%dMi", s.PeakMemory>>20)
		}
		fmt.Fprintf(w, "%s\t%.19s\t%s\t%s\t%s\t%s\t%s\n", printable(s.Images[0]), s.Digest, runs, s.State, packages, cpu, memory)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range report.Images {
		if s.Error != "" {
			fmt.Fprintf(a.out, "%s: %s\n", printable(s.Images[0]), printable(s.Error))
		}
	}
	return nil
}

// size is a flag for bytes, as Kubernetes writes them.
type size int64

func (s *size) String() string { return resource.NewQuantity(int64(*s), resource.BinarySI).String() }
func (s *size) Type() string   { return "bytes" }
func (s *size) Set(text string) error {
	q, err := resource.ParseQuantity(text)
	if err != nil || q.Sign() <= 0 || q.Value() <= 0 {
		return errors.New("must be a number of bytes such as 512Mi or 1Gi")
	}
	*s = size(q.Value())
	return nil
}
