package follow

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/engine"
)

// bomb is a small bundle that unpacks to much.
func bomb(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	out := tar.NewWriter(zip)
	content := make([]byte, 64<<20)
	err := out.WriteHeader(&tar.Header{Name: "/data.json", Mode: 0o600, Typeflag: tar.TypeReg, Size: int64(len(content))})
	if err == nil {
		_, err = out.Write(content)
	}
	if err := errors.Join(err, out.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What was captured and is served again, whole or mixed with what is new, changes nothing: while the
// follower runs, and after it was started again with the server out of reach.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	stop := w.run(f)
	w.serve("old")
	w.until("loaded", w.has("old"))
	old := w.capture()
	w.serve("new")
	w.until("loaded", w.has("new"))
	for _, c := range []struct {
		name    string
		between func(http.ResponseWriter, *http.Request) bool
		says    string
	}{
		{"the old head and old parts", old.again("head", "exceptions", "names"), "old bundles are served again"},
		{"the old head alone", old.again("head"), "old bundles are served again"},
		{"old parts below the new head", old.again("exceptions", "names"), "is not the one that the head names"},
		{"one old part below the new head", old.again("names"), "names: the part is not the one that the head names"},
		{"parts in each other's place", func(rw http.ResponseWriter, r *http.Request) bool {
			now := w.capture()
			now["exceptions"], now["names"] = now["names"], now["exceptions"]
			return now.again("exceptions", "names")(rw, r)
		}, "is not the one that the head names"},
	} {
		w.set(c.between)
		newer := "newer, but for " + c.name
		w.serve(newer) // who waits already may still have it
		w.until("told: "+c.says, func() bool { return strings.Contains(fault(f), c.says) })
		if !w.has("new")() && !w.has(newer)() {
			t.Errorf("%s: what was in force does not stay: %v", c.name, w.value)
		}
		w.set(nil)
		w.serve("new")
		w.until("well again", func() bool { return w.has("new")() && fault(f) == "" })
	}

	// The same to one who was started again.
	stop()
	w.set(old.again("head", "exceptions", "names"))
	clear(w.value)
	f = w.follower(server.URL, dir)
	stop = w.run(f)
	w.refuses(f, "new", "old bundles are served again")
	stop()

	// Also where its bundles on disk were lost, but not what it saw.
	for _, name := range parts(t, dir) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	clear(w.value)
	f = w.follower(server.URL, dir)
	w.run(f)
	w.until("told", func() bool { return strings.Contains(fault(f), "old bundles are served again") })
	if f.Ready() == nil || len(w.value) > 0 {
		t.Errorf("old bundles are in force: %v", w.value)
	}
}

// parts are the files of bundles in a folder.
func parts(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"+extension))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Heads that verify and are not to be followed: of other data, of the future, of parts that are not all, or one
// number twice.
func TestWrongHeads(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	stop := w.run(f)
	w.serve("good")
	w.until("loaded", w.has("good"))
	for _, c := range []struct {
		head bundles.Head
		says string
	}{
		{bundles.Head{Store: "another", Sequence: 1 << 50}, `it is of the data "another", and "store" was followed so far`},
		{bundles.Head{Time: time.Now().Add(6 * time.Minute), Sequence: 1 << 51}, "one of the two clocks is wrong"},
		{bundles.Head{Sequence: 1}, "number 1, of "},
	} {
		w.issue(c.head, w.key)
		w.refuses(f, "good", c.says)
	}
	w.issue(bundles.Head{}, w.key)
	w.until("well again: none of those was seen", func() bool { return fault(f) == "" && f.current().Sequence == w.sequence })
	w.handler.Set("exceptions", w.packed("exceptions", "other", w.key))
	w.handler.Set("names", w.packed("names", "other", w.key))
	w.issue(bundles.Head{Sequence: w.sequence}, w.key)
	w.refuses(f, "good", "with other parts")
	if err := w.handler.Issue(bundles.Head{Store: "store", Sequence: w.sequence + 1, Time: time.Now(), Until: time.Now()}, w.key, []string{"names"}); err != nil {
		t.Fatal(err)
	}
	w.refuses(f, "good", "it does not name exceptions")

	// What another server left behind is not mixed with this one's.
	stop()
	w.issue(bundles.Head{Store: "another", Sequence: 1 << 50}, w.key)
	clear(w.value)
	f = w.follower(server.URL, dir)
	w.run(f)
	w.refuses(f, "good", `remove the folder of persisted bundles`)
}

// The age counts from the head's moment; a clock that is set back makes nothing younger.
func TestAge(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	stop := w.run(f)
	w.serve("one")
	w.issue(bundles.Head{Time: time.Now().Add(-30 * time.Minute)}, w.key)
	w.until("loaded", func() bool { return f.current().Sequence == w.sequence })
	clock := func(ahead time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ahead = ahead
	}
	for _, c := range []struct {
		ahead, age time.Duration
		tooOld     string
	}{
		{0, 30 * time.Minute, ""},
		{29 * time.Minute, 59 * time.Minute, ""},
		{31 * time.Minute, 61 * time.Minute, "and at most 1h0m0s is allowed"},
		{-32 * time.Minute, 0, ""},
		{-40 * time.Minute, -1, "the age of the data is not known"},
	} {
		clock(c.ahead)
		age, err := f.Age()
		if (err == nil) != (c.age >= 0) || err == nil && (age < c.age || age > c.age+time.Minute) {
			t.Errorf("%s ahead: the age is %s, %v", c.ahead, age, err)
		}
		if err := f.TooOld(); (err != nil) != (c.tooOld != "") || err != nil && !strings.Contains(err.Error(), c.tooOld) {
			t.Errorf("%s ahead: too old: %v", c.ahead, err)
		}
	}
	// After a start from disk it is still as old.
	clock(2 * time.Hour)
	stop()
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()
	f = w.follower(server.URL, dir)
	w.run(f)
	w.until("started from disk", func() bool { return f.Ready() == nil })
	if age, err := f.Age(); err != nil || age < 2*time.Hour {
		t.Errorf("from disk: the age is %s, %v", age, err)
	}
	if f.TooOld() == nil {
		t.Error("from disk: it is not too old")
	}
}

// The last good bundles are on disk; where one was damaged none is loaded, and that one alone is had anew.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	dir := t.TempDir()
	// What a release before heads left there is of no use.
	if err := os.WriteFile(filepath.Join(dir, "names"+extension), w.packed("names", "before", w.key), 0o600); err != nil {
		t.Fatal(err)
	}
	f := w.follower(server.URL, dir)
	stop := w.run(f)
	w.serve("one")
	w.until("loaded", w.has("one"))
	w.serve("two")
	w.until("on disk", func() bool { return w.has("two")() && len(parts(t, dir)) == 3 })
	stop()
	w.mu.Lock()
	w.away = true
	w.mu.Unlock()

	again := func() *Follower {
		clear(w.value)
		f := w.follower(server.URL, dir)
		f.Restore(t.Context())
		return f
	}
	if f := again(); f.Ready() != nil || !w.has("two")() {
		t.Errorf("from disk: %v %v", f.Ready(), w.value)
	}
	file := func(part string) string {
		list, err := filepath.Glob(filepath.Join(dir, part+"-*"))
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		return list[0]
	}
	damage := func(name string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(file("names"))
	if f := again(); f.Ready() == nil || len(w.value) > 0 || !w.logged("names: it is damaged") {
		t.Errorf("what was damaged is loaded, or what was beside it: %v", w.value)
	}
	w.mu.Lock()
	w.away, w.asked = false, map[string]int{}
	w.mu.Unlock()
	stop = w.run(w.follower(server.URL, dir))
	w.until("had anew", w.has("two"))
	stop()
	if w.asked["names"] != 1 || w.asked["exceptions"] != 0 {
		t.Errorf("asked for %v", w.asked)
	}

	// Without what was seen, the head on disk is.
	damage(filepath.Join(dir, seenFile))
	if f := again(); f.Ready() != nil || f.seen.Sequence != w.sequence || !w.logged("reading seen.json") {
		t.Errorf("without what was seen: %v, %v", f.Ready(), f.seen)
	}
	damage(filepath.Join(dir, headFile))
	if f := again(); f.Ready() == nil || len(w.value) > 0 {
		t.Error("a damaged head is loaded")
	}
}

// Whoever is killed at any moment starts with the old state or the new one whole, and takes nothing older
// than it was about to take.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	dir := t.TempDir()
	f := w.follower(server.URL, dir)
	w.serve("old")
	if err := f.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := w.capture()
	w.serve("new")

	// The folder as it is at each request and around loading, between which it changes once.
	var moments []string
	copied := func() {
		to := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Error(err)
		}
		moments = append(moments, to)
	}
	w.set(func(http.ResponseWriter, *http.Request) bool { copied(); return false })
	load := f.Load
	f.Load = func(ctx context.Context, changed iter.Seq2[*bundle.Bundle, error]) error {
		copied()
		return load(ctx, changed)
	}
	if err := f.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied()
	if len(moments) != 5 { // the head, two parts, loading, and the end
		t.Fatalf("%d moments", len(moments))
	}
	for i, dir := range moments {
		clear(w.value)
		f := w.follower(server.URL, dir)
		f.Restore(t.Context())
		if want := map[bool]string{true: "old", false: "new"}[i < 4]; f.Ready() != nil || !w.has(want)() {
			t.Fatalf("killed at moment %d: %v, %v\n%s", i, f.Ready(), w.value, w.log.String())
		}
		w.set(old.again("head", "exceptions", "names"))
		if err := f.once(t.Context()); errors.Is(err, errOlder) != (i > 0) {
			t.Errorf("killed at moment %d: the old head gives %v", i, err)
		}
		w.set(nil)
		if err := f.once(t.Context()); err != nil || !w.has("new")() {
			t.Errorf("killed at moment %d: %v, %v", i, err, w.value)
		}
	}
}

