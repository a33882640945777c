package webhook

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
)

// Local keeps an engine in step with policies of a source, and scan reports on
// disk, without a server.
type Local struct {
	Source source.Source
	Scans  []string
	Engine *engine.Engine
	// Before is called with each set and what brings it into force; nil just does that.
	Before func(ctx context.Context, set *policies.Set, load func() error) error
	Log    *slog.Logger

	mu    sync.Mutex
	set   *policies.Set
	fault error // of the last try
	ready bool
}

// Run follows until the context ends.
func (l *Local) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return l.Source.Run(ctx, func(u source.Update) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if u.Err != nil {
				l.failed(u.Err)
				return
			}
			l.set = u.Set
			l.load(ctx)
		})
	})
	if len(l.Scans) > 0 {
		group.Go(func() error {
			return source.Watch(ctx, l.Log, l.Scans, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.set != nil {
					l.load(ctx)
				}
			})
		})
	}
	return group.Wait()
}

func (l *Local) failed(err error) {
	if l.fault == nil || l.fault.Error() != err.Error() {
		l.Log.Error("policies or data are not loaded; the last good ones stay", "error", err)
	}
	l.fault = err
}

func (l *Local) load(ctx context.Context) {
	content := bundles.Content{Policies: l.set}
	for _, name := range l.Scans {
		scans, err := readScans(name)
		if err != nil {
			l.failed(err)
			return
		}
		content.Scans = append(content.Scans, scans...)
	}
	b, err := bundles.Build(content)
	if err == nil {
		load := func() error { return l.Engine.Load(ctx, b) }
		if l.Before != nil {
			err = l.Before(ctx, l.set, load)
		} else {
			err = load()
		}
	}
	if err != nil {
		l.failed(err)
		return
	}
	l.fault, l.ready = nil, true
	l.Log.Info("policies are in force", "policies", len(l.set.Policies), "scans", len(content.Scans), "revision", b.Manifest.Revision)
}

func readScans(name string) ([]api.Scan, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return bundles.ReadScans(name, file)
}

// Ready says what is missing before anything can be decided.
func (l *Local) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready {
		return nil
	}
	return errors.Join(errors.New("no policies are loaded"), l.fault)
}
