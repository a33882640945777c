package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// fingerprint names a set of packages.
func fingerprint(keys []packageKey) string {
	lines := make([]string, len(keys))
	for i, k := range keys {
		lines[i] = k.name + "\x00" + k.version + "\x00" + k.kind
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(lines), "\n")))
	return hex.EncodeToString(sum[:16])
}

// Evidence is one piece of what is known of a digest.
type Evidence struct {
	// Piece names it among those of the store.
	Piece int64 `json:"-"`
	// Scope is the one within which it counts.
	Scope api.Scope `json:"scope"`
	Way   api.Way   `json:"way,omitempty"`
	// Found is when its packages were determined, ScannedAt when they were matched last; absent
	// where they were not yet.
	Found     time.Time `json:"found,omitzero"`
	ScannedAt time.Time `json:"scanned_at,omitzero"`
	// Identity is who handed it in: "before origin" where that was before it was kept.
	Identity string `json:"identity,omitempty"`
	Packages int    `json:"packages"`
	// fingerprint is of the packages of the SBOM; "" is not known.
	fingerprint string
}

// differs says whether two pieces are of different packages, as far as both tell.
func (e Evidence) differs(other Evidence) bool {
	if e.fingerprint != "" && other.fingerprint != "" {
		return e.fingerprint != other.fingerprint
	}
	return e.Packages > 0 && other.Packages > 0 && e.Packages != other.Packages
}

// Evidence are the pieces of what is known of a digest, in the order of their scopes, and whether
// they disagree on its packages.
func (s *Store) Evidence(ctx context.Context, digest string) (list []Evidence, disagree bool, err error) {
	return list, disagree, s.View(ctx, func(t *Tx) (err error) {
		list, disagree, err = t.evidence(ctx, digest)
		return err
	})
}

func (t *Tx) evidence(ctx context.Context, digest string) (list []Evidence, disagree bool, err error) {
	err = t.each(ctx, `SELECT i.id, o.space, o.registry, COALESCE(m.way, i.way), i.found, COALESCE(s.scanned_at, ''), COALESCE(m.identity, i.identity), i.packages, i.fingerprint
		FROM images i JOIN origins o ON o.id = i.origin_id LEFT JOIN scans s ON s.id = i.scan_id LEFT JOIN matches m ON m.image_id = i.id AND i.scan_id IS NULL WHERE i.digest = ? ORDER BY o.space, o.registry`,
		[]any{digest}, func(scan func(...any) error) error {
			var e Evidence
			var o Origin
			var found, scanned string
			err := scan(&e.Piece, &o.Space, &o.Registry, &e.Way, &found, &scanned, &e.Identity, &e.Packages, &e.fingerprint)
			e.Scope, e.Found, e.ScannedAt = o.Scope(), parseTime(found), parseTime(scanned)
			list = append(list, e)
			return err
		})
	return list, Disagree(list), err
}

// Disagree says whether pieces are of different packages.
func Disagree(list []Evidence) bool {
	for i, a := range list {
		if slices.ContainsFunc(list[:i], a.differs) {
			return true
		}
	}
	return false
}

// disagreement writes an event where what was just stored says something else of the packages of
// a digest than others do, once for each such state. It is no scan: whichever result the image has
// stays, and the event counts to none.
func (t *Tx) disagreement(ctx context.Context, digest string, listing int64) error {
	list, disagree, err := t.evidence(ctx, digest)
	if err != nil || !disagree {
		return err
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = fmt.Sprintf("%s: %d packages", e.Scope, e.Packages)
		if e.fingerprint != "" {
			parts[i] += " (" + e.fingerprint[:8] + ")"
		}
	}
	text := "the origins disagree on the packages of the image: " + strings.Join(parts, ", ")
	var known int
	if err := t.one(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM events WHERE digest = ? AND source = ? AND error = ? LIMIT 1) e", []any{digest, SourceOrigins, text}, &known); err != nil || known > 0 {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO events (time, registry, repository, tag, digest, image, result, previous_result, changed, max_cvss_score, cve, package, fixable, kev, epss, source, error, instances, listing_id)
		SELECT CAST(? AS TEXT), l.registry, l.repository, l.tag, l.digest, l.image, 'Unknown', l.result, FALSE, NULL,
		CAST('[]' AS `+t.json()+`), CAST('[]' AS `+t.json()+`), l.fixable, l.kev, l.epss, CAST(? AS TEXT), CAST(? AS TEXT), CAST('[]' AS `+t.json()+`), l.id FROM listings l WHERE l.id = ?`,
		t.at, SourceOrigins, text, listing)
	return err
}

// SourceOrigins is the source of events that tell that origins disagree.
const SourceOrigins = "origins"
