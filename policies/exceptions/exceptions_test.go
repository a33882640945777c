package exceptions

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
)

var digest = "sha256:" + strings.Repeat("a", 64)

func TestReadCSV(t *testing.T) {
	in := "\ufeffCVE,Registry,Repository,Tags,Justification,Scope\r\n" +
		`CVE-2021-44228,quay.io/tigera,node,"[""v3.1"",""v3.2""]","not reachable, ""really""",image` + "\r\n" +
		`cve-2022-1,,nginx,,base image,Repo` + "\r\n" +
		`GHSA-AAAA-BBBB-CCCC,quay.io/x,y,"[""z""]",everywhere,ANY` + "\r\n"
	got, err := ReadCSV(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []api.VulnerabilityExceptionSpec{
		{CVE: "CVE-2021-44228", Scope: "image", Registry: "quay.io/tigera", Repository: "node", Tags: []string{"v3.1", "v3.2"}, Justification: `not reachable, "really"`},
		{CVE: "CVE-2022-1", Scope: "repo", Repository: "nginx", Justification: "base image"},
		{CVE: "GHSA-aaaa-bbbb-cccc", Scope: "any", Justification: "everywhere"},
	}
	for i, w := range want {
		if !reflect.DeepEqual(got[i].Spec, w) {
			t.Errorf("row %d: %+v, want %+v", i, got[i].Spec, w)
		}
	}
}

// A scan list that was exported, with two columns added, imports.
func TestReadCSVIgnoresOtherColumns(t *testing.T) {
	in := "Registry,Repository,Tags,CVE,Severity,CVSS,Justification,Scope\nquay.io/x,y,\"[\"\"1\"\"]\",CVE-2020-1,High,7.5,ok,image\n"
	got, err := ReadCSV(strings.NewReader(in))
	if err != nil || len(got) != 1 || got[0].Spec.Tags[0] != "1" {
		t.Fatal(got, err)
	}
}

// Every bad row is named by its line, and nothing is imported.
func TestReadCSVErrors(t *testing.T) {
	in := "CVE,Registry,Repository,Tags,Justification,Scope,Expires\n" +
		"CVE-2020-1,,nginx,,ok,repo,\n" +
		"\"CVE-2020-2\nx\",,nginx,,ok,repo,\n" +
		"CVE-2020-3,,nginx,v1,,image,tomorrow\n" +
		"CVE-2020-4,,nginx,,ok,repository,\n" +
		"CVE-2020-5,,,,ok,repo\n"
	got, err := ReadCSV(strings.NewReader(in))
	if got != nil || err == nil {
		t.Fatal(got, err)
	}
	for _, want := range []string{"line 3: CVE:", "line 5: Tags:", "line 5: Justification: is missing", "line 5: Expires:", "line 6: Scope: must be any, repo or image", "line 7: has 6 fields, not 7"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	for _, bad := range []string{"", "CVE,Scope\n", "a,b\nc,d\n", "CVE,CVE,Justification,Scope\n", "CVE,Justification,Scope\nCVE-1,\"x,any\n"} {
		if _, err := ReadCSV(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func specs() []api.VulnerabilityException {
	nine := 9.0
	var list []api.VulnerabilityException
	for _, s := range []api.VulnerabilityExceptionSpec{
		{CVE: "CVE-2020-1", Scope: "any", Justification: "=1+1", Author: "'=x", Expires: "2027-01-01"},
		{CVE: "GHSA-aaaa-bbbb-cccc", Scope: "repo", Registry: "localhost:5000", Repository: "x", Justification: "-\"quoted\",\nline", Until: &api.Until{KEV: true, CVSSAbove: &nine}},
		{CVE: "CVE-2020-2", Scope: "image", Repository: "nginx", Digest: digest, Justification: "''", Packages: []string{"pkg:deb/debian/x@1?a=b"}},
		{CVE: "CVE-2020-3", Scope: "image", Repository: "nginx", Tags: []string{"1", "a,b"[:1]}, Justification: "<&>", Created: "2026-01-01T00:00:00Z"},
	} {
		list = append(list, object(s))
	}
	return list
}

func TestCSVRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := WriteCSV(&b, specs()); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(b.String(), "\n") {
		for _, cell := range strings.Split(line, ",") {
			if strings.HasPrefix(cell, "=") {
				t.Errorf("a spreadsheet would compute %q", cell)
			}
		}
	}
	got, err := ReadCSV(&b)
	if err != nil || !reflect.DeepEqual(got, specs()) {
		t.Fatalf("%v\n%+v\n%+v", err, got, specs())
	}
}

func FuzzReadCSV(f *testing.F) {
	var b bytes.Buffer
	if err := WriteCSV(&b, specs()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Add("CVE,Justification,Scope\nCVE-1,x,any\n")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ReadCSV(strings.NewReader(s))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteCSV(&b, list); err != nil {
			t.Fatal(err)
		}
		again, err := ReadCSV(&b)
		if err != nil || len(again) != len(list) {
			t.Fatalf("%q: written and read again: %v", s, err)
		}
	})
}

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

func FuzzReadVEX(f *testing.F) {
	f.Add(vexDoc)
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ReadVEX(strings.NewReader(s))
		for _, e := range list {
			if len(Validate(e.Spec)) > 0 || err != nil {
				t.Fatalf("%q gives a bad exception %+v %v", s, e.Spec, err)
			}
		}
	})
}
