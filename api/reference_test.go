package api

import (
	_ "crypto/sha512" // distribution knows the algorithms that are linked
	"regexp"
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

var (
	defaultPort = regexp.MustCompile(`:0*443$`)
	zeros       = regexp.MustCompile(`:0+([0-9]+)$`)
	dockerHub   = regexp.MustCompile(`^(index\.|registry-1\.)?docker\.io$|^registry\.hub\.docker\.com$`)
)

// plainName is the canonical name, as docs/design/029-names.md has it in words.
func plainName(host, path string) string {
	bare := defaultPort.ReplaceAllString(strings.ToLower(host), "")
	bare = zeros.ReplaceAllString(bare, ":$1")
	hub := dockerHub.MatchString(bare)
	switch {
	case hub && strings.Contains(path, "/"):
		return "docker.io/" + path
	case hub && len(path) <= 255-len("library/"):
		return "docker.io/library/" + path
	case bare == "localhost" || strings.ContainsAny(bare, ".:"):
		return bare + "/" + path
	}
	return bare + ":443/" + path
}

// checkCanonical holds the canonical form of a reference to what it must be.
func checkCanonical(t *testing.T, s string) {
	t.Helper()
	if p := CanonicalPrefix(s); CanonicalPrefix(p) != p {
		t.Errorf("%q: the canonical prefix %q has another one, %q", s, p, CanonicalPrefix(p))
	}
	r, err := ParseReference(s)
	if err != nil {
		return
	}
	if want := plainName(r.Host, r.Path); r.Name() != want || !strings.HasPrefix(r.Canonical(), want) {
		t.Errorf("%q: its name is %q and its canonical form %q; the name must be %q", s, r.Name(), r.Canonical(), want)
	}
	again, err := ParseReference(r.Canonical())
	if err != nil || again.Canonical() != r.Canonical() || again.String() != r.Canonical() || again.Tag != r.Tag || again.Digest != r.Digest {
		t.Errorf("%q: its canonical form %q is read as %+v, %v", s, r.Canonical(), again, err)
	}
	if r.Registry()+"/"+r.Repository() != r.Name() {
		t.Errorf("%q: %q and %q are no split of %q", s, r.Registry(), r.Repository(), r.Name())
	}
	if back, err := NormalizedName(r.Registry(), r.Repository()); err != nil || back != r.Name() {
		t.Errorf("%q: the name of its registry and repository is %q, %v", s, back, err)
	}
	if p := CanonicalPrefix(r.WrittenName()); p != r.Name() && strings.Contains(r.Path, "/") || CanonicalPrefix(p) != p {
		t.Errorf("%q: the canonical prefix of %q is %q", s, r.WrittenName(), p)
	}
}

func TestOneNameForOneHost(t *testing.T) {
	for want, all := range map[string][]string{
		"registry.example.com/shop/web": {"registry.example.com/shop/web", "Registry.Example.COM/shop/web:1", "registry.example.com:443/shop/web", "REGISTRY.example.com:00443/shop/web@sha256:" + strings.Repeat("a", 64)},
		"docker.io/library/nginx": {"nginx", "docker.io/nginx", "Docker.io/library/nginx", "index.docker.io/nginx", "INDEX.docker.io:443/library/nginx", "registry-1.docker.io/nginx",
			"registry-1.docker.io/library/nginx:1", "registry.hub.docker.com/library/nginx", "Registry.Hub.Docker.com:443/nginx"},
		"registry.example.com:5000/x": {"registry.example.com:5000/x", "Registry.example.com:05000/x"},
		"foo:443/bar":                 {"Foo/bar", "FOO:443/bar", "foo:443/bar"},
		"docker.io/foo/bar":           {"foo/bar", "docker.io/foo/bar", "registry-1.docker.io/foo/bar"},
		"localhost/x":                 {"localhost/x", "LOCALHOST/x", "localhost:443/x"},
		"[fe80::1]/x":                 {"[fe80::1]/x", "[FE80::1]:443/x"},
		"docker.io:80/nginx":          {"docker.io:80/nginx"},
		"registry.example.com:80/x":   {"registry.example.com:80/x"},
	} {
		for _, s := range all {
			if r, err := ParseReference(s); err != nil || r.Name() != want {
				t.Errorf("%q: its name is %q, %v; want %q", s, r.Name(), err, want)
			}
		}
	}
	for other, same := range map[string]bool{"REGISTRY.example.com:443/shop:1": true, "registry.example.com/shop:2": false, "registry.example.com:80/shop:1": false, "registry..com/shop:1": false} {
		if SameReference("registry.example.com/shop:1", other) != same {
			t.Errorf("%q is the same: %v", other, !same)
		}
	}
	// Pulling keeps what was written.
	r, err := ParseReference("Registry.example.com:443/shop:1")
	if err != nil || r.Host != "Registry.example.com:443" || r.WrittenName() != "Registry.example.com:443/shop" || r.String() != "Registry.example.com:443/shop:1" || r.Canonical() != "registry.example.com/shop:1" {
		t.Errorf("%+v is written %q, and canonical %q: %v", r, r, r.Canonical(), err)
	}
}

var references = []string{
	"nginx", "nginx:1.27", "library/nginx", "docker.io/nginx", "index.docker.io/nginx", "index.docker.io/library/nginx:1",
	"quay.io/tigera/node:v3.1", "localhost/x", "localhost:5000/x/y:z", "LOCALHOST/x", "Foo/bar", "foo/Bar", "a.b/c", "a:1/c",
	"nginx@sha256:" + strings.Repeat("a", 64), "nginx:1@sha256:" + strings.Repeat("a", 64), "nginx@sha256:abc", "",
	strings.Repeat("a", 64), "a//b", "a/", "/a", "nginx:", "nginx:-x", "[::1]:5000/x", "[fe80::1]/x", "a__b", "a___b", "a..b", "a.-b", "a---b",
	"nginx:" + strings.Repeat("t", 128), "nginx:" + strings.Repeat("t", 129), "x.io/" + strings.Repeat("p", 255), "x.io/" + strings.Repeat("p", 256),
	"docker.io/a/b", "docker.io", "docker.io/", "a.b:x/c", "localhost", "registry.example.com", "ex_ample.com/x", " nginx", "nginx ", "nginx\n",
	"registry-1.docker.io/nginx", "Registry-1.Docker.IO:0443/nginx:1", "registry.hub.docker.com/library/nginx", "docker.io:443/a/b", "docker.io:80/nginx",
	"Registry.Example.COM/shop", "registry.example.com:443/shop", "registry.example.com:0443/shop:1", "registry.example.com:4430/shop", "a.b:0/c", "a.b:000/c", "a.b:443:443/c", "A.b:443:443/c",
	"foo:443/bar", "FOO/bar", "Foo:0080/bar", "LOCALHOST:443/x", "[FE80::1]:443/x", "[fe80::443]/x", "registry-1.docker.io/" + strings.Repeat("p", 248), "registry-1.docker.io/" + strings.Repeat("p", 247),
	"registry-1.docker.io/x/" + strings.Repeat("p", 253),
	"nginx@sha512:" + strings.Repeat("a", 128), "nginx@md5:" + strings.Repeat("a", 32), "x:80", "x:80/y", "-a.b/c",
}

func TestParseReferenceAgreesWithDistribution(t *testing.T) {
	for _, s := range references {
		want, ok := peer(s)
		got, err := ParseReference(s)
		if ok != (err == nil) || ok && got.String() != want {
			t.Errorf("%q: distribution says %q %v, we say %q %v", s, want, ok, got, err)
		}
		checkCanonical(t, s)
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
		checkCanonical(t, s)
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
		{"Registry.example.com:443/shop", "web", "registry.example.com/shop/web"}, {"registry-1.docker.io", "nginx", "docker.io/library/nginx"}, {"foo:443", "bar", "foo:443/bar"},
	} {
		got, err := NormalizedName(c.registry, c.repository)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("NormalizedName(%q, %q) = %q, %v; want %q", c.registry, c.repository, got, err, c.want)
		}
	}
}
