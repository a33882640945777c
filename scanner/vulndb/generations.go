package vulndb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/assay-dev/assay/api"
)

// ErrNoGeneration says that there is no such generation, or none to go back to.
var ErrNoGeneration = errors.New("there is no such generation of the vulnerability database")

const (
	generationPrefix = "generation-"
	workPrefix       = "incoming-"
	removedPrefix    = "removed-"
	currentFile      = "current"
	// heldFile has the time of building up to which updates fetch nothing.
	heldFile = "held"
	// lockFile is held while generations change, updateLockFile during all of an
	// update, workLockFile while directories with workPrefix come and go. The number of the process that holds one is in it.
	lockFile       = "lock"
	updateLockFile = "update.lock"
	workLockFile   = "work.lock"
	// busyFile is in a directory with workPrefix, and locked while that is used.
	busyFile = "busy"
	// recordFile is beside each database, and says when it came.
	recordFile = "generation.json"
)

// Generation is one of the databases that a [Store] keeps.
type Generation struct {
	// Name names it for [Store.Rollback].
	Name string
	// Path is the database file.
	Path string
	// Built is when the database was built, Imported when it came here.
	Built, Imported time.Time
	// Schema is such as "v6.1.10", Checksum such as "xxh64:…".
	Schema, Checksum string
	// Source says where the database came from.
	Source string
	// Bytes is its size on disk.
	Bytes int64
	// Advisories is the number of own advisories that are merged in, Digest that
	// of their content, Base the checksum of the published database below them.
	Advisories   int
	Digest, Base string
	// Changes is how it differs from the one that was current when it came; nil
	// where that is not known.
	Changes *api.DatabaseChanges
	// Current says that this one serves.
	Current bool
	// Err is why it cannot be read; nil when it can.
	Err error
}

// generationRecord is what a generation says of itself in recordFile.
type generationRecord struct {
	Imported time.Time `json:"imported"`
	// Advisories is the number of own advisories that were merged in, and Digest
	// that of their content; empty without any.
	Advisories int    `json:"advisories,omitempty"`
	Digest     string `json:"digest,omitempty"`
	// Base is the checksum of the published database below them.
	Base string `json:"base,omitempty"`
	// Own says that own advisories were configured, if only none.
	Own bool `json:"own,omitempty"`
}

// Generations lists the databases that are kept, newest first by when they
// came. It reads descriptions alone: checksums are verified when one is used.
func (s *Store) Generations(ctx context.Context) ([]Generation, error) {
	if s.cfg.Dir == "" {
		return nil, errors.New("the directory of the vulnerability database is not set")
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("listing the vulnerability databases: %w", err)
	}
	current, err := s.current()
	if err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	var out []Generation
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !e.IsDir() || !strings.HasPrefix(e.Name(), generationPrefix) {
			continue
		}
		dir := filepath.Join(s.cfg.Dir, e.Name())
		g := describe(dir)
		g.Current = dir == current
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Generation) int {
		return cmp.Or(b.Imported.Compare(a.Imported), cmp.Compare(b.Name, a.Name))
	})
	return out, nil
}

func describe(dir string) (g Generation) {
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	g = Generation{Name: strings.TrimPrefix(filepath.Base(dir), generationPrefix), Path: file}
	defer guard(&g.Err)
	if info, err := os.Stat(dir); err == nil {
		g.Imported = info.ModTime().UTC()
	}
	r := readRecord(dir)
	g.Advisories, g.Digest, g.Base, g.Changes = r.Advisories, r.Digest, r.Base, readChanges(dir)
	if !r.Imported.IsZero() {
		g.Imported = r.Imported
	}
	info, err := os.Stat(file)
	if err != nil {
		g.Err = corrupt("it has no "+v6.VulnerabilityDBFileName, nil)
		return g
	}
	g.Bytes = info.Size()
	if m, err := v6.ReadImportMetadata(afero.NewOsFs(), dir); err != nil {
		g.Err = corrupt("reading its checksum", err)
	} else {
		g.Checksum, g.Source = m.Digest, m.Source
	}
	if err := checkHeader(file); err != nil {
		g.Err = err
		return g
	}
	d, err := v6.ReadDescription(file)
	if err != nil {
		g.Err = corrupt("reading its description", err)
		return g
	}
	g.Built, g.Schema = d.Built.UTC(), d.SchemaVersion.String()
	return g
}

