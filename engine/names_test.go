package engine_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

// spellings are references of images in two registries, and of others.
var spellings = []string{
	"registry.example.com/shop/web:1", "Registry.Example.com/shop/web:1", "registry.example.com:443/shop/web:1", "REGISTRY.example.com:0443/shop/web:1@sha256:" + strings.Repeat("a", 64),
	"registry.example.com:8443/shop/web:1", "evil.example.com/registry.example.com/shop/web:1",
	"nginx:1", "docker.io/nginx:1", "Docker.io/library/nginx:1", "registry-1.docker.io/nginx:1", "registry.hub.docker.com/library/nginx:1", "index.docker.io:443/library/nginx:1",
	"Foo/shop/web:1", "foo:443/shop/web:1", "foo/shop/web:1", "LOCALHOST/shop/web:1", "Shop/Web", "",
}

// Patterns of all sorts, compiled with what the rule index sees of them, match what plain
// regular expressions match in one of the three forms.
func TestPatternsSeeEachFormOfAReference(t *testing.T) {
	patterns := []string{
		`^registry\.example\.com/`, `^registry.example.com/shop`, `^.{8}\.example\.com/shop/web:1`, `example\.com/shop`, `^Registry`, `:0?443/`, `^[a-z.]+/shop/web:1$`,
		`^docker\.io/library/nginx:1$`, `^docker.io/`, `^.{6}\.io/library/nginx`, `^nginx`, `^registry-1\.`, `^library/`, `^foo:443/shop`, `^foo/`, `^docker\.io/foo/`, `^localhost/`, `^$`, `@sha256:aa`, `(?i)^REGISTRY`,
	}
	lists := [][]string{{patterns[0], patterns[7]}, {patterns[1], patterns[2], patterns[9]}, {patterns[2], patterns[9]}}
	for _, p := range patterns {
		lists = append(lists, []string{p})
	}
	matched := 0
	for _, list := range lists {
		for _, operator := range []string{api.IsOneOf, api.IsNoneOf} {
			e := load(t, fmt.Sprintf(`
apiVersion: containersecurity.tigera.io/v1beta1
kind: ContainerAdmissionPolicy
metadata: {name: p}
spec: {rules: [{action: Reject, imagePath: {operator: %s, values: ['%s']}}]}
`, operator, strings.Join(list, "', '")))
			d, err := e.Admit(t.Context(), deployment("shop", spellings...), now)
			if err != nil || len(d.Images) != len(spellings) {
				t.Fatal(d, err)
			}
			for i, image := range spellings {
				forms := []string{image}
				if ref, err := api.ParseReference(image); err == nil {
					forms = append(forms, ref.String(), ref.Canonical())
				}
				some := slices.ContainsFunc(list, func(p string) bool { return slices.ContainsFunc(forms, regexp.MustCompile(p).MatchString) })
				if want := some == (operator == api.IsOneOf); want != (d.Images[i].Action == api.Reject) {
					t.Errorf("%s %q of %q: %s", operator, list, image, d.Images[i].Action)
				} else if want {
					matched++
				}
			}
		}
	}
	if matched < 300 {
		t.Errorf("only %d matches", matched)
	}
}

// However the host of a registry is written, verdicts and exceptions are those of the image.
func TestVerdictsJoinByOneNameForOneHost(t *testing.T) {
	e := load(t, rejectFailed, scan("registry.example.com:443/shop:1", "a", 0, 9.8), scan("registry-1.docker.io/library/redis:1", "b", 0, 9.8))
	for _, image := range []string{
		"registry.example.com/shop:1", "Registry.example.com/shop:1", "registry.example.com:443/shop:1", "REGISTRY.EXAMPLE.COM:0443/shop:1",
		"redis:1", "docker.io/redis:1", "registry.hub.docker.com/library/redis:1", "Index.docker.io/library/redis:1",
	} {
		d, err := e.Admit(t.Context(), deployment("shop", image), now)
		if err != nil || d.Allowed || d.Images[0].Result != api.Fail {
			t.Errorf("%s: %+v, %v", image, d, err)
		}
	}
	for _, image := range []string{"registry.example.com:8443/shop:1", "registry.example.com:80/shop:1", "docker.io:80/redis:1"} { // other registries
		d, err := e.Admit(t.Context(), deployment("shop", image), now)
		if err != nil || d.Images[0].Result != api.Unknown {
			t.Errorf("%s: %+v, %v", image, d, err)
		}
	}
	excepted := load(t, rejectFailed+`---
apiVersion: assay.dev/v1alpha1
kind: VulnerabilityException
metadata: {name: e}
spec: {cve: CVE-2026-1, scope: image, registry: "Registry.example.com:443", repository: shop, tags: ["1"], justification: not reachable}
`, scan("registry.example.com/shop:1", "a", 0, 9.8))
	for _, image := range []string{"registry.example.com/shop:1", "REGISTRY.example.com:443/shop:1"} {
		d, err := excepted.Admit(t.Context(), deployment("shop", image), now)
		if err != nil || !d.Allowed || d.Images[0].Result != api.Pass {
			t.Errorf("%s: %+v, %v", image, d, err)
		}
	}
}
