package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// SBOM is what an image consists of, to be matched again and again.
type SBOM struct {
	// Scan is the scan to be: Image, Digest, Index, Platform, ConfigDigest, Source,
	// Distro and Packages are set.
	Scan     api.Scan
	Format   string
	Document []byte // Syft JSON
	// Compact is what matching needs of the document, once it was matched.
	Compact []byte
	State   SBOMState
	// Names of the packages, for search.
	Packages []Package
	// Identity is who handed it in, once it is kept.
	Identity string
}

// SBOMState is what the store knows of an SBOM.
type SBOMState struct {
	Sum       string // SHA-256 of the document
	MatchedAt string // documents.Time of the last match; "" is never
	Checksum  string // of the database of the last match, or of one with the same answer
	Built     string // documents.Time of that database
	Matcher   string // the version of what matched
}

// Package is a package of an image.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Type    string `json:"type"`
}

// AddSBOM keeps the SBOM of an image in the place of the one before; false when it is
// the very same. It is then due to be matched.
func (t *Tx) AddSBOM(ctx context.Context, b SBOM) (bool, error) {
	ref, err := api.ParseReference(b.Scan.Image)
	if err != nil {
		return false, err
	}
	scan := sanitized(b.Scan)
	if err := t.prove(ctx, &scan); err != nil {
		return false, err
	}
	where := originOf(scan.Scope)
	origin, err := t.origin(ctx, where)
	if err != nil {
		return false, err
	}
	image, err := t.image(ctx, origin, scan)
	if err != nil {
		return false, err
	}
	if err := t.named(ctx, *image, ref.Name()); err != nil {
		return false, err
	}
	if err := t.observe(ctx, ref, scan, t.at); err != nil {
		return false, err
	}
	listing, err := t.listing(ctx, ref, image, scan.Digest, scan.Source, "")
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(b.Document)
	key := hex.EncodeToString(sum[:])
	scan.Vulnerabilities = nil
	header, err := json.Marshal(scan)
	if err != nil {
		return false, fmt.Errorf("writing the SBOM: %w", err)
	}
	if err := t.claimDone(ctx, where.Space, scan.Digest); err != nil {
		return false, err
	}
	var before, reference string
	err = t.one(ctx, "SELECT sha256, reference FROM sboms WHERE image_id = ?", []any{*image}, &before, &reference)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	if before == key && reference == ref.Canonical() {
		return false, nil
	}
	if err := t.waitingChanged(ctx, "m.image_id = ?", *image); err != nil { // it may be of another name
		return false, err
	}
	document := compress(b.Document)
	if _, err := t.exec(ctx, `INSERT INTO sboms (image_id, reference, sha256, format, header, document, received) VALUES (`+marks(7)+`)
		ON CONFLICT (image_id) DO UPDATE SET reference = excluded.reference, sha256 = excluded.sha256, format = excluded.format, header = excluded.header, document = excluded.document,
		received = excluded.received`,
		*image, ref.Canonical(), key, b.Format, string(header), document, t.at); err != nil {
		return false, err
	}
	size := sbomBytes(string(header), b.Packages, len(document))
	t.holds(scan.Digest, ref.Canonical(), size)
	if _, err := t.exec(ctx, `INSERT INTO matches (image_id, found, way, identity, bytes) VALUES (?, ?, ?, ?, ?) ON CONFLICT (image_id) DO UPDATE SET
		found = excluded.found, way = excluded.way, identity = excluded.identity, bytes = excluded.bytes, matched_at = '', checksum = '', built = '', matcher = '', error = '', urgent = FALSE`,
		*image, t.found(scan), string(scan.Way), t.identity, size); err != nil {
		return false, err
	}
	if _, err := t.exec(ctx, "DELETE FROM compacts WHERE image_id = ?", *image); err != nil {
		return false, err
	}
	if before != key {
		if err := t.setPackages(ctx, *image, b.Packages); err != nil {
			return false, err
		}
		if err := t.disagreement(ctx, scan.Digest, listing); err != nil {
			return false, err
		}
	}
	if err := t.waitingChanged(ctx, "m.image_id = ?", *image); err != nil {
		return false, err
	}
	// Until it is matched, a result says that it is not known.
	if err := t.changed(ctx, SBOMAdded, scan.Digest); err != nil {
		return false, err
	}
	_, err = t.exec(ctx, "INSERT INTO work (seq, listing_id, at) VALUES (?, ?, ?)", t.seq, listing, t.at)
	return true, err
}

