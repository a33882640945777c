package vulndb

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	// Grype registers this very driver under the name "sqlite".
	_ "github.com/glebarez/go-sqlite"
)

// settle writes a database anew so that the same content gives the same bytes.
// Grype's builder takes the time from the clock, and the order of aliases,
// constraints and indexes from maps.
func settle(file string, built time.Time) (err error) {
	fresh := file + ".fresh"
	db, err := sql.Open("sqlite", fresh)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1) // what is attached belongs to a connection
	err = copyDatabase(db, file, built)
	if err = errors.Join(err, db.Close()); err != nil {
		return errors.Join(fmt.Errorf("ordering the database: %w", err), os.Remove(fresh))
	}
	return os.Rename(fresh, file)
}

// copyDatabase copies the tables of a database file in the order of their
// names, then the indexes.
func copyDatabase(db *sql.DB, file string, built time.Time) error {
	exec := func(statement string, args ...any) error {
		_, err := db.Exec(statement, args...)
		return err
	}
	for _, statement := range []string{"PRAGMA foreign_keys = OFF", "PRAGMA synchronous = OFF", "PRAGMA journal_mode = OFF"} {
		if err := exec(statement); err != nil {
			return err
		}
	}
	if err := exec("ATTACH DATABASE ? AS old", file); err != nil {
		return err
	}
	if err := exec("UPDATE old.db_metadata SET build_timestamp = ?", built.UTC().Format("2006-01-02 15:04:05+00:00")); err != nil {
		return err
	}
	tables, err := schemaOf(db, "table")
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := exec(orderConstraints(t.create)); err != nil {
			return err
		}
		order := "rowid"
		if t.name == "vulnerability_aliases" {
			order = "name, alias"
		}
		if err := exec(fmt.Sprintf("INSERT INTO main.%q SELECT * FROM old.%q ORDER BY %s", t.name, t.name, order)); err != nil {
			return err
		}
	}
	indexes, err := schemaOf(db, "index")
	if err != nil {
		return err
	}
	for _, i := range indexes {
		if err := exec(i.create); err != nil {
			return err
		}
	}
	if err := exec("DETACH DATABASE old"); err != nil {
		return err
	}
	if len(indexes) > 0 {
		if err := exec("ANALYZE"); err != nil {
			return err
		}
	}
	return exec("VACUUM")
}

type schemaEntry struct{ name, create string }

func schemaOf(db *sql.DB, kind string) ([]schemaEntry, error) {
	rows, err := db.Query(`SELECT name, sql FROM old.sqlite_master
		WHERE type = ? AND sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name`, kind)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []schemaEntry
	for rows.Next() {
		var e schemaEntry
		if err := rows.Scan(&e.name, &e.create); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// orderConstraints orders the constraints at the end of a CREATE TABLE.
func orderConstraints(create string) string {
	const before = ",CONSTRAINT "
	body, closed := strings.CutSuffix(create, ")")
	parts := strings.Split(body, before)
	if !closed || len(parts) < 3 {
		return create
	}
	slices.Sort(parts[1:])
	return strings.Join(parts, before) + ")"
}
