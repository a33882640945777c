// Package registry_test scans a large registry that fails in all ways, with an assay
// process that is killed at random and started again.
package registry_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/vulndb"
)

const (
	repositories = 500
	tags         = 10
	distinct     = 60
	kills        = 6
	parallel     = 2
)

// layer is a layer of some files.
func layer(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(files[path]))})); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[path]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// pythonImage is an image with some Python packages, given as name and version.
func pythonImage(t *testing.T, packages ...[2]string) v1.Image {
	t.Helper()
	files := map[string]string{}
	for _, p := range packages {
		files[fmt.Sprintf("usr/lib/python3/dist-packages/%s-%s.dist-info/METADATA", p[0], p[1])] = fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", p[0], p[1])
	}
	image, err := mutate.AppendLayers(empty.Image, layer(t, map[string]string{"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\n"}), layer(t, files))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err == nil {
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", "amd64"
		image, err = mutate.ConfigFile(image, config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// world is a registry that fails, and counts.
type world struct {
	inner http.Handler
	host  string
	names map[string]string   // repository:tag to digest
	repos map[string][]string // to tags

	mu       sync.Mutex
	random   *rand.Rand
	calm     bool // nothing fails
	requests int
	faults   map[string]int
	// whole counts the times that a layer that only one image has was given to its end.
	whole     map[string]int
	manifests int // GETs
	after     int // requests, after which over is called
	over      func()
}

// put stores something in the registry, past the faults.
func (w *world) put(t *testing.T, method, path, contentType string, body []byte) {
	t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	answer := httptest.NewRecorder()
	w.inner.ServeHTTP(answer, r)
	if answer.Code/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, answer.Code, answer.Body)
	}
}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), names: map[string]string{}, repos: map[string][]string{},
		random: rand.New(rand.NewPCG(seed, 1)), faults: map[string]int{}, whole: map[string]int{}}
	type pushed struct {
		digest, mediaType string
		manifest          []byte
	}
	images := make([]pushed, distinct)
	for i := range images {
		version := [2]string{"urllib3", "1.26.16"} // which the advisories know
		if i%3 == 0 {
			version[1] = "2.9.9"
		}
		image := pythonImage(t, version, [2]string{"own", fmt.Sprintf("1.0.%d", i)})
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for n, l := range layers {
			digest, _ := l.Digest()
			rc, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(rc)
			w.put(t, http.MethodPost, "/v2/any/blobs/uploads/?digest="+digest.String(), "application/octet-stream", text)
			if n == 1 {
				w.whole[digest.String()] = 0
			}
		}
		config, _ := image.RawConfigFile()
		name, _ := image.ConfigName()
		w.put(t, http.MethodPost, "/v2/any/blobs/uploads/?digest="+name.String(), "application/octet-stream", config)
		digest, _ := image.Digest()
		mediaType, _ := image.MediaType()
		manifest, _ := image.RawManifest()
		images[i] = pushed{digest.String(), string(mediaType), manifest}
	}
	if len(w.whole) != distinct {
		t.Fatalf("%d images differ", len(w.whole))
	}
	for r := range repositories {
		repo := fmt.Sprintf("team%02d/app%03d", r%20, r)
		for n := range tags {
			tag := fmt.Sprintf("1.%d", n)
			i := images[(r*7+n*13)%distinct]
			w.put(t, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, i.mediaType, i.manifest)
			w.names[repo+":"+tag] = i.digest
			w.repos[repo] = append(w.repos[repo], tag)
		}
	}
	s := httptest.NewServer(w)
	t.Cleanup(s.Close)
	w.host = strings.TrimPrefix(s.URL, "http://")
	return w
}

// fault chooses what goes wrong with a request; "" is nothing.
func (w *world) fault(blob bool) (kind string, over func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.requests++
	if w.after > 0 && w.requests >= w.after {
		over, w.over, w.after = w.over, nil, 0
	}
	if w.calm {
		return "", over
	}
	switch p := w.random.Float64(); {
	case p < 0.0002:
		kind = "429 with seconds"
	case p < 0.0005:
		kind = "503 with a date"
	case p < 0.001:
		kind = "429"
	case p < 0.008:
		kind = "500"
	case p < 0.010:
		kind = "reset"
	case p < 0.020:
		kind = "slow"
	case blob && p < 0.10:
		kind = "truncated"
	case blob && p < 0.14:
		kind = "wrong bytes"
	}
	if kind != "" {
		w.faults[kind]++
	}
	return kind, over
}