func (t *Tx) setPackages(ctx context.Context, image int64, list []Package) error {
	keys := make([]packageKey, len(list))
	for i, p := range list {
		keys[i] = packageKey{clean(p.Name), clean(p.Version), clean(p.Type)}
	}
	if _, err := t.exec(ctx, "UPDATE images SET fingerprint = ? WHERE id = ?", fingerprint(keys), image); err != nil {
		return err
	}
	ids, err := t.packageIDs(ctx, keys)
	if err != nil {
		return err
	}
	if _, err := t.exec(ctx, "DELETE FROM image_packages WHERE image_id = ? AND package_id NOT IN (SELECT package_id FROM findings WHERE image_id = ?)", image, image); err != nil {
		return err
	}
	rows := make([][]any, 0, len(ids))
	for _, id := range ids {
		rows = append(rows, []any{id, image})
	}
	return t.bulk(ctx, "INSERT INTO image_packages (package_id, image_id)", "ON CONFLICT (package_id, image_id) DO NOTHING", rows)
}

// SBOM is that of a piece of evidence, without its packages.
func (s *Store) SBOM(ctx context.Context, piece int64) (b SBOM, err error) {
	return b, s.View(ctx, func(t *Tx) error {
		var document []byte
		if b, err = t.sbom(ctx, piece, "b.document", &document); err == nil {
			b.Document, err = decompress(document)
		}
		return err
	})
}

// CompactSBOM is the SBOM of a piece with Compact, which may be nil, and without its document and packages.
func (s *Store) CompactSBOM(ctx context.Context, piece int64) (b SBOM, err error) {
	return b, s.View(ctx, func(t *Tx) error {
		var compact []byte
		if b, err = t.sbom(ctx, piece, "(SELECT c.packages FROM compacts c WHERE c.image_id = b.image_id)", &compact); err == nil && compact != nil {
			b.Compact, err = decompress(compact)
		}
		return err
	})
}

func (t *Tx) sbom(ctx context.Context, piece int64, column string, value *[]byte) (b SBOM, err error) {
	var header, found string
	var o Origin
	if err := t.one(ctx, "SELECT b.format, b.sha256, m.matched_at, m.checksum, m.built, m.matcher, b.header, m.found, m.way, m.identity, o.space, o.registry, "+column+` FROM sboms b
		JOIN matches m ON m.image_id = b.image_id JOIN images i ON i.id = b.image_id JOIN origins o ON o.id = i.origin_id WHERE b.image_id = ?`, []any{piece},
		&b.Format, &b.State.Sum, &b.State.MatchedAt, &b.State.Checksum, &b.State.Built, &b.State.Matcher, &header, &found, &b.Scan.Way, &b.Identity, &o.Space, &o.Registry, value); err != nil {
		return b, err
	}
	way := b.Scan.Way
	if err := json.Unmarshal([]byte(header), &b.Scan); err != nil {
		return b, fmt.Errorf("reading the SBOM: %w", err)
	}
	b.Scan.Way, b.Scan.Found = way, parseTime(found)
	if b.Scan.Scope.Evidence() != o.Scope() {
		b.Scan.Scope = o.Scope()
	}
	return b, nil
}

// SBOMPieces are the pieces of evidence about a digest that have an SBOM.
func (s *Store) SBOMPieces(ctx context.Context, digest string) (pieces []int64, err error) {
	return pieces, s.View(ctx, func(t *Tx) error {
		pieces = nil
		return t.each(ctx, "SELECT b.image_id FROM images i JOIN sboms b ON b.image_id = i.id WHERE i.digest = ? ORDER BY b.image_id", []any{digest}, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			pieces = append(pieces, id)
			return err
		})
	})
}

// SBOMState is that of the SBOM of a piece.
func (t *Tx) SBOMState(ctx context.Context, piece int64) (state SBOMState, err error) {
	return state, t.one(ctx, "SELECT b.sha256, m.matched_at, m.checksum, m.built, m.matcher FROM sboms b JOIN matches m ON m.image_id = b.image_id WHERE b.image_id = ?",
		[]any{piece}, &state.Sum, &state.MatchedAt, &state.Checksum, &state.Built, &state.Matcher)
}

