package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"testing/fstest"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// words are what the migrations write in the dialect's own way.
var words = map[Dialect]*strings.Replacer{
	SQLite: strings.NewReplacer("{{id}}", "INTEGER PRIMARY KEY AUTOINCREMENT", "{{text}}", "TEXT", "{{json}}", "TEXT", "{{blob}}", "BLOB", "{{rowless}}", " WITHOUT ROWID"),
	PostgreSQL: strings.NewReplacer("{{id}}", "BIGSERIAL PRIMARY KEY", "{{text}}", `TEXT COLLATE "C"`, "{{json}}", "JSON", "{{blob}}", "BYTEA",
		"{{rowless}}", ""),
}

// provider has the migrations in the words of a dialect.
func provider(db *sql.DB, d Dialect) (*goose.Provider, error) {
	written := fstest.MapFS{}
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := migrations.ReadFile(file)
		if err != nil {
			return nil, err
		}
		written[strings.TrimPrefix(file, "migrations/")] = &fstest.MapFile{Data: []byte(words[d].Replace(string(text)))}
	}
	dialect, options := goose.DialectSQLite3, []goose.ProviderOption{goose.WithTableName("assay_schema"),
		// Their numbers were given before it was known which would come first; none needs another to be later.
		goose.WithAllowOutofOrder(true)}
	if d == PostgreSQL {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60))
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	provider, err := goose.NewProvider(dialect, db, written, options...)
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return provider, nil
}

// migrate brings the schema to this program's version. A schema that is newer than
// the program is left as it is, and refused.
func migrate(ctx context.Context, db *sql.DB, d Dialect) error {
	provider, err := provider(db, d)
	if err != nil {
		return err
	}
	at, err := provider.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of the schema: %w", err)
	}
	if newest := provider.ListSources()[len(provider.ListSources())-1].Version; at > newest {
		return fmt.Errorf("%w: the database has version %d of the schema, this program knows %d: run the program that migrated it, or a newer one", ErrNewerSchema, at, newest)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrating the schema: %w", err)
	}
	return nil
}
