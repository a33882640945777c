package vulndb

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	sqlite "github.com/glebarez/go-sqlite"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrMissing: there is no database.
	ErrMissing = errors.New("there is no vulnerability database")
	// ErrExpired: the database was built too long ago. It comes as an [*ExpiredError].
	ErrExpired = errors.New("the vulnerability database is too old")
	// ErrCorrupt: the database or its archive is damaged.
	ErrCorrupt = errors.New("the vulnerability database is damaged")
	// ErrSchema: the database is sound but not of the schema that Assay reads.
	ErrSchema = errors.New("the vulnerability database has another schema")
	// ErrTooLarge: an archive, or what it holds, is over a bound.
	ErrTooLarge = errors.New("the vulnerability database is too large")
	// ErrNoRoom: there is no room left on the disk.
	ErrNoRoom = errors.New("there is no room for the vulnerability database")
	// ErrAdvisory: an advisory cannot be used. It comes as an [*AdvisoryError].
	ErrAdvisory = errors.New("bad advisory")
)

const howToGet = "run `assay db update`, or `assay db import` an archive, or `assay db build` one from advisories"

func missing(where string) error {
	return fmt.Errorf("%w in %s: %s", ErrMissing, where, howToGet)
}

func corrupt(what string, err error) error {
	if err == nil {
		return fmt.Errorf("%w: %s", ErrCorrupt, what)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge) || isFull(err) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, what, err)
}

// ExpiredError says how old the database is and how old it may be.
type ExpiredError struct {
	Built    time.Time
	Age, Max time.Duration
}

func (e *ExpiredError) Error() string {
	return fmt.Sprintf("%s: it was built on %s, %s ago, and may be %s old: run `assay db update` or `assay db import`",
		ErrExpired, e.Built.UTC().Format(time.RFC3339), hours(e.Age), hours(e.Max))
}

// Is makes errors.Is(err, ErrExpired) hold.
func (e *ExpiredError) Is(target error) bool { return target == ErrExpired }

func hours(d time.Duration) string {
	s := d.Round(time.Minute).String()
	s = strings.TrimSuffix(s, "0s")
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// AdvisoryError is what is wrong with one advisory of one file.
type AdvisoryError struct {
	File string
	// Line is where the JSON is wrong, from 1; 0 where it is right.
	Line int
	// ID is that of the advisory; empty where it has none.
	ID  string
	Err error
}

func (e *AdvisoryError) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", where, e.Line)
	}
	if e.ID != "" {
		where += ": " + e.ID
	}
	return fmt.Sprintf("%s: %v", where, e.Err)
}

// Is makes errors.Is(err, ErrAdvisory) hold.
func (e *AdvisoryError) Is(target error) bool { return target == ErrAdvisory }

func (e *AdvisoryError) Unwrap() error { return e.Err }

// isFull says whether an error comes of a disk, a quota or a file size that ran out.
func isFull(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return true
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		code := lite.Code()
		return code == sqliteFull || code == sqliteIOWrite
	}
	return false
}

// Codes of SQLite: no room, and a write that failed.
const (
	sqliteFull    = 13
	sqliteIOWrite = 10 | 3<<8
)

// roomFor says, where there is no room, how much there is and what to do.
func (s *Store) roomFor(err error) error {
	if !isFull(err) {
		return err
	}
	free := ""
	var st syscall.Statfs_t
	if syscall.Statfs(s.cfg.Dir, &st) == nil {
		free = fmt.Sprintf(" (%.1f GB free)", float64(st.Bavail)*float64(st.Bsize)/1e9)
	}
	return fmt.Errorf("%w in %s%s; remove old ones with `assay db prune`, or name another folder with ASSAY_DB; the database before stays: %w", ErrNoRoom, s.cfg.Dir, free, err)
}
