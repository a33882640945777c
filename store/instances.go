package store

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Instance is a container that runs.
type Instance struct {
	api.Instance
	Node string `json:"node,omitempty"`
	// Image is the reference as the container has it.
	Image        string `json:"image"`
	Digest       string `json:"digest,omitempty"`        // of the manifest or the index
	ConfigDigest string `json:"config_digest,omitempty"` // the image id of the runtime
	FirstSeen    string `json:"first_seen,omitempty"`
	LastSeen     string `json:"last_seen,omitempty"`
}

// InstanceKey names a container of a cluster.
type InstanceKey struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
}

func (k InstanceKey) clean() InstanceKey {
	return InstanceKey{clean(k.Namespace), clean(k.Pod), clean(k.Container)}
}

// SetInstances puts the containers that run on a node of a cluster, or with an
// empty node in the whole cluster, in the place of those that ran there. Images must
// be references. A listing is made of what runs and was never scanned.
func (t *Tx) SetInstances(ctx context.Context, cluster, node string, list []Instance) error {
	before := map[InstanceKey]int64{}
	err := t.each(ctx, "SELECT namespace, pod, container, COALESCE(listing_id, 0) FROM instances WHERE cluster = ? AND (CAST(? AS TEXT) = '' OR node = ?)", []any{cluster, node, node},
		func(scan func(...any) error) error {
			var k InstanceKey
			var listing int64
			err := scan(&k.Namespace, &k.Pod, &k.Container, &listing)
			before[k] = listing
			return err
		})
	if err != nil {
		return err
	}
	var gone []InstanceKey
	there := map[InstanceKey]bool{}
	for _, i := range list {
		there[InstanceKey{i.Namespace, i.Pod, i.Container}.clean()] = true
	}
	for k := range before {
		if !there[k] {
			gone = append(gone, k)
		}
	}
	return t.place(ctx, cluster, before, list, gone)
}

// place stores containers and removes others; before has the listings of those that were there.
func (t *Tx) place(ctx context.Context, cluster string, before map[InstanceKey]int64, set []Instance, removed []InstanceKey) error {
	touched := map[int64]bool{}
	moved := moves{cluster: cluster, began: map[InstanceKey]int64{}, ended: map[InstanceKey]int64{}}
	for _, i := range set {
		ref, err := api.ParseReference(i.Image)
		if err != nil {
			return err
		}
		k := InstanceKey{i.Namespace, i.Pod, i.Container}.clean()
		listing, err := t.listingOf(ctx, cluster, ref, &i)
		if err != nil {
			return err
		}
		old, there := before[k]
		if !there {
			t.holds("", "", rowBytes)
			// A Pod that comes from another node is there already.
			if err := t.one(ctx, "SELECT COALESCE(listing_id, 0) FROM instances WHERE cluster = ? AND namespace = ? AND pod = ? AND container = ?", []any{cluster, k.Namespace, k.Pod, k.Container}, &old); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		if old != listing {
			t.holds(i.Digest, ref.Canonical(), 0)
			touched[old] = true
			touched[listing] = true
		}
		before[k] = listing
		// It was pulled when the container began: what is reported again says nothing new of the tag.
		var seen string
		if err := t.one(ctx, `INSERT INTO instances (cluster, namespace, pod, container, node, image, name, tag, digest, config_digest, listing_id, first_seen, last_seen, identity)
			VALUES (`+marks(14)+`) ON CONFLICT (cluster, namespace, pod, container) DO UPDATE SET node = excluded.node, image = excluded.image, name = excluded.name, tag = excluded.tag,
			digest = excluded.digest, config_digest = excluded.config_digest, listing_id = excluded.listing_id, last_seen = excluded.last_seen, identity = excluded.identity,
			first_seen = CASE WHEN instances.image = excluded.image AND instances.digest = excluded.digest AND instances.config_digest = excluded.config_digest THEN instances.first_seen ELSE excluded.first_seen END
			RETURNING first_seen`,
			[]any{cluster, k.Namespace, k.Pod, k.Container, clean(i.Node), ref.String(), ref.Name(), ref.Tag, i.Digest, i.ConfigDigest, listing, t.at, t.at, t.identity}, &seen); err != nil {
			return err
		}
		if err := t.observed(ctx, clusterSpace(cluster), ref, i.Digest, seen); err != nil {
			return err
		}
		if seen == t.at { // else the same container was only found to be of another listing
			moved.replace(k, old, listing)
		}
	}
	for _, k := range removed {
		touched[before[k]] = true
		moved.replace(k, before[k], 0)
		if _, err := t.exec(ctx, "DELETE FROM instances WHERE cluster = ? AND namespace = ? AND pod = ? AND container = ?", cluster, k.Namespace, k.Pod, k.Container); err != nil {
			return err
		}
	}
	delete(touched, 0)
	seq, err := t.Head(ctx)
	if err != nil {
		return err
	}
	for id := range touched {
		// Where it runs says which views show.
		if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at) SELECT CAST(? AS BIGINT), listing_id, CAST(? AS TEXT) FROM listing_views WHERE listing_id = ? AND view = ''", seq, t.at, id); err != nil {
			return err
		}
		if _, err := t.exec(ctx, "UPDATE listings SET instances = (SELECT COUNT(*) FROM instances WHERE listing_id = ?) WHERE id = ?", id, id); err != nil {
			return err
		}
	}
	if err := t.detected(ctx, seq, moved); err != nil {
		return err
	}
	if len(touched) == 0 {
		return nil
	}
	return t.changed(ctx, InstancesChanged, cluster)
}

