package store

import (
	"context"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Failure is that the last scan by an origin of a name failed, by the tag and the digest that were
// known.
type Failure struct {
	Name, Tag, Digest string
	Origin            Origin
	// At is when, as documents.Time writes it, and Error why.
	At, Error string
}

// Failures calls fn with failures of names that their origin may speak of, the oldest first: of some
// name:key (see documents.FailureKeys) and of others of these names, of all where names is nil.
// Spaces narrows them where it is not nil.
func (t *Tx) Failures(ctx context.Context, names, spaces []string, fn func(Failure) error) error {
	c, none := Within{Spaces: spaces}.conditions("")
	if none {
		return nil
	}
	if names == nil {
		return t.failures(ctx, c, fn)
	}
	asked := map[string]bool{}
	for _, n := range names {
		name := n[:strings.LastIndexByte(n, ':')]
		if asked[name] {
			continue
		}
		asked[name] = true
		one := conditions{slices.Clone(c.parts), slices.Clone(c.args)}
		one.add("l.name = ?", name)
		if err := t.failures(ctx, one, fn); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) failures(ctx context.Context, c conditions, fn func(Failure) error) error {
	return t.each(ctx, "SELECT l.name, l.tag, l.digest, o.space, o.registry, f.at, f.error FROM failures f JOIN listings l ON l.id = f.listing_id JOIN origins o ON o.id = f.origin_id"+
		c.where()+" ORDER BY f.at, f.listing_id, f.origin_id", c.args, func(scan func(...any) error) error {
		var f Failure
		if err := scan(&f.Name, &f.Tag, &f.Digest, &f.Origin.Space, &f.Origin.Registry, &f.At, &f.Error); err != nil {
			return err
		}
		if !f.Origin.Scope().AllowsName(f.Name) {
			return nil
		}
		return fn(f)
	})
}

// failureChanged tells who follows the data that what is said of a failure is another.
func (t *Tx) failureChanged(ctx context.Context, f Failure) error {
	if !f.Origin.Scope().AllowsName(f.Name) {
		return nil
	}
	for _, key := range documents.FailureKeys(f.Tag, f.Digest) {
		if err := t.changedIn(ctx, NameChanged, f.Name+":"+key, f.Origin.Space); err != nil {
			return err
		}
	}
	return nil
}

// failuresGo tells of the failures that are about to be removed: those of f and l where a condition holds.
func (t *Tx) failuresGo(ctx context.Context, where string, args ...any) error {
	var gone []Failure
	var c conditions
	c.add(where, args...)
	if err := t.failures(ctx, c, func(f Failure) error {
		gone = append(gone, f)
		return nil
	}); err != nil {
		return err
	}
	for _, f := range gone {
		if err := t.failureChanged(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// failure keeps that the last scan of a listing by an origin failed, or that it did not.
func (t *Tx) failure(ctx context.Context, listing int64, ref api.Reference, where Origin, scan api.Scan) error {
	origin, err := t.origin(ctx, where)
	if err != nil {
		return err
	}
	of := Failure{Name: ref.Name(), Tag: listingTag(ref), Digest: scan.Digest, Origin: where}
	if scan.Error == "" {
		n, err := t.exec(ctx, "DELETE FROM failures WHERE listing_id = ? AND origin_id = ?", listing, origin)
		if err != nil || n == 0 {
			return err
		}
		return t.failureChanged(ctx, of)
	}
	if _, err := t.exec(ctx, `INSERT INTO failures (listing_id, origin_id, identity, source, error, at) VALUES (`+marks(6)+`)
		ON CONFLICT (listing_id, origin_id) DO UPDATE SET identity = excluded.identity, source = excluded.source, error = excluded.error, at = excluded.at`,
		listing, origin, t.identity, scan.Source, scan.Error, min(documents.Time(scan.ScannedAt), t.at)); err != nil {
		return err
	}
	return t.failureChanged(ctx, of)
}
