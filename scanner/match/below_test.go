package match_test

import (
	"testing"

	"github.com/assay-dev/assay/scanner/match"
)

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		kind, have, limit string
		below             bool
	}{
		{"java-archive", "2.9.1", "2.17", true}, {"java-archive", "2.17.0", "2.17", false}, {"java-archive", "2.17-rc1", "2.17", true},
		{"deb", "1:3.0.2-1", "3.0.11-1", false}, {"deb", "3.0.2-1~deb12u1", "3.0.2-1", true}, {"apk", "1.36.1-r2", "1.36.1-r10", true},
		{"rpm", "1.0-9", "1.0-10", true}, {"npm", "4.17.20", "4.17.21", true}, {"npm", "10.0.0", "9.0.0", false}, {"python", "2.0rc1", "2.0", true},
		{"go-module", "v0.9.0", "v0.17.0", true}, {"gem", "1.2.9", "1.2.10", true},
	} {
		if got, err := match.Below(c.kind, c.have, c.limit); err != nil || got != c.below {
			t.Errorf("%s %s < %s: %v, %v", c.kind, c.have, c.limit, got, err)
		}
	}
}
