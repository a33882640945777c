// Package node is the agent of one node of a cluster: it reads the images that the
// node's containerd holds, makes their SBOMs in place, and tells a server of them and of
// the containers that run.
//
// Nothing is pulled and nothing is mounted. Each SBOM is made by a child process with
// bounds on its CPU, memory, disk and time, so that a hostile image ends that process
// alone. The server says which node makes the SBOM of an image that many have. What
// cannot be sent waits on disk, within a bound. The agent can be killed at any moment.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/dynamic"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
)

// Server is what an agent needs of the server; [client.Client] is one.
type Server interface {
	Claims(context.Context, client.Claims) ([]client.Claim, error)
	ReleaseClaims(context.Context, client.Claims) error
	PackedSBOM(ctx context.Context, image, digest string, packed []byte) error
	Scans(context.Context, api.ScanReport) ([]client.Uploaded, error)
	PutInstances(context.Context, client.Instances) error
	ChangeInstances(context.Context, client.InstanceChanges) error
}

// Defaults of a [Config].
const (
	DefaultNamespace = "k8s.io"
	DefaultPoll      = 10 * time.Second
	DefaultHeartbeat = time.Minute
	DefaultCPU       = 0.5
	DefaultMemory    = 512 << 20
	DefaultDisk      = 1 << 30
	DefaultQueueSize = 256 << 20
)

// NoCRI is a Config.CRISocket that leaves out what runs.
const NoCRI = "none"

