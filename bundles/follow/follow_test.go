package follow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
)

// The parts of the tests.
var twoParts = []string{"exceptions", "names"}

// world is a server with two parts, who follows it, and who stands between them.
type world struct {
	t       *testing.T
	handler *serve.Handler
	key     *bundles.SigningKey
	public  *bundles.VerificationKey
	begun   time.Time

	mu       sync.Mutex
	ahead    time.Duration // of the clock of the follower
	sequence int64
	away     bool
	between  func(http.ResponseWriter, *http.Request) bool // answers in the server's place
	heads    int                                           // answered
	asked    map[string]int                                // parts that were sent whole
	loads    int
	value    map[string]string
	log      bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, handler: serve.New(serve.Limits{}), begun: time.Now(), sequence: 100, asked: map[string]int{}, value: map[string]string{}}
	w.key, w.public = keys(t)
	t.Cleanup(w.handler.Close)
	return w
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

// listen serves until who follows has stopped.
func (w *world) listen(h http.Handler) *httptest.Server {
	server := httptest.NewServer(h)
	w.t.Cleanup(server.Close)
	return server
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

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	away, between := w.away, w.between
	w.mu.Unlock()
	if away {
		http.Error(rw, "away", http.StatusServiceUnavailable)
		return
	}
	if between != nil && between(rw, r) {
		return
	}
	counted := &counter{ResponseWriter: rw}
	w.handler.ServeHTTP(counted, r)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch name := strings.TrimPrefix(r.URL.Path, serve.Prefix); {
	case name == bundles.PartHead:
		w.heads++
	case counted.status == 0 || counted.status == http.StatusOK:
		w.asked[name]++
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

func (w *world) set(between func(http.ResponseWriter, *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.between = between
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// packed is the bundle of a part with a value.
func (w *world) packed(part, value string, key *bundles.SigningKey) []byte {
	w.t.Helper()
	b, err := bundles.Data(part, map[string]any{part: map[string]any{"value": value}})
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := bundles.Pack(b, key)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// serve has a value in both parts, and the next head of them.
func (w *world) serve(value string) {
	w.t.Helper()
	for _, part := range twoParts {
		w.handler.Set(part, w.packed(part, value, w.key))
	}
	w.issue(bundles.Head{}, w.key)
}

// issue serves a head of what is there; what it leaves out is as usual.
func (w *world) issue(h bundles.Head, key *bundles.SigningKey) {
	w.t.Helper()
	if h.Store == "" {
		h.Store = "store"
	}
	if h.Sequence == 0 {
		w.sequence++
		h.Sequence = w.sequence
	}
	if h.Time.IsZero() {
		h.Time = time.Now()
	}
	h.Until = h.Time.Add(time.Minute)
	if err := w.handler.Issue(h, key, twoParts); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) follower(url, persist string) *Follower {
	w.t.Helper()
	f, err := New(Config{
		URL: url, Keys: []*bundles.VerificationKey{w.public}, Persist: persist, Parts: twoParts, Log: slog.New(slog.NewTextHandler(w, nil)), Now: w.now, MaxAge: time.Hour,
		Load: func(_ context.Context, changed iter.Seq2[*bundle.Bundle, error]) error {
			next := map[string]string{}
			for b, err := range changed {
				if err != nil {
					return err
				}
				for part, x := range b.Data["assay"].(map[string]any) {
					if part != "revisions" {
						next[part] = x.(map[string]any)["value"].(string)
					}
				}
				if next["names"] == "not to be loaded" {
					return errors.New("it cannot be loaded")
				}
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			maps.Copy(w.value, next)
			w.loads++
			if w.value["names"] != w.value["exceptions"] {
				w.t.Errorf("parts of two moments are in force: %v", w.value)
			}
			return nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

// run follows until stop.
func (w *world) run(f *Follower) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		f.Restore(ctx)
		_ = f.Run(ctx)
	})
	stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *world) until(what string, check func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not %s\n%s", what, w.log.String())
		}
	}
}

func (w *world) has(value string) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.value["exceptions"] == value && w.value["names"] == value
	}
}

// captured is what was served once: who stands between may serve it again.
type captured map[string][]byte

func (w *world) capture() captured {
	w.t.Helper()
	all := captured{}
	for _, name := range append([]string{bundles.PartHead}, twoParts...) {
		answer := httptest.NewRecorder()
		w.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, serve.Prefix+name, nil))
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.Code != http.StatusOK {
			w.t.Fatal(answer.Code, err)
		}
		all[name] = text
	}
	return all
}

// again serves of what was captured the names that are given, whatever is asked of them.
func (c captured) again(names ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(rw http.ResponseWriter, r *http.Request) bool {
		for _, name := range names {
			if strings.TrimPrefix(r.URL.Path, serve.Prefix) == name {
				rw.Header().Set("ETag", serve.ETag(c[name]))
				_, _ = rw.Write(c[name])
				return true
			}
		}
		return false
	}
}

func fault(f *Follower) string {
	if _, err := f.Fault(); err != nil {
		return err.Error()
	}
	return ""
}

// refuses waits until the follower says why it refuses what it is offered.
func (w *world) refuses(f *Follower, value, says string) {
	w.t.Helper()
	w.until("told: "+says, func() bool { return strings.Contains(fault(f), says) })
	if !w.has(value)() || f.Ready() != nil {
		w.t.Errorf("%s: what was in force does not stay", says)
	}
}

// A change is loaded at once, all parts together; and an outage is followed by no download of what is there.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	f := w.follower(server.URL, t.TempDir())
	if err := f.Ready(); err == nil {
		t.Error("ready without data")
	}
	w.run(f)
	w.until("told that there is no head", func() bool { return strings.Contains(fault(f), "must be upgraded first") })
	if _, err := f.Age(); err == nil || f.Ready() == nil || f.TooOld() == nil {
		t.Error("without data: it has an age, is ready, or is not too old")
	}
	w.serve("one")
	w.until("ready", func() bool { return f.Ready() == nil && w.has("one")() && fault(f) == "" })
	w.serve("two")
	w.until("changed", w.has("two"))
	w.mu.Lock()
	loads, asked := w.loads, maps.Clone(w.asked)
	w.mu.Unlock()
	w.issue(bundles.Head{}, w.key) // nothing but the time is new
	w.until("renewed", func() bool { return f.current().Sequence == w.sequence })
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()
	w.issue(bundles.Head{}, w.key) // wakes who waits, who asks again and finds no one
	w.until("told that it is away", func() bool { return strings.Contains(fault(f), "503") })
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	w.until("back", func() bool { return fault(f) == "" && f.current().Sequence == w.sequence })
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loads != loads || !maps.Equal(w.asked, asked) {
		t.Errorf("heads of the same parts cost loads or downloads: %d became %d, %v became %v", loads, w.loads, asked, w.asked)
	}
}

