package jobs

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// doomed is the variable with the URL of the store of a program that a test kills.
const doomed = "JOBS_TEST_DOOMED"

func TestMain(m *testing.M) {
	if url := os.Getenv(doomed); url != "" {
		fmt.Println(work(url))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// work begins a match and an evaluation of alerts, says so, and never ends them.
func work(url string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{URL: url})
	if err != nil {
		return err
	}
	begin := func(what string) error {
		fmt.Println(what)
		select {}
	}
	j, err := New(ctx, config(s, Work{
		Due:            func(context.Context, int) ([]string, error) { return []string{"sha256:1"}, nil },
		Match:          func(context.Context, string) error { return begin(Match) },
		EvaluateAlerts: func(context.Context) error { return begin(Alerts) },
	}))
	if err != nil {
		return err
	}
	return j.Run(ctx)
}

// What a program did and led when it was killed, another takes up.
func TestKilled(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		at := url()
		s := storetest.Open(t, at, nil)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), doomed+"="+at)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := sync.OnceFunc(func() {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // killed
		})
		t.Cleanup(kill)
		begun := map[string]bool{}
		for lines := bufio.NewScanner(out); len(begun) < 2 && lines.Scan(); {
			switch line := lines.Text(); line {
			case Match, Alerts:
				begun[line] = true
			default:
				t.Fatal(line)
			}
		}
		if len(begun) < 2 {
			t.Fatalf("it began %v", begun)
		}

		w := newImages("sha256:1", "sha256:2")
		var alerts atomic.Int32
		c := config(s, Work{Due: w.Due, Match: w.Match, EvaluateAlerts: func(context.Context) error { alerts.Add(1); return nil }})
		c.Timeout, c.AlertsEvery, c.SweepEvery = 3*time.Second, time.Second, time.Second
		replicas := 2
		if s.Pool() == nil {
			replicas = 1
			kill() // a file has one program at a time
		}
		var j *Jobs
		for range replicas {
			j, _ = start(t, c)
		}
		kill()
		until(t, "the leadership and the jobs are taken over", func() bool { return w.left() == 0 && alerts.Load() > 2 })
		until(t, "the match is shown as done", func() bool {
			for _, job := range j.all(t, Match) {
				if job.State != Completed {
					return false
				}
				if job.Subject == "sha256:1" && (job.Attempt != 2 || job.Error == "") {
					t.Errorf("%+v", job)
				}
			}
			return true
		})
		if w.calls["sha256:1"] != 1 || w.calls["sha256:2"] != 1 {
			t.Error(w.calls)
		}
	})
}
