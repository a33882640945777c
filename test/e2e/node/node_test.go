// Package node_test runs `assay node` on a real containerd.
package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/assay-dev/assay/node/nodetest"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
	"github.com/assay-dev/assay/test/e2e/built"
	"github.com/assay-dev/assay/test/e2e/containerd"
	"github.com/assay-dev/assay/test/e2e/process"
)

var program string // assay

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "assay-node")
	if err == nil {
		program = filepath.Join(dir, "assay")
		err = built.Go("../../..", nil, "build", "-trimpath", "-o", program, "./cmd/assay")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// packages are those of an SBOM, each as type, name, version, PURL and the places where it is.
func packages(tb testing.TB, document []byte) []string {
	tb.Helper()
	bom, _, err := scanner.DecodeSBOM(bytes.NewReader(document))
	if err != nil {
		tb.Fatal(err)
	}
	var all []string
	for p := range bom.Artifacts.Packages.Enumerate() {
		var places []string
		for _, l := range p.Locations.ToSlice() {
			places = append(places, l.RealPath)
		}
		slices.Sort(places)
		all = append(all, fmt.Sprintf("%s %s %s %s %s", p.Type, p.Name, p.Version, p.PURL, places))
	}
	slices.Sort(all)
	return all
}

// scanned is what `assay scan` finds in each archive, by digest.
func scanned(tb testing.TB, all ...sample) map[string][]string {
	tb.Helper()
	one, err := scanner.New(scanner.Config{NoDaemons: true})
	if err != nil {
		tb.Fatal(err)
	}
	found := map[string][]string{}
	for _, s := range all {
		o := one.Scan(tb.Context(), "oci-archive:"+s.archive, nil)
		if o.SBOM == nil || o.Scan.Digest != s.digest {
			tb.Fatalf("%s: %v", s.name, o.Err)
		}
		var text bytes.Buffer
		if err := scanner.EncodeSBOM(&text, o.SBOM, scanner.SyftJSON); err != nil {
			tb.Fatal(err)
		}
		if found[s.digest] = packages(tb, text.Bytes()); len(found[s.digest]) == 0 {
			tb.Fatalf("%s has no packages", s.name)
		}
	}
	return found
}

// agent is a running `assay node`.
type agent struct {
	cmd *exec.Cmd
	log string
}

func start(tb testing.TB, log string, args ...string) *agent {
	tb.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	a := &agent{cmd: exec.Command(program, append([]string{"node", "-o", "json"}, args...)...), log: log}
	a.cmd.Stderr = f
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := a.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = a.cmd.Process.Kill(); _ = a.cmd.Wait() })
	return a
}

func (a *agent) text() string {
	text, _ := os.ReadFile(a.log)
	return string(text)
}

// eventually waits for what must come to be.
func (a *agent) eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(4 * time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s\n%s", what, a.text())
		}
	}
}

// end ends the agent in an orderly way, and gives the most memory that it had itself, in MiB.
func (a *agent) end(tb testing.TB) (peak int64) {
	tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			if peak, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Fatal(err)
	}
	if err := a.cmd.Wait(); err != nil {
		tb.Fatalf("%v\n%s", err, a.text())
	}
	return peak >> 10
}

// cost is what the log says of scans.
type cost struct {
	scans        int
	memory       int64 // the most of one, in MiB
	cpu, longest time.Duration
}

