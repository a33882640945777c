package follow_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
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
	followed "github.com/assay-dev/assay/bundles/follow"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// pair are a key and what verifies it.
func pair(t *testing.T) (*bundles.SigningKey, *bundles.VerificationKey) {
	t.Helper()
	private, public, err := bundles.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bundles.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	verify, err := bundles.ParseVerificationKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key, verify
}

// replica serves the bundles of a store.
func replica(t *testing.T, s *store.Store, key *bundles.SigningKey, now func() time.Time) *serve.Handler {
	t.Helper()
	h := serve.New(serve.Limits{})
	t.Cleanup(h.Close)
	in := make(states, 1)
	in.put(t, "one", "")
	start(t, follow.Config{Store: s, Source: in, Bundles: h, Key: key, Now: now, Every: 20 * time.Millisecond})
	return h
}

func served(h *serve.Handler, name string) string {
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, serve.Prefix+name, nil)); w.Code != http.StatusOK {
		return ""
	}
	return w.Body.String()
}

func headOf(t *testing.T, h *serve.Handler, verify *bundles.VerificationKey) (head bundles.Head) {
	t.Helper()
	text := served(h, bundles.PartHead)
	if text == "" {
		return head
	}
	head, err := bundles.OpenHead([]byte(text), time.Now(), verify)
	if err != nil {
		t.Fatal(err)
	}
	return head
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %s", what)
		}
	}
}

// hook is who follows, with an engine as a webhook has it.
type hook struct {
	*followed.Follower
	engine *engine.Engine
	stop   func()
}

func newHook(t *testing.T, url, dir string, verify *bundles.VerificationKey, now func() time.Time) *hook {
	t.Helper()
	e := engine.New(engine.Config{})
	f, err := followed.New(followed.Config{URL: url, Keys: []*bundles.VerificationKey{verify}, Persist: dir, Now: now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Load: func(ctx context.Context, changed iter.Seq2[*bundle.Bundle, error]) error {
			return e.ReplaceEach(ctx, changed)
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Restore(ctx)
		_ = f.Run(ctx)
	}()
	h := &hook{f, e, func() { cancel(); <-done }}
	t.Cleanup(h.stop)
	return h
}

func (h *hook) says(t *testing.T, image string, n int, now time.Time) string {
	t.Helper()
	c, err := h.engine.Classify(t.Context(), image, digest(n), now)
	if err != nil {
		return err.Error()
	}
	return string(c.Result)
}

// Replicas that share a store serve one head, to the byte; it is renewed each minute, and its number grows however
// the clock goes. Who follows through an address that leads to either is never held up.
func TestHeads(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		c := &clock{now: time.Now()}
		address := url()
		key, verify := pair(t)
		a := replica(t, storetest.Open(t, address, c.Now), key, c.Now)
		s := storetest.Open(t, address, c.Now)
		b := replica(t, s, key, c.Now)
		same := func() bool { x := served(a, "head"); return x != "" && x == served(b, "head") }
		eventually(t, "one head", same)
		first := headOf(t, a, verify)
		if len(first.Parts) != len(bundles.Parts()) || !first.Until.Equal(first.Time.Add(serve.DefaultValidFor)) || first.Time.Before(c.Now().Add(-time.Second)) {
			t.Errorf("%+v", first)
		}
		var turn atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if turn.Add(1)%2 == 0 {
				a.ServeHTTP(w, r)
			} else {
				b.ServeHTTP(w, r)
			}
		}))
		t.Cleanup(server.Close)
		h := newHook(t, server.URL, t.TempDir(), verify, c.Now)
		eventually(t, "followed", func() bool { return h.Ready() == nil })

		c.add(serve.HeadEvery)
		eventually(t, "renewed", func() bool { return same() && headOf(t, a, verify).Sequence > first.Sequence })
		renewed := headOf(t, a, verify)
		if !renewed.Time.After(first.Time) || fmt.Sprint(renewed.Parts) != fmt.Sprint(first.Parts) {
			t.Errorf("renewed: %+v", renewed)
		}
		c.add(-time.Hour)
		eventually(t, "renewed by a clock that was set back", func() bool { return same() && headOf(t, a, verify).Sequence > renewed.Sequence })
		for n := range 10 {
			write(t, s, func(tx *store.Tx) error {
				_, err := tx.AddScan(t.Context(), scanOf("r:1", n, c.Now(), vulnerability("CVE-2026-0001", 9.8)))
				return err
			})
			c.add(time.Second)
			time.Sleep(100 * time.Millisecond)
		}
		eventually(t, "at the newest", func() bool { return h.says(t, "r:1", 9, c.Now()) == "Fail" })
		if _, fault := h.Fault(); fault != nil {
			t.Error(fault)
		}
		eventually(t, "one head again", same)
	})
}

