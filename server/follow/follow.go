// Package follow keeps the engine, the stored results and the bundles in step with
// the store and with the policies, in each of any number of replicas.
//
// A replica reads the changes of the store in their order and gives them to its
// engine, classifies what the store says must be classified, and makes the bundles.
// All of that can be made again from the store: nothing is lost when it ends.
package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/store"
)

// Config says what is followed.
type Config struct {
	Store *store.Store
	// Source gives the policies; nil is none.
	Source source.Source
	Engine engine.Config
	// Bundles is given the bundles that are made, and their heads; nil makes none. Key signs
	// them. ValidFor is for how long data.assay.fresh admits by a head; 0 is serve.DefaultValidFor.
	Bundles  *serve.Handler
	Key      *bundles.SigningKey
	ValidFor time.Duration
	// Every is the time between two looks at the store for the changes of other
	// replicas; 0 is 200 ms.
	Every time.Duration
	// Observe, where given, is called with the time and the error of each
	// "load", "update", "classify" and "publish", and how many things it was for.
	Observe func(what string, n int, took time.Duration, err error)
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Follower follows. It is safe for concurrent use.
type Follower struct {
	Config
	engine *engine.Engine

	mu       sync.Mutex
	current  state // replaced by the loop, read by all
	refused  error
	settled  int64         // all changes up to here are in the engine, and classified
	progress chan struct{} // closed and made anew when settled or refused changes
	readers  map[*reader]struct{}
	// expiredUntil is what this replica knows to be done.
	expiredUntil expired

	publish chan struct{}   // wakes the publisher
	wanted  map[string]bool // clusters whose parts somebody follows
}

// state is what the engine has. It is not changed once it is in force.
type state struct {
	loaded   bool
	set      *policies.Set // with the thresholds of the store
	folder   *policies.Set // as the source gave it
	revision string        // of the source
	origin   string        // of the thresholds
	basis    string        // of what classification rests on besides the store

	store      string // its id
	applied    int64
	parts      map[string]int64
	read       time.Time                    // when the store was read: nothing that was there before is missing
	reads      map[documents.Space][]string // the spaces of its groups, by that of a cluster
	exceptions exceptionState
}

// New makes a follower; Run does its work.
func New(c Config) *Follower {
	c.Every = cmp.Or(c.Every, 200*time.Millisecond)
	c.ValidFor = cmp.Or(c.ValidFor, serve.DefaultValidFor)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, int, time.Duration, error) {}
	}
	return &Follower{Config: c, engine: engine.New(c.Engine), progress: make(chan struct{}), readers: map[*reader]struct{}{}, wanted: map[string]bool{}, publish: make(chan struct{}, 1)}
}

// Engine is loaded once [Follower.Ready] gives no error, and until then refuses.
func (f *Follower) Engine() *engine.Engine { return f.engine }

// Policies are those in force, with the revision of their source; refused says why a
// newer state of the source was not taken.
func (f *Follower) Policies() (set *policies.Set, revision string, refused error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.set, f.current.revision, f.refused
}

// Thresholds are those in force, and where they come from: "default", "api", or the
// place in the policies folder, which the API cannot change.
func (f *Follower) Thresholds() (effective api.ThresholdsSpec, origin string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.current.loaded {
		return api.ThresholdsSpec{}, "default"
	}
	return f.current.set.Thresholds, f.current.origin
}

// Ready says why the engine is not loaded, or that it is.
func (f *Follower) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.current.loaded:
		return nil
	case f.refused != nil:
		return fmt.Errorf("the policies are refused: %w", f.refused)
	}
	return errors.New("the policies and the data are being loaded")
}

// Settle waits until the engine has seen all changes that were committed before the
// call, and all that they touch is classified.
func (f *Follower) Settle(ctx context.Context) error {
	var head int64
	err := f.Store.View(ctx, func(t *store.Tx) (err error) {
		head, err = t.Head(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for {
		f.mu.Lock()
		settled, progress := f.settled, f.progress
		f.mu.Unlock()
		if settled >= head {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the results: %w", context.Cause(ctx))
		case <-progress:
		}
	}
}

// Run follows until the context ends, or until it can never work.
func (f *Follower) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	updates := make(chan source.Update)
	group.Go(func() error {
		if f.Source == nil {
			select {
			case updates <- source.Update{Set: &policies.Set{}}:
			case <-ctx.Done():
			}
			return nil
		}
		return f.Source.Run(ctx, func(u source.Update) {
			select {
			case updates <- u:
			case <-ctx.Done():
			}
		})
	})
	group.Go(func() error { return f.loop(ctx, updates) })
	if f.Bundles != nil {
		group.Go(func() error { return f.publisher(ctx) })
	}
	return group.Wait()
}

// pause is the time after an error; the store may be away for a while.
const pause = time.Second

func (f *Follower) loop(ctx context.Context, updates <-chan source.Update) error {
	var pending *source.Update // policies that are not yet in force
	timer := time.NewTicker(f.Every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case u := <-updates:
			pending = f.judged(u, pending)
		case <-f.Store.Committed():
		case <-timer.C:
		}
		for again := true; again && ctx.Err() == nil; {
			var err error
			again, err = f.step(ctx, &pending)
			if err != nil && ctx.Err() == nil {
				f.Log.Error("following the store", "error", err)
				select {
				case <-ctx.Done():
				case u := <-updates:
					pending = f.judged(u, pending)
				case <-time.After(pause):
				}
			}
		}
	}
}

// judged notes a state of the source; one with faults changes nothing else.
func (f *Follower) judged(u source.Update, pending *source.Update) *source.Update {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = u.Err
	if u.Err != nil {
		f.Log.Error("the policies are refused; the last good ones stay", "revision", u.Revision, "error", u.Err)
		return pending
	}
	return &u
}

// step does what is to be done; again says that there may be more.
func (f *Follower) step(ctx context.Context, pending **source.Update) (again bool, err error) {
	if *pending != nil {
		if err := f.take(ctx, **pending); err != nil {
			if errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
				return true, err
			}
			f.mu.Lock()
			f.refused = err
			f.mu.Unlock()
			*pending = nil
			return false, err
		}
		*pending = nil
	}
	if !f.current.loaded { // only this goroutine writes it
		return false, nil
	}
	if err := f.catchUp(ctx); err != nil {
		return true, err
	}
	if err := f.expire(ctx); err != nil {
		return true, err
	}
	n, err := f.classify(ctx)
	return n > 0, err
}

// put makes a state the one in force, and tells who waits.
func (f *Follower) put(s state) {
	f.mu.Lock()
	f.current = s
	f.mu.Unlock()
	select {
	case f.publish <- struct{}{}:
	default:
	}
}

// moved notes how far everything is done.
func (f *Follower) moved(settled int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if settled > f.settled {
		f.settled = settled
		close(f.progress)
		f.progress = make(chan struct{})
	}
}

// observed calls Observe with how a piece of work went.
func (f *Follower) observed(what string, n int, begun time.Time, err error) {
	f.Observe(what, n, time.Since(begun), err)
}
