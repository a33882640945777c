package follow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

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
	last := map[string]*issued{} // by view
	for {
		f.mu.Lock()
		s, wanted := f.current, slices.Sorted(maps.Keys(f.wanted))
		f.mu.Unlock()
		if s.loaded {
			shared := append(partNames(), bundles.PartPolicies)
			views := map[string][]string{"": shared}
			f.publishParts(ctx, s, shared, served)
			for _, cluster := range wanted {
				own := s.partsOf(cluster)
				f.publishParts(ctx, s, own, served)
				views[documents.PartCluster(cluster)] = slices.Concat(shared, own)
			}
			for _, view := range slices.Sorted(maps.Keys(views)) {
				if last[view] == nil {
					last[view] = &issued{}
				}
				if err := f.head(ctx, s, view, views[view], served, last[view]); err != nil && ctx.Err() == nil {
					f.Log.Error("making the head of the bundles; the last one stays, and gets older", "view", view, "error", err)
				}
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
func (f *Follower) publishParts(ctx context.Context, s state, parts []string, served map[string]published) {
	for _, part := range parts {
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
	p.change, p.read = s.changeOf(part), s.read
	switch part {
	case bundles.PartPolicies:
		b, err = bundles.Policies(s.set)
		return b, p, err
	case store.PartExceptions:
		b, err = bundles.Documents(part, s.revisionOf(part), map[string]any{"exceptions": s.exceptions.tree})
		return b, p, err
	}
	p.read = f.Now()
	var content map[string]any
	err = f.Store.View(ctx, func(t *store.Tx) (err error) {
		if err := s.readParts(ctx, t); err != nil {
			return err
		}
		if _, _, ok := partOfCluster(part); ok {
			content, err = clusterPart(ctx, t, part, s.exceptions.needs)
			return err
		}
		content = map[string]any{}
		if part == store.PartNames {
			tree := map[string]any{"names": map[string]any{}, "indexes": map[string]any{}}
			for _, read := range []func() error{
				func() error { return tags(ctx, t, nil, []string{store.Shared}, into(tree)) },
				func() error { return indexes(ctx, t, nil, into(tree)) },
				func() error { return claims(ctx, t, store.Within{Spaces: []string{store.Shared}}, into(tree)) },
			} {
				if err := read(); err != nil {
					return err
				}
			}
			content = map[string]any{"names": tree["names"], "indexes": tree["indexes"], "spaces/shared/indexes": orNone(child(tree, "spaces", string(documents.Shared), "indexes"))}
			return nil
		}
		digit, err := digitOf(part)
		if err != nil {
			return err
		}
		tree := map[string]any{}
		needs := s.exceptions.needs
		if err := evidence(ctx, t, store.Within{Digit: &digit, Spaces: []string{store.Shared}}, needs, needs.All || len(needs.IDs) > 0, into(tree)); err != nil {
			return err
		}
		for i := range 16 {
			shard := fmt.Sprintf("%s%x", digit, i)
			content["images/"+shard], content["details/"+shard] = child(tree, "images", shard), child(tree, "details", shard)
			content["spaces/shared/evidence/"+shard] = orNone(child(tree, "spaces", string(documents.Shared), "evidence", shard))
		}
		return nil
	})
	if err != nil {
		return nil, p, err
	}
	p.change = s.changeOf(part)
	b, err = bundles.Documents(part, s.revisionOf(part), content)
	return b, p, err
}

// maxWanted bounds the clusters whose parts are made.
const maxWanted = 2000

// Want has the parts and the head of a cluster made from now on, and says whether a bundle is one of
// these. It is for who serves them, once somebody who may read it asks.
func (f *Follower) Want(bundle string) bool {
	if bundle == bundles.PartHead || bundle == bundles.PartPolicies || slices.Contains(partNames(), bundle) {
		return true // it is always made, and comes soon after the start
	}
	space, inner, ok := partOfCluster(strings.TrimPrefix(bundle, bundles.HeadOf("")+"-"))
	cluster, is := documents.ClusterIn(space)
	if inner != "" {
		_, err := digitOf(inner)
		ok = ok && err == nil
	}
	if !ok || !is {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.wanted[cluster] {
		if len(f.wanted) >= maxWanted {
			return false
		}
		f.wanted[cluster] = true
		select {
		case f.publish <- struct{}{}:
		default:
		}
	}
	return true
}

// Follows says whether a bundle is a part of a cluster, or of a trust group that it is in.
func (f *Follower) Follows(cluster, bundle string) bool {
	f.mu.Lock()
	s := f.current
	f.mu.Unlock()
	return slices.Contains(s.partsOf(cluster), strings.TrimSuffix(bundle, ".tar.gz"))
}
