package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	quiet   = 100 * time.Millisecond // without an event, before the files are read
	settled = time.Second            // after the first event they are read anyhow
	resync  = time.Minute            // also without an event: network file systems, links to elsewhere
	polling = 5 * time.Second        // where the system lets nothing be watched

	maxFolders = 10_000
)

// Watch calls changed now and after each change below the paths, files or
// folders that need not exist, until the context ends; and every minute, since
// not every change is told. It follows a ConfigMap's ..data, renames over a
// file, and paths that are removed and made again.
func Watch(ctx context.Context, log *slog.Logger, paths []string, changed func()) error {
	paths = slices.Clone(paths)
	for i, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return fmt.Errorf("watching %s: %w", p, err)
		}
		paths[i] = abs
	}
	warned := false
	for ctx.Err() == nil {
		// All is watched anew before it is read, so no change falls between.
		w, err := newWatcher(paths)
		if err != nil && !warned {
			log.Warn("files cannot be watched, and are polled", "error", err, "every", polling)
			warned = true
		}
		changed()
		if err != nil {
			sleep(ctx, polling)
			continue
		}
		w.wait(ctx)
		if err := w.fs.Close(); err != nil {
			return fmt.Errorf("watching files: %w", err)
		}
	}
	return nil
}

// watcher watches the folders on the way to its targets and below them.
type watcher struct {
	fs      *fsnotify.Watcher
	targets []string
}

func newWatcher(paths []string) (*watcher, error) {
	f, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{fs: f}
	for _, p := range paths {
		w.targets = append(w.targets, p, filepath.Join(filepath.Dir(p), "..data"))
		if real, err := filepath.EvalSymlinks(p); err == nil && real != p {
			w.targets = append(w.targets, real)
		}
	}
	if err := w.add(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return w, nil
}

func (w *watcher) add() error {
	folders := 0
	for _, t := range w.targets {
		// On the way, what may not be watched or is not there is left out.
		for dir := filepath.Dir(t); ; dir = filepath.Dir(dir) {
			_ = w.fs.Add(dir)
			if dir == filepath.Dir(dir) {
				break
			}
		}
		err := filepath.WalkDir(t, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return nil // whoever reads the files reports it
			case name != t && !d.IsDir():
				return nil
			case name != t && strings.HasPrefix(d.Name(), "."):
				return fs.SkipDir
			}
			if folders++; folders > maxFolders {
				return fmt.Errorf("there are more than %d folders", maxFolders)
			}
			if err := w.fs.Add(name); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return fmt.Errorf("watching %s: %w", name, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// wait returns after a change, once it is quiet.
func (w *watcher) wait(ctx context.Context) {
	timer := time.NewTimer(resync)
	defer timer.Stop()
	var last time.Time // when to return at the latest, once there was a change
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case e := <-w.fs.Events:
			if !w.concerns(e.Name) {
				continue
			}
		case <-w.fs.Errors: // events were lost
		}
		now := time.Now()
		if last.IsZero() {
			last = now.Add(settled)
		}
		timer.Reset(min(quiet, max(last.Sub(now), 0)))
	}
}

// concerns says whether a target is the file, below it, or above it.
func (w *watcher) concerns(name string) bool {
	return slices.ContainsFunc(w.targets, func(t string) bool {
		return t == name || below(t, name) || below(name, t)
	})
}

func below(name, dir string) bool {
	return strings.HasPrefix(name, strings.TrimSuffix(dir, string(os.PathSeparator))+string(os.PathSeparator))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
