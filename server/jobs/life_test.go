package jobs

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-dev/assay/store/storetest"
	"github.com/assay-dev/assay/test/postgresql"
)

func TestStopWaits(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		begun, goOn := make(chan struct{}, 2), make(chan struct{})
		c := config(s, Work{Due: none, Match: func(ctx context.Context, digest string) error {
			begun <- struct{}{}
			if digest == "sha256:slow" {
				<-ctx.Done()
				return ctx.Err()
			}
			<-goOn
			return ctx.Err()
		}})
		c.Grace = 2 * time.Second
		j, stop := start(t, c)
		kick(t, j, Match, "sha256:slow")
		kick(t, j, Match, "sha256:quick")
		<-begun
		<-begun
		stopped := make(chan struct{})
		go func() { stop(); close(stopped) }()
		kick(t, j, Match, "sha256:late")
		close(goOn)
		<-stopped
		for _, job := range j.all(t, Match) {
			want := map[string]string{"sha256:slow": Available, "sha256:quick": Completed, "sha256:late": Available}[job.Subject]
			if job.State != want || job.Error != "" {
				t.Errorf("%+v, want it %s", job, want)
			}
		}
		if n := len(j.all(t, Match)); n != 3 {
			t.Errorf("%d jobs", n)
		}
		// The next program does what is left.
		var done atomic.Int32
		c.Work.Match = func(context.Context, string) error { done.Add(1); return nil }
		start(t, c)
		until(t, "what was left is done", func() bool { return done.Load() == 2 })
	})
}

func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		begun := make(chan struct{}, 1)
		var ended atomic.Int32
		j, _ := start(t, config(s, Work{Due: none, Match: func(ctx context.Context, _ string) error {
			begun <- struct{}{}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(4 * time.Second): // longer than River takes to see that it is cancelled
				ended.Add(1)
				return nil
			}
		}}))
		kick(t, j, Match, "sha256:1")
		<-begun
		first := j.all(t, Match)[0]
		if got, err := j.Cancel(t.Context(), first.ID); err != nil || got.State != Running {
			t.Errorf("%+v, %v", got, err)
		}
		until(t, "it is cancelled", func() bool { return j.all(t, Match)[0].State == Cancelled })
		again, err := j.Retry(t.Context(), first.ID)
		if err != nil || again.Subject != "sha256:1" || again.State != Available {
			t.Errorf("%+v, %v", again, err)
		}
		until(t, "it is done", func() bool { return j.all(t, Match)[0].State == Completed })
		if n := ended.Load(); n != 1 {
			t.Errorf("it ended %d times", n)
		}
		for _, change := range []func(context.Context, int64) (Job, error){j.Retry, j.Cancel} {
			if _, err := change(t.Context(), 1<<40); !errors.Is(err, ErrNotFound) {
				t.Errorf("a job that is not there: %v", err)
			}
		}
	})
}

// A job that panics or takes too long is tried again, and says so.
func TestPanicAndTimeout(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		var mu sync.Mutex
		seen := map[string]bool{}
		c := config(s, Work{Due: none, Match: func(ctx context.Context, digest string) error {
			mu.Lock()
			again := seen[digest]
			seen[digest] = true
			mu.Unlock()
			switch {
			case again:
			case digest == "sha256:panic":
				panic("no distribution")
			default:
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		c.Timeout = time.Second
		j, _ := start(t, c)
		kick(t, j, Match, "sha256:panic")
		kick(t, j, Match, "sha256:long")
		until(t, "both are done", func() bool {
			list := j.all(t, Match)
			return len(list) == 2 && list[0].State == Completed && list[1].State == Completed
		})
		for _, job := range j.all(t, Match) {
			if want := map[string]string{"sha256:panic": "no distribution", "sha256:long": "it took longer than 1s: "}[job.Subject]; !strings.HasPrefix(job.Error, want) {
				t.Errorf("%+v", job)
			}
		}
	})
}

// Deliveries come again when more is due, and at once when they are kicked.
func TestDeliver(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		var calls atomic.Int32
		c := config(s, Work{Deliver: func(context.Context) (time.Time, error) {
			switch n := calls.Add(1); n {
			case 1:
				return time.Now().Add(-time.Hour), nil // more is due
			case 2:
				return time.Now().Add(30 * time.Minute), nil
			}
			return time.Time{}, nil
		}})
		c.DeliverEvery = time.Hour
		j, _ := start(t, c)
		until(t, "it waits", func() bool {
			list := j.all(t, Deliver)
			return len(list) == 1 && list[0].State == Scheduled && list[0].Error == ""
		})
		if n := calls.Load(); n != 2 {
			t.Errorf("%d calls", n)
		}
		kick(t, j, Deliver, "")
		until(t, "it is done", func() bool { return j.all(t, Deliver)[0].State == Completed })
		if n := calls.Load(); n != 3 || len(j.all(t, Deliver)) != 1 {
			t.Errorf("%d calls, %d jobs", n, len(j.all(t, Deliver)))
		}
	})
}

