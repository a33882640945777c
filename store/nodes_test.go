package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

func instance(pod, image, c string) store.Instance {
	return store.Instance{Instance: api.Instance{Namespace: "shop", Pod: pod, Container: "main"}, Image: image, Digest: digest(c)}
}

func pods(t *testing.T, s *store.Store, f store.Filter) (names []string) {
	t.Helper()
	list, err := s.Instances(t.Context(), f, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list.Items {
		name := i.Cluster + "/" + i.Pod
		if i.Stale {
			name += " stale"
		}
		names = append(names, name)
	}
	return names
}

func TestChangesOfNodes(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		now := day
		s := storetest.Open(t, url(), func() time.Time { return now })
		ctx := t.Context()
		report := func(r store.NodeReport, list ...store.Instance) {
			t.Helper()
			write(t, s, func(tx *store.Tx) error { return tx.Report(ctx, r, list) })
		}
		change := func(r store.NodeReport, hash string, set []store.Instance, removed ...store.InstanceKey) error {
			return s.Write(ctx, func(tx *store.Tx) error { return tx.ChangeInstances(ctx, r, hash, set, removed) })
		}
		want := func(what string, names ...string) {
			t.Helper()
			if got := pods(t, s, store.Filter{}); !slices.Equal(got, names) {
				t.Errorf("%s: %v, not %v", what, got, names)
			}
		}
		key := func(pod string) store.InstanceKey {
			return store.InstanceKey{Namespace: "shop", Pod: pod, Container: "main"}
		}
		eu := store.NodeReport{Cluster: "eu", Node: "n1", Epoch: "e1"}
		if err := change(eu, "h", nil); !errors.Is(err, store.ErrResync) {
			t.Errorf("of a node that is not known: %v", err)
		}
		report(eu, instance("a", "nginx:1", "a"), instance("b", "nginx:2", "b"))
		report(store.NodeReport{Cluster: "us", Node: "n1", Epoch: "e1"}, instance("a", "nginx:1", "a"))
		want("reports of two clusters with the same names", "eu/a", "eu/b", "us/a")
		eu.Sequence = 1
		if err := change(eu, "h1", []store.Instance{instance("c", "nginx:3", "c")}, key("a")); err != nil {
			t.Fatal(err)
		}
		want("a change", "eu/b", "eu/c", "us/a")
		if err := change(eu, "h1", []store.Instance{instance("c", "nginx:3", "c")}, key("a")); err != nil {
			t.Errorf("the same change, sent again: %v", err)
		}
		if err := change(eu, "h2", []store.Instance{instance("d", "nginx:3", "c")}); !errors.Is(err, store.ErrResync) {
			t.Errorf("another change of the same number: %v", err)
		}
		for _, r := range []store.NodeReport{{Cluster: "eu", Node: "n1", Epoch: "e1", Sequence: 3}, {Cluster: "eu", Node: "n1", Epoch: "e2", Sequence: 2}, {Cluster: "eu", Node: "n2", Epoch: "e1", Sequence: 2}, {Cluster: "eu", Node: "n1", Epoch: "e1", Sequence: 0}} {
			if err := change(r, "h3", []store.Instance{instance("d", "nginx:3", "c")}); !errors.Is(err, store.ErrResync) {
				t.Errorf("%+v: %v", r, err)
			}
		}
		want("what was refused", "eu/b", "eu/c", "us/a")
		// A Pod of the same name that came up on another node is not removed by the first.
		report(store.NodeReport{Cluster: "eu", Node: "n2", Epoch: "e9"}, instance("b", "nginx:2", "b"))
		eu.Sequence = 2
		if err := change(eu, "h4", nil, key("b")); err != nil {
			t.Fatal(err)
		}
		want("a Pod that moved", "eu/b", "eu/c", "us/a")

		// Silence is shown as such; nothing is taken for gone.
		head := func() (seq int64) {
			t.Helper()
			if err := s.View(ctx, func(tx *store.Tx) (err error) { seq, err = tx.Head(ctx); return err }); err != nil {
				t.Fatal(err)
			}
			return seq
		}
		before := head()
		now = now.Add(4 * time.Minute)
		if err := change(eu, "", nil); err != nil {
			t.Fatal(err)
		}
		if head() != before {
			t.Error("a heartbeat wrote a change")
		}
		now = now.Add(4 * time.Minute)
		want("after 8 minutes", "eu/b stale", "eu/c", "us/a stale")
		yes, no := true, false
		for _, c := range []struct {
			filter store.Filter
			want   []string
		}{
			{store.Filter{Stale: &yes}, []string{"eu/b stale", "us/a stale"}},
			{store.Filter{Stale: &no}, []string{"eu/c"}},
			{store.Filter{Stale: &yes, Cluster: "us"}, []string{"us/a stale"}},
			{store.Filter{Stale: &no, Cluster: "us"}, nil},
			{store.Filter{Cluster: "eu", Namespace: "shop"}, []string{"eu/b stale", "eu/c"}},
		} {
			if got := pods(t, s, c.filter); !slices.Equal(got, c.want) {
				t.Errorf("%+v: %v, not %v", c.filter, got, c.want)
			}
			var exported []string
			if err := s.EachPod(ctx, c.filter, func(_ store.Image, list []store.StaleInstance) error {
				if len(list) == 0 {
					t.Errorf("%+v: an image that runs nowhere", c.filter)
				}
				for _, i := range list {
					name := i.Cluster + "/" + i.Pod
					if i.Stale {
						name += " stale"
					}
					exported = append(exported, name)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if slices.Sort(exported); !slices.Equal(exported, c.want) {
				t.Errorf("%+v: %v is exported, not %v", c.filter, exported, c.want)
			}
		}
		list, err := s.Instances(ctx, store.Filter{}, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []time.Time{day, day.Add(4 * time.Minute), day} { // a heartbeat tells of all that runs on the node
			if got := list.Items[i].LastSeen; got != documents.Time(want) {
				t.Errorf("%s was last seen at %s, not %s", list.Items[i].Pod, got, want)
			}
		}
		clusters, err := s.Clusters(ctx)
		if err != nil || len(clusters) != 2 || clusters[0].Nodes != 2 || clusters[0].StaleNodes != 1 || clusters[0].Stale || clusters[0].Count != 2 || !clusters[1].Stale || clusters[1].Count != 1 {
			t.Errorf("%+v, %v", clusters, err)
		}
		now = now.Add(48 * time.Hour)
		if err := change(eu, "", nil); err != nil {
			t.Fatal(err)
		}
		if err := s.ForgetNodes(ctx, 0); err != nil {
			t.Fatal(err)
		}
		want("after two days", "eu/c", "us/a stale")
		write(t, s, func(tx *store.Tx) error { return tx.RemoveCluster(ctx, "us") })
		want("without us", "eu/c")
		if err := s.Write(ctx, func(tx *store.Tx) error { return tx.RemoveCluster(ctx, "us") }); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("again: %v", err)
		}
		// Who reports now and then, for a whole cluster, owes no heartbeat.
		report(store.NodeReport{Cluster: "old"}, instance("x", "nginx:1", "a"))
		now = now.Add(time.Hour)
		want("a whole cluster", "eu/c stale", "old/x")
	})
}

// Any changes, in any order that a node can send them, give what reporting everything gives.
func TestChangesAreReports(t *testing.T) {
	s := storetest.Open(t, t.TempDir()+"/assay.db", nil)
	ctx := t.Context()
	r := rand.New(rand.NewPCG(1, 2))
	now := map[string]store.Instance{}
	node := store.NodeReport{Cluster: "c", Node: "n", Epoch: "e"}
	write(t, s, func(tx *store.Tx) error { return tx.Report(ctx, node, nil) })
	for step := range 60 {
		var set []store.Instance
		var removed []store.InstanceKey
		for range 1 + r.IntN(5) {
			pod := fmt.Sprint("p", r.IntN(12))
			if i, ok := now[pod]; ok && r.IntN(2) == 0 && !slices.ContainsFunc(set, func(x store.Instance) bool { return x.Pod == pod }) {
				delete(now, pod)
				removed = append(removed, store.InstanceKey{Namespace: i.Namespace, Pod: pod, Container: i.Container})
			} else if !slices.ContainsFunc(removed, func(k store.InstanceKey) bool { return k.Pod == pod }) {
				c := string("abcdef"[r.IntN(6)])
				now[pod] = instance(pod, "nginx:"+c, c)
				now[pod] = func(i store.Instance) store.Instance { i.Node = "n"; return i }(now[pod])
				set = slices.DeleteFunc(set, func(x store.Instance) bool { return x.Pod == pod })
				set = append(set, now[pod])
			}
		}
		if len(set)+len(removed) == 0 {
			continue
		}
		node.Sequence++
		if err := s.Write(ctx, func(tx *store.Tx) error { return tx.ChangeInstances(ctx, node, fmt.Sprint(step), set, removed) }); err != nil {
			t.Fatal(err)
		}
		list, err := s.Instances(ctx, store.Filter{}, store.Page{})
		if err != nil || len(list.Items) != len(now) {
			t.Fatalf("step %d: %d run, not %d: %v", step, len(list.Items), len(now), err)
		}
		counts := map[string]int{}
		for _, i := range list.Items {
			if now[i.Pod].Digest != i.Digest {
				t.Fatalf("step %d: %+v", step, i)
			}
			counts[i.Digest]++
		}
		images, err := s.Images(ctx, store.Filter{}, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range images.Items {
			if m.Instances != counts[m.Digest] {
				t.Fatalf("step %d: %s runs %d times, not %d", step, m.Image, m.Instances, counts[m.Digest])
			}
		}
	}
}

func TestClaims(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		now := day
		s := storetest.Open(t, url(), func() time.Time { return now })
		ctx := t.Context()
		claim := func(node string, digests ...string) (states []store.ClaimState) {
			t.Helper()
			var list []store.Claim
			write(t, s, func(tx *store.Tx) (err error) {
				list, err = tx.Claim(ctx, api.Scope{}, "eu", node, digests, 15*time.Minute)
				return err
			})
			for _, c := range list {
				states = append(states, c.State)
			}
			return states
		}
		want := func(what string, got []store.ClaimState, states ...store.ClaimState) {
			t.Helper()
			if !slices.Equal(got, states) {
				t.Errorf("%s: %v, not %v", what, got, states)
			}
		}
		a, b := digest("a"), digest("b")
		want("the first", claim("n1", a, b, a), "scan", "scan", "scan")
		want("again", claim("n1", a), "scan")
		want("another", claim("n2", a, digest("c")), "claimed", "scan")
		write(t, s, func(tx *store.Tx) error { return tx.Release(ctx, api.Scope{}, "eu", "n2", []string{a, digest("c")}) })
		want("given back", claim("n3", a, digest("c")), "claimed", "scan")
		write(t, s, func(tx *store.Tx) error {
			_, err := tx.AddSBOM(ctx, store.SBOM{Scan: scanOf("nginx:1", "a", now), Format: "syft-json", Document: []byte("{}")})
			return err
		})
		want("sent", claim("n2", a), "known")
		now = now.Add(16 * time.Minute)
		want("too late", claim("n2", b), "scan")
		failed := func() {
			t.Helper()
			scan := scanOf("nginx:2", "b", now)
			scan.Error, scan.Vulnerabilities = "the archive is damaged", nil
			write(t, s, func(tx *store.Tx) error { _, err := tx.AddScan(ctx, scan); return err })
		}
		for _, pause := range []time.Duration{10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
			failed()
			want("failed", claim("n2", b), "claimed")
			now = now.Add(pause - time.Second)
			want(fmt.Sprintf("just before %s", pause), claim("n1", b), "claimed")
			now = now.Add(2 * time.Second)
			want(fmt.Sprintf("after %s", pause), claim("n1", b), "scan")
		}
	})
}

// However many nodes ask at once, each image is given to one of them.
func TestClaimsAtOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		at := url()
		stores := []*store.Store{storetest.Open(t, at, nil), storetest.Open(t, at, nil)}
		var digests []string
		for i := range 40 {
			digests = append(digests, numbered(i))
		}
		given := make(chan string, 8*len(digests))
		done := make(chan error, 8)
		for n := range 8 {
			go func() {
				done <- stores[n%2].Write(t.Context(), func(tx *store.Tx) error {
					list, err := tx.Claim(t.Context(), api.Scope{}, "eu", fmt.Sprint("n", n), digests, time.Minute)
					for _, c := range list {
						if c.State == store.ClaimScan {
							given <- c.Digest
						}
					}
					return err
				})
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		close(given)
		times := map[string]int{}
		for d := range given {
			times[d]++
		}
		for _, d := range digests {
			if times[d] != 1 {
				t.Errorf("%s was given %d times", d, times[d])
			}
		}
	})
}
