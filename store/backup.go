package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
)

// Backup writes a consistent copy of a SQLite database, which may be in use, to a new
// file. What is at that path already is left as it is.
func Backup(ctx context.Context, path, to string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copying the database: %s is there already", to)
	}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro&_pragma=busy_timeout(10000)")
	if err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	defer db.Close()
	var found string
	if err := db.QueryRowContext(ctx, "SELECT name FROM sqlite_master WHERE name = 'assay_schema'").Scan(&found); err != nil {
		return fmt.Errorf("copying the database: %s is no database of assay serve: %w", path, err)
	}
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return errors.Join(fmt.Errorf("copying the database: %w", err), remove(to))
	}
	if err := os.Chmod(to, 0o600); err != nil {
		return fmt.Errorf("copying the database: %w", err)
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
