package store

import (
	"context"
	"errors"
	"strings"
)

// WriteBefore migrates a new database to an earlier version of the schema, and runs statements there.
func WriteBefore(ctx context.Context, url string, version int64, statements ...string) error {
	s := &Store{dialect: SQLite}
	open := s.openSQLite
	if strings.HasPrefix(url, "postgres") {
		s.dialect, open = PostgreSQL, s.openPostgreSQL
	}
	err := open(ctx, url, 2)
	if err == nil {
		p, perr := provider(s.write, s.dialect)
		if err = perr; err == nil {
			_, err = p.UpTo(ctx, version)
		}
	}
	for _, statement := range statements {
		if err == nil {
			_, err = s.write.ExecContext(ctx, statement)
		}
	}
	return errors.Join(err, s.Close())
}

// Compressed is a text as the store keeps it.
func Compressed(text string) []byte { return compress([]byte(text)) }
