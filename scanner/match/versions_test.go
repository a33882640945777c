package match

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/anchore/grype/grype/version"

	"github.com/assay-dev/assay/priority"
)

// What tells the version to upgrade to must order versions as what finds the
// vulnerabilities does.
func TestVersionsCompareAsGrypeDoes(t *testing.T) {
	parts := map[string][]string{
		"deb":          {"1", "2", "10", "0", ".", ".", "-", "+", "~", "a", "b", "deb12u", "ubuntu", "git", "dfsg", "rc", "1:", "2:"},
		"apk":          {"1", "2", "10", "0", "."},
		"npm":          {"1", "2", "10", "0"},
		"go-module":    {"1", "2", "10", "0"},
		"python":       {"1", "2", "10", "0"},
		"java-archive": {"1", "2", "10", "0"},
	}
	formats := map[string]version.Format{"deb": version.DebFormat, "rpm": version.RpmFormat, "apk": version.ApkFormat, "npm": version.SemanticFormat,
		"go-module": version.GolangFormat, "python": version.PythonFormat, "java-archive": version.MavenFormat}
	r := rand.New(rand.NewPCG(1, 1))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	draw := func(kind string) string {
		p := parts[kind]
		switch kind {
		case "deb":
			s := pick("", "", "1:", "2:") + pick("0", "1", "3", "10")
			for range r.IntN(5) {
				s += pick(p[:16]...)
			}
			return s + pick("", "-1", "-1~deb12u2", "-1+deb11u1", "-10ubuntu3.2", "-0.1")
		case "rpm":
			s := pick("", "0:") + pick("0", "1", "3", "10")
			for range r.IntN(5) {
				s += pick(".", ".", "1", "2", "10", "~rc1", "a", "_") // Grype does not know what ^ means
			}
			return s + pick("-1.el9", "-1.el9_4", "-10.el9_4.2", "-2.fc40")
		case "apk":
			s := pick(p[:4]...)
			for range r.IntN(4) {
				s += "." + pick("1", "2", "10", "0")
			}
			return s + pick("", "", "a", "b") + pick("", "_rc1", "_rc2", "_alpha3", "_p1", "_git20230101", "_beta", "_pre2") + pick("-r0", "-r1", "-r10")
		case "npm":
			return fmt.Sprintf("%s.%s.%s%s", pick(p...), pick(p...), pick(p...), pick("", "", "-rc.1", "-rc.2", "-alpha", "-beta.10", "-beta.2", "-0", "+build"))
		case "go-module":
			return fmt.Sprintf("%s%s.%s.%s%s", pick("v", ""), pick(p...), pick(p...), pick(p...), pick("", "", "-rc.1", "-rc.2", "+incompatible", "-0.20230101000000-abcdef123456", "-0.20240101000000-abcdef123456"))
		case "python":
			return fmt.Sprintf("%s.%s%s%s", pick(p...), pick(p...), pick("", ".1", ".0", ".10"), pick("", "", "rc1", "a1", "b2", ".dev3", ".post1"))
		}
		return fmt.Sprintf("%s.%s%s%s", pick(p...), pick(p...), pick("", ".1", ".0", ".10"), pick("", "", "-rc1", "-alpha", "-beta-2", "-SNAPSHOT", ".RELEASE", ".Final", "-jre", "-sp1", "-M1"))
	}
	for kind, format := range formats {
		compared := 0
		for range 20_000 {
			a, b := draw(kind), draw(kind)
			va, vb := version.New(a, format), version.New(b, format)
			if va.Validate() != nil || vb.Validate() != nil {
				continue
			}
			want, err := va.Compare(vb)
			if err != nil {
				continue
			}
			compared++
			got := priority.Compare(kind, a, b)
			if sign(got) != sign(want) {
				t.Errorf("%s: %s and %s: %d, Grype says %d", kind, a, b, got, want)
				break
			}
			if sign(priority.Compare(kind, b, a)) != -sign(got) {
				t.Errorf("%s: %s and %s: not the same the other way round", kind, a, b)
			}
		}
		if compared < 5000 && !t.Failed() {
			t.Errorf("%s: only %d pairs were compared", kind, compared)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
