package reference

import (
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// found is when the packages of a scan were determined.
func found(s api.Scan) time.Time {
	if !s.Found.IsZero() {
		return s.Found
	}
	return s.ScannedAt
}

// inGroup says whether the cluster that is decided for is in a trust group.
func (w World) inGroup(group string) bool {
	if w.Cluster == "" {
		return false
	}
	named := slices.ContainsFunc(w.Scans, func(s api.Scan) bool { return s.Scope.Cluster == w.Cluster && s.Scope.Group == group })
	return named || slices.Contains(w.Groups, group)
}

func inRegistry(s api.Scope, name string) bool {
	return s.Registry == "" || name == s.Registry || strings.HasPrefix(name, s.Registry+"/")
}

// speaks says whether evidence and claims of a scope count for a name.
func (w World) speaks(s api.Scope, name string) bool {
	switch {
	case !inRegistry(s, name):
		return false
	case s.Group != "":
		return w.inGroup(s.Group)
	}
	return s.Cluster == "" || s.Cluster == w.Cluster
}

// observes says whether a tag that was seen in a scope counts.
func (w World) observes(s api.Scope, name string) bool {
	switch {
	case !inRegistry(s, name):
		return false
	case s.Cluster != "":
		return s.Cluster == w.Cluster
	}
	return s.Group == "" || w.inGroup(s.Group)
}

// scopeText is what tells the scopes of evidence apart: of a group, whatever the cluster.
func scopeText(s api.Scope) string {
	if s.Group != "" {
		s.Cluster = ""
	}
	return s.String()
}

// observed is the digest of the newest observation of a tag, "" without one.
func (w World) observed(name, tag string) string {
	var at time.Time
	best := ""
	for _, s := range w.Scans {
		ref, err := api.ParseReference(s.Image)
		if err != nil || ref.Digest != "" || ref.Name() != name || ref.Tag != tag || !w.observes(s.Scope, name) {
			continue
		}
		d := s.Digest
		if s.Index != nil {
			d = s.Index.Digest
		}
		if d == "" {
			continue
		}
		if best == "" || found(s).After(at) || found(s).Equal(at) && d > best {
			best, at = d, found(s)
		}
	}
	return best
}

// last is of some scans of a scope each the one that was found last, of equally old ones
// that of the scope whose text is less; nil of none. later tells which of two scans of one scope counts.
func last(scans []*api.Scan, later func(a, b *api.Scan) bool) *api.Scan {
	byScope := map[string]*api.Scan{}
	for _, s := range scans {
		if old := byScope[scopeText(s.Scope)]; old == nil || !later(old, s) {
			byScope[scopeText(s.Scope)] = s
		}
	}
	var best *api.Scan
	for text, s := range byScope {
		if best == nil || found(*s).After(found(*best)) || found(*s).Equal(found(*best)) && text < scopeText(best.Scope) {
			best = s
		}
	}
	return best
}

// platformsOf is what is known of an index, nil when the digest is none.
func (w World) platformsOf(name, digest string) map[string]string {
	var claims []*api.Scan
	manifest := false
	for i := range w.Scans {
		s := &w.Scans[i]
		if s.Manifest != nil && s.Digest == digest {
			manifest = true
		}
		if s.Index == nil || s.Index.Digest != digest {
			continue
		}
		if s.Index.Manifest != nil {
			return s.Index.Platforms
		}
		if w.speaks(s.Scope, name) {
			claims = append(claims, s)
		}
	}
	newest := last(claims, func(a, b *api.Scan) bool { return found(*a).After(found(*b)) })
	if manifest || newest == nil {
		return nil
	}
	if newest.Index.Platforms == nil {
		return map[string]string{}
	}
	return newest.Index.Platforms
}

// evidence is the scan that counts for a manifest of a name, nil without one.
func (w World) evidence(name, digest string) *api.Scan {
	var all []*api.Scan
	for i := range w.Scans {
		if s := &w.Scans[i]; s.Digest == digest && s.Error == "" && w.speaks(s.Scope, name) {
			all = append(all, s)
		}
	}
	later := func(a, b *api.Scan) bool {
		if !found(*a).Equal(found(*b)) {
			return found(*a).After(found(*b))
		}
		return a.ScannedAt.After(b.ScannedAt)
	}
	var counted []*api.Scan
	for scope := range scopesOf(all) {
		s := last(slices.DeleteFunc(slices.Clone(all), func(s *api.Scan) bool { return scopeText(s.Scope) != scope }), later)
		if w.counts(s.Way) {
			counted = append(counted, s)
		}
	}
	return last(counted, later)
}

func scopesOf(scans []*api.Scan) map[string]bool {
	scopes := map[string]bool{}
	for _, s := range scans {
		scopes[scopeText(s.Scope)] = true
	}
	return scopes
}

// counts says whether evidence of a way counts.
func (w World) counts(way api.Way) bool {
	return w.Settings == nil || len(w.Settings.Spec.Evidence) == 0 || slices.Contains(w.Settings.Spec.Evidence, way)
}
