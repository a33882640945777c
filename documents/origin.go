package documents

import (
	"cmp"
	"maps"
	"slices"

	"github.com/assay-dev/assay/api"
)

// put puts a value at a path, and makes the objects on the way.
func put(m map[string]any, path []string, value any) {
	for _, key := range path[:len(path)-1] {
		sub, ok := m[key].(map[string]any)
		if !ok {
			sub = map[string]any{}
			m[key] = sub
		}
		m = sub
	}
	m[path[len(path)-1]] = value
}

// of is what evidence and claims are about: there is one current piece of each.
type of struct {
	scope  api.Scope // that of evidence
	digest string
}

// inOrder are the keys of a map by digest, then by the text of the scope.
func inOrder[V any](m map[of]V) []of {
	return slices.SortedFunc(maps.Keys(m), func(a, b of) int {
		return cmp.Or(cmp.Compare(a.digest, b.digest), cmp.Compare(a.scope.String(), b.scope.String()))
	})
}

// addEvidence adds the current piece of each digest and scope: the scan without error whose
// packages were found last; of equal ones that matched last, then the later in order.
func addEvidence(data map[string]any, scans []api.Scan, needs Needs) {
	current := map[of]api.Scan{}
	for _, s := range scans {
		if s.Error != "" || s.Digest == "" {
			continue
		}
		key := of{s.Scope.Evidence(), s.Digest}
		if old, ok := current[key]; !ok || cmp.Or(s.FoundAt().Compare(old.FoundAt()), s.ScannedAt.Compare(old.ScannedAt)) >= 0 {
			current[key] = s
		}
	}
	lists := lists{}
	for _, key := range inOrder(current) {
		if !key.scope.All() {
			lists.add(key, Piece(current[key], needs))
			continue
		}
		image, details := Image(current[key], needs)
		put(data, ImagePath(key.digest), image)
		if len(details) > 0 {
			put(data, DetailsPath(key.digest), details)
		}
	}
	lists.put(data, EvidencePath)
}

// lists are pieces or claims by space and digest.
type lists map[Space]map[string][]any

func (l lists) add(key of, piece any) {
	space := EvidenceSpace(key.scope)
	if l[space] == nil {
		l[space] = map[string][]any{}
	}
	l[space][key.digest] = append(l[space][key.digest], piece)
}

func (l lists) put(data map[string]any, path func(Space, string) []string) {
	for space, byDigest := range l {
		for digest, list := range byDigest {
			put(data, path(space, digest), list)
		}
	}
}

// proven are the digests of which some scan has the bytes, and the platforms of those that
// are indexes.
func proven(scans []api.Scan) (known map[string]bool, platforms map[string]map[string]string) {
	known, platforms = map[string]bool{}, map[string]map[string]string{}
	for _, s := range scans {
		if x := s.Index; x != nil && x.Manifest != nil && x.Check() == nil {
			known[x.Digest], platforms[x.Digest] = true, x.Platforms
		}
		if s.Manifest != nil && s.CheckManifest() == nil {
			known[s.Digest] = true
		}
	}
	return known, platforms
}

// newestClaims are those of each scope about indexes whose bytes nobody has.
func newestClaims(scans []api.Scan, known map[string]bool) map[of]api.Scan {
	newest := map[of]api.Scan{}
	for _, s := range scans {
		if s.Index == nil || s.Index.Digest == "" || known[s.Index.Digest] {
			continue
		}
		key := of{s.Scope.Evidence(), s.Index.Digest}
		if old, ok := newest[key]; !ok || !s.FoundAt().Before(old.FoundAt()) {
			newest[key] = s
		}
	}
	return newest
}

// addIndexes adds what is proven, and what scopes claim.
func addIndexes(data map[string]any, scans []api.Scan) {
	known, platforms := proven(scans)
	for digest, p := range platforms {
		put(data, IndexPath(digest), Index(p, "", true))
	}
	lists := lists{}
	newest := newestClaims(scans, known)
	for _, key := range inOrder(newest) {
		platforms, found := newest[key].Index.Platforms, Time(newest[key].FoundAt())
		if key.scope.All() {
			put(data, IndexPath(key.digest), Index(platforms, found, false))
		} else {
			lists.add(key, Claim(key.scope, platforms, found))
		}
	}
	lists.put(data, ClaimsPath)
}

// addNames adds the newest observation of each tag in each space; of equally old ones the
// greater digest. A scope observes the names alone that its registry begins.
func addNames(data map[string]any, scans []api.Scan) {
	type key struct {
		space     Space
		name, tag string
	}
	type seen struct{ at, digest string }
	newest := map[key]seen{}
	for _, s := range scans {
		digest := s.Digest
		if s.Index != nil && s.Index.Digest != "" {
			digest = s.Index.Digest
		}
		ref, err := api.ParseReference(s.Image)
		if err != nil || digest == "" || ref.Tag == "" || ref.Digest != "" || !s.Scope.AllowsName(ref.Name()) {
			continue
		}
		k, now := key{TagSpace(s.Scope), ref.Name(), ref.Tag}, seen{Time(s.FoundAt()), digest}
		if old, ok := newest[k]; !ok || cmp.Or(cmp.Compare(now.at, old.at), cmp.Compare(now.digest, old.digest)) > 0 {
			newest[k] = now
			put(data, NamePath(k.space, k.name, k.tag), map[string]any{"digest": now.digest, "at": now.at})
		}
	}
}

// groupsOf are the trust groups that scopes name beside each cluster.
func groupsOf(scans []api.Scan) map[string][]string {
	groups := map[string][]string{}
	for _, s := range scans {
		if c := s.Scope.Cluster; c != "" {
			if _, known := groups[c]; !known {
				groups[c] = nil // in no group so far
			}
			if g := s.Scope.Group; g != "" && !slices.Contains(groups[c], g) {
				groups[c] = append(groups[c], g)
			}
		}
	}
	return groups
}

// addClusters adds the spaces of each cluster that a scope names.
func addClusters(data map[string]any, scans []api.Scan) {
	for cluster, groups := range groupsOf(scans) {
		put(data, SpacesPath(cluster), SpacesDocument(cluster, groups))
	}
}

// GroupsOf are the trust groups of a cluster: those given, and those that scopes name beside it.
func GroupsOf(scans []api.Scan, cluster string, groups []string) []string {
	all := slices.Concat(groups, groupsOf(scans)[cluster])
	slices.Sort(all)
	return slices.Compact(all)
}

// ForCluster makes of [Data] the data of one cluster, which is in some groups: what is shared,
// its own spaces, and its name.
func ForCluster(data map[string]any, name string, groups []string) {
	delete(data, "clusters")
	own := append(SpacesOf(name, groups), Shared)
	spaces, _ := data["spaces"].(map[string]any)
	for s := range spaces {
		if !slices.Contains(own, Space(s)) {
			delete(spaces, s)
		}
	}
	data["cluster"] = ClusterDocument(name, groups)
}
