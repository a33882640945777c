package engine

import "slices"

// smallestCover solves the choice between upgrades and exceptions. Each demand is
// a vulnerability that is resolved by upgrading all of the packages needs[i], or
// else by an exception; needs[i] is nil where only an exception will do. The
// fewest changes are a minimum vertex cover of the bipartite graph of
// vulnerabilities and packages, which König's theorem (1931) reads off a maximum
// matching; of several such covers it takes the one with the most upgrades.
func smallestCover(needs [][]int, packages int) (upgrades, exceptions []int) {
	matchOf := make([]int, packages) // package → vulnerability
	matched := make([]int, len(needs))
	for i := range matchOf {
		matchOf[i] = -1
	}
	for i := range matched {
		matched[i] = -1
	}
	var augment func(v int, seen []bool) bool
	augment = func(v int, seen []bool) bool {
		for _, p := range needs[v] {
			if seen[p] {
				continue
			}
			seen[p] = true
			if matchOf[p] < 0 || augment(matchOf[p], seen) {
				matchOf[p], matched[v] = v, p
				return true
			}
		}
		return false
	}
	for v := range needs {
		augment(v, make([]bool, packages))
	}

	// From each package without a partner, alternating paths reach the
	// vulnerabilities that must be excepted; all other packages are upgraded.
	usedBy := make([][]int, packages)
	for v, list := range needs {
		for _, p := range list {
			usedBy[p] = append(usedBy[p], v)
		}
	}
	reachedPackage, reachedVulnerability := make([]bool, packages), make([]bool, len(needs))
	var queue []int
	for p := range packages {
		if matchOf[p] < 0 {
			reachedPackage[p] = true
			queue = append(queue, p)
		}
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		for _, v := range usedBy[p] {
			if reachedVulnerability[v] {
				continue
			}
			reachedVulnerability[v] = true
			if next := matched[v]; next >= 0 && !reachedPackage[next] {
				reachedPackage[next] = true
				queue = append(queue, next)
			}
		}
	}
	for p := range packages {
		if !reachedPackage[p] {
			upgrades = append(upgrades, p)
		}
	}
	for v := range needs {
		if reachedVulnerability[v] || len(needs[v]) == 0 {
			exceptions = append(exceptions, v)
		}
	}
	slices.Sort(exceptions)
	return upgrades, exceptions
}
