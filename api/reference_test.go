package api

import (
	_ "crypto/sha512" // distribution knows the algorithms that are linked
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// peer parses as github.com/distribution/reference does.
func peer(s string) (string, bool) {
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return "", false
	}
	return reference.TagNameOnly(n).String(), true
}

var references = []string{
	"nginx", "nginx:1.27", "library/nginx", "docker.io/nginx", "index.docker.io/nginx", "index.docker.io/library/nginx:1",
	"quay.io/tigera/node:v3.1", "localhost/x", "localhost:5000/x/y:z", "LOCALHOST/x", "Foo/bar", "foo/Bar", "a.b/c", "a:1/c",
	"nginx@sha256:" + strings.Repeat("a", 64), "nginx:1@sha256:" + strings.Repeat("a", 64), "nginx@sha256:abc", "",
	strings.Repeat("a", 64), "a//b", "a/", "/a", "nginx:", "nginx:-x", "[::1]:5000/x", "[fe80::1]/x", "a__b", "a___b", "a..b", "a.-b", "a---b",
	"nginx:" + strings.Repeat("t", 128), "nginx:" + strings.Repeat("t", 129), "x.io/" + strings.Repeat("p", 255), "x.io/" + strings.Repeat("p", 256),
	"docker.io/a/b", "docker.io", "docker.io/", "a.b:x/c", "localhost", "registry.example.com", "ex_ample.com/x", " nginx", "nginx ", "nginx\n",
	"nginx@sha512:" + strings.Repeat("a", 128), "nginx@md5:" + strings.Repeat("a", 32), "x:80", "x:80/y", "-a.b/c",
}

func TestParseReferenceAgreesWithDistribution(t *testing.T) {
	for _, s := range references {
		want, ok := peer(s)
		got, err := ParseReference(s)
		if ok != (err == nil) || ok && got.String() != want {
			t.Errorf("%q: distribution says %q %v, we say %q %v", s, want, ok, got, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range references {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, ok := peer(s)
		got, err := ParseReference(s)
		if strings.Contains(s, "@") && !strings.Contains(s, "@sha256:") {
			return // other digest algorithms depend on what the peer has registered
		}
		if ok != (err == nil) || ok && got.String() != want {
			t.Errorf("%q: distribution says %q %v, we say %q %v", s, want, ok, got, err)
		}
	})
}

func TestNormalizedName(t *testing.T) {
	for _, c := range []struct{ registry, repository, want string }{
		{"quay.io/tigera", "node", "quay.io/tigera/node"},
		{"", "nginx", "docker.io/library/nginx"},
		{"", "library/nginx", "docker.io/library/nginx"},
		{"docker.io", "nginx", "docker.io/library/nginx"},
		{"docker.io/library", "nginx", "docker.io/library/nginx"},
		{"myorg", "app", "docker.io/myorg/app"},
		{"", "nginx:1", ""}, {"", "", ""}, {"localhost:5000", "x", "localhost:5000/x"},
	} {
		got, err := NormalizedName(c.registry, c.repository)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("NormalizedName(%q, %q) = %q, %v; want %q", c.registry, c.repository, got, err, c.want)
		}
	}
}
