package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/assay-dev/assay/api"
)

// prove keeps what the bytes that came with a scan prove, for all clusters and names, and takes the
// bytes off the scan. What was proven before replaces what the
// scan claims.
func (t *Tx) prove(ctx context.Context, scan *api.Scan) error {
	if x := scan.Index; x != nil {
		index := *x
		scan.Index = &index
		if index.Manifest != nil {
			if err := index.Check(); err != nil {
				return err
			}
			if err := t.proven(ctx, index.Digest, "", index.Platforms); err != nil {
				return err
			}
			index.Manifest = nil
		}
	}
	if scan.Manifest != nil {
		if err := scan.CheckManifest(); err != nil {
			return err
		}
		m, err := api.ParseManifest(scan.Manifest)
		if err != nil {
			return err
		}
		if err := t.proven(ctx, scan.Digest, m.ConfigDigest, nil); err != nil {
			return err
		}
		scan.Manifest = nil
	}
	var config string
	err := t.one(ctx, "SELECT config_digest FROM proofs WHERE digest = ? AND config_digest <> ''", []any{scan.Digest}, &config)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	scan.ConfigDigest = config
	return err
}

// proven keeps a proof, once.
func (t *Tx) proven(ctx context.Context, digest, config string, platforms map[string]string) error {
	text, err := json.Marshal(platforms)
	if err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	n, err := t.exec(ctx, "INSERT INTO proofs (digest, config_digest, platforms, at) VALUES (?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING", digest, config, string(text), t.at)
	if err != nil || n == 0 {
		return err
	}
	if config == "" {
		if err := t.changed(ctx, IndexChanged, digest); err != nil {
			return err
		}
	} else if _, err := t.exec(ctx, "UPDATE images SET config_digest = ? WHERE digest = ?", config, digest); err != nil {
		return err
	}
	// What was claimed of it until now may count no more.
	spaces, err := t.spacesOf(ctx, digest)
	if err != nil {
		return err
	}
	for _, space := range spaces {
		if err := t.changedIn(ctx, ImageChanged, digest, space); err != nil {
			return err
		}
	}
	_, err = t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), id, ? FROM listings WHERE digest = ?", t.seq, t.at, digest)
	return err
}

// spacesOf are those with evidence or claims about a digest.
func (t *Tx) spacesOf(ctx context.Context, digest string) (spaces []string, err error) {
	return spaces, t.each(ctx, `SELECT DISTINCT o.space FROM origins o WHERE o.id IN (SELECT origin_id FROM images WHERE digest = ?) OR o.id IN (SELECT origin_id FROM indexes WHERE digest = ?) ORDER BY o.space`,
		[]any{digest, digest}, func(scan func(...any) error) error {
			var space string
			err := scan(&space)
			spaces = append(spaces, space)
			return err
		})
}
