package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/assay-dev/assay/documents"
)

// ErrResync says that changes do not follow what is known of a node: it must report everything.
var ErrResync = errors.New("the changes do not follow what is known of the node")

// NodeReport says which run of a node's agent reports, and how many changes it has reported since
// it reported everything.
type NodeReport struct {
	Cluster, Node string
	Epoch         string // "" owes no heartbeat
	Sequence      int64
}

// Report puts all that runs on a node in the place of what ran there, as [Tx.SetInstances] does, and
// notes that the node was heard.
func (t *Tx) Report(ctx context.Context, r NodeReport, list []Instance) error {
	if err := t.SetInstances(ctx, clean(r.Cluster), clean(r.Node), on(r.Node, list)); err != nil {
		return err
	}
	n, err := t.exec(ctx, "UPDATE nodes SET epoch = ?, sequence = ?, last = '', heard = ?, identity = ? WHERE cluster = ? AND node = ?", clean(r.Epoch), r.Sequence, t.at, t.identity, clean(r.Cluster), clean(r.Node))
	if err != nil || n > 0 {
		return err
	}
	t.holds("", "", rowBytes)
	_, err = t.exec(ctx, "INSERT INTO nodes (cluster, node, epoch, sequence, last, heard, identity) VALUES (?, ?, ?, ?, '', ?, ?)", clean(r.Cluster), clean(r.Node), clean(r.Epoch), r.Sequence, t.at, t.identity)
	return err
}

// ChangeInstances stores what changed on a node since its last report. Sequence is one more than
// then; no change with the same sequence is a heartbeat; the last change sent again, as its hash
// says, changes nothing. All else is [ErrResync].
func (t *Tx) ChangeInstances(ctx context.Context, r NodeReport, hash string, set []Instance, removed []InstanceKey) error {
	cluster, node := clean(r.Cluster), clean(r.Node)
	var epoch, last string
	var sequence int64
	err := t.one(ctx, "SELECT epoch, sequence, last FROM nodes WHERE cluster = ? AND node = ?", []any{cluster, node}, &epoch, &sequence, &last)
	if errors.Is(err, ErrNotFound) || err == nil && (epoch != clean(r.Epoch) || epoch == "") {
		return ErrResync
	}
	if err != nil {
		return err
	}
	switch {
	case r.Sequence == sequence && (len(set)+len(removed) == 0 || hash == last):
		_, err := t.exec(ctx, "UPDATE nodes SET heard = ? WHERE cluster = ? AND node = ?", t.at, cluster, node)
		return err
	case r.Sequence != sequence+1 || len(set)+len(removed) == 0:
		return ErrResync
	}
	before := map[InstanceKey]int64{}
	look := func(k InstanceKey) (there bool, err error) {
		var listing int64
		var on string
		err = t.one(ctx, "SELECT COALESCE(listing_id, 0), node FROM instances WHERE cluster = ? AND namespace = ? AND pod = ? AND container = ?", []any{cluster, k.Namespace, k.Pod, k.Container}, &listing, &on)
		if errors.Is(err, ErrNotFound) {
			return false, nil
		}
		before[k] = listing
		return on == node, err
	}
	for _, i := range set {
		if _, err := look(InstanceKey{i.Namespace, i.Pod, i.Container}.clean()); err != nil {
			return err
		}
	}
	var gone []InstanceKey
	for _, k := range removed {
		// A Pod that went to another node is that node's to remove.
		ours, err := look(k.clean())
		if err != nil {
			return err
		}
		if ours {
			gone = append(gone, k.clean())
		}
	}
	if err := t.place(ctx, cluster, before, on(r.Node, set), gone); err != nil {
		return err
	}
	_, err = t.exec(ctx, "UPDATE nodes SET sequence = ?, last = ?, heard = ? WHERE cluster = ? AND node = ?", r.Sequence, hash, t.at, cluster, node)
	return err
}

// on are containers on a node, where they do not say so themselves.
func on(node string, list []Instance) []Instance {
	list = slices.Clone(list)
	for i := range list {
		list[i].Node = cmp.Or(list[i].Node, node)
	}
	return list
}

// staleHere says of instances n that their node owes heartbeats, and was last heard before a time.
const staleHere = "EXISTS (SELECT 1 FROM nodes d WHERE d.cluster = n.cluster AND d.node = n.node AND d.epoch <> '' AND d.heard < ?)"

// silent is the time before which a node that was not heard since is stale.
func (s *Store) silent() string { return documents.Time(s.now().Add(-s.stale)) }

// Cluster is what reports, and when it was heard. What runs in a cluster that fell silent stays
// as it was told last.
type Cluster struct {
	Name string `json:"name"`
	// Count is how many containers are known to run there.
	Count     int    `json:"count"`
	LastHeard string `json:"last_heard,omitempty"`
	// Nodes report by themselves; StaleNodes of them were not heard for Config.StaleAfter.
	Nodes      int `json:"nodes"`
	StaleNodes int `json:"stale_nodes"`
	// Stale says that all of them are.
	Stale bool `json:"stale"`
}

