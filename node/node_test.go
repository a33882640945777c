package node

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/assay-dev/assay/node/nodetest"
	"github.com/assay-dev/assay/scanner/child"
	"github.com/assay-dev/assay/server/client"
)

// TestMain is the child process of scans where the tests start it as one.
func TestMain(m *testing.M) {
	switch os.Getenv("ASSAY_NODE_CHILD") {
	case "":
		os.Exit(m.Run())
	case "scan":
		if err := child.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "memory":
		var t child.Task
		if json.NewDecoder(os.Stdin).Decode(&t) != nil || child.LimitMemory(t.Memory) != nil {
			os.Exit(1)
		}
		for all := [][]byte{}; len(all) < 1000; {
			all = append(all, bytes.Repeat([]byte{1}, 16<<20))
		}
	case "cpu":
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		}
		fmt.Println(`{"scan": {"packages": 1}}`)
	case "disk":
		for n := 0; ; n++ {
			if err := os.WriteFile(fmt.Sprintf("file-%d", n), make([]byte, 1<<20), 0o600); err != nil {
				os.Exit(1)
			}
			time.Sleep(10 * time.Millisecond)
		}
	case "panic":
		panic("hostile")
	}
}

func childCommand(mode string) []string {
	return []string{"/usr/bin/env", "ASSAY_NODE_CHILD=" + mode, os.Args[0]}
}

// npmImage has one npm package.
func npmImage(tb testing.TB, name, version string) v1.Image {
	tb.Helper()
	return imageOf(tb, map[string]string{"app/node_modules/" + name + "/package.json": fmt.Sprintf(`{"name": %q, "version": %q}`, name, version)})
}

func imageOf(tb testing.TB, files map[string]string) v1.Image {
	tb.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
	if err != nil {
		tb.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		tb.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		tb.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		tb.Fatal(err)
	}
	return image
}

// bed is a node with a server for it.
type bed struct {
	*testing.T
	containerd *nodetest.Containerd
	cri        *nodetest.CRI
	server     *nodetest.Server
	config     Config
	log        *lines
}

// lines is a log to look into.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, containerd: nodetest.StartContainerd(t), cri: nodetest.StartCRI(t, false), server: nodetest.StartServer(t), log: &lines{}}
	c, err := client.New(client.Config{URL: b.server.URL, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	b.config = Config{Cluster: "prod", Node: "n1", Server: c, Version: "test", Address: b.containerd.Socket, CRISocket: "unix://" + b.cri.Socket, Dir: t.TempDir(),
		Poll: 200 * time.Millisecond, Heartbeat: 300 * time.Millisecond, CPU: 4, Command: childCommand("scan"), Log: slog.New(slog.NewTextHandler(b.log, nil))}
	return b
}

// start runs an agent until stop, or the end of the test.
func (b *bed) start() (stop func()) {
	b.Helper()
	a, err := New(b.config)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
			a.Close()
			if b.Failed() {
				b.Log(b.log.String())
			}
		})
	}
	b.Cleanup(stop)
	return stop
}

// eventually waits for what must come to be.
func (b *bed) eventually(what string, holds func() bool) {
	b.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("never: %s\n%s", what, b.log.String())
		}
	}
}

func key(namespace, pod, container string) client.InstanceKey {
	return client.InstanceKey{Namespace: namespace, Pod: pod, Container: container}
}