// What the server did not sign, or cannot be loaded, changes nothing.
func TestForeign(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	f := w.follower(server.URL, t.TempDir())
	w.run(f)
	w.serve("good")
	w.until("loaded", w.has("good"))
	foreign, _ := keys(t)
	bad := func(part string, key *bundles.SigningKey) {
		w.handler.Set("exceptions", w.packed(part, "bad", key))
		w.issue(bundles.Head{}, w.key)
	}
	for _, c := range []struct {
		offer func()
		says  string
	}{
		{func() { w.issue(bundles.Head{}, foreign) }, "no key given made it"},
		{func() { w.issue(bundles.Head{}, nil) }, "has 0 files .signatures.json"},
		{func() { w.handler.Set("head", w.packed("names", "bad", w.key)) }, "the bundle is none, its roots are"},
		{func() { w.handler.Set("head", []byte("no bundle")) }, "is no bundle"},
		{func() { w.handler.Set("head", bomb(t)) }, "has more than 4194304 bytes"},
		{func() { bad("exceptions", foreign) }, "exceptions: the signature does not hold: no key given made it"},
		{func() { bad("exceptions", nil) }, "has 0 files .signatures.json"},
		{func() { bad("names", w.key) }, `the bundle is that of the part "names", not of "exceptions"`},
		{func() { w.handler.Set("exceptions", []byte("no bundle")); w.issue(bundles.Head{}, w.key) }, "reading the bundle"},
		{func() { w.serve("not to be loaded") }, "it cannot be loaded"},
	} {
		c.offer()
		w.refuses(f, "good", c.says)
	}
	w.serve("better")
	w.until("well again", func() bool { return w.has("better")() && fault(f) == "" })
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

// Who follows without keys is told of heads and sequences all the same.
func TestUnsigned(t *testing.T) {
	w := newWorld(t)
	w.key = nil
	server := w.listen(w)
	f := w.follower(server.URL, t.TempDir())
	f.Keys = nil
	w.run(f)
	w.serve("one")
	w.until("loaded", w.has("one"))
	old := w.capture()
	w.serve("two")
	w.until("loaded", w.has("two"))
	w.set(old.again(append([]string{"head"}, twoParts...)...))
	w.issue(bundles.Head{}, nil)
	w.refuses(f, "two", "was seen already")
}