// Clusters are all that ever reported and were not removed, by name.
func (s *Store) Clusters(ctx context.Context) (list []Cluster, err error) {
	return list, s.View(ctx, func(t *Tx) error {
		list = []Cluster{}
		return t.each(ctx, "SELECT c.cluster, SUM(c.n), SUM(c.nodes), SUM(c.stale), MAX(c.heard) FROM (SELECT cluster, COUNT(*) AS n, 0 AS nodes, 0 AS stale, '' AS heard FROM instances GROUP BY cluster UNION ALL "+
			"SELECT cluster, 0, CASE WHEN epoch <> '' THEN 1 ELSE 0 END, CASE WHEN epoch <> '' AND heard < ? THEN 1 ELSE 0 END, heard FROM nodes) c GROUP BY c.cluster ORDER BY c.cluster", []any{s.silent()}, func(scan func(...any) error) error {
			var c Cluster
			if err := scan(&c.Name, &c.Count, &c.Nodes, &c.StaleNodes, &c.LastHeard); err != nil {
				return err
			}
			c.Stale = c.Nodes > 0 && c.StaleNodes == c.Nodes
			list = append(list, c)
			return nil
		})
	})
}

// RemoveCluster forgets a cluster that is gone for good, with all that runs there.
func (t *Tx) RemoveCluster(ctx context.Context, name string) error {
	name = clean(name)
	var known int
	if err := t.one(ctx, `SELECT (SELECT COUNT(*) FROM nodes WHERE cluster = ?) + (SELECT COUNT(*) FROM instances WHERE cluster = ?)
		+ (SELECT COUNT(*) FROM origins o WHERE o.space = ? AND (EXISTS (SELECT 1 FROM images i WHERE i.origin_id = o.id) OR EXISTS (SELECT 1 FROM indexes x WHERE x.origin_id = o.id)))`,
		[]any{name, name, clusterSpace(name)}, &known); err != nil {
		return err
	}
	if known == 0 {
		return ErrNotFound
	}
	if err := t.SetInstances(ctx, name, "", nil); err != nil {
		return err
	}
	for _, statement := range []string{"DELETE FROM nodes WHERE cluster = ?", "DELETE FROM claims WHERE cluster = ?"} {
		if _, err := t.exec(ctx, statement, name); err != nil {
			return err
		}
	}
	if err := t.forget(ctx, "space = ?", clusterSpace(name)); err != nil {
		return err
	}
	if err := t.withdraw(ctx, "origin_id IN (SELECT id FROM origins WHERE space = ?)", clusterSpace(name)); err != nil {
		return err
	}
	identities, err := t.holders(ctx, "")
	if err != nil {
		return err
	}
	for _, identity := range identities {
		if err := t.recount(ctx, identity); err != nil {
			return err
		}
	}
	return t.changedIn(ctx, SpacesChanged, name, clusterSpace(name))
}

// ForgetNodes removes nodes that were silent for a time while others of their cluster were heard:
// nodes die every day. Of a cluster that is silent as a whole nothing is removed. Claims that
// ended long ago go too.
func (s *Store) ForgetNodes(ctx context.Context, after time.Duration) error {
	now := s.now()
	type place struct{ cluster, node string }
	var gone []place
	if err := s.View(ctx, func(t *Tx) error {
		gone = nil
		return t.each(ctx, `SELECT n.cluster, n.node FROM nodes n WHERE n.epoch <> '' AND n.heard < ?
			AND EXISTS (SELECT 1 FROM nodes o WHERE o.cluster = n.cluster AND o.epoch <> '' AND o.heard >= ?)`,
			[]any{documents.Time(now.Add(-cmp.Or(after, 24*time.Hour))), s.silent()}, func(scan func(...any) error) error {
				var p place
				err := scan(&p.cluster, &p.node)
				gone = append(gone, p)
				return err
			})
	}); err != nil {
		return err
	}
	for _, p := range gone {
		if err := s.Write(ctx, func(t *Tx) error {
			if p.node != "" { // without a name it would be the whole cluster
				if err := t.SetInstances(ctx, p.cluster, p.node, nil); err != nil {
					return err
				}
			}
			_, err := t.exec(ctx, "DELETE FROM nodes WHERE cluster = ? AND node = ?", p.cluster, p.node)
			return err
		}); err != nil {
			return err
		}
	}
	return s.Write(ctx, func(t *Tx) error {
		_, err := t.exec(ctx, "DELETE FROM claims WHERE until < ?", documents.Time(now.Add(-claimsKept)))
		return err
	})
}

// claimsKept is longer than any pause after a failure.
const claimsKept = 7 * 24 * time.Hour
