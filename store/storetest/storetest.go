// Package storetest opens real stores for tests.
package storetest

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-dev/assay/store"
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
