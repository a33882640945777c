package priority

import (
	"math/rand/v2"
	"strings"
	"testing"
)

var kinds = []string{"deb", "rpm", "apk", "npm", "go-module", "python", "java-archive", ""}

func TestCompare(t *testing.T) {
	for _, c := range []struct{ kind, lower, higher string }{
		{"deb", "3.0.11-1~deb12u2", "3.0.15-1~deb12u1"}, {"deb", "1.2.13", "1:1.2.13"}, {"deb", "1.0~rc1", "1.0"}, {"deb", "1.0", "1.0+b1"}, {"deb", "2.36-9+deb12u4", "2.36-9+deb12u10"},
		{"rpm", "1.0~rc1-1", "1.0-1"}, {"rpm", "1.0-1", "1.0^git1-1"}, {"rpm", "3.0.7-24.el9", "3.0.7-27.el9"}, {"rpm", "9.9-1", "1:1.0-1"},
		{"apk", "3.1.4-r5", "3.1.4-r10"}, {"apk", "1.2_rc1-r0", "1.2-r0"}, {"apk", "1.2-r0", "1.2_p1-r0"}, {"apk", "1.2a-r0", "1.2b-r0"},
		{"npm", "4.17.11", "4.17.21"}, {"npm", "1.0.0-beta.2", "1.0.0-beta.10"}, {"npm", "1.0.0-rc.1", "1.0.0"}, {"go-module", "v1.9.0", "1.10.0"}, {"go-module", "go1.21.1", "1.21.4"},
		{"go-module", "v0.0.0-20230101000000-aaaaaaaaaaaa", "0.17.0"}, {"python", "1.26.16", "1.26.17"}, {"python", "2.0rc1", "2.0.0"}, {"python", "2.0", "2.0.post1"}, {"python", "2.0.dev1", "2.0a1"},
		{"java-archive", "2.14.1", "2.15.0"}, {"java-archive", "5.3.18.RELEASE", "5.3.20"}, {"java-archive", "1.0-SNAPSHOT", "1.0"}, {"java-archive", "31.1-jre", "32.0.0-jre"},
	} {
		if Compare(c.kind, c.lower, c.higher) >= 0 || Compare(c.kind, c.higher, c.lower) <= 0 {
			t.Errorf("%s: %s is not lower than %s", c.kind, c.lower, c.higher)
		}
	}
	for _, c := range []struct{ kind, a, b string }{{"deb", "0:1.0-1", "1.0-1"}, {"npm", "v1.0.0", "1.0.0+build"}, {"python", "1.0", "1.0.0"}, {"java-archive", "1.0", "1.0.0.Final"}, {"rpm", "1.0.1", "1_0_1"}} {
		if n := Compare(c.kind, c.a, c.b); n != 0 {
			t.Errorf("%s: %s and %s: %d", c.kind, c.a, c.b, n)
		}
	}
}

// drawn is a text of what versions are made of, and more.
func drawn(r *rand.Rand) string {
	var b strings.Builder
	for range r.IntN(7) {
		b.WriteString([]string{"0", "1", "2", "10", "01", ".", ".", ".", "-", "-", "+", "~", "^", "_", ":", "!", "a", "b", "rc", "final", "sp", "snapshot", "dev", "post", "alpha", "x", "v", "-r", "-r1", "_p", "é", " "}[r.IntN(32)])
	}
	return b.String()
}

// Whatever texts there are, they have one order: a list is sorted the same from any order.
func TestCompareIsAnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 300_000 {
		kind := kinds[r.IntN(len(kinds))]
		a, b, c := drawn(r), drawn(r), drawn(r)
		holdOrder(t, kind, a, b, c)
		if t.Failed() {
			return
		}
	}
}

func holdOrder(t *testing.T, kind, a, b, c string) {
	t.Helper()
	ab, bc, ac := Compare(kind, a, b), Compare(kind, b, c), Compare(kind, a, c)
	if Compare(kind, a, a) != 0 || Compare(kind, b, a) != -ab {
		t.Errorf("%s: %q and %q: %d, the other way round %d", kind, a, b, ab, Compare(kind, b, a))
	}
	if ab <= 0 && bc <= 0 && (ac > 0 || ac == 0 && ab+bc < 0) {
		t.Errorf("%s: %q, %q, %q: %d, %d, but %d", kind, a, b, c, ab, bc, ac)
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("deb", "1:1.0-1", "1.0~rc1", "1.0")
	f.Fuzz(func(t *testing.T, kind, a, b, c string) { holdOrder(t, kind, a, b, c) })
}