func TestIdle(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		c := config(s, Work{Due: none, Match: func(context.Context, string) error { return nil },
			EvaluateAlerts: func(context.Context) error { return nil },
			Idle:           func(_ context.Context, kind string) (bool, error) { return kind == Alerts, nil }})
		c.SweepEvery, c.AlertsEvery = time.Second, time.Second
		j, _ := start(t, c)
		until(t, "some periods", func() bool { return len(j.all(t, Sweep)) > 2 })
		if list := j.all(t, Alerts); len(list) != 0 {
			t.Errorf("%+v", list)
		}
		kick(t, j, Alerts, "")
		until(t, "a kick counts all the same", func() bool { return len(j.all(t, Alerts)) == 1 })
	})
}

func TestPages(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		j, err := New(t.Context(), config(storetest.Open(t, url(), nil), Work{Due: none, Match: func(context.Context, string) error { return nil }}))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range digests(7) {
			kick(t, j, Match, d)
		}
		kick(t, j, Match, "")            // refused
		kick(t, j, Deliver, "")          // no such work
		kick(t, j, Sweep, "sha256:1")    // refused
		kick(t, j, Match, digests(1)[0]) // kicked already
		j.flush(t.Context())
		f, n, last := Filter{Limit: 3, State: Available}, 0, int64(1<<62)
		for {
			page, err := j.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, job := range page {
				if job.ID >= last || job.Kind != Match {
					t.Errorf("%+v after %d", job, last)
				}
				n, last = n+1, job.ID
			}
			if len(page) < 3 {
				break
			}
			f.After = last
		}
		if n != 7 {
			t.Errorf("%d jobs", n)
		}
		if list, err := j.List(t.Context(), Filter{State: Running}); err != nil || len(list) != 0 {
			t.Errorf("%v, %v", list, err)
		}
		if _, err := j.List(t.Context(), Filter{State: "asleep"}); !errors.Is(err, ErrFilter) {
			t.Error(err)
		}
	})
}

func TestNewerSchema(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		c := config(s, Work{})
		if _, err := New(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		const insert = "INSERT INTO river_migration (line, version) VALUES ('main', 999)"
		var err error
		if s.Pool() != nil {
			_, err = s.Pool().Exec(t.Context(), insert)
		} else {
			_, err = s.SQLiteDB().ExecContext(t.Context(), insert)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(t.Context(), c); err == nil || !strings.Contains(err.Error(), "newer program") {
			t.Error(err)
		}
		for _, wrong := range []Config{{}, config(s, Work{Due: none})} {
			if _, err := New(t.Context(), wrong); err == nil {
				t.Errorf("%+v is taken", wrong)
			}
		}
	})
}

// Replicas that start at once migrate once.
func TestStartAtOnce(t *testing.T) {
	t.Parallel()
	at := postgresql.Start(t)
	var group sync.WaitGroup
	for range 3 {
		s := storetest.Open(t, at, nil)
		group.Go(func() {
			if _, err := New(t.Context(), config(s, Work{})); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