// A replica that signs but no longer reads what is new in its store gets old.
func TestHeadOfStuckReplica(t *testing.T) {
	c := &clock{now: time.Now()}
	address := filepath.Join(t.TempDir(), "assay.db")
	key, verify := pair(t)
	s := storetest.Open(t, address, c.Now)
	h := replica(t, s, key, c.Now)
	eventually(t, "a head", func() bool { return headOf(t, h, verify).Sequence > 0 })
	first := headOf(t, h, verify)
	// No change tells of it, as if the change were never read.
	if _, err := s.SQLiteDB().Exec("INSERT INTO parts (name, seq) VALUES ('exceptions', 1000000) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"); err != nil {
		t.Fatal(err)
	}
	c.add(2 * serve.HeadEvery)
	eventually(t, "renewed", func() bool { return headOf(t, h, verify).Sequence > first.Sequence })
	if got := headOf(t, h, verify); got.Time.After(first.Time.Add(serve.HeadEvery)) {
		t.Errorf("it says that it has everything of %s", got.Time)
	}
}

// Of an old backup that was restored who follows takes what it has, by heads that go on.
func TestHeadAfterRestore(t *testing.T) {
	c := &clock{now: time.Now()}
	dir, persist := t.TempDir(), t.TempDir()
	key, verify := pair(t)
	var live atomic.Pointer[serve.Handler]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { live.Load().ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	scan := func(s *store.Store, n int) {
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddScan(t.Context(), scanOf("r:1", n, c.Now(), vulnerability("CVE-2026-0001", 9.8)))
			return err
		})
	}
	database, backup := filepath.Join(dir, "assay.db"), filepath.Join(dir, "backup.db")
	s := storetest.Open(t, database, c.Now)
	live.Store(replica(t, s, key, c.Now))
	h := newHook(t, server.URL, persist, verify, c.Now)
	scan(s, 1)
	eventually(t, "the first", func() bool { return h.says(t, "r:1", 1, c.Now()) == "Fail" })
	if err := store.Backup(t.Context(), database, backup); err != nil {
		t.Fatal(err)
	}
	c.add(time.Second)
	scan(s, 2)
	eventually(t, "the second", func() bool { return h.says(t, "r:1", 2, c.Now()) == "Fail" })
	before := headOf(t, live.Load(), verify)
	h.stop()

	text, err := os.ReadFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "assay.db")
	if err := os.WriteFile(restored, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.add(2 * time.Second)
	s = storetest.Open(t, restored, c.Now)
	live.Store(replica(t, s, key, c.Now))
	h = newHook(t, server.URL, persist, verify, c.Now)
	eventually(t, "gone on", func() bool {
		return h.says(t, "r:1", 2, c.Now()) == "Unknown" && h.says(t, "r:1", 1, c.Now()) == "Fail"
	})
	if after := headOf(t, live.Load(), verify); after.Sequence <= before.Sequence || after.Store != before.Store {
		t.Errorf("before %+v, after %+v", before, after)
	}
	scan(s, 3)
	eventually(t, "followed again", func() bool { return h.says(t, "r:1", 3, c.Now()) == "Fail" })

	// Another database is another store: who followed the first is told, and keeps what it has.
	other := storetest.Open(t, filepath.Join(t.TempDir(), "assay.db"), c.Now)
	live.Store(replica(t, other, key, c.Now))
	server.CloseClientConnections()
	eventually(t, "told", func() bool {
		_, fault := h.Fault()
		return fault != nil && strings.Contains(fault.Error(), "was followed so far")
	})
	if got := h.says(t, "r:1", 3, c.Now()); got != "Fail" {
		t.Errorf("it has %s", got)
	}
}
