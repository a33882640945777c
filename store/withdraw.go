package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-dev/assay/api"
)

// Withdraw removes all that an identity handed in: scans and SBOMs with what was made of them, what
// it said of indexes, tags and containers, and its claims. What others said of the same then counts.
// What bytes prove stays, and so do events and recorded decisions.
func (t *Tx) Withdraw(ctx context.Context, identity string) error {
	identity = clean(identity)
	if identity == "" {
		return errors.New("withdrawing: no identity is given")
	}
	if err := t.forget(ctx, "identity = ?", identity); err != nil {
		return err
	}
	if err := t.withdraw(ctx, "identity = ?", identity); err != nil {
		return err
	}
	if _, err := t.exec(ctx, "DELETE FROM claims WHERE identity = ?", identity); err != nil {
		return err
	}
	gone := map[string][]InstanceKey{}
	before := map[string]map[InstanceKey]int64{}
	if err := t.each(ctx, "SELECT cluster, namespace, pod, container, COALESCE(listing_id, 0) FROM instances WHERE identity = ?", []any{identity}, func(scan func(...any) error) error {
		var cluster string
		var k InstanceKey
		var listing int64
		err := scan(&cluster, &k.Namespace, &k.Pod, &k.Container, &listing)
		if before[cluster] == nil {
			before[cluster] = map[InstanceKey]int64{}
		}
		before[cluster][k] = listing
		gone[cluster] = append(gone[cluster], k)
		return err
	}); err != nil {
		return err
	}
	for cluster, keys := range gone {
		if err := t.place(ctx, cluster, before[cluster], nil, keys); err != nil {
			return err
		}
	}
	for _, statement := range []string{"DELETE FROM holdings WHERE identity = ?", "DELETE FROM usages WHERE identity = ?"} {
		if _, err := t.exec(ctx, statement, identity); err != nil {
			return err
		}
	}
	return t.changed(ctx, ResultsChanged, "")
}

// TokenIdentity is the identity of what the holder of a token of the store hands in.
func TokenIdentity(id int64) string { return fmt.Sprintf("token:%d", id) }

// forget removes what was observed of tags, where a condition holds.
func (t *Tx) forget(ctx context.Context, where string, args ...any) error {
	type key struct{ name, space string }
	var names []key
	if err := t.each(ctx, "SELECT DISTINCT name, tag, space FROM observations WHERE "+where, args, func(scan func(...any) error) error {
		var name, tag, space string
		err := scan(&name, &tag, &space)
		names = append(names, key{name + ":" + tag, space})
		return err
	}); err != nil {
		return err
	}
	if _, err := t.exec(ctx, "DELETE FROM observations WHERE "+where, args...); err != nil {
		return err
	}
	for _, n := range names {
		if err := t.changedIn(ctx, NameChanged, n.name, n.space); err != nil {
			return err
		}
	}
	return nil
}

// withdraw removes scans, SBOMs and claims of indexes, where a condition holds, and makes what was
// made of them anew of what remains.
func (t *Tx) withdraw(ctx context.Context, where string, args ...any) error {
	images := map[int64]bool{}
	digests := map[string]bool{}
	note := func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		images[id] = true
		return err
	}
	ofImages := "image_id IN (SELECT id FROM images WHERE " + where + ")"
	if where == "identity = ?" { // who handed in the SBOM stands beside it
		ofImages = "identity = ?"
	}
	for _, query := range []string{"SELECT DISTINCT image_id FROM scans WHERE image_id IS NOT NULL AND " + where, "SELECT image_id FROM matches WHERE " + ofImages} {
		if err := t.each(ctx, query, args, note); err != nil {
			return err
		}
	}
	type claim struct{ digest, space string }
	var claims []claim
	if err := t.each(ctx, "SELECT x.digest, o.space FROM indexes x JOIN origins o ON o.id = x.origin_id WHERE x."+where, args, func(scan func(...any) error) error {
		var c claim
		err := scan(&c.digest, &c.space)
		claims = append(claims, c)
		return err
	}); err != nil {
		return err
	}
	var listings []any
	if err := t.each(ctx, "SELECT listing_id FROM failures WHERE "+where, args, func(scan func(...any) error) error {
		var id int64
		err := scan(&id)
		listings = append(listings, id)
		return err
	}); err != nil {
		return err
	}
	if err := t.failuresGo(ctx, "f."+where, args...); err != nil {
		return err
	}
	if err := t.waitingChanged(ctx, "m.image_id IN (SELECT image_id FROM matches WHERE "+ofImages+")", args...); err != nil {
		return err
	}
	for _, statement := range []string{
		"UPDATE images SET scan_id = NULL WHERE scan_id IN (SELECT id FROM scans WHERE " + where + ")",
		"DELETE FROM work WHERE scan_id IN (SELECT id FROM scans WHERE " + where + ")",
		"DELETE FROM scans WHERE " + where,
		"DELETE FROM sboms WHERE image_id IN (SELECT image_id FROM matches WHERE " + ofImages + ")",
		"DELETE FROM indexes WHERE " + where,
		"DELETE FROM failures WHERE " + where,
	} {
		if _, err := t.exec(ctx, statement, args...); err != nil {
			return err
		}
	}
	for _, c := range claims {
		if err := t.changedIn(ctx, IndexChanged, c.digest, c.space); err != nil {
			return err
		}
		digests[c.digest] = true
	}
	for id := range images {
		digest, err := t.renew(ctx, id)
		if err != nil {
			return err
		}
		digests[digest] = true
	}
	seq, err := t.Head(ctx)
	if err != nil {
		return err
	}
	for digest := range digests {
		if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), id, CAST(? AS TEXT) FROM listings WHERE digest = ?", seq, t.at, digest); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(listings, 2000) {
		if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), id, CAST(? AS TEXT) FROM listings WHERE id IN ("+marks(len(chunk))+")", append([]any{seq, t.at}, chunk...)...); err != nil {
			return err
		}
	}
	// What nobody knows anything of any more, and does not run, is no row of lists.
	const nothing = `l.instances = 0 AND NOT EXISTS (SELECT 1 FROM scans s WHERE s.digest = l.digest AND (l.digest <> '' OR s.reference = l.image))
		AND NOT EXISTS (SELECT 1 FROM images i WHERE i.digest = l.digest)`
	if err := t.failuresGo(ctx, nothing); err != nil {
		return err
	}
	_, err = t.exec(ctx, "DELETE FROM listings AS l WHERE "+nothing)
	return err
}

