package vulndb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/spf13/afero"

	"github.com/assay-dev/assay/api"
)

// DB is an open database. It is safe for concurrent use until it is closed.
type DB struct {
	// Provider answers Grype's matchers.
	Provider vulnerability.Provider
	// Info is what a scan says of the database.
	Info api.ScanDatabase
	// Path is the file that is read.
	Path string

	close func() error
}

// Close ends the use of the database. Closing twice does no harm.
func (d *DB) Close() error {
	if d == nil || d.close == nil {
		return nil
	}
	return d.close()
}

// Status tells of a database without judging it.
type Status struct {
	// Path is the database file.
	Path string
	// Built is when the database was built, and Age how long ago that is.
	Built time.Time
	Age   time.Duration
	// Schema is such as "v6.1.10", Checksum such as "xxh64:…".
	Schema, Checksum string
	// Source says where the database came from.
	Source string
	// Err is why the database cannot be used: [ErrExpired]; nil when it can.
	Err error
}

// Open opens the current database. It verifies the checksum and the age.
func (s *Store) Open(ctx context.Context) (*DB, error) {
	dir, err := s.current()
	if err != nil {
		return nil, err
	}
	return s.openDir(ctx, dir, nil)
}

// OpenPath opens the database that path leads to: a directory (of this
// package or of Grype), a database file, or an archive. The age is judged all
// the same. Archives and files without checksum are unpacked, verified and
// indexed in a temporary directory, which goes when the DB is closed.
func (s *Store) OpenPath(ctx context.Context, path string) (*DB, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w at %s", ErrMissing, path)
	} else if err != nil {
		return nil, fmt.Errorf("opening the vulnerability database: %w", err)
	}
	if info.IsDir() {
		return s.openFound(ctx, path)
	}
	if filepath.Base(path) == v6.VulnerabilityDBFileName && exists(filepath.Join(filepath.Dir(path), v6.ImportMetadataFileName)) {
		return s.openDir(ctx, filepath.Dir(path), nil)
	}
	dir, err := os.MkdirTemp("", "assay-vulndb-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the vulnerability database: %w", err)
	}
	remove := func() error { return os.RemoveAll(dir) }
	if checkHeader(path) == nil || filepath.Ext(path) == ".db" {
		err = s.copyFile(ctx, path, dir)
		if err == nil {
			err = accept(ctx, dir, "file")
		}
	} else {
		err = s.prepare(ctx, path, dir, "archive")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", filepath.Base(path), err), remove())
	}
	return s.openDir(ctx, dir, remove)
}

// openFound opens what a directory holds: a database, a Grype cache, or a Store.
func (s *Store) openFound(ctx context.Context, dir string) (*DB, error) {
	for _, d := range []string{dir, filepath.Join(dir, strconv.Itoa(v6.ModelVersion))} {
		file := filepath.Join(d, v6.VulnerabilityDBFileName)
		switch {
		case !exists(file):
		case exists(filepath.Join(d, v6.ImportMetadataFileName)):
			return s.openDir(ctx, d, nil)
		default:
			return s.OpenPath(ctx, file)
		}
	}
	current, err := currentOf(dir)
	if err != nil {
		return nil, err
	}
	return s.openDir(ctx, current, nil)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (s *Store) copyFile(ctx context.Context, path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = &boundedReader{r: &contextReader{ctx, f}, left: s.cfg.MaxBytes, max: s.cfg.MaxBytes}
	return writeFile(filepath.Join(dir, v6.VulnerabilityDBFileName), r)
}

// openDir opens a database that has its checksum beside it.
func (s *Store) openDir(ctx context.Context, dir string, cleanup func() error) (db *DB, err error) {
	defer func() {
		if err != nil && cleanup != nil {
			err = errors.Join(err, cleanup())
		}
	}()
	defer guard(&err)
	st, reader, err := s.inspect(ctx, dir)
	if err != nil {
		return nil, err
	}
	if st.Err != nil {
		return nil, errors.Join(st.Err, reader.Close())
	}
	// Grype reads the date of EPSS at the first question, unguarded: ask before
	// anyone can ask side by side.
	_, _ = reader.GetEpss("CVE-0000-0000")
	provider := newProvider(reader)
	var once sync.Once
	return &DB{
		Provider: provider,
		Info:     api.ScanDatabase{Built: st.Built, Schema: st.Schema, Checksum: st.Checksum},
		Path:     st.Path,
		close: func() (err error) {
			once.Do(func() {
				err = provider.Close()
				if cleanup != nil {
					err = errors.Join(err, cleanup())
				}
			})
			return err
		},
	}, nil
}

// inspect verifies a database and leaves it open.
func (s *Store) inspect(ctx context.Context, dir string) (*Status, v6.Reader, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	file := filepath.Join(dir, v6.VulnerabilityDBFileName)
	if !exists(file) {
		return nil, nil, missing(dir)
	}
	if err := checkHeader(file); err != nil {
		return nil, nil, err
	}
	if err := checkDigest(dir, file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, corrupt("its checksum is gone", nil)
	} else if err != nil {
		return nil, nil, err
	}
	im, err := v6.ReadImportMetadata(afero.NewOsFs(), dir)
	if err != nil {
		return nil, nil, corrupt("reading its checksum", err)
	}
	reader, err := v6.NewReader(v6.Config{DBDirPath: private(file)})
	if err != nil {
		if cerr := checkContent(ctx, file); cerr != nil {
			return nil, nil, cerr
		}
		return nil, nil, corrupt("opening it", err)
	}
	m, err := reader.GetDBMetadata()
	if err == nil {
		err = checkMetadata(m)
	} else {
		err = corrupt("reading its description", err)
	}
	if err != nil {
		return nil, nil, errors.Join(err, reader.Close())
	}
	built := m.BuildTimestamp.UTC()
	return &Status{
		Path: file, Built: built, Age: s.cfg.Now().Sub(built), Schema: schemaText(m),
		Checksum: im.Digest, Source: im.Source, Err: s.expired(built),
	}, reader, nil
}

// Status tells of the current database. An expired one has a Status with Err;
// a missing or damaged one is an error.
func (s *Store) Status(ctx context.Context) (st *Status, err error) {
	defer guard(&err)
	dir, err := s.current()
	if err != nil {
		return nil, err
	}
	st, reader, err := s.inspect(ctx, dir)
	if err != nil {
		return nil, err
	}
	return st, reader.Close()
}
