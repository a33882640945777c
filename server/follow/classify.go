package follow

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
)

// taskBatch is how many pieces of work one transaction does.
const taskBatch = 2500

// classify does the oldest work, and gives how much. Replicas take turns: work is
// read and ended by one transaction that writes. A replica that has other policies
// than those declared last leaves it to the others.
func (f *Follower) classify(ctx context.Context) (n int, err error) {
	begun := time.Now()
	defer func() {
		if n > 0 || err != nil {
			f.observed("classify", n, begun, err)
		}
	}()
	applied := f.current.applied
	ours, waiting := true, 0
	err = f.Store.View(ctx, func(t *store.Tx) (err error) {
		waiting, err = t.Waiting(ctx, applied)
		return err
	})
	if err != nil {
		return 0, err
	}
	if waiting == 0 {
		f.moved(applied)
		return 0, nil
	}
	err = f.Store.Write(ctx, func(t *store.Tx) error {
		var basis string
		if err := t.Setting(ctx, settingBasis, &basis); err != nil {
			return err
		}
		if ours = basis == f.current.basis; !ours {
			return nil
		}
		tasks, done, err := t.Tasks(ctx, applied, taskBatch, f.ways())
		if err != nil {
			return err
		}
		n = len(done)
		verdicts, err := f.verdicts(ctx, tasks)
		if err != nil {
			return err
		}
		return t.Classified(ctx, verdicts, done)
	})
	return n, err
}

// verdicts asks the engine, on all CPUs.
func (f *Follower) verdicts(ctx context.Context, tasks []store.Task) ([]store.Verdict, error) {
	now := f.Now()
	verdicts := make([]store.Verdict, len(tasks))
	group, ctx := errgroup.WithContext(ctx)
	size := max(1, (len(tasks)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for from := range slices.Chunk(indexesOf(tasks), size) {
		group.Go(func() error {
			for _, i := range from {
				v := store.Verdict{Task: tasks[i]}
				for _, view := range tasks[i].Views {
					said := store.Said{Result: api.Unknown}
					if tasks[i].Digest != "" { // else nothing is known of it but that it could not be scanned
						c, err := f.engine.In(view.Cluster).Classify(ctx, tasks[i].Image, tasks[i].Digest, now)
						if err != nil {
							return err
						}
						said = store.Said{Result: c.Result, MaxCVSS: c.MaxCVSS}
					}
					v.Said = append(v.Said, said)
				}
				verdicts[i] = v
			}
			return nil
		})
	}
	return verdicts, group.Wait()
}

// ways are those in which evidence must have come to count; nil is any.
func (f *Follower) ways() (ways []api.Way) {
	if s := f.engine.Settings(); s != nil {
		for _, w := range s.Evidence {
			if w == "" {
				return nil
			}
			ways = append(ways, api.Way(w))
		}
	}
	return ways
}

func indexesOf[T any](list []T) []int {
	all := make([]int, len(list))
	for i := range all {
		all[i] = i
	}
	return all
}

// graceEvery is how often everything is classified anew while results change with time alone.
const graceEvery = time.Hour

// expired is the setting of what came to its end: done up to a moment.
type expired struct {
	Until time.Time `json:"until"`
	Grace time.Time `json:"grace"`
}

// expire makes it necessary to classify what the exceptions reach whose end has come.
func (f *Follower) expire(ctx context.Context) error {
	s := f.current
	now := f.Now()
	f.mu.Lock()
	until := f.expiredUntil
	f.mu.Unlock()
	grace := s.set.Thresholds.Grace != nil
	if !until.Until.IsZero() && len(ending(s.exceptions.list, until.Until, now)) == 0 && (!grace || now.Sub(until.Grace) < graceEvery) {
		return nil
	}
	var next expired
	err := f.Store.Write(ctx, func(t *store.Tx) error {
		var before expired
		if err := t.Setting(ctx, settingExpired, &before); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		next = before
		if now.After(before.Until) {
			next.Until = now
			if !before.Until.IsZero() {
				if err := t.ReclassifyExceptions(ctx, ending(s.exceptions.list, before.Until, now)); err != nil {
					return err
				}
			}
		}
		if grace && now.Sub(before.Grace) >= graceEvery {
			next.Grace = now
			if err := t.Reclassify(ctx, s.applied); err != nil {
				return err
			}
		}
		if next == before {
			return nil
		}
		return t.SetSetting(ctx, settingExpired, next)
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.expiredUntil = next
	f.mu.Unlock()
	return nil
}

// ending are the exceptions that end after one moment, and not after another.
func ending(list []api.VulnerabilityException, after, until time.Time) (ended []api.VulnerabilityException) {
	for _, e := range list {
		if e.Spec.Expires == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, e.Spec.Expires)
		if err == nil && at.After(after) && !at.After(until) {
			ended = append(ended, e)
		}
	}
	return ended
}
