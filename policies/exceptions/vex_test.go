package exceptions

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

const vexDoc = `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "https://example.com/1", "author": "Jane", "timestamp": "2026-01-01T00:00:00Z", "version": 1,
"statements": [
 {"vulnerability": {"name": "CVE-2020-1"}, "products": [{"@id": "pkg:oci/nginx?repository_url=docker.io/library/nginx&tag=1", "subcomponents": [{"@id": "pkg:deb/debian/x@1"}]}], "status": "not_affected", "justification": "vulnerable_code_not_present"},
 {"vulnerability": {"name": "CVE-2020-2"}, "products": [{"@id": "pkg:npm/lodash@4.17.15"}], "status": "fixed"},
 {"vulnerability": {"name": "CVE-2020-3"}, "products": [{"@id": "pkg:npm/lodash"}], "status": "fixed"},
 {"vulnerability": {"name": "CVE-2020-3"}, "products": [{"@id": "pkg:npm/lodash"}], "status": "under_investigation", "timestamp": "2026-02-01T00:00:00Z"},
 {"vulnerability": {"name": "CVE-2020-4"}, "products": [{"@id": "quay.io/x/y"}], "status": "fixed"}
]}`

func TestReadVEX(t *testing.T) {
	got, err := ReadVEX(strings.NewReader(vexDoc))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]api.VulnerabilityExceptionSpec{}
	for _, e := range got {
		found[e.Spec.CVE] = e.Spec
	}
	if len(got) != 3 || found["CVE-2020-3"].CVE != "" {
		t.Errorf("a later statement must take an earlier one back: %+v", found)
	}
	one := found["CVE-2020-1"]
	if one.Scope != "image" || one.Registry != "docker.io/library" || one.Tags[0] != "1" || one.Packages[0] != "pkg:deb/debian/x@1" || one.Author != "Jane" || one.Justification != "OpenVEX not_affected: vulnerable_code_not_present" {
		t.Errorf("%+v", one)
	}
	if two := found["CVE-2020-2"]; two.Scope != "any" || two.Packages[0] != "pkg:npm/lodash@4.17.15" {
		t.Errorf("%+v", two)
	}
	if four := found["CVE-2020-4"]; four.Scope != "repo" || four.Registry != "quay.io/x" || four.Repository != "y" || len(four.Packages) != 0 {
		t.Errorf("%+v", four)
	}
}

// statements makes a document: each is "time status id products", where a time
// is a month of 2026 and products are joined by "," and their subcomponents by "|".
func statements(lines ...string) string {
	var list []string
	for _, line := range lines {
		f := strings.Fields(line)
		ids := strings.Split(f[2], ",")
		var products []string
		for _, p := range strings.Split(f[3], ",") {
			names := strings.Split(p, "|")
			var subs []string
			for _, s := range names[1:] {
				subs = append(subs, fmt.Sprintf(`{"@id": %q}`, s))
			}
			products = append(products, fmt.Sprintf(`{"@id": %q, "subcomponents": [%s]}`, names[0], strings.Join(subs, ",")))
		}
		list = append(list, fmt.Sprintf(`{"vulnerability": {"name": %q, "aliases": ["%s"]}, "timestamp": "2026-%s-01T00:00:00Z", "status": %q, "impact_statement": "i", "products": [%s]}`,
			ids[0], strings.Join(ids[1:], `", "`), f[0], f[1], strings.Join(products, ",")))
	}
	return `{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "x", "author": "a", "timestamp": "2026-06-01T00:00:00Z", "statements": [` + strings.Join(list, ",") + "]}"
}

