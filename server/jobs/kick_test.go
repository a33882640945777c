package jobs

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/store/storetest"
)

// After each kick a job begins that sees what was committed before it, without any
// sweep; and jobs of one subject never run at the same time.
func TestKicksAreNotLost(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		const subjects, changes = 5, 40
		var mu sync.Mutex
		version, matched, running := map[string]int{}, map[string]int{}, map[string]int{}
		c := config(s, Work{Due: none, Match: func(_ context.Context, digest string) error {
			mu.Lock()
			seen := version[digest]
			running[digest]++
			if running[digest] > 1 {
				t.Errorf("%s is matched twice at once", digest)
			}
			mu.Unlock()
			time.Sleep(rand.N(20 * time.Millisecond))
			mu.Lock()
			defer mu.Unlock()
			matched[digest] = seen
			running[digest]--
			return nil
		}})
		c.Workers = 4
		j, _ := start(t, c)
		var group sync.WaitGroup
		for _, digest := range digests(subjects) {
			group.Go(func() {
				for range changes {
					mu.Lock()
					version[digest]++
					mu.Unlock()
					kick(t, j, Match, digest)
					time.Sleep(rand.N(30 * time.Millisecond))
				}
			})
		}
		group.Wait()
		until(t, "the last change of each is matched", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, digest := range digests(subjects) {
				if matched[digest] != changes {
					return false
				}
			}
			return true
		})
		until(t, "all jobs end", func() bool {
			return !slices.ContainsFunc(j.all(t, Match), func(j Job) bool { return j.State != Completed })
		})
		t.Logf("%d jobs for %d kicks", len(j.all(t, Match)), subjects*changes)
	})
}

// What is kicked goes before what a sweep found.
func TestKickedFirst(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		w := newImages(digests(30)...)
		begun, goOn := make(chan string), make(chan struct{})
		c := config(s, Work{Due: w.Due, Match: func(ctx context.Context, digest string) error {
			begun <- digest
			<-goOn
			return w.Match(ctx, digest)
		}})
		c.Workers = 1
		j, _ := start(t, c)
		first := <-begun
		list := j.all(t, Match)
		last := slices.IndexFunc(list, func(j Job) bool { return j.State == Available })
		kick(t, j, Match, list[last].Subject)
		until(t, "it is urgent", func() bool {
			job := j.all(t, Match)[0]
			return job.Subject == list[last].Subject && job.ID > list[0].ID
		})
		goOn <- struct{}{}
		if next := <-begun; next != list[last].Subject {
			t.Errorf("after %s came %s, not %s", first, next, list[last].Subject)
		}
		close(goOn)
		for range len(digests(30)) - 2 {
			<-begun
		}
		until(t, "all are matched", func() bool { return w.left() == 0 })
	})
}
