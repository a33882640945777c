package follow

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/store"
)

// publishEvery is the least time between two versions of a bundle of images, and the time
// between two looks for heads of other replicas.
const publishEvery = 500 * time.Millisecond

// published is what this replica serves of a part.
type published struct {
	revision string
	change   int64     // at which the part became what it is
	read     time.Time // a moment of which it has everything
}

// publisher makes the bundles whose parts changed, and the heads that name them.
func (f *Follower) publisher(ctx context.Context) error {
	served := map[string]published{}
	var last issued
	for {
		f.mu.Lock()
		s := f.current
		f.mu.Unlock()
		if s.loaded {
			f.publishParts(ctx, s, served)
			if err := f.head(ctx, s, "", append(partNames(), bundles.PartPolicies), served, &last); err != nil && ctx.Err() == nil {
				f.Log.Error("making the head of the bundles; the last one stays, and gets older", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishEvery):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.publish:
		case <-time.After(publishEvery):
		}
	}
}

// publishParts serves the parts that are others than before.
func (f *Follower) publishParts(ctx context.Context, s state, served map[string]published) {
	for _, part := range append([]string{bundles.PartPolicies}, partNames()...) {
		want := s.revisionOf(part)
		if part == bundles.PartPolicies {
			want = s.revision + "/" + s.basis
		}
		if served[part].revision == want || ctx.Err() != nil {
			continue
		}
		begun := time.Now()
		p, err := f.publishPart(ctx, s, part)
		f.observed("publish", 1, begun, err)
		if err != nil {
			if ctx.Err() == nil {
				f.Log.Error("making a bundle", "bundle", part, "error", err)
			}
			continue
		}
		p.revision = want
		served[part] = p
	}
}

func (f *Follower) publishPart(ctx context.Context, s state, part string) (published, error) {
	b, p, err := f.part(ctx, s, part)
	if err != nil {
		return p, err
	}
	text, err := bundles.Pack(b, f.Key)
	if err != nil {
		return p, err
	}
	f.Bundles.Set(part, text)
	return p, nil
}

// part is the bundle of a part: that of the state, or a newer one of images and names,
// always with the revision of what it holds.
func (f *Follower) part(ctx context.Context, s state, part string) (b *bundle.Bundle, p published, err error) {
	p.change, p.read = s.parts[part], s.read
	switch part {
	case bundles.PartPolicies:
		b, err = bundles.Policies(s.set)
		return b, p, err
	case store.PartExceptions:
		b, err = bundles.Documents(part, s.revisionOf(part), map[string]any{"exceptions": s.exceptions.tree})
		return b, p, err
	}
	p.read = f.Now()
	content := map[string]any{}
	err = f.Store.View(ctx, func(t *store.Tx) (err error) {
		if s.parts, err = t.Parts(ctx); err != nil {
			return err
		}
		if part == store.PartNames {
			names, indexes := map[string]any{}, map[string]any{}
			content = map[string]any{"names": names, "indexes": indexes}
			if err := t.NewestNames(ctx, nil, func(o store.Observation) error {
				put(names, o.Name, o.Tag, nameDocument(o))
				return nil
			}); err != nil {
				return err
			}
			return t.Indexes(ctx, nil, func(x api.Index) error {
				indexes[x.Digest] = indexDocument(x)
				return nil
			})
		}
		var number int
		if _, err := fmt.Sscanf(part, "images-%d", &number); err != nil {
			return fmt.Errorf("unknown part %s: %w", part, err)
		}
		digit := fmt.Sprintf("%x", number)
		for i := range 16 {
			shard := fmt.Sprintf("%s%x", digit, i)
			content["images/"+shard], content["details/"+shard] = map[string]json.RawMessage{}, map[string]map[string]json.RawMessage{}
		}
		needs := s.exceptions.needs
		return t.PartDocuments(ctx, digit, needs.All || len(needs.IDs) > 0, func(d store.ImageDocument) error {
			shard := documents.Shard(d.Digest)
			content["images/"+shard].(map[string]json.RawMessage)[d.Digest] = d.Document
			var image any
			if len(needs.IDs) > 0 && !needs.All {
				if image, err = decode(d.Document); err != nil {
					return err
				}
			}
			kept, err := needed(d, image, needs)
			if len(kept) > 0 {
				content["details/"+shard].(map[string]map[string]json.RawMessage)[d.Digest] = kept
			}
			return err
		})
	})
	if err != nil {
		return nil, p, err
	}
	p.change = s.parts[part]
	b, err = bundles.Documents(part, s.revisionOf(part), content)
	return b, p, err
}
