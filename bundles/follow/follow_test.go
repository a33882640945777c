package follow

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
)

// world is a server with two parts, and who follows it.
type world struct {
	t       *testing.T
	handler *serve.Handler
	key     *bundles.SigningKey
	public  *bundles.VerificationKey

	mu     sync.Mutex
	away   bool
	sent   int // bundles
	loaded map[string]int
	value  map[string]string
	log    bytes.Buffer
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) logged(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.log.String(), text)
}

func keys(t *testing.T) (*bundles.SigningKey, *bundles.VerificationKey) {
	t.Helper()
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	signing, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	verification, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return signing, verification
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, handler: serve.New(serve.Limits{}), loaded: map[string]int{}, value: map[string]string{}}
	w.key, w.public = keys(t)
	t.Cleanup(w.handler.Close)
	return w
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	away := w.away
	w.mu.Unlock()
	if away {
		http.Error(rw, "away", http.StatusServiceUnavailable)
		return
	}
	counted := &counter{ResponseWriter: rw}
	w.handler.ServeHTTP(counted, r)
	w.mu.Lock()
	defer w.mu.Unlock()
	if counted.status == 0 || counted.status == http.StatusOK {
		w.sent++
	}
}

type counter struct {
	http.ResponseWriter
	status int
}

func (c *counter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// set serves a part with a value under a name.
func (w *world) set(name, part, value string, key *bundles.SigningKey) {
	w.t.Helper()
	b, err := bundles.Data(part, map[string]any{part: map[string]any{"value": value}})
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := bundles.Pack(b, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.handler.Set(name, text)
}

func (w *world) follower(url, persist string) *Follower {
	w.t.Helper()
	f, err := New(Config{
		URL: url, Keys: []*bundles.VerificationKey{w.public}, Persist: persist, Parts: []string{"exceptions", "names"}, Log: slog.New(slog.NewTextHandler(w, nil)),
		Load: func(_ context.Context, b *bundle.Bundle) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			for part, x := range b.Data["assay"].(map[string]any) {
				if part == "revisions" {
					continue
				}
				value := x.(map[string]any)["value"].(string)
				if value == "not to be loaded" {
					return fmt.Errorf("it cannot be loaded")
				}
				w.loaded[part]++
				w.value[part] = value
			}
			return nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func (w *world) until(what string, check func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not %s\n%s", what, w.log.String())
		}
	}
}

func (w *world) has(part, value string) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.value[part] == value
	}
}

// A change is loaded at once; what does not verify, or is another part, changes nothing;
// and an outage is followed by no download of what is there.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(w)
	defer server.Close()
	w.set("exceptions", "exceptions", "one", w.key)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	if err := f.Ready(); err == nil || !strings.Contains(err.Error(), "exceptions, names") {
		t.Errorf("ready: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = f.Run(ctx) })
	defer func() {
		stop()
		done.Wait()
	}()
	w.until("loaded", w.has("exceptions", "one"))
	w.until("told what is missing", func() bool { err := f.Ready(); return err != nil && strings.Contains(err.Error(), "404") })
	w.set("names", "names", "one", w.key)
	w.until("ready", func() bool { return f.Ready() == nil && len(f.Stale()) == 0 })
	w.set("exceptions", "exceptions", "two", w.key)
	w.until("changed", w.has("exceptions", "two"))

	foreign, _ := keys(t)
	for _, bad := range []struct {
		set  func()
		says string
	}{
		{func() { w.set("exceptions", "exceptions", "bad", foreign) }, "no key given made it"},
		{func() { w.set("exceptions", "exceptions", "bad", nil) }, "has 0 files .signatures.json"},
		{func() { w.set("exceptions", "names", "bad", w.key) }, `the bundle is that of the part \"names\", not of \"exceptions\"`},
		{func() { w.handler.Set("exceptions", []byte("no bundle")) }, "reading the bundle"},
		{func() { w.set("exceptions", "exceptions", "not to be loaded", w.key) }, "it cannot be loaded"},
	} {
		bad.set()
		w.until("told: "+bad.says, func() bool { return w.logged(bad.says) && len(f.Stale()) == 1 })
		if !w.has("exceptions", "two")() || f.Ready() != nil {
			t.Errorf("%s: the last good one does not stay", bad.says)
		}
	}
	w.set("exceptions", "exceptions", "three", w.key)
	w.until("well again", func() bool { return w.has("exceptions", "three")() && len(f.Stale()) == 0 })

	w.mu.Lock()
	before, loads := w.sent, maps.Clone(w.loaded)
	w.away = true
	w.mu.Unlock()
	w.set("names", "names", "two", w.key) // wakes who waits, who asks again and finds no one
	w.until("told that it is away", func() bool { return len(f.Stale()) > 0 })
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	w.until("back", func() bool { return w.has("names", "two")() && len(f.Stale()) == 0 })
	time.Sleep(100 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.sent > before+1 || w.loaded["exceptions"] != loads["exceptions"] {
		t.Errorf("the outage cost %d downloads, and %v became %v", w.sent-before, loads, w.loaded)
	}
}

// The last good bundles are on disk; what was damaged there is left out, and told.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(w)
	w.set("exceptions", "exceptions", "one", w.key)
	w.set("names", "names", "one", w.key)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { _ = f.Run(ctx) })
	w.until("on disk", func() bool {
		list, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
		return err == nil && len(list) == 2
	})
	stop()
	done.Wait()
	w.handler.Close()
	server.Close()

	clear(w.value)
	again := w.follower(server.URL, dir)
	if again.Restore(t.Context()); again.Ready() != nil || w.value["exceptions"] != "one" || w.value["names"] != "one" {
		t.Errorf("from disk: %v %v", again.Ready(), w.value)
	}
	text, err := os.ReadFile(filepath.Join(dir, "names.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "names.tar.gz"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged := w.follower(server.URL, dir)
	if damaged.Restore(t.Context()); damaged.Ready() == nil || !w.logged("a bundle on disk is not loaded") {
		t.Error("what was damaged is loaded")
	}
}

func TestConfig(t *testing.T) {
	for _, url := range []string{"", "assay", "ftp://assay", "https://user:pass@assay"} {
		if _, err := New(Config{URL: url}); err == nil || strings.Contains(err.Error(), "pass@") {
			t.Errorf("%q: %v", url, err)
		}
	}
	if _, err := New(Config{URL: "https://assay", CAFile: "follow_test.go"}); err == nil {
		t.Error("a file without certificates is taken")
	}
}