// short prints exceptions as "id image package", sorted.
func short(list []api.VulnerabilityException) string {
	var out []string
	for _, e := range list {
		s := e.Spec
		image := s.Scope
		if s.Repository != "" {
			image = s.Registry + "/" + s.Repository
		}
		if len(s.Tags) > 0 {
			image += ":" + strings.Join(s.Tags, ",")
		}
		if s.Digest != "" {
			image += "@" + s.Digest[:9]
		}
		out = append(out, strings.TrimSpace(s.CVE+" "+image+" "+strings.Join(s.Packages, ",")))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func TestReadVEXInOrder(t *testing.T) {
	const image = "pkg:oci/y?repository_url=quay.io/x/y"
	for _, c := range []struct {
		want  string
		lines []string
	}{
		{"CVE-1 any pkg:npm/a; GHSA-x any pkg:npm/a", []string{"01 fixed CVE-1,GHSA-X,cve-1 pkg:npm/a"}},
		{"", []string{"02 affected GHSA-X pkg:npm/a", "01 fixed CVE-1,GHSA-X pkg:npm/a"}},
		{"", []string{"01 fixed CVE-1 pkg:npm/a", "02 affected GHSA-X pkg:npm/a", "01 affected CVE-1,GHSA-X pkg:npm/other"}},
		{"CVE-1 any pkg:npm/a", []string{"02 fixed CVE-1 pkg:npm/a", "01 affected CVE-1 pkg:npm/a"}},
		{"CVE-1 any pkg:npm/a", []string{"01 under_investigation CVE-1 pkg:npm/a", "01 fixed CVE-1 pkg:npm/a"}},
		{"CVE-1 any pkg:npm/a@1", []string{"01 fixed CVE-1 pkg:npm/a@1", "02 affected CVE-1 pkg:npm/a@2", "02 affected CVE-2 pkg:npm/a@1"}},
		{"", []string{"01 fixed CVE-1 pkg:npm/a@1", "02 affected CVE-1 pkg:npm/a"}},
		{"", []string{"01 fixed CVE-1 pkg:npm/a", "02 affected CVE-1 pkg:npm/a@1"}},
		// An image is about all its packages, a package about all images.
		{"", []string{"01 not_affected CVE-1 " + image + "|pkg:npm/a", "02 affected CVE-1 " + image}},
		{"", []string{"01 not_affected CVE-1 " + image, "02 affected CVE-1 " + image + "|pkg:npm/a"}},
		{"", []string{"01 not_affected CVE-1 " + image, "02 affected CVE-1 pkg:npm/a"}},
		{"", []string{"01 not_affected CVE-1 pkg:npm/a", "02 affected CVE-1 " + image}},
		{"CVE-1 quay.io/x/y pkg:npm/b", []string{"01 not_affected CVE-1 " + image + "|pkg:npm/a|pkg:npm/b", "02 affected CVE-1 pkg:npm/a"}},
		{"CVE-1 quay.io/x/y:1 pkg:npm/a", []string{"01 not_affected CVE-1 " + image + "&tag=1|pkg:npm/a", "02 affected CVE-1 " + image + "&tag=2," + image + "z"}},
		{"", []string{"01 not_affected CVE-1 " + image + "&tag=1", "02 affected CVE-1 quay.io/x/y@" + digest}},
		// What cannot be placed takes nothing back, and does no harm.
		{"CVE-1 any pkg:npm/a", []string{"01 fixed CVE-1 pkg:npm/a", "02 affected CVE-1 https://example.com/x"}},
	} {
		got, err := ReadVEX(strings.NewReader(statements(c.lines...)))
		if err != nil || short(got) != c.want {
			t.Errorf("%q: %s %v, want %s", c.lines, short(got), err, c.want)
		}
	}
}

func TestReadVEXProducts(t *testing.T) {
	for product, want := range map[string]string{
		"pkg:oci/y?repository_url=quay.io/x/y":                           "quay.io/x/y",
		"pkg:oci/y?repository_url=quay.io%2Fx":                           "quay.io/x/y",
		"pkg:oci/y?repository_url=localhost:5000":                        "localhost:5000/y",
		"pkg:oci/nginx?repository_url=index.docker.io/library&tag=1":     "docker.io/library/nginx:1",
		"pkg:oci/y@1.2?repository_url=quay.io/x/y&arch=amd64":            "quay.io/x/y:1.2",
		"pkg:oci/y@" + digest + "?repository_url=quay.io/x/y&tag=1":      "quay.io/x/y@sha256:aa",
		"pkg:oci/y@sha256%3A" + digest[7:] + "?repository_url=quay.io/y": "quay.io/y@sha256:aa",
		"pkg:docker/nginx@1.25":                                          "docker.io/library/nginx:1.25",
		"pkg:docker/a/b@" + digest + "?repository_url=gcr.io":            "gcr.io/a/b@sha256:aa",
		"nginx":                          "docker.io/library/nginx",
		"nginx:latest":                   "docker.io/library/nginx:latest",
		"localhost:5000/x:1@" + digest:   "localhost:5000/x@sha256:aa",
		"pkg:golang/a/b@v1|pkg:golang/c": "any pkg:golang/a/b@v1",
		"pkg:oci/y":                      "error", "pkg:oci/Y?repository_url=a%zz": "error", "pkg:x": "error", "": "error", "https://example.com/x": "error",
		"nginx|openssl": "error", "nginx|": "error", "pkg:oci/y@sha256:1?repository_url=quay.io/x/y": "error", "pkg:oci/y?repository_url=quay.io/x/y&tag=-": "error",
	} {
		got, err := ReadVEX(strings.NewReader(statements("01 fixed CVE-1 " + product + ",pkg:npm/z")))
		text := strings.TrimPrefix(strings.TrimSuffix(short(got), "CVE-1 any pkg:npm/z"), "CVE-1 any pkg:npm/z; ")
		text = strings.TrimPrefix(strings.TrimSuffix(text, "; "), "CVE-1 ")
		if err != nil {
			text = "error"
		}
		if text != want {
			t.Errorf("%s: %s, want %s (%v)", product, text, want, err)
		}
	}
	hashed := strings.Replace(statements("01 fixed CVE-1 nginx:1"), `"subcomponents"`, `"hashes": {"sha-256": "`+strings.ToUpper(digest[7:])+`"}, "subcomponents"`, 1)
	if got, err := ReadVEX(strings.NewReader(hashed)); err != nil || short(got) != "CVE-1 docker.io/library/nginx@sha256:aa" {
		t.Errorf("%s %v", short(got), err)
	}
}

func TestReadVEXErrors(t *testing.T) {
	for _, bad := range []string{
		"", "[]", "{}", `{"@context": "https://openvex.dev/ns/v0.2.0", "statements": 1}`, `{"bomFormat": "CycloneDX"}`,
		statements("01 fixed CVE_1,x pkg:npm/a", "01 fixed CV$E pkg:npm/a"), statements("01 wrong CVE-1 pkg:npm/a"),
		strings.ReplaceAll(statements("01 not_affected CVE-1 pkg:npm/a"), `"impact_statement": "i", `, ""),
		strings.ReplaceAll(statements("01 not_affected CVE-1 pkg:npm/a"), `"impact_statement"`, `"justification"`),
		strings.ReplaceAll(statements("01 fixed CVE-1 pkg:npm/a"), `"products"`, `"other"`),
	} {
		if got, err := ReadVEX(strings.NewReader(bad)); err == nil || got != nil {
			t.Errorf("%.200s gives %s", bad, short(got))
		}
	}
}

func TestReadVEXBounds(t *testing.T) {
	for name, doc := range map[string]string{
		"products": statements("01 fixed CVE-1 " + strings.Repeat("pkg:npm/a,", maxStatements) + "pkg:npm/a"),
		"aliases":  statements("01 fixed CVE-1" + strings.Repeat(",A-1", 10) + " " + strings.Repeat("pkg:npm/a,", maxStatements/2+1) + "pkg:npm/a"),
		"faults":   statements("01 fixed CVE-1 " + strings.Repeat("pkg:npm,", maxStatements) + "pkg:npm/a"),
		"depth":    `{"@context": ` + strings.Repeat("[", 1_000_000),
	} {
		if got, err := ReadVEX(strings.NewReader(doc)); err == nil || got != nil || len(err.Error()) > 1<<20 {
			t.Errorf("%s: %d exceptions", name, len(got))
		}
	}
	var lines []string
	for i := range 6_000 {
		lines = append(lines, fmt.Sprintf("01 fixed CVE-1 pkg:npm/a%d", i), fmt.Sprintf("02 affected CVE-1 pkg:npm/b%d", i))
	}
	if _, err := ReadVEX(strings.NewReader(statements(lines...))); err == nil {
		t.Error("comparisons are not bounded")
	}
}

func FuzzReadVEX(f *testing.F) {
	f.Add(vexDoc)
	f.Add(statements("01 fixed CVE-1,GHSA-x pkg:oci/y?repository_url=quay.io/x/y&tag=1|pkg:npm/a,nginx@"+digest, "02 affected CVE-1 nginx:1"))
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ReadVEX(strings.NewReader(s))
		names := map[string]bool{}
		for _, e := range list {
			if len(Validate(e.Spec)) > 0 || err != nil {
				t.Fatalf("%q gives a bad exception %+v %v", s, e.Spec, err)
			}
			if names[e.Metadata.Name] {
				t.Fatalf("%q gives %s twice", s, e.Metadata.Name)
			}
			names[e.Metadata.Name] = true
		}
	})
}
