package vulndb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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
)

// Config configures a [Store].
type Config struct {
	// Dir holds the generations of the database.
	Dir string
	// MaxAge is how long ago a database may have been built. Absent: 120
	// hours; negative: any age.
	MaxAge time.Duration
	// LatestURL is the listing of databases, as Grype's `db.update-url`: the
	// JSON document or the folder above v6/latest.json. Absent: Grype's own.
	LatestURL string
	// HTTPClient fetches the listing and archives. Absent: one with the
	// proxies and certificates of the environment.
	HTTPClient *http.Client
	// MaxArchiveBytes and MaxBytes bound an archive and what it unpacks to.
	// Absent: 4 GiB and 16 GiB.
	MaxArchiveBytes, MaxBytes int64
	// Now is the clock. Absent: time.Now.
	Now func() time.Time
}

// Store is the place of the database on disk. It is safe for concurrent use,
// also by several processes.
type Store struct{ cfg Config }

// New makes a Store. Nothing is read or written.
func New(c Config) (*Store, error) {
	if c.MaxArchiveBytes < 0 || c.MaxBytes < 0 {
		return nil, errors.New("the bounds of the vulnerability database are negative")
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
		c.HTTPClient = &http.Client{Timeout: 30 * time.Minute}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Store{cfg: c}, nil
}

const (
	generationPrefix = "generation-"
	workPrefix       = "incoming-"
	currentFile      = "current"
)

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

// work makes a directory to prepare a database in.
func (s *Store) work() (string, error) {
	if s.cfg.Dir == "" {
		return "", errors.New("the directory of the vulnerability database is not set")
	}
	if err := checkPath(s.cfg.Dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return "", fmt.Errorf("making the directory of the vulnerability database: %w", err)
	}
	dir, err := os.MkdirTemp(s.cfg.Dir, workPrefix)
	if err != nil {
		return "", fmt.Errorf("making a directory for the vulnerability database: %w", err)
	}
	return dir, nil
}

// activate makes a prepared directory the current generation, in one step.
func (s *Store) activate(work string) error {
	name := generationPrefix + strings.TrimPrefix(filepath.Base(work), workPrefix) +
		fmt.Sprintf("-%d", s.cfg.Now().UnixNano())
	if err := os.Chmod(work, 0o755); err != nil {
		return fmt.Errorf("opening the vulnerability database to its readers: %w", err)
	}
	previous, _ := s.current()
	generation := filepath.Join(s.cfg.Dir, name)
	if err := os.Rename(work, generation); err != nil {
		return fmt.Errorf("placing the vulnerability database: %w", err)
	}
	if err := writeAtomically(filepath.Join(s.cfg.Dir, currentFile), []byte(name+"\n")); err != nil {
		_ = os.RemoveAll(generation)
		return fmt.Errorf("making the vulnerability database current: %w", err)
	}
	s.sweep(generation, previous)
	return nil
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

const (
	// staleAfter is when what an interrupted import left behind may go.
	staleAfter = 24 * time.Hour
	// settleAfter is when a generation may go: another process may be about to
	// make a young one current.
	settleAfter = 10 * time.Minute
)

// sweep removes old generations but for those to keep, and what interrupted
// imports left. Whatever cannot be removed stays for later.
func (s *Store) sweep(keep ...string) {
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.cfg.Dir, e.Name())
		info, err := e.Info()
		if err != nil || slices.Contains(keep, path) {
			continue
		}
		age := time.Since(info.ModTime())
		if strings.HasPrefix(e.Name(), generationPrefix) && age > settleAfter ||
			strings.HasPrefix(e.Name(), workPrefix) && age > staleAfter {
			_ = os.RemoveAll(path)
		}
	}
}

// Import makes the database of an archive (.tar.zst, .tar.gz, .tar.xz or plain
// .tar, recognised by content) the current one.
func (s *Store) Import(ctx context.Context, archive string) (*Status, error) {
	return s.install(ctx, archive, "import")
}

func (s *Store) install(ctx context.Context, archive, source string) (*Status, error) {
	work, err := s.work()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := s.prepare(ctx, archive, work, source); err != nil {
		return nil, fmt.Errorf("importing %s: %w", filepath.Base(archive), err)
	}
	if err := s.activate(work); err != nil {
		return nil, err
	}
	return s.Status(ctx)
}

// prepare unpacks and verifies an archive in an empty directory.
func (s *Store) prepare(ctx context.Context, archive, dir, source string) error {
	if err := unpack(ctx, archive, dir, s.cfg.MaxArchiveBytes, s.cfg.MaxBytes); err != nil {
		return err
	}
	return accept(ctx, dir, source)
}
