// Package pushdowntest has stores of events for tests of package pushdown: the
// table that its documentation asks for, in SQLite and in a real PostgreSQL.
package pushdowntest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine/pushdown"
	"github.com/assay-dev/assay/test/postgresql"
	_ "github.com/glebarez/go-sqlite" // the driver "sqlite"
	_ "github.com/jackc/pgx/v5/stdlib"
)

// Store is a [pushdown.Store] of a test.
type Store struct {
	db      *sql.DB
	dialect string
}

const columns = "time, type, registry, repository, tag, digest, image, result, previous_result, changed, max_cvss_score, " +
	"cve, package, fixable, kev, epss, source, error, instances"

// SQLite opens an empty store in a file of the test.
func SQLite(t testing.TB) *Store {
	t.Helper()
	file := filepath.Join(t.TempDir(), "events.db")
	return open(t, pushdown.SQLite, "sqlite", "file:"+file+"?_pragma=journal_mode(off)&_pragma=synchronous(off)")
}

// PostgreSQL starts a server of the test, whose texts sort by an English locale,
// and opens an empty store in it.
func PostgreSQL(t testing.TB) *Store {
	t.Helper()
	return open(t, pushdown.PostgreSQL, "pgx", postgresql.Start(t))
}

func open(t testing.TB, dialect, driver, source string) *Store {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &Store{db, dialect}
	schema := `CREATE TABLE events (id INTEGER PRIMARY KEY, time TEXT NOT NULL, type TEXT, registry TEXT NOT NULL, repository TEXT NOT NULL,
		tag TEXT, digest TEXT, image TEXT NOT NULL, result TEXT NOT NULL, previous_result TEXT, changed BOOLEAN NOT NULL,
		max_cvss_score DOUBLE PRECISION, cve JSON NOT NULL, package JSON NOT NULL, fixable BOOLEAN NOT NULL, kev BOOLEAN NOT NULL,
		epss DOUBLE PRECISION, source TEXT, error TEXT, instances JSON NOT NULL);
		CREATE INDEX events_time ON events (time)`
	if dialect == pushdown.PostgreSQL {
		schema = strings.NewReplacer("INTEGER PRIMARY KEY", "BIGSERIAL PRIMARY KEY", "(time)", `(time COLLATE "C")`).Replace(schema)
	}
	for statement := range strings.SplitSeq(schema, ";") {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Replace puts the events in the place of those that are there.
func (s *Store) Replace(t testing.TB, events []api.Event) {
	t.Helper()
	tx, err := s.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.Exec("DELETE FROM events"); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(columns, ",") + 1
	insert, err := tx.Prepare(s.numbered("INSERT INTO events (" + columns + ") VALUES (?" + strings.Repeat(", ?", n-1) + ")"))
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		// A text that is absent is NULL or empty: both, in turns.
		absent := func(text string) any {
			if text == "" && i%2 == 0 {
				return nil
			}
			return text
		}
		at, err := time.Parse(time.RFC3339, e.Time)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := insert.Exec(documents.Time(at), absent(string(e.Type)), e.Registry, e.Repository, absent(e.Tag), absent(e.Digest), e.Image, string(e.Result), absent(string(e.PreviousResult)),
			e.Changed, e.MaxCVSSScore, list(t, e.CVE), list(t, e.Package), e.Fixable, e.KEV, e.EPSS, absent(e.Source), absent(e.Error), list(t, e.Instances)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
}

func list(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Dialect implements [pushdown.Store].
func (s *Store) Dialect() string { return s.dialect }

// numbered writes the marks of arguments as the driver has them.
func (s *Store) numbered(query string) string {
	if s.dialect == pushdown.SQLite {
		return query
	}
	var b strings.Builder
	for i, part := range strings.Split(query, "?") {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

// SelectRows implements [pushdown.Store].
func (s *Store) SelectRows(ctx context.Context, query string, args []any, fn func(scan func(dest ...any) error) error) error {
	rows, err := s.db.QueryContext(ctx, s.numbered(query), args...)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// SelectEvents implements [pushdown.Store].
func (s *Store) SelectEvents(ctx context.Context, since, until time.Time, where string, args []any, fn func(api.Event) error) error {
	at := "time"
	if s.dialect == pushdown.PostgreSQL {
		at = `time COLLATE "C"`
	}
	query := fmt.Sprintf("SELECT %s FROM events WHERE %s > ? AND %[2]s <= ? AND (%[3]s)", columns, at, where)
	args = append([]any{documents.Time(since), documents.Time(until)}, args...)
	return s.SelectRows(ctx, query, args, func(scan func(...any) error) error {
		var e api.Event
		var kind, tag, digest, previous, source, fault sql.NullString
		var cve, pkg, instances []byte
		if err := scan(&e.Time, &kind, &e.Registry, &e.Repository, &tag, &digest, &e.Image, &e.Result, &previous, &e.Changed, &e.MaxCVSSScore,
			&cve, &pkg, &e.Fixable, &e.KEV, &e.EPSS, &source, &fault, &instances); err != nil {
			return err
		}
		e.Type, e.Tag, e.Digest, e.PreviousResult, e.Source, e.Error = api.EventType(kind.String), tag.String, digest.String, api.Result(previous.String), source.String, fault.String
		for text, into := range map[*[]byte]any{&cve: &e.CVE, &pkg: &e.Package, &instances: &e.Instances} {
			if err := json.Unmarshal(*text, into); err != nil {
				return err
			}
		}
		return fn(e)
	})
}