// renew makes what is made of the newest scan of a piece anew, and gives its digest. A piece that
// nothing is left of is removed.
func (t *Tx) renew(ctx context.Context, image int64) (digest string, err error) {
	var space string
	var current *int64
	if err := t.one(ctx, "SELECT i.digest, o.space, i.scan_id FROM images i JOIN origins o ON o.id = i.origin_id WHERE i.id = ?", []any{image}, &digest, &space, &current); err != nil {
		return "", err
	}
	var newest int64
	err = t.one(ctx, "SELECT id FROM scans WHERE image_id = ? AND error = '' ORDER BY scanned_at DESC, id DESC LIMIT 1", []any{image}, &newest)
	switch {
	case err == nil && current != nil:
		return digest, t.rename(ctx, image)
	case err == nil:
		scan, err := t.scan(ctx, newest)
		if err != nil {
			return "", err
		}
		if err := t.clear(ctx, image); err != nil {
			return "", err
		}
		if _, err := t.newest(ctx, image, newest, scan); err != nil {
			return "", err
		}
		if err := t.rename(ctx, image); err != nil {
			return "", err
		}
	case errors.Is(err, ErrNotFound):
		if err := t.clear(ctx, image); err != nil {
			return "", err
		}
		var left int
		if err := t.one(ctx, "SELECT (SELECT COUNT(*) FROM sboms WHERE image_id = ?) + (SELECT COUNT(*) FROM scans WHERE image_id = ?)", []any{image, image}, &left); err != nil {
			return "", err
		}
		if left > 0 {
			err = t.rename(ctx, image)
		} else {
			if _, err := t.exec(ctx, "UPDATE listings SET image_id = NULL WHERE image_id = ?", image); err != nil {
				return "", err
			}
			_, err = t.exec(ctx, "DELETE FROM images WHERE id = ?", image)
		}
		if err != nil {
			return "", err
		}
	default:
		return "", err
	}
	return digest, t.changedIn(ctx, ImageChanged, digest, space)
}

// clear removes what was made of a scan of a piece.
func (t *Tx) clear(ctx context.Context, image int64) error {
	for _, statement := range []string{
		"UPDATE terms SET images = images - 1 WHERE id IN (SELECT term_id FROM image_terms WHERE image_id = ?)",
		"DELETE FROM image_terms WHERE image_id = ?", "DELETE FROM findings WHERE image_id = ?", "DELETE FROM image_documents WHERE image_id = ?", "DELETE FROM briefs WHERE image_id = ?",
		"DELETE FROM image_packages WHERE image_id = ? AND NOT EXISTS (SELECT 1 FROM sboms b WHERE b.image_id = image_packages.image_id)",
		"UPDATE images SET fingerprint = '' WHERE id = ? AND NOT EXISTS (SELECT 1 FROM sboms b WHERE b.image_id = images.id)",
	} {
		if _, err := t.exec(ctx, statement, image); err != nil {
			return err
		}
	}
	return nil
}

// rename keeps only the names of a piece under which something that is left was handed in.
func (t *Tx) rename(ctx context.Context, image int64) error {
	names := map[string]bool{}
	if err := t.each(ctx, "SELECT reference FROM scans WHERE image_id = ? AND error = '' UNION SELECT reference FROM sboms WHERE image_id = ?", []any{image, image}, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		ref, err := api.ParseReference(text)
		if err != nil {
			return fmt.Errorf("reading the names of an image: %w", err)
		}
		names[ref.Name()] = true
		return nil
	}); err != nil {
		return err
	}
	if _, err := t.exec(ctx, "DELETE FROM image_names WHERE image_id = ?", image); err != nil {
		return err
	}
	for name := range names {
		if err := t.named(ctx, image, name); err != nil {
			return err
		}
	}
	return nil
}