func costs(tb testing.TB, text string) (c cost) {
	tb.Helper()
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		var line struct {
			Msg, Memory   string
			CPU, Duration time.Duration
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || line.Msg != "an image was scanned" {
			continue
		}
		memory, err := strconv.ParseInt(strings.TrimSuffix(line.Memory, " MiB"), 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		c.scans++
		c.memory, c.cpu, c.longest = max(c.memory, memory), c.cpu+line.CPU, max(c.longest, line.Duration)
	}
	return c
}

// flags are those of an agent in a test.
func flags(c *containerd.Containerd, cri *nodetest.CRI, server, queue string) []string {
	return []string{"--cluster", "e2e", "--node", "n1", "--apiurl", server, "--kubeconfig", "none", "--containerd-address", c.Address, "--cri-socket", cri.Socket,
		"--queue", queue, "--poll", "500ms", "--heartbeat", "1s"}
}

// configID is the id by which CRI knows an image.
func configID(tb testing.TB, c *containerd.Containerd, name string) string {
	tb.Helper()
	ctx := namespaces.WithNamespace(tb.Context(), containerd.Namespace)
	image, err := c.Client.GetImage(ctx, name)
	if err != nil {
		tb.Fatal(err)
	}
	d, err := image.Config(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	return d.Digest.String()
}

// TestEveryImage holds that each image gets the SBOM that `assay scan` makes of its
// archive, and that scans stay within their bounds.
func TestEveryImage(t *testing.T) {
	all := samples(t)
	want := scanned(t, all...)
	for name, path := range containerd.Programs(t) {
		t.Run(name, func(t *testing.T) {
			c := containerd.StartProgram(t, path)
			cri := nodetest.StartCRI(t, false)
			server := nodetest.StartServer(t)
			for _, s := range all {
				if got := c.Import(t, s.archive, s.name).String(); got != s.digest {
					t.Fatalf("%s was imported as %s", s.name, got)
				}
			}
			runs := all[len(all)-1]
			cri.Run(nodetest.Container{Namespace: "shop", Pod: "web", Name: "web", Image: runs.name, ID: configID(t, c, runs.name)})
			const memory = 512
			a := start(t, filepath.Join(t.TempDir(), "log"), append(flags(c, cri, server.URL, t.TempDir()), "--cpu", "1", "--memory", fmt.Sprintf("%dMi", memory))...)
			a.eventually(t, "an SBOM of each image", func() bool { return len(server.SBOMs()) == len(all) })
			own := a.end(t)
			for _, s := range all {
				got := packages(t, server.SBOMs()[s.digest].Document)
				if !slices.Equal(got, want[s.digest]) {
					t.Errorf("%s has\n%s\nand its archive\n%s", s.name, strings.Join(got, "\n"), strings.Join(want[s.digest], "\n"))
				}
			}
			if got := server.Failed(); len(got) > 0 {
				t.Errorf("failed: %+v", got)
			}
			instances, _ := server.Runs("n1")
			if i := instances[client.InstanceKey{Namespace: "shop", Pod: "web", Container: "web"}]; len(instances) != 1 || i.Digest != runs.digest || i.Image != runs.name {
				t.Errorf("what runs is %+v", instances)
			}
			cost := costs(t, a.text())
			t.Logf("%d images: %s of CPU for each, %d MiB at the most, %s for the longest; the agent itself %d MiB", cost.scans, (cost.cpu / time.Duration(max(cost.scans, 1))).Round(time.Millisecond), cost.memory, cost.longest, own)
			if cost.scans != len(all) {
				t.Errorf("%d scans of %d images", cost.scans, len(all))
			}
			if cost.memory == 0 || cost.memory > memory {
				t.Errorf("a scan had %d MiB, and --memory is %d MiB", cost.memory, memory)
			}
		})
	}
}

// rounds is how often the agent is killed: 5 times, or ASSAY_SOAK times.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("ASSAY_SOAK")); err == nil && n > 0 {
		return n
	}
	return 5
}