// Due says which SBOMs must be matched: those that were never matched, not since a moment, by
// another matcher, or with another database. What a newer database said does not give way to an older one, which another
// replica may still have, unless the older one was chosen.
type Due struct {
	Since             time.Time
	Checksum, Matcher string
	Built             time.Time // of the database
	Chosen            bool      // it was gone back to
}

func (d Due) condition() (string, []any) {
	return "(m.matched_at < ? OR m.matcher <> ? OR m.checksum <> ? AND (m.built <= ? OR ?))",
		[]any{documents.Time(d.Since), d.Matcher, d.Checksum, documents.Time(d.Built), d.Chosen}
}

// Of says whether an SBOM with a state must be matched.
func (d Due) Of(s SBOMState) bool {
	return s.MatchedAt < documents.Time(d.Since) || s.Matcher != d.Matcher || s.Checksum != d.Checksum && (s.Built <= documents.Time(d.Built) || d.Chosen)
}

// DueSBOMs are the digests of SBOMs that must be matched: first those that a new
// database may find another vulnerability in, then the longest waiting. One whose
// match failed comes again after the same time.
func (s *Store) DueSBOMs(ctx context.Context, due Due, limit int) (digests []string, err error) {
	return digests, s.View(ctx, func(t *Tx) error {
		digests = nil
		where, args := due.condition()
		return t.each(ctx, "SELECT i.digest FROM matches m JOIN images i ON i.id = m.image_id WHERE "+where+" ORDER BY m.urgent DESC, m.matched_at, m.image_id LIMIT ?",
			append(args, limit), func(scan func(...any) error) error {
				var d string
				err := scan(&d)
				if !slices.Contains(digests, d) { // it may have several
					digests = append(digests, d)
				}
				return err
			})
	})
}

// MatchCounts counts SBOMs.
type MatchCounts struct {
	// SBOMs is how many there are, Due how many of them must be matched, Urgent how
	// many of those a new database may find another vulnerability in, Failed how many
	// could not be matched the last time.
	SBOMs, Due, Urgent, Failed int
}

// MatchCounts tells how far matching is.
func (s *Store) MatchCounts(ctx context.Context, due Due) (n MatchCounts, err error) {
	return n, s.View(ctx, func(t *Tx) error {
		where, args := due.condition()
		return t.one(ctx, "SELECT COUNT(*), COALESCE(SUM(CASE WHEN "+where+" THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN m.urgent THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN m.error <> '' THEN 1 ELSE 0 END), 0) FROM matches m",
			args, &n.SBOMs, &n.Due, &n.Urgent, &n.Failed)
	})
}

// Matched is what came of matching an SBOM.
type Matched struct {
	Piece             int64
	Checksum, Matcher string    // of the database, and of what matched
	Built             time.Time // of the database
	Fault             string    // why it could not be matched; "": it could
	Compact           []byte    // what matching needs of the SBOM; nil: what is kept stays
	Searches          []Searches
}

// Searches are the keys of what was looked up for a package.
type Searches struct {
	Package
	Keys []string
}

// Matched notes that an SBOM was matched, or why it could not be. A scan that came of
// it is added in the same transaction.
func (t *Tx) Matched(ctx context.Context, m Matched) error {
	image := m.Piece
	if err := t.waitingChanged(ctx, "m.image_id = ?", image); err != nil {
		return err
	}
	if _, err := t.exec(ctx, "UPDATE matches SET matched_at = ?, checksum = ?, built = ?, matcher = ?, error = ?, urgent = FALSE WHERE image_id = ?",
		t.at, m.Checksum, documents.Time(m.Built), m.Matcher, clean(m.Fault), image); err != nil {
		return err
	}
	if m.Compact != nil {
		if _, err := t.exec(ctx, "INSERT INTO compacts (image_id, packages) VALUES (?, ?) ON CONFLICT (image_id) DO UPDATE SET packages = excluded.packages",
			image, compress(m.Compact)); err != nil {
			return err
		}
	}
	keys := make([]packageKey, len(m.Searches))
	for i, s := range m.Searches {
		keys[i] = packageKey{clean(s.Name), clean(s.Version), clean(s.Type)}
	}
	ids, err := t.packageIDs(ctx, keys)
	if err != nil {
		return err
	}
	var rows [][]any
	for i, s := range m.Searches {
		for _, key := range s.Keys {
			rows = append(rows, []any{clean(key), ids[keys[i]]})
		}
	}
	return t.bulk(ctx, "INSERT INTO searches (key, package_id)", "ON CONFLICT (key, package_id) DO NOTHING", rows)
}