// Rollback makes a generation current that is kept, after its checksum was
// verified: the one of that name, or for "" the one that came before the
// current one. Updates then fetch nothing until a database is published that is
// newer than the one that was left. The generation that was left stays, so that
// Rollback to its name goes forward again.
func (s *Store) Rollback(ctx context.Context, name string) (st *Status, err error) {
	defer guard(&err)
	unlock, err := s.lock(ctx, lockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	list, err := s.Generations(ctx)
	if err != nil {
		return nil, err
	}
	to, err := choose(list, name)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(to.Path)
	st, reader, err := s.inspect(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("generation %s cannot serve: %w", to.Name, err)
	}
	if err := reader.Close(); err != nil {
		return nil, err
	}
	// What is newest of all that was left is held, before the step is taken: a
	// crash between leaves a database that serves and is not fetched again.
	held := s.held()
	for _, g := range list {
		if g.Current && g.Built.After(held) {
			held = g.Built
		}
	}
	if held.After(to.Built) {
		if err := writeAtomically(filepath.Join(s.cfg.Dir, heldFile), []byte(held.UTC().Format(time.RFC3339)+"\n")); err != nil {
			return nil, fmt.Errorf("noting which vulnerability database was left: %w", err)
		}
	}
	if err := s.point(dir); err != nil {
		return nil, err
	}
	if !held.After(to.Built) {
		if err := os.Remove(filepath.Join(s.cfg.Dir, heldFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("forgetting which vulnerability database was left: %w", err)
		}
	}
	return st, nil
}

// choose finds the generation to go to. A name may be shortened while it stays clear.
func choose(list []Generation, name string) (Generation, error) {
	if name != "" {
		var found []Generation
		for _, g := range list {
			if g.Name == name {
				return g, nil
			}
			if strings.HasPrefix(g.Name, name) {
				found = append(found, g)
			}
		}
		switch len(found) {
		case 0:
			return Generation{}, fmt.Errorf("%w: %q; `assay db list` shows those that are kept", ErrNoGeneration, name)
		case 1:
			return found[0], nil
		}
		return Generation{}, fmt.Errorf("%w: %q begins the names of %d generations: write more of it", ErrNoGeneration, name, len(found))
	}
	at := slices.IndexFunc(list, func(g Generation) bool { return g.Current })
	for _, g := range list[at+1:] {
		if g.Err == nil {
			return g, nil
		}
	}
	return Generation{}, fmt.Errorf("%w: none came before the current one", ErrNoGeneration)
}

// HeldUntil is the time of building up to which updates fetch nothing, since somebody went back to
// an older generation; zero where nobody did.
func (s *Store) HeldUntil() time.Time { return s.held() }

// held is the time of building up to which updates fetch nothing; zero without one.
func (s *Store) held() time.Time {
	content, err := readBounded(filepath.Join(s.cfg.Dir, heldFile), 100)
	if err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(content)))
	if err != nil {
		return time.Time{}
	}
	return t
}

// Prune removes generations but for the newest keep of them and the current
// one, and what interrupted work left behind, and tells what it removed.
func (s *Store) Prune(ctx context.Context, keep int) ([]Generation, error) {
	if keep < 1 {
		return nil, errors.New("at least one generation is kept")
	}
	unlock, err := s.lock(ctx, lockFile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return s.sweep(ctx, keep, 0)
}

const (
	// staleAfter is when what an interrupted import left behind may go.
	staleAfter = 24 * time.Hour
	// settleAfter is when a generation may go by itself: another process may be
	// about to open a young one.
	settleAfter = 10 * time.Minute
	// tellAfter is when who waits for another process is told so.
	tellAfter = 500 * time.Millisecond
)

// sweep removes generations beyond the newest keep that are older than settle,
// and what interrupted work left. The current one stays. The lock is the
// caller's.
func (s *Store) sweep(ctx context.Context, keep int, settle time.Duration) ([]Generation, error) {
	if _, err := s.current(); err != nil {
		return nil, err // which may go is known only by which serves
	}
	list, err := s.Generations(ctx)
	if err != nil {
		return nil, err
	}
	var removed []Generation
	var errs []error
	for i, g := range list {
		dir := filepath.Dir(g.Path)
		info, err := os.Stat(dir)
		if err != nil || i < keep || g.Current || time.Since(info.ModTime()) < settle {
			continue
		}
		// In one step it is no generation any more; half of one is never listed.
		gone := filepath.Join(s.cfg.Dir, removedPrefix+filepath.Base(dir))
		if err := os.Rename(dir, gone); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, g)
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	errs = append(errs, err)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		if strings.HasPrefix(e.Name(), removedPrefix) ||
			strings.HasPrefix(e.Name(), partialPrefix) && time.Since(info.ModTime()) > staleAfter {
			errs = append(errs, os.RemoveAll(filepath.Join(s.cfg.Dir, e.Name())))
		}
	}
	unlock, err := s.lock(ctx, workLockFile)
	if err != nil {
		return removed, errors.Join(append(errs, err)...)
	}
	defer unlock()
	return removed, errors.Join(append(errs, s.sweepWork())...)
}

// named lists what begins with a prefix in the directory of the store.
func (s *Store) named(prefix string) (paths []string, err error) {
	entries, err := os.ReadDir(s.cfg.Dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			paths = append(paths, filepath.Join(s.cfg.Dir, e.Name()))
		}
	}
	return paths, err
}

// point makes a generation current, in one step.
func (s *Store) point(generation string) error {
	if err := writeAtomically(filepath.Join(s.cfg.Dir, currentFile), []byte(filepath.Base(generation)+"\n")); err != nil {
		return fmt.Errorf("making the vulnerability database current: %w", err)
	}
	return nil
}

// lock keeps other processes from doing the same. It ends with the process,
// however that ends. Who waits is told for whom.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	if s.cfg.Dir == "" {
		return nil, errors.New("the directory of the vulnerability database is not set")
	}
	if _, err := os.Stat(s.cfg.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, missing(s.cfg.Dir)
	}
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the vulnerability databases: %w", err)
	}
	begin, holder, told := time.Now(), "", false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// Who holds it is for people; the lock is held without it, too.
			if f.Truncate(0) == nil {
				_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
			}
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking the vulnerability databases: %w", err), f.Close())
		}
		if !told && time.Since(begin) > tellAfter {
			told = true
			if content, err := readBounded(f.Name(), 32); err == nil && len(content) > 0 {
				holder = "process " + strings.TrimSpace(string(content))
			}
			s.report(Event{Stage: Waiting, Holder: holder})
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for %s, which changes the vulnerability databases in %s: %w",
				cmp.Or(holder, "another process"), s.cfg.Dir, ctx.Err()), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
