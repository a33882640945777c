package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
	"github.com/assay-dev/assay/test/postgresql"
)

// world is work that is derived from a state, as that of the store is.
type world struct {
	mu      sync.Mutex
	due     map[string]bool
	effects map[string]int // how often a digest's match took effect
	tries   map[string]int
	faults  map[string]int // how often a match fails first
	calls   map[string]int
	running int
	most    int
}

func newWorld() *world {
	return &world{due: map[string]bool{}, effects: map[string]int{}, tries: map[string]int{}, faults: map[string]int{}, calls: map[string]int{}}
}

func (w *world) work() jobs.Work {
	count := func(name string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls[name]++
		return nil
	}
	return jobs.Work{
		Due: func(_ context.Context, limit int) (list []string, err error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for d := range w.due {
				if len(list) < limit {
					list = append(list, d)
				}
			}
			slices.Sort(list)
			return list, nil
		},
		Match: func(ctx context.Context, digest string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.tries[digest]++
			if w.faults[digest] > 0 {
				w.faults[digest]--
				return errors.New("the database is locked by a ghost")
			}
			if w.due[digest] {
				delete(w.due, digest)
				w.effects[digest]++
			}
			return nil
		},
		EvaluateAlerts: func(context.Context) error {
			w.mu.Lock()
			w.running++
			w.most = max(w.most, w.running)
			w.mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			w.mu.Lock()
			w.running--
			w.mu.Unlock()
			return count("alerts")
		},
		Deliver:        func(context.Context) (time.Time, error) { return time.Time{}, count("deliver") },
		Retain:         func(context.Context) error { return count("retain") },
		UpdateDatabase: func(context.Context) error { return count("database") },
	}
}

func (w *world) wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		ok := done()
		w.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, w)
		}
	}
}

func start(t *testing.T, s *store.Store, w *world) (*jobs.Jobs, func()) {
	t.Helper()
	j, err := jobs.New(t.Context(), jobs.Config{SQLite: s.SQLiteDB(), Postgres: s.Pool(), Work: w.work(), SweepEvery: time.Second, AlertsEvery: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return j, stop
}

func TestJobs(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		w := newWorld()
		w.due["a"], w.due["b"], w.faults["b"] = true, true, 1
		j, _ := start(t, s, w)
		w.wait(t, "what a sweep finds is done, after a failure too", func() bool { return w.effects["a"] == 1 && w.effects["b"] == 1 })
		w.wait(t, "periodic jobs", func() bool {
			return w.calls["alerts"] > 1 && w.calls["deliver"] > 0 && w.calls["retain"] == 1 && w.calls["database"] == 1
		})
		list, err := j.List(t.Context(), jobs.Filter{Kind: jobs.Match})
		if err != nil {
			t.Fatal(err)
		}
		failed := slices.IndexFunc(list, func(x jobs.Job) bool { return x.Subject == "b" && x.Error == "the database is locked by a ghost" })
		if failed < 0 {
			t.Errorf("the failed attempt is not shown: %+v", list)
		}
		w.mu.Lock()
		w.due["c"], w.faults["c"] = true, 1000
		w.mu.Unlock()
		j.Kick(t.Context(), jobs.Match, "c")
		j.Kick(t.Context(), jobs.Match, "c")
		w.wait(t, "a kicked job runs", func() bool { return w.tries["c"] > 0 })
		list, err = j.List(t.Context(), jobs.Filter{Kind: jobs.Match})
		if err != nil {
			t.Fatal(err)
		}
		var ofC []jobs.Job
		for _, x := range list {
			if x.Subject == "c" {
				ofC = append(ofC, x)
			}
		}
		if len(ofC) != 1 {
			t.Fatalf("jobs of c: %+v", ofC)
		}
		if _, err := j.Cancel(t.Context(), ofC[0].ID); err != nil {
			t.Error(err)
		}
		w.mu.Lock()
		w.faults["c"] = 0
		w.mu.Unlock()
		w.wait(t, "what is cancelled is found again, as long as it is due", func() bool { return w.effects["c"] == 1 })
		if _, err := j.Retry(t.Context(), 1<<40); !errors.Is(err, jobs.ErrNotFound) {
			t.Errorf("retry of an unknown job: %v", err)
		}
		if _, err := j.List(t.Context(), jobs.Filter{State: "asleep"}); !errors.Is(err, jobs.ErrFilter) {
			t.Errorf("an unknown state: %v", err)
		}
	})
}

// Three replicas do each thing once, also when one of them ends.
func TestReplicas(t *testing.T) {
	address := postgresql.Start(t)
	w := newWorld()
	for i := range 300 {
		w.due[fmt.Sprint(i)] = true
	}
	var stops []func()
	for range 3 {
		_, stop := start(t, storetest.Open(t, address, nil), w)
		stops = append(stops, stop)
	}
	w.wait(t, "all are matched", func() bool { return len(w.effects) == 300 })
	w.mu.Lock()
	for d, n := range w.effects {
		if n != 1 {
			t.Errorf("%s took effect %d times", d, n)
		}
	}
	if w.most != 1 {
		t.Errorf("%d evaluations of alerts ran at a time", w.most)
	}
	alerts := w.calls["alerts"]
	w.mu.Unlock()
	stops[0]()
	stops[1]()
	w.wait(t, "the last one goes on", func() bool { return w.calls["alerts"] > alerts+2 })
}