// MatchedWith are the checksums of the databases that SBOMs were matched with by a matcher.
func (s *Store) MatchedWith(ctx context.Context, matcher string) (checksums []string, err error) {
	return checksums, s.View(ctx, func(t *Tx) error {
		checksums = nil
		return t.each(ctx, "SELECT DISTINCT checksum FROM matches WHERE matcher = ? AND checksum <> '' ORDER BY checksum", []any{matcher}, func(scan func(...any) error) error {
			var c string
			err := scan(&c)
			checksums = append(checksums, c)
			return err
		})
	})
}

// CountMatched is how many SBOMs a matcher matched with a database.
func (s *Store) CountMatched(ctx context.Context, checksum, matcher string) (n int, err error) {
	return n, s.View(ctx, func(t *Tx) error {
		return t.one(ctx, "SELECT COUNT(*) FROM matches WHERE checksum = ? AND matcher = ?", []any{checksum, matcher}, &n)
	})
}

// Carry says what a new database means for the SBOMs that a matcher matched with an older
// one: where none of the searches finds anything else, the answer holds for the new
// one too, which is noted. The others stay due, and those urgent in which the database may find another vulnerability.
type Carry struct {
	From, To string    // checksums
	Built    time.Time // of the newer one
	Matcher  string
	// Affected are the keys of searches that may find another vulnerability, Details of
	// those that find the same with another text or score.
	Affected, Details []string
}

// Carried counts the SBOMs of a [Carry]: those that the answer holds for, those to be matched
// first, and those to be matched then.
type Carried struct{ Same, Urgent, Later int }

// Carry takes the answers over that a new database leaves as they are, in one step.
func (t *Tx) Carry(ctx context.Context, c Carry) (n Carried, err error) {
	affected, err := t.holding(ctx, c.Affected)
	if err != nil {
		return n, err
	}
	details, err := t.holding(ctx, c.Details)
	if err != nil {
		return n, err
	}
	var same, urgent []any
	err = t.each(ctx, "SELECT image_id FROM matches WHERE checksum = ? AND matcher = ? AND error = ''", []any{c.From, c.Matcher}, func(scan func(...any) error) error {
		var image int64
		if err := scan(&image); err != nil {
			return err
		}
		switch {
		case affected[image]:
			urgent = append(urgent, image)
		case details[image]:
			n.Later++
		default:
			same = append(same, image)
		}
		return nil
	})
	if err != nil {
		return n, err
	}
	n.Same, n.Urgent = len(same), len(urgent)
	for chunk := range slices.Chunk(same, bulkParameters-2) {
		if _, err := t.exec(ctx, "UPDATE matches SET checksum = ?, built = ? WHERE image_id IN ("+marks(len(chunk))+")", append([]any{c.To, documents.Time(c.Built)}, chunk...)...); err != nil {
			return n, err
		}
	}
	for chunk := range slices.Chunk(urgent, bulkParameters) {
		if _, err := t.exec(ctx, "UPDATE matches SET urgent = TRUE WHERE image_id IN ("+marks(len(chunk))+")", chunk...); err != nil {
			return n, err
		}
	}
	return n, nil
}

// holding are the images with a package that something of the keys was looked up for.
func (t *Tx) holding(ctx context.Context, keys []string) (map[int64]bool, error) {
	images := map[int64]bool{}
	for chunk := range slices.Chunk(keys, 500) {
		args := make([]any, len(chunk))
		for i, k := range chunk {
			args[i] = clean(k)
		}
		err := t.each(ctx, "SELECT DISTINCT p.image_id FROM searches s JOIN image_packages p ON p.package_id = s.package_id WHERE s.key IN ("+marks(len(args))+")", args, func(scan func(...any) error) error {
			var image int64
			err := scan(&image)
			images[image] = true
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return images, nil
}
