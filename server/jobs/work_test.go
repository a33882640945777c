package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// config is that of jobs in a store, with the work that a test wants.
func config(s *store.Store, w Work) Config {
	return Config{SQLite: s.SQLiteDB(), Postgres: s.Pool(), Work: w, Workers: 2}
}

// start makes jobs and runs them until stop is called, or the test ends.
func start(t *testing.T, c Config) (j *Jobs, stop func()) {
	t.Helper()
	j, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return j, stop
}

// until waits for something that must come to be.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// jobs lists those of a kind, the newest first.
func (j *Jobs) all(t *testing.T, kind string) []Job {
	t.Helper()
	list, err := j.List(t.Context(), Filter{Kind: kind, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func kick(t *testing.T, j *Jobs, kind, subject string) {
	t.Helper()
	j.Kick(t.Context(), kind, subject)
}

// images is the state of a store as jobs see it: which SBOMs must be matched.
type images struct {
	mu    sync.Mutex
	due   map[string]bool
	calls map[string]int
}

func newImages(digests ...string) *images {
	w := &images{due: map[string]bool{}, calls: map[string]int{}}
	for _, d := range digests {
		w.due[d] = true
	}
	return w
}

func (w *images) Due(_ context.Context, limit int) (due []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for d := range w.due {
		if len(due) < limit {
			due = append(due, d)
		}
	}
	return due, nil
}

func (w *images) Match(_ context.Context, digest string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.due, digest)
	w.calls[digest]++
	return nil
}

func (w *images) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.due)
}

func none(context.Context, int) ([]string, error) { return nil, nil }

func digests(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("sha256:%064x", i)
	}
	return list
}

func TestSweep(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		w := newImages(digests(600)...)
		j, stop := start(t, config(s, Work{Due: w.Due, Match: w.Match}))
		until(t, "all are matched", func() bool { return w.left() == 0 })
		stop()
		for d, n := range w.calls {
			if n != 1 {
				t.Errorf("%s was matched %d times", d, n)
			}
		}
		if list := j.all(t, Match); len(list) != 600 || list[0].State != Completed || list[0].Attempt != 1 || list[0].Finalized == nil {
			t.Errorf("%d jobs, the newest %+v", len(list), list[0])
		}
	})
}

// What is due anew is found while other jobs wait.
func TestSweepWhileJobsWait(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		w := newImages("sha256:1", "sha256:2", "sha256:3")
		goOn := make(chan struct{})
		c := config(s, Work{Due: w.Due, Match: func(ctx context.Context, digest string) error {
			<-goOn
			return w.Match(ctx, digest)
		}})
		c.SweepEvery = time.Second
		j, _ := start(t, c)
		until(t, "the jobs are made", func() bool { return len(j.all(t, Match)) == 3 })
		w.mu.Lock()
		w.due["sha256:4"] = true
		w.mu.Unlock()
		until(t, "one is made besides", func() bool { return len(j.all(t, Match)) == 4 })
		close(goOn)
		until(t, "all are matched", func() bool { return w.left() == 0 })
	})
}

func TestRetry(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		var mu sync.Mutex
		var at []time.Time
		j, _ := start(t, config(s, Work{Due: none, Match: func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			if len(at) < 3 {
				return fmt.Errorf("attempt %d: %s", len(at), strings.Repeat("ä", 2000))
			}
			return nil
		}}))
		kick(t, j, Match, "sha256:1")
		until(t, "the job fails", func() bool {
			list := j.all(t, Match)
			if len(list) != 1 || list[0].Error == "" {
				return false
			}
			if e := list[0].Error; !strings.HasPrefix(e, "attempt ") || len(e) > 1024 || !strings.HasSuffix(e, "ä…") {
				t.Errorf("%d bytes of %q", len(e), e)
			}
			return true
		})
		until(t, "the job is completed", func() bool { return j.all(t, Match)[0].State == Completed })
		got := j.all(t, Match)[0]
		if got.Attempt != 3 || !strings.HasPrefix(got.Error, "attempt 2") || got.Subject != "sha256:1" || got.MaxAttempts != matchAttempts {
			t.Errorf("%+v", got)
		}
		if first, second := at[1].Sub(at[0]), at[2].Sub(at[1]); first < time.Second || second < 4*time.Second {
			t.Errorf("it was tried again after %v and %v", first, second)
		}
	})
}

