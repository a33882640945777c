package vulndb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"

	"github.com/assay-dev/assay/api"
)

// Defaults of [Config].
const (
	// DefaultMaxAge is Grype's: five days.
	DefaultMaxAge = 120 * time.Hour
	// DefaultMaxArchiveBytes bounds an archive.
	DefaultMaxArchiveBytes = 4 << 30
	// DefaultMaxBytes bounds what an archive unpacks to.
	DefaultMaxBytes = 16 << 30
	// DefaultLatestURL is where Grype's databases are published.
	DefaultLatestURL = "https://grype.anchore.io/databases"
	// DefaultKeep is how many generations are kept.
	DefaultKeep = 3
)

// Config configures a [Store].
type Config struct {
	// Dir holds the generations of the database.
	Dir string
	// MaxAge is how long ago a database may have been built. Absent: 120
	// hours; negative: any age.
	MaxAge time.Duration
	// Keep is how many generations are kept; the current one always is. Absent: 3.
	Keep int
	// Advisories are files and folders of own advisories in OSV's format, which
	// are merged into each database that comes, and by Merge. Absent: none.
	Advisories []string
	// LatestURL is the listing of databases, as Grype's `db.update-url`: the
	// JSON document or the folder above v6/latest.json. Absent: Grype's own.
	LatestURL string
	// HTTPClient fetches the listing and archives. Absent: one with the
	// proxies and certificates of the environment.
	HTTPClient *http.Client
	// Timeout bounds an update. Absent: an hour.
	Timeout time.Duration
	// Progress is told how far an update has come; from one goroutine at a time
	// for each call. Absent: nobody.
	Progress func(Event)
	// MaxArchiveBytes and MaxBytes bound an archive and what it unpacks to.
	// Absent: 4 GiB and 16 GiB.
	MaxArchiveBytes, MaxBytes int64
	// MaxCompareBytes is the size of the largest database of which is told what it
	// changed, which takes memory in proportion. Absent: any.
	MaxCompareBytes int64
	// Now is the clock. Absent: time.Now.
	Now func() time.Time
}

// Store is the place of the database on disk. It is safe for concurrent use,
// also by several processes.
type Store struct {
	cfg Config
	// pause is the time before another attempt, stall how long a download may be silent.
	pause, stall time.Duration
}

// Stage is a part of an update.
type Stage string

// Stages of an update.
const (
	// Waiting is for another process, Holder, which changes the same directory.
	Waiting Stage = "waiting"
	// Downloading counts bytes.
	Downloading Stage = "downloading"
	// Verifying unpacks and reads through what came.
	Verifying Stage = "verifying"
)

// Event tells how far an update has come.
type Event struct {
	Stage Stage
	// Done and Total count bytes; Total is 0 when it is not known.
	Done, Total int64
	// Holder is who is waited for, such as "process 4711"; "" when it is not known.
	Holder string
}

func (s *Store) report(e Event) {
	if s.cfg.Progress != nil {
		s.cfg.Progress(e)
	}
}

