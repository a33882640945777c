package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-dev/assay/documents"
)

// Kind says what a [Change] is of, and what its key names.
type Kind string

// Kinds of changes.
const (
	ScanAdded         Kind = "scan"       // of the digest, or of the reference that has none
	SBOMAdded         Kind = "sbom"       // of the digest
	ImageChanged      Kind = "image"      // the newest scan of the digest
	NameChanged       Kind = "name"       // what name:tag leads to
	IndexChanged      Kind = "index"      // the platforms of the digest
	ExceptionsChanged Kind = "exceptions" // any of them
	SettingsChanged   Kind = "settings"   // the value of the key
	ResultsChanged    Kind = "results"    // some listings
	InstancesChanged  Kind = "instances"  // of the cluster
	AlertsChanged     Kind = "alerts"     // of the rule
	DecisionMade      Kind = "decision"   // in the cluster
	SpacesChanged     Kind = "spaces"     // that the cluster reads
)

// Change says that something is not what it was. Its data is to be read anew: a
// change is the same however often it is seen.
type Change struct {
	Seq  int64  `json:"seq"`
	Kind Kind   `json:"kind"`
	Key  string `json:"key,omitempty"`
	At   string `json:"at"`
	// Space is the one that it is in; "" is shared by all clusters.
	Space string `json:"space,omitempty"`
}

// changed adds a change in what all clusters share, and gives its number.
func (t *Tx) changed(ctx context.Context, kind Kind, key string) error {
	return t.changedIn(ctx, kind, key, "")
}

// changedIn adds a change in a space.
func (t *Tx) changedIn(ctx context.Context, kind Kind, key, space string) error {
	if err := t.one(ctx, "INSERT INTO changes (kind, key, at, space) VALUES (?, ?, ?, ?) RETURNING seq", []any{string(kind), key, t.at, space}, &t.seq); err != nil {
		return err
	}
	var parts []string
	switch kind {
	case ImageChanged:
		parts = []string{documents.ImagePart(key)}
	case NameChanged, IndexChanged, SpacesChanged:
		parts = []string{PartNames}
	case ExceptionsChanged:
		parts = []string{PartExceptions}
	}
	for _, part := range parts {
		if space != Shared {
			part = space + "/" + part
		}
		if _, err := t.exec(ctx, "INSERT INTO parts (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq", part, t.seq); err != nil {
			return err
		}
	}
	return nil
}

// Parts of the data besides those of images (documents.ImagePart).
const (
	PartNames      = "names" // of images, and indexes
	PartExceptions = "exceptions"
)

// Parts say at which change each part of the data became what it is; 0 is never. Those of a space
// are named "SPACE/PART".
func (t *Tx) Parts(ctx context.Context) (map[string]int64, error) {
	parts := map[string]int64{}
	return parts, t.each(ctx, "SELECT name, seq FROM parts", nil, func(scan func(...any) error) error {
		var name string
		var seq int64
		err := scan(&name, &seq)
		parts[name] = seq
		return err
	})
}

// Changes are those after a number, in their order, at most limit. The first is the
// oldest that is kept: who has seen less than what came before it must read everything anew.
func (t *Tx) Changes(ctx context.Context, after int64, limit int) (list []Change, first int64, err error) {
	if err := t.one(ctx, "SELECT COALESCE(MIN(seq), 0) FROM changes", nil, &first); err != nil {
		return nil, 0, err
	}
	return list, first, t.each(ctx, "SELECT seq, kind, key, at, space FROM changes WHERE seq > ? ORDER BY seq LIMIT ?", []any{after, limit}, func(scan func(...any) error) error {
		var c Change
		err := scan(&c.Seq, &c.Kind, &c.Key, &c.At, &c.Space)
		list = append(list, c)
		return err
	})
}

// Head is the number of the newest change, and 0 before the first.
func (t *Tx) Head(ctx context.Context) (seq int64, err error) {
	return seq, t.one(ctx, "SELECT COALESCE(MAX(seq), 0) FROM changes", nil, &seq)
}

// Setting reads a setting into a value; ErrNotFound when it was never set.
func (t *Tx) Setting(ctx context.Context, key string, value any) error {
	var text string
	if err := t.one(ctx, "SELECT value FROM settings WHERE key = ?", []any{key}, &text); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), value); err != nil {
		return fmt.Errorf("reading the setting %s: %w", key, err)
	}
	return nil
}

// NoteSetting stores a setting that no one follows: it is no change.
func (t *Tx) NoteSetting(ctx context.Context, key string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("writing the setting %s: %w", key, err)
	}
	_, err = t.exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, string(text))
	return err
}

// SetSetting stores a setting; nil removes it.
func (t *Tx) SetSetting(ctx context.Context, key string, value any) error {
	if value == nil {
		if _, err := t.exec(ctx, "DELETE FROM settings WHERE key = ?", key); err != nil {
			return err
		}
		return t.changed(ctx, SettingsChanged, key)
	}
	if err := t.NoteSetting(ctx, key, value); err != nil {
		return err
	}
	return t.changed(ctx, SettingsChanged, key)
}

// bulkParameters bounds the arguments of one statement.
const bulkParameters = 6000

// bulk runs "before VALUES (?, …), … after" over rows of equal length.
func (t *Tx) bulk(ctx context.Context, before, after string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	row := "(?" + strings.Repeat(", ?", len(rows[0])-1) + ")"
	for size := max(1, bulkParameters/len(rows[0])); len(rows) > 0; {
		n := min(size, len(rows))
		args := make([]any, 0, n*len(rows[0]))
		for _, r := range rows[:n] {
			args = append(args, r...)
		}
		if _, err := t.exec(ctx, before+" VALUES "+row+strings.Repeat(", "+row, n-1)+" "+after, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// values is a table of rows with the columns and types given, for a WITH clause:
// "v (id, result) AS (VALUES …)".
func values(name string, columns, types []string, rows [][]any) (clause string, args []any) {
	var b strings.Builder
	b.WriteString(name + " (" + strings.Join(columns, ", ") + ") AS (VALUES ")
	for i, r := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		for k := range r {
			b.WriteString(map[bool]string{true: "(", false: ", "}[k == 0] + "CAST(? AS " + types[k] + ")")
		}
		b.WriteString(")")
		args = append(args, r...)
	}
	b.WriteString(")")
	return b.String(), args
}

// marks are as many question marks as there are arguments.
func marks(n int) string { return "?" + strings.Repeat(", ?", n-1) }