func TestPermanent(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		w := newImages("sha256:1")
		c := config(s, Work{Due: w.Due, Match: func(_ context.Context, d string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.calls[d]++
			return fmt.Errorf("matching: %w", Permanent(errors.New("the SBOM is malformed")))
		}})
		c.SweepEvery = time.Second
		j, _ := start(t, c)
		until(t, "some sweeps", func() bool {
			return len(slices.DeleteFunc(j.all(t, Sweep), func(j Job) bool { return j.State != Completed })) > 3
		})
		list := j.all(t, Match)
		if len(list) != 1 || list[0].State != Cancelled || list[0].Error != "matching: the SBOM is malformed" || list[0].Attempt != 1 {
			t.Errorf("%+v", list)
		}
		calls := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.calls["sha256:1"]
		}
		if n := calls(); n != 1 {
			t.Errorf("it was tried %d times", n)
		}
		kick(t, j, Match, "sha256:1")
		until(t, "a kick tries again", func() bool { return calls() == 2 })
		until(t, "it is cancelled again", func() bool { return j.all(t, Match)[0].State == Cancelled })
		if again, err := j.Retry(t.Context(), j.all(t, Match)[0].ID); err != nil || again.Subject != "sha256:1" {
			t.Errorf("%+v, %v", again, err)
		}
		until(t, "a retry by hand tries again", func() bool { return calls() == 3 })
	})
}

func TestKickWhileRunning(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		for _, kind := range []string{Match, Alerts} {
			t.Run(kind, func(t *testing.T) {
				s := storetest.Open(t, url(), nil)
				subject := ""
				if kind == Match {
					subject = "sha256:1"
				}
				started, goOn := make(chan struct{}, 100), make(chan struct{})
				var mu sync.Mutex
				running, most := 0, 0
				work := func(ctx context.Context) error {
					mu.Lock()
					running++
					most = max(most, running)
					mu.Unlock()
					started <- struct{}{}
					<-goOn
					mu.Lock()
					running--
					mu.Unlock()
					return nil
				}
				// The other kind has no work here: its first job would count as one of this.
				w := Work{EvaluateAlerts: work}
				if kind == Match {
					w = Work{Due: none, Match: func(ctx context.Context, _ string) error { return work(ctx) }}
				}
				c := config(s, w)
				c.AlertsEvery = time.Hour
				j, _ := start(t, c)
				if kind == Match {
					kick(t, j, kind, subject)
				}
				<-started
				for range 3 {
					kick(t, j, kind, subject)
					j.flush(t.Context())
				}
				until(t, "one waits", func() bool { return len(j.all(t, kind)) > 1 })
				goOn <- struct{}{}
				<-started // the kicks were not lost
				close(goOn)
				until(t, "all are done", func() bool {
					return !slices.ContainsFunc(j.all(t, kind), func(j Job) bool { return j.State != Completed })
				})
				// A job that is looked at while its subject is taken is not one that waits:
				// each kick may have made one of its own, and no more.
				if most != 1 || len(started) > 3 {
					t.Errorf("%d ran at once, %d too many", most, len(started))
				}
			})
		}
	})
}

// The log has failures with what they are about, and River's own days at Debug only.
func TestLog(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		var text bytes.Buffer
		c := config(storetest.Open(t, url(), nil), Work{Due: none, Match: func(context.Context, string) error { return Permanent(errors.New("malformed")) }})
		c.Log = slog.New(slog.NewTextHandler(&text, nil)) // which writes one record at a time
		j, stop := start(t, c)
		kick(t, j, Match, "sha256:1")
		until(t, "it fails", func() bool { list := j.all(t, Match); return len(list) == 1 && list[0].State == Cancelled })
		stop()
		got := text.String()
		if strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "kind=match subject=sha256:1 attempt=1 again=false error=malformed") {
			t.Error(got)
		}
	})
}
