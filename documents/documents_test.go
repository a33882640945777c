package documents

import (
	"reflect"
	"testing"

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