// New makes a Store. Nothing is read or written.
func New(c Config) (*Store, error) {
	if c.MaxArchiveBytes < 0 || c.MaxBytes < 0 {
		return nil, errors.New("the bounds of the vulnerability database are negative")
	}
	if c.Keep < 0 {
		return nil, errors.New("the number of generations to keep is negative")
	}
	if c.Keep == 0 {
		c.Keep = DefaultKeep
	}
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.MaxArchiveBytes == 0 {
		c.MaxArchiveBytes = DefaultMaxArchiveBytes
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = DefaultMaxBytes
	}
	if c.LatestURL == "" {
		c.LatestURL = DefaultLatestURL
	}
	if c.HTTPClient == nil {
		c.HTTPClient = newClient()
	}
	if c.Timeout == 0 {
		c.Timeout = time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Store{cfg: c, pause: time.Second, stall: stallAfter}, nil
}

// current is the directory of the database that serves.
func (s *Store) current() (string, error) {
	if s.cfg.Dir == "" {
		return "", errors.New("the directory of the vulnerability database is not set")
	}
	return currentOf(s.cfg.Dir)
}

func currentOf(dir string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dir, currentFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", missing(dir)
	case err != nil:
		return "", fmt.Errorf("reading which vulnerability database is current: %w", err)
	}
	name := strings.TrimSpace(string(content))
	if !strings.HasPrefix(name, generationPrefix) || strings.ContainsAny(name, `/\`) {
		return "", corrupt(filepath.Join(dir, currentFile)+" names no database", nil)
	}
	return filepath.Join(dir, name), nil
}

func (s *Store) makeDir() error {
	if s.cfg.Dir == "" {
		return errors.New("the directory of the vulnerability database is not set")
	}
	if err := checkPath(s.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the vulnerability database: %w", err)
	}
	return nil
}

// work makes a directory to prepare a database in, and removes those of
// processes that ended in between. Done removes it, unless it was placed.
func (s *Store) work(ctx context.Context) (dir string, done func(), err error) {
	if err := s.makeDir(); err != nil {
		return "", nil, err
	}
	unlock, err := s.lock(ctx, workLockFile)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	if err := s.sweepWork(); err != nil {
		return "", nil, s.roomFor(fmt.Errorf("removing what interrupted updates left: %w", err))
	}
	dir, err = os.MkdirTemp(s.cfg.Dir, workPrefix)
	if err != nil {
		return "", nil, s.roomFor(fmt.Errorf("making a directory for the vulnerability database: %w", err))
	}
	// The lock ends with the process, and says by that whose directory is dead.
	f, err := os.OpenFile(filepath.Join(dir, busyFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		return "", nil, errors.Join(s.roomFor(fmt.Errorf("locking a directory for the vulnerability database: %w", err)), os.RemoveAll(dir))
	}
	return dir, func() { _ = os.RemoveAll(dir); _ = f.Close() }, nil
}

// sweepWork removes the directories that processes which are gone prepared
// databases in. The work lock is the caller's: without it, a directory that is
// about to be locked looks like one that is left.
func (s *Store) sweepWork() error {
	dirs, err := s.named(workPrefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		f, err := os.Open(filepath.Join(dir, busyFile))
		if errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, os.RemoveAll(dir)) // its process ended before it was locked
			continue
		} else if err != nil {
			errs = append(errs, err)
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			errs = append(errs, os.RemoveAll(dir))
		}
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// activate merges own advisories into a prepared directory and makes it the
// current generation, in one step. It tells what changed.
func (s *Store) activate(ctx context.Context, work string, own ownAdvisories) (*api.DatabaseChanges, error) {
	if err := s.roomFor(s.mergeOwn(ctx, work, own)); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx, lockFile)
	if err != nil {
		return nil, err
	}
	before, err := s.current()
	if err != nil {
		before = "" // whatever is wrong with it, a sound one replaces it
	}
	err = s.place(ctx, work, own.record(work))
	unlock()
	if err != nil {
		return nil, s.roomFor(err)
	}
	return s.noteChanges(ctx, before), nil
}

// place makes a prepared directory the current generation. The lock is the caller's.
func (s *Store) place(ctx context.Context, work string, r generationRecord) error {
	r.Imported = s.cfg.Now().UTC()
	content, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := writeAtomically(filepath.Join(work, recordFile), append(content, '\n')); err != nil {
		return fmt.Errorf("noting when the vulnerability database came: %w", err)
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return fmt.Errorf("opening the vulnerability database to its readers: %w", err)
	}
	if err := syncFile(filepath.Join(work, v6.VulnerabilityDBFileName)); err != nil {
		return fmt.Errorf("writing the vulnerability database: %w", err)
	}
	if err := os.Remove(filepath.Join(work, busyFile)); err != nil {
		return fmt.Errorf("placing the vulnerability database: %w", err)
	}
	generation := filepath.Join(s.cfg.Dir, generationPrefix+r.Imported.Format("20060102T150405Z")+"-"+strings.TrimPrefix(filepath.Base(work), workPrefix))
	if err := os.Rename(work, generation); err != nil {
		return fmt.Errorf("placing the vulnerability database: %w", err)
	}
	if err := s.point(generation); err != nil {
		return errors.Join(err, os.RemoveAll(generation))
	}
	// What cannot be removed now is removed later: the new one serves.
	_, _ = s.sweep(ctx, s.cfg.Keep, settleAfter)
	return nil
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func writeAtomically(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Import makes the database of an archive (.tar.zst, .tar.gz, .tar.xz or plain
// .tar, recognised by content) the current one.
func (s *Store) Import(ctx context.Context, archive string) (*Status, error) {
	return s.install(ctx, archive, "import")
}

// ImportSum is Import of an archive that must have a sha256 checksum:
// "sha256:…", or its 64 digits alone.
func (s *Store) ImportSum(ctx context.Context, archive, sum string) (*Status, error) {
	want := strings.ToLower(strings.TrimPrefix(sum, "sha256:"))
	if b, err := hex.DecodeString(want); err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("%q is no sha256 checksum", sum)
	}
	got, err := fileSum(archive)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", filepath.Base(archive), err)
	}
	if got != "sha256:"+want {
		return nil, fmt.Errorf("importing %s: %w", filepath.Base(archive), corrupt("the archive has the checksum "+got+" and should have sha256:"+want, nil))
	}
	return s.Import(ctx, archive)
}

func (s *Store) install(ctx context.Context, archive, source string) (*Status, error) {
	work, done, err := s.work(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := s.prepare(ctx, archive, work, source); err != nil {
		return nil, fmt.Errorf("importing %s: %w", filepath.Base(archive), err)
	}
	own, err := s.own(ctx)
	if err = errors.Join(err, own.refused); err != nil {
		return nil, err
	}
	if _, err := s.activate(ctx, work, own); err != nil {
		return nil, err
	}
	return s.Status(ctx)
}

// prepare unpacks and verifies an archive in an empty directory.
func (s *Store) prepare(ctx context.Context, archive, dir, source string) error {
	if err := unpack(ctx, archive, dir, s.cfg.MaxArchiveBytes, s.cfg.MaxBytes); err != nil {
		return s.roomFor(err)
	}
	return s.roomFor(accept(ctx, dir, source))
}