func TestScansAndTells(t *testing.T) {
	b := newBed(t)
	web, webID := b.containerd.Add(t, npmImage(t, "lodash", "4.17.11"), "registry.example.com/shop/web:1", "registry.example.com/shop/web:latest")
	resting, _ := b.containerd.Add(t, npmImage(t, "left-pad", "1.0.0"), "registry.example.com/shop/old:1")
	secret, secretID := b.containerd.Add(t, npmImage(t, "own", "1.0.0"), "registry.example.com/secret:1")
	nothing, _ := b.containerd.Add(t, imageOf(t, map[string]string{"readme.txt": "no package"}), "registry.example.com/none:1")
	pause, _ := b.containerd.Add(t, imageOf(t, map[string]string{"pause": "x"}), "registry.k8s.io/pause:3.10")
	nameless, _ := b.containerd.Add(t, npmImage(t, "nameless", "1.0.0"))
	first := b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "web-0", Name: "web", Image: "registry.example.com/shop/web:1", ID: webID})
	b.cri.Run(nodetest.Container{Namespace: "kube-system", Pod: "s", Name: "s", Image: "registry.example.com/secret:1", ID: secretID})
	b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "job", Name: "job", Image: "registry.example.com/shop/web:1", ID: webID, Exited: true})
	b.config.ExcludeNamespaces = []string{"kube-system"}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.config.Listener = l
	stop := b.start()

	b.eventually("two SBOMs and a failed scan", func() bool { return len(b.server.SBOMs()) == 2 && len(b.server.Failed()) == 1 })
	sboms := b.server.SBOMs()
	if got := sboms[web].Images; !slices.Equal(got, []string{"registry.example.com/shop/web:1", "registry.example.com/shop/web:latest"}) || !bytes.Contains(sboms[web].Document, []byte("lodash")) {
		t.Errorf("the SBOM of %s came as %v", web, got)
	}
	if !bytes.Contains(sboms[resting].Document, []byte("left-pad")) {
		t.Error("the image at rest has no SBOM")
	}
	if f := b.server.Failed()[0]; f.Digest != nothing || f.Image != "registry.example.com/none:1" || f.Source != "containerd" || !strings.Contains(f.Error, "not assessed") {
		t.Errorf("the failed scan is %+v", f)
	}
	for _, left := range []string{secret, pause, nameless} {
		if b.server.Claimed(left) != "" || sboms[left].Document != nil {
			t.Errorf("%s was not left out", left)
		}
	}

	want := client.Instance{Namespace: "shop", Pod: "web-0", Container: "web", Image: "registry.example.com/shop/web:1", Digest: web, ConfigDigest: webID}
	b.eventually("the container is told of", func() bool {
		runs, _ := b.server.Runs("n1")
		return len(runs) == 1 && runs[key("shop", "web-0", "web")] == want
	})
	b.eventually("a heartbeat", func() bool { return slices.Contains(b.server.Reports(), "heartbeat") })

	// A restart is a new container of the same name: there is nothing to tell.
	b.cri.Exit(first)
	b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "web-0", Name: "web", Image: "registry.example.com/shop/web:1", ID: webID})
	other := b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "web-1", Name: "web", Image: "registry.example.com/shop/web:1", ID: webID})
	b.eventually("the second pod", func() bool {
		runs, _ := b.server.Runs("n1")
		return len(runs) == 2 && runs[key("shop", "web-0", "web")] == want
	})
	b.cri.Remove(other)
	b.eventually("its end", func() bool { runs, _ := b.server.Runs("n1"); return len(runs) == 1 })
	if n := strings.Count(strings.Join(b.server.Reports(), " "), "full"); n != 1 {
		t.Errorf("all was told %d times", n)
	}
	b.server.Forget("n1")
	b.eventually("all, as the server asks for it", func() bool { runs, _ := b.server.Runs("n1"); return len(runs) == 1 })

	// A new image, and one that is not there any more.
	b.containerd.Add(t, npmImage(t, "new", "1.0.0"), "registry.example.com/new:1")
	b.eventually("the SBOM of the new image", func() bool { return len(b.server.SBOMs()) == 3 })

	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": `assay_node_scans_total{result="ok"} 3`} {
		r, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != 200 || !strings.Contains(string(text), want) {
			t.Errorf("%s answers %d: %.2000s", path, r.StatusCode, text)
		}
	}
	stop()
	for digest, n := range b.server.Posts() {
		if names := len(b.server.SBOMs()[digest].Images); n != names {
			t.Errorf("the SBOM of %s was sent %d times under %d names", digest, n, names)
		}
	}
	if got := b.server.Claimed(nothing); got != "n1" {
		t.Errorf("the claim of an image that fails anywhere is %q's: other nodes try it at once", got)
	}
}

func TestPollsWithoutEvents(t *testing.T) {
	b := newBed(t)
	b.cri = nodetest.StartCRI(t, true)
	b.config.CRISocket = b.cri.Socket
	_, id := b.containerd.Add(t, npmImage(t, "lodash", "4.17.11"), "registry.example.com/web:1")
	b.start()
	b.eventually("an empty node", func() bool { runs, ok := b.server.Runs("n1"); return ok && len(runs) == 0 })
	b.cri.Run(nodetest.Container{Namespace: "shop", Pod: "web", Name: "web", ID: id}) // CRI knows no reference of it
	b.eventually("the container", func() bool {
		runs, _ := b.server.Runs("n1")
		return runs[key("shop", "web", "web")].Image == "registry.example.com/web:1"
	})
}

