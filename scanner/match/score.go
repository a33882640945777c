package match

import (
	"cmp"
	"strings"

	"github.com/anchore/grype/grype/vulnerability"
)

// bestScore chooses the CVSS v3 base score of a vulnerability among those of
// its own record and of the records related to it: NVD's before others, then
// v3.1 before v3.0, then the highest. nil when there is none.
func bestScore(scores []vulnerability.Cvss) *vulnerability.Cvss {
	var best *vulnerability.Cvss
	for i := range scores {
		s := &scores[i]
		if !isV3(s) {
			continue
		}
		if best == nil || preferred(s, best) > 0 {
			best = s
		}
	}
	return best
}

func isV3(s *vulnerability.Cvss) bool {
	return s.Version == "3" || strings.HasPrefix(s.Version, "3.")
}

// preferred is positive where a comes before b.
func preferred(a, b *vulnerability.Cvss) int {
	rank := func(s *vulnerability.Cvss) int {
		if s.Source == "nvd@nist.gov" {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(rank(a), rank(b)),
		cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Metrics.BaseScore, b.Metrics.BaseScore),
		cmp.Compare(b.Vector, a.Vector),
	)
}
