package engine

import (
	"maps"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// packageID names a package of an image.
type packageID struct{ name, version, kind string }

func idOf(v api.Vulnerability) packageID { return packageID{v.Package, v.Version, v.Type} }

func upgradeOf(u *api.Upgrade) packageID { return packageID{u.Package, u.Version, u.Type} }

// demand is a blocker with the ways to resolve it by upgrades: each way is the
// packages that must all be upgraded, and what fixes the vulnerability in each.
type demand struct {
	id   string
	ways []map[packageID][]string
}

// demandsOf reads the ways from the records of each blocker. A vulnerability no
// longer blocks once none of its records keeps the goal from being met; or
// once none is left that an exception does not cover. Where exceptions cover some
// of its records, one way may take other packages than the other.
func demandsOf(blockers []blocker, scan api.Scan, g goal) []demand {
	groups := map[string][]*api.Vulnerability{}
	for _, g := range documents.Groups(scan.Vulnerabilities) {
		groups[g.Names[0]] = g.Members
	}
	demands := make([]demand, len(blockers))
	for i, b := range blockers {
		demands[i].id = b.ID
		records := groups[b.ID]
		if len(records) == 0 || len(records) != len(b.Members) {
			continue // where it is, is not known
		}
		high, open := map[packageID][]string{}, map[packageID][]string{}
		highFixed, openFixed := true, true
		for k, m := range b.Members {
			if !m.Counts {
				continue
			}
			r := records[k]
			fixed := r.Fix.State == "fixed"
			if m.Score != nil && *m.Score >= g.limit || g.exploited && m.Exploited && !m.Covered {
				high[idOf(*r)] = r.Fix.Versions
				highFixed = highFixed && fixed
			}
			if !m.Covered {
				open[idOf(*r)] = r.Fix.Versions
				openFixed = openFixed && fixed
			}
		}
		if highFixed && len(high) > 0 {
			demands[i].ways = append(demands[i].ways, high)
		}
		if openFixed && len(open) > 0 {
			demands[i].ways = append(demands[i].ways, open)
		}
	}
	return demands
}

// maxCombinations bounds the combinations of ways that are tried for the smallest set.
const maxCombinations = 64

// chosen are the fewest changes of a kind that resolve all blockers of a manifest;
// nil when the kind cannot.
func chosen(blockers []blocker, scan api.Scan, digest, kind string, g goal) []api.Change {
	if len(blockers) == 0 {
		return nil
	}
	demands := demandsOf(blockers, scan, g)
	if kind == "exceptions" {
		for i := range demands {
			demands[i].ways = nil
		}
	}
	var best []api.Change
	for _, combination := range combinations(demands) {
		if kind == "upgrades" && slices.ContainsFunc(combination, func(way map[packageID][]string) bool { return way == nil }) {
			return nil
		}
		if set := cheapest(demands, combination, digest, kind); best == nil || len(set) < len(best) {
			best = set
		}
	}
	return best
}

// combinations takes one way of each demand, nil where it has none.
func combinations(demands []demand) [][]map[packageID][]string {
	all := [][]map[packageID][]string{nil}
	for _, d := range demands {
		ways := d.ways
		if len(ways) == 0 {
			ways = []map[packageID][]string{nil}
		}
		if len(ways) > 1 && (len(all)*len(ways) > maxCombinations || samePackages(ways[0], ways[1])) {
			ways = ways[:1]
		}
		var next [][]map[packageID][]string
		for _, c := range all {
			for _, way := range ways {
				next = append(next, append(slices.Clone(c), way))
			}
		}
		all = next
	}
	return all
}

func samePackages(a, b map[packageID][]string) bool {
	return maps.EqualFunc(a, b, func(_, _ []string) bool { return true })
}

func cheapest(demands []demand, ways []map[packageID][]string, digest, kind string) []api.Change {
	index := map[packageID]int{}
	var packages []packageID
	needs := make([][]int, len(ways))
	for v, way := range ways {
		for _, p := range sortedPackages(way) {
			if _, ok := index[p]; !ok {
				index[p] = len(packages)
				packages = append(packages, p)
			}
			needs[v] = append(needs[v], index[p])
		}
	}
	var upgrades, exceptions []int
	if kind == "upgrades" {
		for p := range packages {
			upgrades = append(upgrades, p)
		}
	} else {
		upgrades, exceptions = smallestCover(needs, len(packages))
	}
	var changes []api.Change
	for _, p := range upgrades {
		id := packages[p]
		u := &api.Upgrade{Package: id.name, Version: id.version, Type: id.kind, Fixes: map[string][]string{}}
		for v, way := range ways {
			if versions, ok := way[id]; ok && !slices.Contains(exceptions, v) {
				u.Fixes[demands[v].id] = versions
			}
		}
		changes = append(changes, api.Change{Upgrade: u, Digest: digest})
	}
	for _, v := range exceptions {
		changes = append(changes, api.Change{Exception: demands[v].id, Digest: digest})
	}
	return changes
}

func sortedPackages(way map[packageID][]string) []packageID {
	return slices.SortedFunc(maps.Keys(way), func(a, b packageID) int {
		return slices.Compare([]string{a.name, a.version, a.kind}, []string{b.name, b.version, b.kind})
	})
}

// upgraded is the scan without the vulnerabilities that the upgrades fix.
func upgraded(scan api.Scan, changes []api.Change) api.Scan {
	scan.Vulnerabilities = slices.DeleteFunc(slices.Clone(scan.Vulnerabilities), func(v api.Vulnerability) bool {
		return v.Fix.State == "fixed" && slices.ContainsFunc(changes, func(c api.Change) bool {
			return c.Upgrade != nil && upgradeOf(c.Upgrade) == idOf(v)
		})
	})
	return scan
}
