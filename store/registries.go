package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/assay-dev/assay/api"
)

// Listed is what is known of a registry that is listed from time to time. Its times are
// as [documents.Time] writes them, "" for never.
type Listed struct {
	Registry string
	Settings string // a sum of what was wanted of it
	Tried    string // when it was listed last, with or without success
	Finished string // when it was listed to its end last
	Names    int
	Error    string // why it was not, the last time
}

// Listed is what is known of a registry; its zero value but for the name where it never was listed.
func (s *Store) Listed(ctx context.Context, registry string) (l Listed, err error) {
	l.Registry = registry
	err = s.View(ctx, func(t *Tx) error {
		return t.one(ctx, "SELECT settings, tried, finished, names, error FROM registries WHERE registry = ?", []any{registry}, &l.Settings, &l.Tried, &l.Finished, &l.Names, &l.Error)
	})
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return l, err
}

// SetListed keeps what is known of a registry.
func (t *Tx) SetListed(ctx context.Context, l Listed) error {
	_, err := t.exec(ctx, `INSERT INTO registries (registry, settings, tried, finished, names, error) VALUES (`+marks(6)+`)
		ON CONFLICT (registry) DO UPDATE SET settings = excluded.settings, tried = excluded.tried, finished = excluded.finished, names = excluded.names, error = excluded.error`,
		l.Registry, l.Settings, l.Tried, l.Finished, l.Names, clean(l.Error))
	return err
}

// Rests says what is known of a reference that leads to a digest, of an image or an
// index, in its registry: the image with an SBOM that this is, "" where there is none,
// and whether the newest that was seen of the reference is the same.
func (s *Store) Rests(ctx context.Context, ref api.Reference, digest string) (image string, same bool, err error) {
	err = s.View(ctx, func(t *Tx) error {
		image, same = "", false
		if image, err = t.kept(ctx, digest); err != nil || image == "" {
			return err
		}
		var n int64
		if err := t.one(ctx, "SELECT COUNT(*) FROM listings WHERE name = ? AND tag = ? AND digest = ?", []any{ref.Name(), listingTag(ref), image}, &n); err != nil || n == 0 {
			return err
		}
		if ref.Digest != "" {
			same = true
			return nil
		}
		var newest string
		err := t.one(ctx, "SELECT digest FROM observations WHERE name = ? AND tag = ? AND space = '' ORDER BY last DESC, digest DESC LIMIT 1", []any{ref.Name(), ref.Tag}, &newest)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		same = newest == digest
		return err
	})
	return image, same, err
}

// kept is the image with an SBOM for all clusters and names that a digest leads to, or "".
func (t *Tx) kept(ctx context.Context, digest string) (string, error) {
	has := func(d string) (bool, error) {
		var n int64
		err := t.one(ctx, "SELECT COUNT(*) FROM sboms b JOIN images i ON i.id = b.image_id WHERE i.digest = ? AND i.origin_id = ?", []any{d, anyOrigin}, &n)
		return n > 0, err
	}
	if found, err := has(digest); found || err != nil {
		return digest, err
	}
	var platforms map[string]string
	if err := t.Indexes(ctx, []string{digest}, func(x IndexDocument) error {
		platforms = x.Platforms
		return nil
	}); err != nil {
		return "", err
	}
	for _, p := range append([]string{api.DefaultPlatform}, slices.Sorted(maps.Keys(platforms))...) {
		if found, err := has(platforms[p]); found || err != nil {
			return platforms[p], err
		}
	}
	return "", nil
}

// AddName keeps that a reference leads to a digest, which is an image with an SBOM or an
// index that has it; x is that index, where it is not known yet. The image counts
// under that name, too, from then on.
func (t *Tx) AddName(ctx context.Context, ref api.Reference, digest, image string, x *api.Index) error {
	var id int64
	if err := t.one(ctx, "SELECT id FROM images WHERE digest = ? AND origin_id = ?", []any{image, anyOrigin}, &id); err != nil {
		return err
	}
	if err := t.named(ctx, id, ref.Name()); err != nil {
		return err
	}
	if x != nil {
		scan := api.Scan{Digest: image, Index: x}
		if err := t.prove(ctx, &scan); err != nil {
			return err
		}
		if err := t.observe(ctx, ref, scan, t.at); err != nil {
			return err
		}
	} else if err := t.observed(ctx, "", ref, digest, t.at); err != nil {
		return err
	}
	listing, err := t.listing(ctx, ref, &id, image, "registry", "")
	if err != nil {
		return err
	}
	if t.seq == 0 { // so that somebody looks at the work
		if err := t.changed(ctx, ScanAdded, image); err != nil {
			return err
		}
	}
	_, err = t.exec(ctx, "INSERT INTO work (seq, listing_id, at) VALUES (?, ?, ?)", t.seq, listing, t.at)
	return err
}

// listingTag is the tag that the row of a reference has in lists.
func listingTag(ref api.Reference) string {
	if ref.Digest != "" {
		return ""
	}
	return ref.Tag
}
