// Package storetest opens real stores for tests.
package storetest

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/migrations"
	"github.com/assay-dev/assay/test/postgresql"
)

// Run runs a test on SQLite and on PostgreSQL. The test opens as many empty stores
// as it wants; those of one URL are one database.
func Run(t *testing.T, test func(t *testing.T, url func() string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		test(t, func() string { return filepath.Join(t.TempDir(), "assay.db") })
	})
	t.Run("postgresql", func(t *testing.T) {
		server := postgresql.Start(t)
		var mu sync.Mutex
		n := 0
		test(t, func() string {
			mu.Lock()
			defer mu.Unlock()
			n++
			return database(t, server, fmt.Sprintf("assay%d", n))
		})
	})
}

// database makes an empty database on a server, and gives its URL.
func database(t testing.TB, server, name string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// Open opens a store that is closed with the test; now is its clock, nil the real one.
func Open(t testing.TB, url string, now func() time.Time) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{URL: url, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Before migrates a new database to an earlier version of the schema, and runs statements there.
func Before(t testing.TB, at string, version int64, statements ...string) {
	t.Helper()
	driver, dialect := "sqlite", store.SQLite
	if strings.HasPrefix(at, "postgres") {
		driver, dialect = "pgx", store.PostgreSQL
	}
	db, err := sql.Open(driver, at)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := migrations.Provider(db, string(dialect))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%.200s: %v", statement, err)
		}
	}
}

// Packed is a text as a store keeps it packed, for a statement of the database at a URL.
func Packed(t testing.TB, at, text string) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := hex.EncodeToString(z.EncodeAll([]byte(text), nil))
	if strings.HasPrefix(at, "postgres") {
		return `'\x` + packed + `'::bytea`
	}
	return "x'" + packed + "'"
}
