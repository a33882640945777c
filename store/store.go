// Package store keeps what the server knows: scans, SBOMs, names and digests over
// time, running instances, exceptions, settings, events, alerts, decisions and
// tokens; in SQLite or PostgreSQL, by one code path.
//
// What changes is written by one transaction at a time ([Store.Write]), in either
// database, so that the sequence numbers of changes are seen in their order. Each
// change that an engine follows leaves a row in changes, and what it makes
// necessary in work: a program that ends at any moment loses nothing.
package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	_ "github.com/glebarez/go-sqlite" // the driver "sqlite"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/assay-dev/assay/documents"
)

// Dialect is the SQL that a database speaks, with the names of package engine/pushdown.
type Dialect string

// Dialects.
const (
	SQLite     Dialect = "sqlite"
	PostgreSQL Dialect = "postgresql"
)

// Errors that callers branch on.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("it exists already")
	ErrNewerSchema = errors.New("the database is from a newer program")
	// ErrUnavailable wraps what is no fault of the caller: the database is away,
	// its disk is full, or a deadline ended the work.
	ErrUnavailable = errors.New("the database is not available")
)

// Config says where the data is.
type Config struct {
	// URL is postgres://…, or the path of a SQLite file, which is made with the
	// folders above it.
	URL string
	// Connections that read; 0 is the number of CPUs, at least four.
	Connections int
	// StaleAfter is how long a node that owes heartbeats may be silent; 0 is 5 minutes.
	StaleAfter time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Store is the database. It is safe for concurrent use.
type Store struct {
	dialect   Dialect
	read      *sql.DB
	write     *sql.DB // of SQLite a single connection
	pool      *pgxpool.Pool
	now       func() time.Time
	stale     time.Duration // Config.StaleAfter
	committed chan struct{}
	failing   atomic.Bool // the last write that was tried found no room, or a disk that fails: see Probe
	// interned are ids of names of vulnerabilities and packages that were
	// committed: rows of these tables never change their id.
	interned *interned
}

// Replicated says whether a URL is that of a database that several servers can have at once, PostgreSQL.
func Replicated(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// Open opens the database and migrates it.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{dialect: SQLite, now: c.Now, stale: cmp.Or(c.StaleAfter, 5*time.Minute), committed: make(chan struct{}, 1), interned: newInterned()}
	if s.now == nil {
		s.now = time.Now
	}
	n := cmp.Or(c.Connections, max(4, runtime.NumCPU()))
	open := s.openSQLite
	if Replicated(c.URL) {
		s.dialect, open = PostgreSQL, s.openPostgreSQL
	}
	if err := open(ctx, c.URL, n); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := migrate(ctx, s.write, s.dialect); err != nil {
		return nil, errors.Join(s.fault("opening the database", err), s.Close())
	}
	err := s.Write(ctx, func(t *Tx) error {
		if _, err := t.StoreID(ctx); !errors.Is(err, ErrNotFound) {
			return err
		}
		return t.SetSetting(ctx, "store", rand.Text()[:12])
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) openSQLite(ctx context.Context, path string, n int) error {
	if path == "" {
		return errors.New("opening the database: no path and no URL is given")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	dsn := func(extra string) string {
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
			"&_pragma=foreign_keys(ON)&_pragma=temp_store(MEMORY)" + extra
	}
	var err error
	if s.write, err = sql.Open("sqlite", dsn("&_txlock=immediate&_pragma=cache_size(-65536)&_pragma=journal_size_limit(67108864)")); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	s.write.SetMaxOpenConns(1)
	if err := s.write.PingContext(ctx); err != nil {
		return fmt.Errorf("opening the database %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	if s.read, err = sql.Open("sqlite", dsn("&_pragma=query_only(ON)&_pragma=cache_size(-16384)")); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	s.read.SetMaxOpenConns(n)
	s.read.SetMaxIdleConns(n)
	return nil
}

func (s *Store) openPostgreSQL(ctx context.Context, address string, n int) error {
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return errors.New("opening the database: the URL is malformed") // pgx would quote it, with its password
	}
	config.MaxConns = int32(n) + 6 // one writes, some are River's
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	if s.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	if err := s.pool.Ping(ctx); err != nil {
		return s.fault("connecting to the database", err)
	}
	s.write = stdlib.OpenDBFromPool(s.pool)
	s.read = s.write
	return nil
}

// Close waits for the transactions that run, and closes the database.
func (s *Store) Close() error {
	var errs []error
	if s.read != nil && s.read != s.write {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close())
	}
	if s.pool != nil {
		s.pool.Close()
	}
	return errors.Join(errs...)
}

// SQLiteDB is the connection that writes, for what shares the database; nil with PostgreSQL.
func (s *Store) SQLiteDB() *sql.DB {
	if s.dialect != SQLite {
		return nil
	}
	return s.write
}

// SQLiteReader are the connections that read, which never wait for who writes; nil with PostgreSQL.
func (s *Store) SQLiteReader() *sql.DB {
	if s.dialect != SQLite {
		return nil
	}
	return s.read
}

// Pool is that of PostgreSQL; nil with SQLite.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.fault("asking the database", s.read.QueryRowContext(ctx, "SELECT 1").Scan(&one))
}

// Tx is a transaction. It must not be used after the function that got it returned.
type Tx struct {
	*Store
	tx  *sql.Tx
	at  string // documents.Time of its beginning
	seq int64  // of the last change it made
	// identity is who hands in what it writes: see [Tx.By].
	identity string
	// handed is what identities hand in by it, and quota what the identity may hold.
	handed map[string]*handed
	quota  *Quota
	// fresh are what it interned, to be kept once it is committed.
	fresh *interned
}

// writeLock is the key of PostgreSQL's advisory lock that writers hold.
const writeLock = 0x6173736179

// Write runs a transaction that changes data. Writers of all programs come one after the
// other. An error of fn undoes what it did and is returned.
func (s *Store) Write(ctx context.Context, fn func(*Tx) error) (err error) {
	defer func() {
		if unwritable(err) {
			s.failing.Store(true)
		}
	}()
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return s.fault("beginning to write", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to undo
	if s.dialect == PostgreSQL {
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", int64(writeLock)); err != nil {
			return s.fault("waiting to write", err)
		}
	}
	t := &Tx{Store: s, tx: tx, at: documents.Time(s.now()), fresh: newInterned(), identity: identityServer}
	if err := fn(t); err != nil {
		return err
	}
	if err := t.count(ctx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return s.fault("committing", err)
	}
	s.interned.add(t.fresh)
	if t.seq > 0 {
		select {
		case s.committed <- struct{}{}:
		default: // it will look
		}
	}
	return nil
}

// Committed has a value after changes were committed by this program. It has one reader.
func (s *Store) Committed() <-chan struct{} { return s.committed }

// StoreID names the database: the same for all who open it, another after it was made anew.
func (t *Tx) StoreID(ctx context.Context) (id string, err error) {
	err = t.Setting(ctx, "store", &id)
	return id, err
}

// View runs a transaction that reads: all of it sees the data of one moment.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: s.isolation()})
	if err != nil {
		return s.fault("beginning to read", err)
	}
	defer tx.Rollback() //nolint:errcheck // it changed nothing
	return fn(&Tx{Store: s, tx: tx, at: documents.Time(s.now())})
}

func (s *Store) isolation() sql.IsolationLevel {
	if s.dialect == PostgreSQL {
		return sql.LevelRepeatableRead
	}
	return sql.LevelDefault
}

// rebind writes the marks of arguments as the driver has them. Queries have no
// other question marks.
func (s *Store) rebind(query string) string {
	if s.dialect == SQLite || !strings.Contains(query, "?") {
		return query
	}
	var b strings.Builder
	n := 0
	for part := range strings.SplitSeq(query, "?") {
		if n > 0 {
			b.WriteString("$" + strconv.Itoa(n))
		}
		b.WriteString(part)
		n++
	}
	return b.String()
}

func (t *Tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, t.rebind(query), args...)
	if err != nil {
		return 0, t.fault("writing", err)
	}
	n, err := result.RowsAffected()
	return n, t.fault("writing", err)
}

// one scans a single row; it gives ErrNotFound when there is none.
func (t *Tx) one(ctx context.Context, query string, args []any, dest ...any) error {
	return t.fault("reading", t.tx.QueryRowContext(ctx, t.rebind(query), args...).Scan(dest...))
}

// each calls fn for each row.
func (t *Tx) each(ctx context.Context, query string, args []any, fn func(scan func(dest ...any) error) error) error {
	rows, err := t.tx.QueryContext(ctx, t.rebind(query), args...)
	if err != nil {
		return t.fault("reading", err)
	}
	return t.rows(rows, fn)
}

func (s *Store) rows(rows *sql.Rows, fn func(scan func(dest ...any) error) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return s.fault("reading", rows.Err())
}

// fault says what happened in the words of this package.
func (s *Store) fault(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.Is(err, ErrNewerSchema), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}
