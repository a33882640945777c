package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/assay-dev/assay/store"
)

// lowSpace is how many bytes a disk must have free: a file that is there already may take small writes for long after
// its disk is full, and an upload would then be the first to find out.
const lowSpace = 32 << 20

// probeEvery is how often it is tried whether data can be stored.
const probeEvery = 10 * time.Second

// storage knows whether data can be stored: the database takes writes, and the disks of this server have room.
type storage struct {
	store *store.Store
	// folders by what they are for.
	folders map[string]string
	last    atomic.Pointer[stored]
}

// stored is what was seen last.
type stored struct {
	fault string // why nothing can be stored; "" where it can
	free  map[string]uint64
}

func newStorage(c *Config, s *store.Store) *storage {
	w := &storage{store: s, folders: map[string]string{}}
	if c.Data != "" {
		w.folders["data"] = c.Data
	}
	if store.Dialect(s.Dialect()) == store.SQLite {
		name := database(*c)
		if real, err := filepath.EvalSymlinks(name); err == nil {
			name = real
		}
		w.folders["database"] = filepath.Dir(name)
	}
	return w
}

// Run looks until ctx ends. It is stopped by nothing else.
func (w *storage) Run(ctx context.Context, tell func(fault string)) error {
	for {
		before := w.last.Load()
		w.look(ctx)
		if now := w.last.Load(); ctx.Err() == nil && (before == nil && now.fault != "" || before != nil && before.fault != now.fault) {
			tell(now.fault)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(probeEvery):
		}
	}
}

func (w *storage) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	now := &stored{free: map[string]uint64{}}
	var errs []error
	if err := w.store.Probe(ctx); errors.Is(err, store.ErrUnwritable) {
		errs = append(errs, err)
	}
	for what, folder := range w.folders {
		var st syscall.Statfs_t
		if err := syscall.Statfs(folder, &st); err != nil {
			errs = append(errs, fmt.Errorf("the folder of the %s cannot be read: %w", what, err))
			continue
		}
		now.free[what] = st.Bavail * uint64(st.Bsize) //nolint:unconvert // its type differs between systems
		switch {
		case now.free[what] < lowSpace:
			errs = append(errs, fmt.Errorf("the disk of the %s is full: %d MiB are free, and %d are needed", what, now.free[what]>>20, lowSpace>>20))
		case st.Files > 0 && st.Ffree == 0:
			errs = append(errs, fmt.Errorf("the disk of the %s has no inode free", what))
		}
	}
	if err := errors.Join(errs...); err != nil {
		now.fault = err.Error()
	}
	w.last.Store(now)
}

// Fault says why nothing can be stored, as it was seen last; "" where it can.
func (w *storage) Fault() string {
	if now := w.last.Load(); now != nil {
		return now.fault
	}
	return "it is not known yet"
}

// Free are the bytes that the disks have, by what is on them.
func (w *storage) Free() map[string]uint64 {
	if now := w.last.Load(); now != nil {
		return now.free
	}
	return nil
}