// Two replicas that never serve the same version at the same time, and change all the time, are followed through
// an address that leads to either.
func TestReplicas(t *testing.T) {
	w := newWorld(t)
	second := newWorld(t)
	second.key, second.public = w.key, w.public
	var turn atomic.Int64
	server := w.listen(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if turn.Add(1)%3 == 0 {
			second.handler.ServeHTTP(rw, r)
			return
		}
		w.handler.ServeHTTP(rw, r)
	}))
	f := w.follower(server.URL, t.TempDir())
	w.run(f)
	var newest string
	n, loads := 0, 0
	for end := time.Now().Add(time.Minute); loads < 5; n++ {
		if time.Now().After(end) {
			t.Fatalf("of %d changes %d were loaded", n, loads)
		}
		newest = time.Now().String()
		one, two := w, second
		if n%2 == 1 {
			one, two = two, one
		}
		one.sequence = max(one.sequence, two.sequence)
		one.serve(newest)
		time.Sleep(50 * time.Millisecond)
		w.mu.Lock()
		loads = w.loads
		w.mu.Unlock()
	}
	t.Logf("of %d changes %d were loaded", n, loads)
	second.sequence = max(w.sequence, second.sequence)
	w.serve(newest)
	second.sequence = w.sequence - 1
	second.serve(newest)
	w.until("had the newest, in the end", w.has(newest))
}