// moves are the containers of a cluster that began to run a listing, and those that no longer do.
type moves struct {
	cluster      string
	began, ended map[InstanceKey]int64
}

// replace says that a container ran one listing before, and runs another one now; 0 is none.
func (m *moves) replace(k InstanceKey, before, now int64) {
	if _, known := m.ended[k]; !known { // what was there first, where it is named twice
		m.ended[k] = before
	}
	m.began[k] = now
}

// detected has events written for what began to run in a namespace, and for what ceased to run anywhere.
func (t *Tx) detected(ctx context.Context, seq int64, m moves) error {
	type place struct {
		listing   int64
		namespace string
	}
	came, went := map[place]int{}, map[place]int{}
	lost := map[int64]bool{}
	for k, listing := range m.began {
		came[place{listing, k.Namespace}]++
	}
	for k, listing := range m.ended {
		went[place{listing, k.Namespace}]++
		lost[listing] = lost[listing] || listing != m.began[k]
	}
	work := func(listing int64, cause, cluster, namespace string) error {
		_, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at, cause, cluster, namespace) VALUES (?, ?, ?, ?, ?, ?)", seq, listing, t.at, cause, cluster, namespace)
		return err
	}
	places := slices.SortedFunc(maps.Keys(came), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.listing, b.listing), cmp.Compare(a.namespace, b.namespace))
	})
	for _, at := range places {
		if at.listing == 0 {
			continue
		}
		n := came[at]
		var now int
		if err := t.one(ctx, "SELECT COUNT(*) FROM instances WHERE listing_id = ? AND cluster = ? AND namespace = ?", []any{at.listing, m.cluster, at.namespace}, &now); err != nil {
			return err
		}
		if now-n+went[at] == 0 { // none was there before
			if err := work(at.listing, causeBegins, m.cluster, at.namespace); err != nil {
				return err
			}
		}
	}
	for _, listing := range slices.Sorted(maps.Keys(lost)) {
		if listing == 0 || !lost[listing] {
			continue
		}
		var now int
		if err := t.one(ctx, "SELECT COUNT(*) FROM instances WHERE listing_id = ?", []any{listing}, &now); err != nil {
			return err
		}
		if now == 0 {
			if err := work(listing, causeCeases, "", ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// listingOf is the row of the image of an instance. The digest may be that of an index: the image's
// own manifest is then told by the config digest, among those that somebody who speaks of the
// name in the cluster handed in under it.
func (t *Tx) listingOf(ctx context.Context, cluster string, ref api.Reference, i *Instance) (int64, error) {
	if i.Digest == "" {
		i.Digest = ref.Digest
	}
	digest := i.Digest
	var image *int64
	var id int64
	spaces, err := t.readBy(ctx, cluster)
	if err != nil {
		return 0, err
	}
	reads := []any{Shared}
	for _, s := range spaces {
		reads = append(reads, s)
	}
	spoken := func(where string, args ...any) error {
		return t.one(ctx, `SELECT i.id, i.digest FROM images i JOIN origins o ON o.id = i.origin_id WHERE `+where+` AND o.space IN (`+marks(len(reads))+`)
			AND (o.registry = '' OR substr(CAST(? AS TEXT), 1, length(o.registry) + 1) = o.registry || '/') ORDER BY i.id DESC LIMIT 1`,
			append(append(args, reads...), ref.Name()+"/"), &id, &digest)
	}
	err = ErrNotFound
	if digest != "" {
		err = spoken("i.digest = ?", digest)
	}
	if errors.Is(err, ErrNotFound) && i.ConfigDigest != "" {
		err = spoken("i.config_digest = ? AND EXISTS (SELECT 1 FROM image_names n WHERE n.image_id = i.id AND n.name = ?)", i.ConfigDigest, ref.Name())
	}
	switch {
	case err == nil:
		image = &id
	case !errors.Is(err, ErrNotFound):
		return 0, err
	}
	listing, err := t.listing(ctx, ref, image, digest, "", "")
	if err != nil {
		return 0, err
	}
	var result string
	if err := t.one(ctx, "SELECT result FROM listings WHERE id = ?", []any{listing}, &result); err != nil {
		return 0, err
	}
	if result == "" { // never classified
		seq, err := t.Head(ctx)
		if err != nil {
			return 0, err
		}
		if _, err := t.exec(ctx, "INSERT INTO work (seq, listing_id, at) VALUES (?, ?, ?)", seq, listing, t.at); err != nil {
			return 0, err
		}
	}
	return listing, nil
}

// clean is a text that every database can hold.
func clean(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "\uFFFD")
}
