package vulndb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	v6 "github.com/anchore/grype/grype/db/v6"

	"github.com/assay-dev/assay/api"
)

const (
	// changesFile is beside a database, and counts what it changed.
	changesFile = "changes.json"
	// updateFile tells of the last try to update.
	updateFile = "update.json"
)

// State tells all that is known of the databases that are kept.
func (s *Store) State(ctx context.Context) (*api.DatabaseState, error) {
	list, err := s.Generations(ctx)
	if err != nil {
		return nil, err
	}
	st := &api.DatabaseState{Schema: api.SchemaDatabaseState, Generations: []api.DatabaseGeneration{}, HeldUntil: s.held(), LastUpdate: s.lastUpdate()}
	current := false
	for _, g := range list {
		st.Generations = append(st.Generations, g.Report())
		if !g.Current {
			continue
		}
		current = true
		if g.Err == nil {
			g.Err = s.expired(g.Built)
			st.Providers, err = providersOf(ctx, g.Path)
			g.Err = errors.Join(g.Err, err)
		}
		if g.Err != nil {
			st.Error = g.Err.Error()
		}
	}
	if !current {
		st.Error = missing(s.cfg.Dir).Error()
	}
	return st, nil
}

// Report is what is told of a generation.
func (g Generation) Report() api.DatabaseGeneration {
	r := api.DatabaseGeneration{Name: g.Name, Path: g.Path, Built: g.Built, Imported: g.Imported, Version: g.Schema, Checksum: g.Checksum,
		Source: g.Source, Bytes: g.Bytes, Advisories: g.Advisories, Digest: g.Digest, Base: g.Base, Changes: g.Changes, Current: g.Current}
	if g.Err != nil {
		r.Error = g.Err.Error()
	}
	return r
}

// providersOf lists the sources of a database. Its checksum is not verified.
func providersOf(ctx context.Context, file string) (out []api.DatabaseProvider, err error) {
	defer func() {
		if err != nil {
			err = corrupt("reading its sources", err)
		}
	}()
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?mode=ro&immutable=1")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rows, err := db.QueryContext(ctx, "SELECT id, date_captured FROM providers ORDER BY id LIMIT 1000")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var p api.DatabaseProvider
		var at sql.NullTime
		if err := rows.Scan(&p.Name, &at); err != nil {
			return nil, err
		}
		if at.Valid {
			p.Captured = at.Time.UTC()
		}
		out = append(out, p)
	}
	return out, rows.Err()
}

// noteChanges counts what the current database changed against that of a
// directory, and notes it beside the current one. It comes after the database
// serves: a comparison that fails takes nothing away.
func (s *Store) noteChanges(ctx context.Context, before string) *api.DatabaseChanges {
	now, err := s.current()
	if err != nil || before == "" || before == now {
		return nil
	}
	if limit := s.cfg.MaxCompareBytes; limit > 0 && sizeOf(filepath.Join(now, v6.VulnerabilityDBFileName)) > limit {
		return nil
	}
	was := describe(before)
	c, err := Diff(ctx, before, now)
	if err != nil || was.Err != nil {
		return nil
	}
	counts := c.Counts(was.Checksum)
	if content, err := json.Marshal(counts); err == nil {
		_ = writeAtomically(filepath.Join(now, changesFile), append(content, '\n'))
	}
	return counts
}

// Counts counts the changes against the database of a checksum.
func (c *Changes) Counts(against string) *api.DatabaseChanges {
	return &api.DatabaseChanges{Against: against, Added: c.Count(Added), Changed: c.Count(Changed), Removed: c.Count(Removed),
		Rescored: c.Count(Rescored), Packages: len(c.Packages)}
}

func readChanges(dir string) *api.DatabaseChanges {
	content, err := readBounded(filepath.Join(dir, changesFile), 1<<16)
	if err != nil {
		return nil
	}
	var c api.DatabaseChanges
	if json.Unmarshal(content, &c) != nil {
		return nil
	}
	return &c
}

// noteUpdate notes how a try to update ended.
func (s *Store) noteUpdate(updated bool, err error) {
	u := api.DatabaseUpdate{At: s.cfg.Now().UTC(), Updated: updated}
	if err != nil {
		u.Error = err.Error()
	}
	if content, err := json.Marshal(u); err == nil {
		_ = writeAtomically(filepath.Join(s.cfg.Dir, updateFile), append(content, '\n'))
	}
}

func (s *Store) lastUpdate() *api.DatabaseUpdate {
	content, err := readBounded(filepath.Join(s.cfg.Dir, updateFile), 1<<20)
	if err != nil {
		return nil
	}
	var u api.DatabaseUpdate
	if json.Unmarshal(content, &u) != nil {
		return nil
	}
	return &u
}

// Compare tells what one kept database changed against another, by their names
// as [Store.Rollback] takes them. For "" it is the current one as newer, and the
// one that came before it as older.
func (s *Store) Compare(ctx context.Context, older, newer string) (c *Changes, from, to Generation, err error) {
	list, err := s.Generations(ctx)
	if err != nil {
		return nil, from, to, err
	}
	if newer == "" {
		for _, g := range list {
			if g.Current {
				newer = g.Name
			}
		}
		if newer == "" {
			return nil, from, to, missing(s.cfg.Dir)
		}
	}
	if to, err = choose(list, newer); err != nil {
		return nil, from, to, err
	}
	if from, err = choose(list, older); err != nil {
		return nil, from, to, err
	}
	for _, g := range []Generation{from, to} {
		if g.Err != nil {
			return nil, from, to, fmt.Errorf("generation %s: %w", g.Name, g.Err)
		}
	}
	c, err = Diff(ctx, filepath.Dir(from.Path), filepath.Dir(to.Path))
	return c, from, to, err
}
