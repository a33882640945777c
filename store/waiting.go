package store

import (
	"context"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Waiting is an SBOM that was handed in under a name, and was matched with no database yet.
type Waiting struct {
	Name, Digest string
	Origin       Origin
}

// WaitingSBOMs calls fn with those of names that their origin may speak of: of some name:key (see
// documents.DigestKey), of all where names is nil. Spaces narrows them where it is not nil.
func (t *Tx) WaitingSBOMs(ctx context.Context, names, spaces []string, fn func(Waiting) error) error {
	c, none := Within{Spaces: spaces}.conditions("")
	if none {
		return nil
	}
	if names == nil {
		return t.waiting(ctx, c, fn)
	}
	for _, n := range names {
		at := strings.LastIndexByte(n, ':')
		digits, isDigest := strings.CutPrefix(n[at+1:], "@")
		if !isDigest {
			continue
		}
		one := conditions{slices.Clone(c.parts), slices.Clone(c.args)}
		one.add("i.digest IN (?, ?, ?)", "sha256:"+digits, "sha384:"+digits, "sha512:"+digits)
		if err := t.waiting(ctx, one, func(w Waiting) error {
			if w.Name != n[:at] {
				return nil
			}
			return fn(w)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tx) waiting(ctx context.Context, c conditions, fn func(Waiting) error) error {
	c.add("m.matched_at = ''")
	return t.each(ctx, "SELECT b.reference, i.digest, o.space, o.registry FROM matches m JOIN sboms b ON b.image_id = m.image_id JOIN images i ON i.id = m.image_id JOIN origins o ON o.id = i.origin_id"+
		c.where()+" ORDER BY m.image_id", c.args, func(scan func(...any) error) error {
		var w Waiting
		if err := scan(&w.Name, &w.Digest, &w.Origin.Space, &w.Origin.Registry); err != nil {
			return err
		}
		ref, err := api.ParseReference(w.Name)
		if err != nil || !w.Origin.Scope().AllowsName(ref.Name()) {
			return err
		}
		w.Name = ref.Name()
		return fn(w)
	})
}

// waitingChanged tells who follows the data of SBOMs that wait where a condition holds, and that are
// about to be matched or removed, or came just now.
func (t *Tx) waitingChanged(ctx context.Context, where string, args ...any) error {
	var list []Waiting
	var c conditions
	c.add(where, args...)
	if err := t.waiting(ctx, c, func(w Waiting) error {
		list = append(list, w)
		return nil
	}); err != nil {
		return err
	}
	for _, w := range list {
		if err := t.changedIn(ctx, NameChanged, w.Name+":"+documents.DigestKey(w.Digest), w.Origin.Space); err != nil {
			return err
		}
	}
	return nil
}