func TestServerAway(t *testing.T) {
	b := newBed(t)
	var all []string
	for i := range 4 {
		d, _ := b.containerd.Add(t, npmImage(t, "p", fmt.Sprintf("1.0.%d", i)), fmt.Sprintf("registry.example.com/p:%d", i))
		all = append(all, d)
	}
	b.server.SetFail(func(*http.Request) int { return 503 })
	stop := b.start()
	b.eventually("scans into the queue", func() bool {
		files, _ := filepath.Glob(filepath.Join(b.config.Dir, "outbox", "*"+itemSuffix))
		return len(files) == 4
	})
	stop()
	if len(b.server.SBOMs()) != 0 {
		t.Fatal("an SBOM came")
	}
	// Another node had one image scanned meanwhile, and scans another one now.
	b.server.Add(all[0])
	b.server.Claim(all[1], "n2", time.Now().Add(time.Hour))
	b.server.SetFail(nil)
	b.config.Command = childCommand("panic") // nothing is scanned again
	stop = b.start()
	b.eventually("what waited", func() bool { return len(b.server.SBOMs()) == 3 })
	stop()
	posts := b.server.Posts()
	if posts[all[0]] != 0 || posts[all[1]] != 0 || posts[all[2]] != 1 || posts[all[3]] != 1 {
		t.Errorf("SBOMs were sent %v", posts)
	}
	if len(b.server.Failed()) != 0 {
		t.Errorf("there were scans: %v", b.server.Failed())
	}
	files, _ := filepath.Glob(filepath.Join(b.config.Dir, "outbox", "*"))
	if len(files) != 1 {
		t.Errorf("the queue holds %v, and only what n2 has claimed is to wait", files)
	}
}

// A claim of another node keeps this one from scanning, until it ends.
func TestClaimsOfOthers(t *testing.T) {
	b := newBed(t)
	d, _ := b.containerd.Add(t, npmImage(t, "p", "1.0.0"), "registry.example.com/p:1")
	b.server.Claim(d, "n2", time.Now().Add(8*time.Second))
	began := time.Now()
	b.start()
	b.eventually("the SBOM", func() bool { return len(b.server.SBOMs()) == 1 })
	if took := time.Since(began); took < 7*time.Second {
		t.Errorf("n2's claim was passed over after %s", took)
	}
}

// Layers that were discarded are absent here, and may be there on another node.
func TestDiscardedLayers(t *testing.T) {
	b := newBed(t)
	image := npmImage(t, "p", "1.0.0")
	d, _ := b.containerd.Add(t, image, "registry.example.com/p:1")
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	h, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	b.containerd.Discard(t, h)
	b.start()
	b.eventually("the failed scan", func() bool { return len(b.server.Failed()) == 1 })
	if text := b.server.Failed()[0].Error; !strings.Contains(text, "layers were discarded") {
		t.Errorf("the error is %q", text)
	}
	b.eventually("the claim is given back", func() bool { return b.server.Claimed(d) == "" })
}

func TestHostileScans(t *testing.T) {
	for mode, want := range map[string]string{
		"memory": "needs more memory than 256 MiB",
		"disk":   "needs more disk than 8 MiB",
		"panic":  "ended by itself",
	} {
		t.Run(mode, func(t *testing.T) {
			b := newBed(t)
			b.config.Command, b.config.Memory, b.config.Disk = childCommand(mode), 256<<20, 8<<20
			b.config.Retry = time.Millisecond
			b.containerd.Add(t, npmImage(t, "p", "1.0.0"), "registry.example.com/p:1")
			stop := b.start()
			b.eventually("the failed scan", func() bool { return len(b.server.Failed()) == 1 })
			if text := b.server.Failed()[0].Error; !strings.Contains(text, want) {
				t.Errorf("the error is %q, want %q", text, want)
			}
			b.eventually("giving up", func() bool { return strings.Count(b.log.String(), "could not be scanned") == maxTries })
			stop()
			b.start() // remembers it
			b.eventually("the node", func() bool { return strings.Count(b.log.String(), "are read") == 2 })
			time.Sleep(300 * time.Millisecond)
			if n := strings.Count(b.log.String(), "could not be scanned"); n != maxTries {
				t.Errorf("it was scanned %d times", n)
			}
			if n := len(b.server.Failed()); n != 1 {
				t.Errorf("it was told of %d times", n)
			}
			if left, _ := os.ReadDir(filepath.Join(b.config.Dir, "work")); len(left) != 0 {
				t.Errorf("%v is left", left)
			}
		})
	}
}

