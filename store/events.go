package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// eventColumns are those that scanEvent reads.
const eventColumns = "events.time, events.type, events.registry, events.repository, events.tag, events.digest, events.image, events.result, events.previous_result, events.changed, " +
	"events.max_cvss_score, events.cve, events.package, events.fixable, events.kev, events.epss, events.source, events.error, events.instances"

// Dialect is that of the database, as package engine/pushdown names it.
func (s *Store) Dialect() string { return string(s.dialect) }

// SelectEvents calls fn with each event in (since, until] for which a condition
// holds; its marks are question marks.
func (s *Store) SelectEvents(ctx context.Context, since, until time.Time, where string, args []any, fn func(api.Event) error) error {
	args = append([]any{documents.Time(since), documents.Time(until)}, args...)
	return s.SelectRows(ctx, "SELECT "+eventColumns+" FROM events WHERE events.time > ? AND events.time <= ? AND ("+where+")", args, func(scan func(...any) error) error {
		e, err := scanEvent(scan)
		if err != nil {
			return err
		}
		return fn(e)
	})
}

// SelectRows runs a query, and calls fn with the Scan of each row.
func (s *Store) SelectRows(ctx context.Context, query string, args []any, fn func(scan func(dest ...any) error) error) error {
	rows, err := s.read.QueryContext(ctx, s.rebind(query), args...)
	if err != nil {
		return s.fault("reading events", err)
	}
	return s.rows(rows, fn)
}

func scanEvent(scan func(...any) error, more ...any) (e api.Event, err error) {
	var tag, digest, previous, source, fault sql.NullString
	var cve, packages, instances []byte
	if err := scan(append(more, &e.Time, &e.Type, &e.Registry, &e.Repository, &tag, &digest, &e.Image, &e.Result, &previous, &e.Changed, &e.MaxCVSSScore,
		&cve, &packages, &e.Fixable, &e.KEV, &e.EPSS, &source, &fault, &instances)...); err != nil {
		return e, err
	}
	e.Tag, e.Digest, e.PreviousResult, e.Source, e.Error = tag.String, digest.String, api.Result(previous.String), source.String, fault.String
	for _, list := range []struct {
		text []byte
		into any
	}{{cve, &e.CVE}, {packages, &e.Package}, {instances, &e.Instances}} {
		if err := json.Unmarshal(list.text, list.into); err != nil {
			return e, fmt.Errorf("reading an event: %w", err)
		}
	}
	return e, nil
}