// The head of a view names what its readers have besides, and is followed whole: a part that it no longer names is
// gone. The head of another view does not count.
func TestView(t *testing.T) {
	w := newWorld(t)
	server := w.listen(w)
	own := []string{"cluster-prod", "cluster-prod/images-00", "group-a%20b/images-00"}
	for _, part := range append([]string{"cluster-dev"}, own...) {
		w.handler.Set(part, w.packed(part, "one", w.key))
	}
	w.serve("one")
	issue := func(view string, parts ...string) {
		w.sequence++
		head := bundles.Head{Store: "store", View: view, Sequence: w.sequence, Time: time.Now(), Until: time.Now()}
		if err := w.handler.Issue(head, w.key, append(parts, twoParts...)); err != nil {
			t.Fatal(err)
		}
	}
	issue("cluster-prod", own...)
	issue("cluster-dev", "cluster-dev")
	dir := t.TempDir()
	following := func() (*Follower, *engine.Engine) {
		e := engine.New(engine.Config{})
		f, err := New(Config{URL: server.URL, Keys: []*bundles.VerificationKey{w.public}, Parts: append([]string{"cluster-prod"}, twoParts...), View: "cluster-prod", Persist: dir, Log: w.follower(server.URL, "").Log, Load: e.ReplaceEach})
		if err != nil {
			t.Fatal(err)
		}
		f.Restore(t.Context())
		return f, e
	}
	f, e := following()
	if err := f.once(t.Context()); err != nil || len(e.Revisions()) != 5 || len(parts(t, dir)) != 6 {
		t.Errorf("%v, %v", e.Revisions(), err)
	}
	// Another version of one part takes none of the others away.
	w.handler.Set(own[1], w.packed(own[1], "two", w.key))
	issue("cluster-prod", own...)
	if err := f.once(t.Context()); err != nil || len(e.Revisions()) != 5 || len(f.gone(f.loaded)) != 0 {
		t.Errorf("%v, %v", e.Revisions(), err)
	}
	_, e = following()
	if len(e.Revisions()) != 5 {
		t.Errorf("from disk: %v", e.Revisions())
	}
	issue("cluster-prod", own[:2]...)
	if err := f.once(t.Context()); err != nil || f.loaded.Parts["group-a%20b/images-00"] != "" {
		t.Errorf("%v, %v", f.loaded, err)
	}
	if _, e = following(); len(e.Revisions()) != 4 || len(parts(t, dir)) != 5 {
		t.Errorf("a part that is gone: %v, %v", e.Revisions(), parts(t, dir))
	}
	for _, name := range []string{"head", "head-cluster-dev"} {
		answer := httptest.NewRecorder()
		w.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, serve.Prefix+name, nil))
		h, err := bundles.OpenHead(answer.Body.Bytes(), time.Now(), w.public)
		if err != nil {
			t.Fatal(err)
		}
		for part := range h.Parts {
			if strings.Contains(part, "prod") {
				t.Errorf("%s names %s", name, part)
			}
		}
		w.set(captured{"head-cluster-prod": answer.Body.Bytes()}.again("head-cluster-prod"))
		if err := f.once(t.Context()); err == nil || !strings.Contains(err.Error(), `not of "cluster-prod"`) {
			t.Errorf("%s is taken: %v", name, err)
		}
	}
}
