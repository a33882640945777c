package documents

import (
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/assay-dev/assay/api"
)

func TestParsePURL(t *testing.T) {
	for in, want := range map[string][2]string{
		"pkg:npm/lodash@4.17.15":                     {"npm/lodash", "4.17.15"},
		"pkg:npm/%40angular/core@1.0":                {"npm/@angular/core", "1.0"},
		"pkg:deb/debian/openssl@3.0.9-1?arch=amd64":  {"deb/debian/openssl", "3.0.9-1"},
		"pkg:golang/golang.org/x/net@v0.1.0#http2":   {"golang/golang.org/x/net", "v0.1.0"},
		"pkg:PyPI/requests":                          {"pypi/requests", ""},
		"pkg:deb/debian/libc6@2.36%2Bdfsg-9?a=b@c/d": {"deb/debian/libc6", "2.36+dfsg-9"},
	} {
		name, version, err := ParsePURL(in)
		if err != nil || [2]string{name, version} != want {
			t.Errorf("%s: %s %s %v", in, name, version, err)
		}
	}
	for _, in := range []string{"", "lodash", "pkg:", "pkg:npm", "pkg:npm/", "pkg:/x", "pkg:npm/a%zz"} {
		if _, _, err := ParsePURL(in); err == nil {
			t.Errorf("%q is accepted", in)
		}
	}
}

func TestGroups(t *testing.T) {
	score := func(f float64) *float64 { return &f }
	groups := Groups([]api.Vulnerability{
		{ID: "GHSA-AAAA-bbbb-cccc", Aliases: []string{"cve-2021-1"}, CVSS: score(5)},
		{ID: "CVE-2021-1", CVSS: score(7)},
		{ID: "CVE-2021-2"},
		{ID: "CVE-2021-0", CVSS: score(7)},
		{ID: "GHSA-x", Aliases: []string{"CVE-2021-3", "CVE-2021-4"}, CVSS: score(1)},
	})
	var names [][]string
	for _, g := range groups {
		names = append(names, g.Names)
	}
	want := [][]string{{"CVE-2021-0"}, {"CVE-2021-1", "GHSA-aaaa-bbbb-cccc"}, {"GHSA-x", "CVE-2021-3", "CVE-2021-4"}, {"CVE-2021-2"}}
	if !reflect.DeepEqual(names, want) || *groups[1].Score != 7 {
		t.Errorf("%v", names)
	}
}

// TestFailures: the last scan under a name is told where it failed, in its scope and of its names alone.
func TestFailures(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	scan := func(image, digest, failed string, hour int, scope api.Scope) api.Scan {
		return api.Scan{Image: image, Digest: digest, Error: failed, ScannedAt: at(hour), Scope: scope}
	}
	const name = "registry.example.com/shop/web"
	prod, evil := api.Scope{Cluster: "prod"}, api.Scope{Registry: "evil.example.com"}
	hostile := strings.Repeat("é\n\x1b[2J", 400)
	data := Data([]api.Scan{
		scan("Registry.example.com:443/shop/web:1", "", "no such image", 3, api.Scope{}),
		scan(name+":1", "", "an older one", 2, api.Scope{}),
		scan(name+":2", digest, "a broken layer", 3, api.Scope{}),
		scan(name+":3", "", "it was there later", 3, api.Scope{}),
		scan(name+":3", "sha256:"+strings.Repeat("b", 64), "", 4, api.Scope{}),
		scan(name+":4", digest, "", 3, api.Scope{}),
		scan(name+":4", "", "gone since", 4, api.Scope{}),
		scan(name+":5", "", "in prod", 3, prod),
		scan(name+":6", "", "not its name", 3, evil),
		scan(name+"@"+digest, "", "by digest", 1, prod),
		scan(name+":7", "", hostile, 3, api.Scope{}),
		scan("Not A Name", "", "unreadable", 3, api.Scope{}),
	}, nil, Needs{})
	failed := func(path ...string) string {
		text, _ := lookUp(data, append(path, "failed", "error")).(string)
		return text
	}
	for key, want := range map[string]string{
		"1": "no such image", "2": "a broken layer", "3": "", "4": "gone since", "5": "", "6": "", DigestKey(digest): "",
	} {
		if got := failed("names", name, key); got != want {
			t.Errorf("%s: %q, not %q", key, got, want)
		}
	}
	if got := failed("spaces", "cluster:prod", "names", name, "5"); got != "in prod" {
		t.Errorf("in prod: %q", got)
	}
	if got := failed("spaces", "cluster:prod", "names", name, DigestKey(digest)); got != "by digest" {
		t.Errorf("in prod, by digest: %q", got)
	}
	if got := failed("names", name, "7"); utf8.RuneCountInString(got) != maxFailure || strings.ContainsAny(got, "\n\x1b") {
		t.Errorf("a hostile error is %q", got)
	}
	if lookUp(data, []string{"names", name, "2", "digest"}) != digest || lookUp(data, []string{"names", name, "1", "digest"}) != nil {
		t.Error("what tags lead to is another")
	}
}

func TestPackagesInWords(t *testing.T) {
	v := func(name, version string, fixed ...string) *api.Vulnerability {
		return &api.Vulnerability{Package: name, Version: version, Fix: api.Fix{Versions: fixed}}
	}
	for want, members := range map[string][]*api.Vulnerability{
		"log4j-core 2.14.1, fixed in 2.15.0": {v("log4j-core", "2.14.1", "2.15.0")},
		"zlib 1, no fix":                     {v("zlib", "1"), v("zlib", "1")},
		"a 1, fixed in 2 or 3.1, and 2 more": {v("a", "1", "2", "3.1"), v("a", "2"), v("b", "1")},
		"x y 1, no fix":                      {v("x\n\x1b\ty", "1")},
	} {
		if got := packagesText(members); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got := packagesText([]*api.Vulnerability{v(strings.Repeat("é", 1<<20), "1")}); utf8.RuneCountInString(got) != maxPackages || !utf8.ValidString(got) {
		t.Errorf("%d runes", utf8.RuneCountInString(got))
	}
	// Of more than some, no evaluator holds the text.
	scan := api.Scan{}
	for i := range 3 * namedCVEs {
		score := 9 - float64(i)/10
		scan.Vulnerabilities = append(scan.Vulnerabilities, api.Vulnerability{ID: "CVE-2026-" + strings.Repeat("1", i+1), Package: "p", Version: "1", CVSS: &score})
	}
	image, _ := Image(scan, Needs{})
	if p, _ := image["p"].(map[string]any); len(p) != namedCVEs || p["CVE-2026-1"] != "p 1, no fix" {
		t.Errorf("%v", image["p"])
	}
}