// Config configures an [Agent]. Cluster, Node and Dir are needed.
type Config struct {
	// Cluster and Node name where the agent runs.
	Cluster, Node string
	// Server takes what the agent finds. Absent: nothing is sent, which Run refuses and Once takes.
	Server Server
	// Version is that of the agent: an image that failed is tried again by another one.
	Version string

	// Address is containerd's socket. Absent: as scanner.Config has it.
	Address string
	// Namespace is containerd's. Absent: k8s.io.
	Namespace string
	// Root is where containerd's root can be read, for images whose packed layers are
	// gone. Absent: those images cannot be scanned.
	Root string
	// CRISocket is that of the runtime service, a path with or without unix://. Absent:
	// Address. [NoCRI]: none.
	CRISocket string

	// ExcludeNamespaces are those of the cluster whose containers are not told of, nor
	// the images scanned that run nowhere else.
	ExcludeNamespaces []string
	// RunningOnly leaves out images that no container uses.
	RunningOnly bool
	// Assurance reaches the cluster whose ImageAssurance named default is obeyed. Absent: none is.
	Assurance dynamic.Interface

	// Dir keeps the queue and the files of running scans. It is the agent's alone.
	Dir string
	// QueueSize bounds what waits in Dir, in bytes. Absent: 256 MiB.
	QueueSize int64

	// Poll is how often images, and containers where CRI sends no events, are listed. Absent: 10 s.
	Poll time.Duration
	// Heartbeat is how often the server hears of a node where nothing changes. Absent: 1 minute.
	Heartbeat time.Duration

	// Parallel is how many images are scanned at a time. Absent: one.
	Parallel int
	// CPU bounds each scan to so many cores, over time. Absent: 0.5.
	CPU float64
	// Memory and Disk bound each scan, in bytes. Absent: 512 MiB and 1 GiB.
	Memory, Disk int64
	// Timeout bounds each scan. Absent: 15 minutes.
	Timeout time.Duration
	// Command is the program that runs [child.Run], with its first arguments. Absent: this
	// program with "scan-one".
	Command []string

	// Retry is the wait after a first failure of a scan. Absent: 10 minutes. It doubles.
	Retry time.Duration
	// Listener serves health and metrics; Run closes it. Absent: nothing is served.
	Listener net.Listener
	// Log takes what happens. Absent: nothing is logged.
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	need := func(ok bool, text string) {
		if !ok {
			errs = append(errs, errors.New(text))
		}
	}
	need(c.Cluster != "", "the cluster needs a name: --cluster")
	need(c.Node != "", "the node needs a name: --node")
	need(c.Dir != "", "the queue needs a folder: --queue")
	need(c.CPU >= 0, "--cpu must be a number of cores above 0, such as 0.5")
	need(c.Memory == 0 || c.Memory >= minMemory, fmt.Sprintf("--memory must be at least %dMi, which the scanner itself needs", int64(minMemory)>>20))
	need(c.Disk >= 0 && c.QueueSize >= 0 && c.Parallel >= 0 && c.Poll >= 0 && c.Heartbeat >= 0 && c.Timeout >= 0 && c.Retry >= 0, "a bound is negative")
	setDefault(&c.Namespace, DefaultNamespace)
	setDefault(&c.Poll, DefaultPoll)
	setDefault(&c.Heartbeat, DefaultHeartbeat)
	setDefault(&c.CPU, DefaultCPU)
	setDefault(&c.Memory, DefaultMemory)
	setDefault(&c.Disk, DefaultDisk)
	setDefault(&c.QueueSize, DefaultQueueSize)
	setDefault(&c.Parallel, 1)
	setDefault(&c.Timeout, scanner.DefaultTimeout)
	setDefault(&c.Retry, 10*time.Minute)
	if c.Command == nil {
		self, err := os.Executable()
		if err != nil {
			errs = append(errs, fmt.Errorf("finding this program: %w", err))
		}
		c.Command = []string{self, "scan-one"}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// minMemory is what the smallest image needs.
const minMemory = 192 << 20

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Agent is the agent of one node. Run or Once is called once, then Close.
type Agent struct {
	Config
	metrics *metrics
	queue   *queue
	tries   *tries
	work    string // the folder of running scans
	unlock  func()

	settings atomic.Pointer[settings]
	read     atomic.Bool // the last look at containerd succeeded

	mu        sync.Mutex
	inventory inventory
	states    map[string]state // of images, by digest
	store     *scanner.ContainerdStore
	cri       *runtimeService

	// Each is told that the inventory changed.
	toReport, toScan, toSend chan struct{}
	look                     chan struct{} // asks for an inventory
}

// New makes an agent, and takes its folder: another agent there is an error. What a
// killed one left is cleared away or taken up.
func New(c Config) (*Agent, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the queue: %w", err)
	}
	unlock, err := lock(filepath.Join(c.Dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("taking the folder %s: %w", c.Dir, err)
	}
	a := &Agent{Config: c, unlock: unlock, work: filepath.Join(c.Dir, "work"), states: map[string]state{},
		toReport: make(chan struct{}, 1), toScan: make(chan struct{}, 1), toSend: make(chan struct{}, 1), look: make(chan struct{}, 1)}
	err = os.RemoveAll(a.work)
	if err == nil {
		err = os.MkdirAll(a.work, 0o700)
	}
	if err == nil {
		a.queue, err = openQueue(filepath.Join(c.Dir, "outbox"), c.QueueSize, c.Log)
	}
	if err == nil {
		a.tries, err = openTries(filepath.Join(c.Dir, "tries.json"), c.Version)
	}
	if err != nil {
		unlock()
		return nil, fmt.Errorf("preparing the folder %s: %w", c.Dir, err)
	}
	a.metrics = newMetrics(a)
	a.settings.Store(&settings{Enabled: c.Assurance == nil, Known: c.Assurance == nil, Excluded: c.ExcludeNamespaces})
	for _, i := range a.queue.list() {
		a.states[i.Digest] = state{kind: queued}
	}
	return a, nil
}

// Close gives the folder back.
func (a *Agent) Close() {
	if a.store != nil {
		_ = a.store.Close()
	}
	if a.cri != nil {
		_ = a.cri.close()
	}
	a.unlock()
}

// Run works until ctx ends. Then it gives back the claims that it holds.
func (a *Agent) Run(ctx context.Context) error {
	if a.Server == nil {
		return errors.New("there is no server to send to: --apiurl")
	}
	g, ctx := errgroup.WithContext(ctx)
	if a.Assurance != nil {
		g.Go(func() error { return a.followAssurance(ctx) })
	}
	if a.Listener != nil {
		g.Go(func() error { return a.serve(ctx) })
	}
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.report(ctx) })
	g.Go(func() error { return a.scanAll(ctx) })
	g.Go(func() error { return a.send(ctx) })
	return g.Wait()
}

// kick wakes up who reads c.
func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits for the time, a kick, or the end of ctx; it is false at the end.
func pause(ctx context.Context, d time.Duration, c chan struct{}) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-c:
	}
	return true
}

// backoff is a wait that doubles up to a minute, and differs from node to node.
type backoff struct{ n int }

func (b *backoff) next() time.Duration {
	d := min(time.Second<<min(b.n, 6), time.Minute)
	b.n++
	var r [1]byte
	_, _ = rand.Read(r[:])
	return d/2 + d*time.Duration(r[0])/512
}

// permanent says that the server refused what was sent, so that sending it again is of no use.
func permanent(err error) bool {
	var e *client.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Status {
	case 400, 413, 415, 422:
		return true
	}
	return false
}

// away says that the server does not answer for now, as opposed to refusing this agent.
func away(err error) bool {
	var e *client.Error
	return !errors.As(err, &e) || e.Status >= 500 || e.Status == 429
}

// settings are what the ImageAssurance resource and the configuration say together.
type settings struct {
	Enabled  bool
	Known    bool // the cluster was asked
	Excluded []string
}

func (s *settings) excludes(namespace string) bool {
	for _, n := range s.Excluded {
		if strings.TrimSpace(n) == namespace {
			return true
		}
	}
	return false
}
