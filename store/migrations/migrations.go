// Package migrations has the versions of the store's schema, forwards only, in the words of either database.
package migrations

import (
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed *.sql
var files embed.FS

// Provider has the migrations of a database, "sqlite" or "postgresql". What migrates in PostgreSQL waits for others.
func Provider(db *sql.DB, dialect string) (*goose.Provider, error) {
	kind, options := goose.DialectSQLite3, []goose.ProviderOption{goose.WithTableName("assay_schema"),
		// Their numbers were given before it was known which would come first; none needs another to be later.
		goose.WithAllowOutofOrder(true)}
	// What they write in the dialect's own way.
	words := strings.NewReplacer("{{id}}", "INTEGER PRIMARY KEY AUTOINCREMENT", "{{text}}", "TEXT", "{{json}}", "TEXT", "{{blob}}", "BLOB", "{{rowless}}", " WITHOUT ROWID", "{{find}}", "instr")
	if dialect == "postgresql" {
		words = strings.NewReplacer("{{id}}", "BIGSERIAL PRIMARY KEY", "{{text}}", `TEXT COLLATE "C"`, "{{json}}", "JSON", "{{blob}}", "BYTEA", "{{rowless}}", "", "{{find}}", "strpos")
		kind = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	written := fstest.MapFS{}
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		written[name] = &fstest.MapFile{Data: []byte(words.Replace(string(text)))}
	}
	provider, err := goose.NewProvider(kind, db, written, options...)
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return provider, nil
}
