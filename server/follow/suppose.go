package follow

import (
	"context"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/store"
)

// Hypothesis is a change that was not made.
type Hypothesis struct {
	// Exceptions are added, in the place of those of their names.
	Exceptions []api.VulnerabilityException
	// Without names exceptions of the store that are taken away.
	Without []string
	// Thresholds, where given, are in the place of those in force.
	Thresholds *api.ThresholdsSpec
}

// Suppose gives two engines over the same data: as it is, and as it would be. Neither follows
// the store. Where the change looks into details of vulnerabilities that nothing looked into
// so far, all data is read anew, which takes seconds.
func (f *Follower) Suppose(ctx context.Context, h Hypothesis) (before, after *engine.Engine, err error) {
	f.mu.Lock()
	s := f.current
	before = f.engine.Fork()
	f.mu.Unlock()
	if !s.loaded {
		return nil, nil, engine.ErrNotLoaded
	}
	next := s
	set := *s.set
	if h.Thresholds != nil {
		set.Thresholds = *h.Thresholds
	}
	next.set = &set
	after = before.Fork()
	err = f.Store.View(ctx, func(t *store.Tx) error {
		kept, err := t.Exceptions(ctx)
		if err != nil {
			return err
		}
		kept = slices.DeleteFunc(kept, func(e api.VulnerabilityException) bool {
			return slices.Contains(h.Without, e.Metadata.Name) || slices.ContainsFunc(h.Exceptions, func(x api.VulnerabilityException) bool { return x.Metadata.Name == e.Metadata.Name })
		})
		next.exceptions = exceptionsOf(set.Thresholds, set.Exceptions, kept, h.Exceptions)
		supposed := Follower{Config: f.Config, engine: after}
		if sameNeeds(s.exceptions.needs, next.exceptions.needs) {
			return supposed.replace(ctx, next, nil)
		}
		data, err := f.everything(ctx, t, &next)
		if err != nil {
			return err
		}
		return supposed.replace(ctx, next, data)
	})
	return before, after, err
}
