package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	State    SBOMState
	// Names of the packages, for search.
	Packages []Package
}

// SBOMState is what the store knows of an SBOM.
type SBOMState struct {
	Sum       string // SHA-256 of the document
	MatchedAt string // documents.Time of the last match; "" is never
	Checksum  string // of the database of the last match
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
	image, err := t.image(ctx, scan)
	if err != nil {
		return false, err
	}
	if err := t.observe(ctx, ref, scan, t.at); err != nil {
		return false, err
	}
	listing, err := t.listing(ctx, ref, image, scan.Digest, scan.Source, "", "")
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
	if err := t.claimDone(ctx, scan.Digest); err != nil {
		return false, err
	}
	var before, reference string
	err = t.one(ctx, "SELECT sha256, reference FROM sboms WHERE image_id = ?", []any{*image}, &before, &reference)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	if before == key && reference == ref.String() {
		return false, nil
	}
	if _, err := t.exec(ctx, `INSERT INTO sboms (image_id, reference, sha256, format, header, document, received) VALUES (`+marks(7)+`)
		ON CONFLICT (image_id) DO UPDATE SET reference = excluded.reference, sha256 = excluded.sha256, format = excluded.format, header = excluded.header, document = excluded.document,
		received = excluded.received, matched_at = '', checksum = '', error = ''`,
		*image, ref.String(), key, b.Format, string(header), compress(b.Document), t.at); err != nil {
		return false, err
	}
	if before != key {
		if err := t.setPackages(ctx, *image, b.Packages); err != nil {
			return false, err
		}
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

// SBOM is that of a digest, without its packages.
func (s *Store) SBOM(ctx context.Context, digest string) (b SBOM, err error) {
	return b, s.View(ctx, func(t *Tx) error {
		var header string
		var document []byte
		if err := t.one(ctx, "SELECT b.format, b.sha256, b.matched_at, b.checksum, b.header, b.document FROM sboms b JOIN images i ON i.id = b.image_id WHERE i.digest = ?", []any{digest}, &b.Format, &b.State.Sum, &b.State.MatchedAt, &b.State.Checksum, &header, &document); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(header), &b.Scan); err != nil {
			return fmt.Errorf("reading the SBOM: %w", err)
		}
		b.Document, err = decompress(document)
		return err
	})
}

// SBOMState is that of the SBOM of a digest.
func (t *Tx) SBOMState(ctx context.Context, digest string) (state SBOMState, err error) {
	return state, t.one(ctx, "SELECT b.sha256, b.matched_at, b.checksum FROM sboms b JOIN images i ON i.id = b.image_id WHERE i.digest = ?", []any{digest}, &state.Sum, &state.MatchedAt, &state.Checksum)
}

// DueSBOMs are the digests of SBOMs that were never matched, not since a moment, or
// with another database than that of a checksum; the longest waiting first. One whose
// match failed comes again after the same time.
func (s *Store) DueSBOMs(ctx context.Context, since time.Time, checksum string, limit int) (digests []string, err error) {
	return digests, s.View(ctx, func(t *Tx) error {
		digests = nil
		return t.each(ctx, `SELECT i.digest FROM sboms b JOIN images i ON i.id = b.image_id WHERE b.matched_at < ? OR b.checksum <> ? ORDER BY b.matched_at, b.image_id LIMIT ?`,
			[]any{documents.Time(since), checksum, limit}, func(scan func(...any) error) error {
				var d string
				err := scan(&d)
				digests = append(digests, d)
				return err
			})
	})
}

// Matched notes that the SBOM of a digest was matched with the database of a
// checksum, or why it could not be. A scan that came of it is added in the same transaction.
func (t *Tx) Matched(ctx context.Context, digest, checksum, fault string) error {
	_, err := t.exec(ctx, "UPDATE sboms SET matched_at = ?, checksum = ?, error = ? WHERE image_id = (SELECT id FROM images WHERE digest = ?)", t.at, checksum, clean(fault), digest)
	return err
}
