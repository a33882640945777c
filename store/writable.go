package store

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/glebarez/go-sqlite"
	"github.com/jackc/pgx/v5/pgconn"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrUnwritable is wrapped where the database takes no writes: its disk is full or fails, or it is read-only.
var ErrUnwritable = errors.New("the database cannot be written")

func unwritable(err error) bool {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT:
			return true
		}
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) { // https://www.postgresql.org/docs/current/errcodes-appendix.html
		switch pg.Code {
		case "53000", "53100", "53200", "25006", "58000", "58030":
			return true
		}
	}
	return false
}

// bytes that a probe writes: few while writes succeed, and after one that failed more than what may be free in a file
// that is there already.
const (
	smallProbe = 8
	largeProbe = 256 << 10
)

// Probe writes something. An error wraps [ErrUnwritable]; a database that is away or busy is none here: see
// [Store.Ping].
func (s *Store) Probe(ctx context.Context) error {
	n := smallProbe
	if s.failing.Load() {
		n = largeProbe
	}
	text := make([]byte, n)
	_, _ = rand.Read(text) // never fails, and is not compressed away
	err := s.Write(ctx, func(t *Tx) error {
		return t.NoteSetting(ctx, "probe", base64.StdEncoding.EncodeToString(text))
	})
	if err == nil {
		s.failing.Store(false)
		return nil
	}
	// One that found no answer says nothing of the disk: what was known stays.
	if s.failing.Load() {
		return fmt.Errorf("%w: %s", ErrUnwritable, strings.TrimPrefix(err.Error(), "committing: "))
	}
	return nil
}

// Backlog is what fires, and what is not delivered.
type Backlog struct {
	Firing     int // alerts
	Deliveries map[string]Undelivered
}

// Undelivered are the notifications of a receiver.
type Undelivered struct{ Waiting, Failed int }

// Backlog counts alerts that fire, and notifications by receiver.
func (s *Store) Backlog(ctx context.Context) (b Backlog, err error) {
	return b, s.View(ctx, func(t *Tx) error {
		b = Backlog{Deliveries: map[string]Undelivered{}}
		if err := t.one(ctx, "SELECT COUNT(*) FROM alert_history WHERE resolved = ''", nil, &b.Firing); err != nil {
			return err
		}
		return t.each(ctx, "SELECT receiver, SUM(CASE WHEN failed = '' THEN 1 ELSE 0 END), SUM(CASE WHEN failed = '' THEN 0 ELSE 1 END) FROM deliveries GROUP BY receiver", nil, func(scan func(...any) error) error {
			var receiver string
			var u Undelivered
			err := scan(&receiver, &u.Waiting, &u.Failed)
			b.Deliveries[receiver] = u
			return err
		})
	})
}