// serve starts a real server with nothing in it.
func serve(t *testing.T) real {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p, err := process.Start(dir, program, "serve", "--data", filepath.Join(dir, "data"), "--listen", address, "--anonymous", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	s := real{"http://" + address}
	if err := p.Ready(func(context.Context) error {
		if status, text, err := s.get("/api/v1/images"); err != nil || status != 200 {
			return fmt.Errorf("%d %s %w", status, text, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// real is a server of its own process.
type real struct{ url string }

func (s real) get(path string) (int, []byte, error) {
	r, err := http.Get(s.url + path)
	if err != nil {
		return 0, nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, text, err
}

// sboms are those that the server has of some images, by digest.
func (s real) sboms(t *testing.T, of []sample) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, x := range of {
		status, text, err := s.get("/api/v1/images/" + x.digest + "/sbom")
		switch {
		case err != nil:
			t.Fatal(err)
		case status == 200:
			all[x.digest] = text
		case status != 404:
			t.Fatalf("%d: %s", status, text)
		}
	}
	return all
}

// row is what lists of images and of what runs say.
type row struct {
	Image, Digest, Reference, Namespace, Pod, Container, Node, Error string
}

func (s real) list(t *testing.T, path string) []row {
	t.Helper()
	status, text, err := s.get(path)
	var list struct{ Items []row }
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil || status != 200 {
		t.Fatalf("%s: %d %s %v", path, status, text, err)
	}
	return list.Items
}

// TestKilled kills the agent at random moments of its work, while containers come and go.
// The server is a real one.
func TestKilled(t *testing.T) {
	all := samples(t)
	c := containerd.Start(t)
	cri := nodetest.StartCRI(t, false)
	server := serve(t)
	for _, s := range all {
		c.Import(t, s.archive, s.name)
	}
	dir, queue := t.TempDir(), t.TempDir()
	args := append(flags(c, cri, server.url, queue), "--cpu", "2")
	last := ""
	n := rounds()
	for round := range n {
		s := all[rand.IntN(len(all))]
		if last != "" && rand.IntN(2) == 0 {
			cri.Remove(last)
		}
		last = cri.Run(nodetest.Container{Namespace: "shop", Pod: fmt.Sprintf("pod-%d", round%3), Name: "main", Image: s.name, ID: configID(t, c, s.name)})
		// All but the last quarter of the images are spread over the rounds, so that each meets work.
		before := len(server.sboms(t, all))
		goal := min(before+rand.IntN(2+len(all)/n), len(all)*3/4)
		a := start(t, filepath.Join(dir, "log"), args...)
		a.eventually(t, "some SBOMs", func() bool { return len(server.sboms(t, all)) >= goal })
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		if err := a.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = a.cmd.Wait()
		a.eventually(t, "the end of the scan", func() bool { return children(t, queue) == "" })
		t.Logf("round %d: killed with %d SBOMs sent", round, len(server.sboms(t, all)))
	}
	a := start(t, filepath.Join(dir, "log"), args...)
	a.eventually(t, "an SBOM of each image", func() bool { return len(server.sboms(t, all)) == len(all) })
	a.eventually(t, "what runs", func() bool { return len(server.list(t, "/api/v1/instances")) == cri.Running() })
	a.end(t)
	sboms, want := server.sboms(t, all), scanned(t, all...)
	for _, s := range all {
		if got := packages(t, sboms[s.digest]); !slices.Equal(got, want[s.digest]) {
			t.Errorf("%s has\n%s\nand its archive\n%s", s.name, strings.Join(got, "\n"), strings.Join(want[s.digest], "\n"))
		}
	}
	seen := map[string]bool{}
	for _, r := range server.list(t, "/api/v1/images?limit=1000") {
		if r.Error != "" || seen[r.Digest] {
			t.Errorf("%+v: twice, or failed", r)
		}
		seen[r.Digest] = true
	}
	if len(seen) != len(all) {
		t.Errorf("the server lists %d images of %d", len(seen), len(all))
	}
	for _, sub := range []string{"outbox", "work"} {
		if left, err := os.ReadDir(filepath.Join(queue, sub)); err != nil || len(left) > 0 {
			t.Errorf("%s holds %v, %v", sub, left, err)
		}
	}
}

// children gives the processes that work in a folder.
func children(t *testing.T, dir string) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if at, err := os.Readlink(p); err == nil && strings.HasPrefix(at, dir) {
			return p
		}
	}
	return ""
}

// TestUnpackedLayers scans an image whose packed layers containerd discarded.
func TestUnpackedLayers(t *testing.T) {
	c := containerd.Start(t)
	dir := t.TempDir()
	s := write(t, filepath.Join(dir, "image.tar"), "registry.example.com/e2e/unpacked:1", ecosystems(t)["mixed:1"])
	want := scanned(t, s)[s.digest]
	c.Import(t, s.archive, s.name)
	ctx := namespaces.WithNamespace(t.Context(), containerd.Namespace)
	image, err := c.Client.GetImage(ctx, s.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Unpack(ctx, "native"); err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, c.Client.ContentStore(), image.Target(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range manifest.Layers {
		if err := c.Client.ContentStore().Delete(ctx, l.Digest); err != nil {
			t.Fatal(err)
		}
	}
	cri := nodetest.StartCRI(t, false)
	server := nodetest.StartServer(t)
	one := start(t, filepath.Join(dir, "log1"), flags(c, cri, server.URL, t.TempDir())...)
	one.eventually(t, "a failed scan", func() bool { return len(server.Failed()) == 1 })
	one.end(t)
	if text := server.Failed()[0].Error; !strings.Contains(text, "layers were discarded") {
		t.Errorf("without the root: %q", text)
	}
	two := start(t, filepath.Join(dir, "log2"), append(flags(c, cri, server.URL, t.TempDir()), "--containerd-root", filepath.Join(c.Dir, "root"))...)
	two.eventually(t, "the SBOM", func() bool { return len(server.SBOMs()) == 1 })
	two.end(t)
	if got := packages(t, server.SBOMs()[s.digest].Document); !slices.Equal(got, want) {
		t.Errorf("unpacked it has\n%s\nand packed\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Nothing of ours stays in containerd.
	held, err := c.Client.LeasesService().List(ctx)
	if err != nil || len(held) > 0 {
		t.Errorf("leases %v, %v", held, err)
	}
}
