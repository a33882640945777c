package engine

import (
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
)

// The cover is a cover, and no set of fewer changes is one: all sets are tried.
func TestSmallestCover(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		packages := r.IntN(6)
		needs := make([][]int, r.IntN(6))
		for v := range needs {
			for p := range packages {
				if r.IntN(3) == 0 {
					needs[v] = append(needs[v], p)
				}
			}
		}
		covers := func(upgraded, excepted func(int) bool) bool {
			for v, list := range needs {
				if !excepted(v) && (len(list) == 0 || slices.ContainsFunc(list, func(p int) bool { return !upgraded(p) })) {
					return false
				}
			}
			return true
		}
		upgrades, exceptions := smallestCover(needs, packages)
		if !covers(func(p int) bool { return slices.Contains(upgrades, p) }, func(v int) bool { return slices.Contains(exceptions, v) }) {
			t.Fatalf("%v: upgrades %v and exceptions %v are not enough", needs, upgrades, exceptions)
		}
		most := 0
		for set := range 1 << (packages + len(needs)) {
			size := bits.OnesCount(uint(set))
			if size > len(upgrades)+len(exceptions) {
				continue
			}
			if !covers(func(p int) bool { return set>>p&1 == 1 }, func(v int) bool { return set>>(packages+v)&1 == 1 }) {
				continue
			}
			if size < len(upgrades)+len(exceptions) {
				t.Fatalf("%v: %b is smaller than upgrades %v and exceptions %v", needs, set, upgrades, exceptions)
			}
			most = max(most, bits.OnesCount(uint(set)&(1<<packages-1)))
		}
		if len(upgrades) != most {
			t.Fatalf("%v: %d upgrades, but %d would do with as few changes", needs, len(upgrades), most)
		}
	}
}