func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	blob := strings.Contains(r.URL.Path, "/blobs/sha256:") && r.Method == http.MethodGet
	kind, over := w.fault(blob)
	if over != nil {
		over()
	}
	switch kind {
	case "429 with seconds":
		out.Header().Set("Retry-After", "1")
		out.WriteHeader(http.StatusTooManyRequests)
		return
	case "503 with a date":
		out.Header().Set("Retry-After", time.Now().Add(2*time.Second).UTC().Format(http.TimeFormat))
		out.WriteHeader(http.StatusServiceUnavailable)
		return
	case "429":
		out.WriteHeader(http.StatusTooManyRequests)
		return
	case "500":
		out.WriteHeader(http.StatusInternalServerError)
		return
	case "reset":
		panic(http.ErrAbortHandler)
	case "slow":
		time.Sleep(50 * time.Millisecond)
	}
	switch {
	case r.URL.Path == "/v2/_catalog":
		w.page(out, r, "repositories", slices.Sorted(maps.Keys(w.repos)), 90)
		return
	case strings.HasSuffix(r.URL.Path, "/tags/list"):
		w.page(out, r, "tags", w.repos[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/v2/"), "/tags/list")], 4)
		return
	case strings.Contains(r.URL.Path, "/manifests/") && r.Method == http.MethodGet:
		w.mu.Lock()
		w.manifests++
		w.mu.Unlock()
	}
	if !blob {
		w.inner.ServeHTTP(out, r)
		return
	}
	answer := httptest.NewRecorder()
	w.inner.ServeHTTP(answer, r)
	text := answer.Body.Bytes()
	maps.Copy(out.Header(), answer.Header())
	out.WriteHeader(answer.Code)
	switch kind {
	case "truncated":
		_, _ = out.Write(text[:len(text)/2])
		panic(http.ErrAbortHandler)
	case "wrong bytes":
		text = bytes.Clone(text)
		text[len(text)/2] ^= 1
		_, _ = out.Write(text)
		return
	}
	if _, err := out.Write(text); err == nil {
		w.mu.Lock()
		digest := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if _, ours := w.whole[digest]; ours {
			w.whole[digest]++
		}
		w.mu.Unlock()
	}
}

// page gives n entries, after the query's last, with a Link to the next.
func (w *world) page(out http.ResponseWriter, r *http.Request, what string, list []string, n int) {
	if last := r.URL.Query().Get("last"); last != "" {
		list = list[slices.Index(list, last)+1:]
	}
	if len(list) > n {
		list = list[:n]
		out.Header().Set("Link", fmt.Sprintf("<%s?last=%s&n=%d>; rel=\"next\"", r.URL.Path, list[n-1], n))
	}
	_ = json.NewEncoder(out).Encode(map[string]any{what: list})
}

// reset begins to count anew.
func (w *world) reset(calm bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm, w.requests, w.manifests = calm, 0, 0
	for digest := range w.whole {
		w.whole[digest] = 0
	}
}

// run starts assay, and kills it after a number of requests where that is not 0. It
// gives the exit status, -1 for killed, and the peak of its memory in bytes.
func (w *world) run(t *testing.T, binary string, environment []string, after int, args ...string) (exit int, memory int64, said string) {
	t.Helper()
	c := exec.Command(binary, args...)
	c.Env = environment
	var text bytes.Buffer
	c.Stdout, c.Stderr = io.Discard, &text
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	if after > 0 {
		w.after, w.over = w.requests+after, func() { _ = c.Process.Kill() }
	}
	w.mu.Unlock()
	_ = c.Wait()
	w.mu.Lock()
	w.after, w.over = 0, nil
	w.mu.Unlock()
	usage, _ := c.ProcessState.SysUsage().(*syscall.Rusage)
	return c.ProcessState.ExitCode(), usage.Maxrss << 10, text.String()
}

// scanRecords are how often each image was noted as scanned in a state file.
func scanRecords(t *testing.T, file string) map[string]int {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	records := map[string]int{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var record struct {
			Scan *struct {
				Digest string `json:"digest"`
			} `json:"scan"`
		}
		if _, text, found := strings.Cut(lines.Text(), " "); found && json.Unmarshal([]byte(text), &record) == nil && record.Scan != nil {
			records[record.Scan.Digest]++
		}
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return records
}

// A registry of 500 repositories with 10 tags each, of 60 images, that fails in all
// ways, is scanned by a process that is killed at random: in the end all names are
// reported, and each image was scanned once.
func TestLargeRegistry(t *testing.T) {
	const seed = 20261123
	random := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	binary := filepath.Join(dir, "assay")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/assay-dev/assay/cmd/assay").CombinedOutput(); err != nil {
		t.Fatalf("building assay: %v\n%s", err, out)
	}
	db := filepath.Join(dir, "db")
	if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, db, time.Now()); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, seed)
	state, report := filepath.Join(dir, "state"), filepath.Join(dir, "scans.json")
	environment := []string{"HOME=" + dir, "TMPDIR=" + dir, "DOCKER_CONFIG=" + dir, "PATH=" + os.Getenv("PATH")}
	args := []string{"scan", "--registry", w.host, "--insecure-http", "--state", state, "--db", db, "-o", "json=" + report, "--parallel", fmt.Sprint(parallel), "--fail-on", "never"}

	start := time.Now()
	var peak int64
	runs, killed, exit := 0, 0, -1
	said := ""
	for exit != 0 {
		if runs++; runs > kills+20 {
			t.Fatalf("it is not complete after %d runs: %s", runs, said)
		}
		after := 0
		if killed < kills {
			after = 100 + random.IntN(600)
		}
		var memory int64
		exit, memory, said = w.run(t, binary, environment, after, args...)
		peak = max(peak, memory)
		switch exit {
		case -1:
			killed++
		case 0, 3:
		default:
			t.Fatalf("exit status %d: %s", exit, said)
		}
	}
	took := time.Since(start)
	t.Logf("%d runs, %d of them killed; %d requests, %s, peak memory %d MiB; faults %v; %s", runs, killed, w.requests, took.Round(time.Millisecond), peak>>20, w.faults, strings.TrimSpace(said))
	if killed < 5 {
		t.Errorf("only %d runs were killed", killed)
	}
	if peak > 512<<20 {
		t.Errorf("it took %d MiB of memory", peak>>20)
	}

	// Each image has one record, and was pulled once but for those that were in hand.
	records := scanRecords(t, state)
	for digest, n := range records {
		if n != 1 {
			t.Errorf("%s was scanned %d times", digest, n)
		}
	}
	if len(records) != distinct {
		t.Errorf("%d of %d images were scanned", len(records), distinct)
	}
	again := 0
	for digest, n := range w.whole {
		if n == 0 {
			t.Errorf("the layer %s was never pulled", digest)
		}
		again += n - 1
	}
	// The other layer of the image may have been the damaged one.
	if bound := killed*parallel + w.faults["truncated"] + w.faults["wrong bytes"]; again > bound {
		t.Errorf("%d images were pulled again; %d were in hand or damaged", again, bound)
	}

	// All names are reported, each with its own image.
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var all api.ScanReport
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	if all.Schema != api.SchemaScan || len(all.Images) != repositories*tags {
		t.Errorf("the report %s has %d images", all.Schema, len(all.Images))
	}
	results := map[api.Result]int{}
	byDigest := map[string]api.Result{}
	for _, s := range all.Images {
		if want := w.names[strings.TrimPrefix(s.Image, w.host+"/")]; s.Digest != want || s.Error != "" || s.Packages != 2 {
			t.Errorf("%s: %s, %d packages, error %q, want %s", s.Image, s.Digest, s.Packages, s.Error, want)
		}
		results[s.Result]++
		byDigest[s.Digest] = s.Result
	}
	passed := 0
	for _, r := range byDigest {
		if r == api.Pass {
			passed++
		}
	}
	if passed != distinct/3 || results[api.Unknown] > 0 {
		t.Errorf("%d images pass; results %v", passed, results)
	}

	// Nothing changed: nothing is pulled.
	w.reset(true)
	start = time.Now()
	exit, memory, said := w.run(t, binary, environment, 0, args...)
	t.Logf("unchanged: %d requests, %s, peak memory %d MiB; %s", w.requests, time.Since(start).Round(time.Millisecond), memory>>20, strings.TrimSpace(said))
	for digest, n := range w.whole {
		if n != 0 {
			t.Errorf("%s was pulled although nothing changed", digest)
		}
	}
	if exit != 0 || w.manifests != 0 || !strings.Contains(said, "5000 names in 500 repositories; 0 images scanned, 5000 names unchanged, 0 failed") {
		t.Errorf("exit status %d, %d manifests: %s", exit, w.manifests, said)
	}
}