// A scan that would take a whole core gets the part that it may have. The bound is on
// CPU time and holds on a machine that is busy, too.
func TestCPUBudget(t *testing.T) {
	b := newBed(t)
	b.config.CPU, b.config.Command = 0.2, childCommand("cpu")
	a, err := New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	r, used, err := a.runner().Run(t.Context(), child.Task{Dir: t.TempDir(), Memory: DefaultMemory, Disk: DefaultDisk, Timeout: time.Minute}, nil)
	if err != nil || r.Scan.Packages != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	// The child is looked at every 50 ms, later on a busy machine, where it runs less.
	if most := 200*time.Millisecond + used.Duration/5 + used.Duration/10 + 200*time.Millisecond; used.CPU > most {
		t.Errorf("%s of CPU in %s, want at most %s", used.CPU, used.Duration, most)
	}
}

func TestEndGivesClaimsBack(t *testing.T) {
	b := newBed(t)
	b.config.Command, b.config.CPU = childCommand("cpu"), 0.05 // takes a while
	var all []string
	for i := range 3 {
		d, _ := b.containerd.Add(t, npmImage(t, "p", fmt.Sprintf("1.0.%d", i)), fmt.Sprintf("registry.example.com/p:%d", i))
		all = append(all, d)
	}
	stop := b.start()
	b.eventually("claims", func() bool { return b.server.Claimed(all[2]) == "n1" })
	stop()
	for _, d := range all {
		if node := b.server.Claimed(d); node != "" {
			t.Errorf("%s is still claimed by %s", d, node)
		}
	}
	if len(b.server.Failed()) != 0 {
		t.Errorf("what was stopped is told of as failed: %v", b.server.Failed())
	}
}

func TestOneAgentAFolder(t *testing.T) {
	b := newBed(t)
	a, err := New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(b.config); err == nil || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent: %v", err)
	}
	a.Close()
	again, err := New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	_, err = New(Config{Memory: 1, CPU: -1})
	for _, want := range []string{"--cluster", "--node", "--queue", "--cpu", "--memory"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a bad configuration gives %v, without %s", err, want)
		}
	}
}

func TestOnce(t *testing.T) {
	b := newBed(t)
	b.containerd.Add(t, npmImage(t, "p", "1.0.0"), "registry.example.com/p:1")
	bad, _ := b.containerd.Add(t, imageOf(t, map[string]string{"x": "y"}), "registry.example.com/bad:1")
	known, _ := b.containerd.Add(t, npmImage(t, "q", "1.0.0"), "registry.example.com/q:1")
	b.server.Add(known)
	for _, server := range []Server{b.config.Server, nil} {
		b.config.Server, b.config.Dir = server, t.TempDir()
		a, err := New(b.config)
		if err != nil {
			t.Fatal(err)
		}
		report, err := a.Once(t.Context(), nil)
		a.Close()
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]int{}
		for _, s := range report.Images {
			states[s.State]++
			if s.State == "scanned" && (s.Packages != 1 || s.PeakMemory == 0 || s.CPUSeconds == 0) || s.Digest == bad && s.Error == "" {
				t.Errorf("%+v", s)
			}
		}
		want := map[string]int{"scanned": 1, "failed": 1, "known": 1}
		if server == nil {
			want = map[string]int{"scanned": 2, "failed": 1}
		}
		if fmt.Sprint(states) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", states, want)
		}
	}
	if len(b.server.SBOMs()) != 2 || len(b.server.Failed()) != 1 {
		t.Errorf("the server has %d SBOMs and %d failed scans", len(b.server.SBOMs()), len(b.server.Failed()))
	}
}

func TestRunNeedsServer(t *testing.T) {
	b := newBed(t)
	b.config.Server = nil
	a, err := New(b.config)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Run(t.Context()); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("without a server: %v", err)
	}
}
