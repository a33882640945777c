package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
)

// database is an open vulnerability database with its matcher.
type database struct {
	matcher scanner.Matcher
	info    *api.ScanDatabase
	close   func()
}

// databaseDir is where databases are kept when nothing else is said.
func databaseDir() (string, error) {
	if dir := os.Getenv("ASSAY_DB"); dir != "" {
		return dir, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the place of the vulnerability database: %w; set ASSAY_DB", err)
	}
	return filepath.Join(cache, "assay", "db"), nil
}

// openDatabase opens the database at a path, or the current one. When it is
// missing, damaged or too old, that is an error: nothing is ever matched
// against less than a whole database.
func (a *app) openDatabase(ctx context.Context, path string, maxAge time.Duration) (*database, error) {
	dir, err := databaseDir()
	if err != nil {
		return nil, err
	}
	if maxAge == 0 {
		maxAge = -1 // any age
	}
	store, err := vulndb.New(vulndb.Config{Dir: dir, MaxAge: maxAge})
	if err != nil {
		return nil, err
	}
	var db *vulndb.DB
	if path != "" {
		db, err = store.OpenPath(ctx, path)
	} else {
		db, err = store.Open(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &database{matcher: match.New(db.Provider), info: &db.Info, close: func() {
		if err := db.Close(); err != nil {
			a.log.Warn("closing the vulnerability database", "error", err)
		}
	}}, nil
}
