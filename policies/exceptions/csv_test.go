package exceptions

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
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
		{CVE: "CVE-2020-4", Scope: "any", Justification: "@cmd|' /C calc'!A0", Author: "+49 30", Packages: []string{"pkg:npm/%40a/b"}},
		{CVE: "CVE-2020-5", Scope: "any", Justification: " \t=1 \r;\n", Author: "＝1"},
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
			if strings.ContainsAny(cell[:min(1, len(cell))], "=+-@\t") {
				t.Errorf("a spreadsheet would compute %q", cell)
			}
		}
	}
	got, err := ReadCSV(&b)
	if err != nil || !reflect.DeepEqual(got, specs()) {
		t.Fatalf("%v\n%+v\n%+v", err, got, specs())
	}
}

// Whatever a text holds, it is written for no spreadsheet to compute and read
// back as it was.
func TestCSVRoundTripOfTexts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"=", "+", "-", "@", "'", "\"", ",", ";", "\t", "\n", "\r", " ", "a", "é", "＝", "[", "{", "\\", "\ufeff", "\u00a0", "\u3000", "\u200b", "＋", "﹣"}
	var list []api.VulnerabilityException
	for i := range 3000 {
		texts := [2]string{}
		for k := range texts {
			for range r.IntN(6) {
				texts[k] += pieces[r.IntN(len(pieces))]
			}
			for strings.Contains(texts[k], "\r\n") {
				texts[k] = strings.ReplaceAll(texts[k], "\r\n", "\n") // what CSV does not keep
			}
		}
		list = append(list, object(api.VulnerabilityExceptionSpec{CVE: fmt.Sprintf("CVE-2020-%d", i), Scope: "any", Justification: texts[0] + "x", Author: texts[1]}))
	}
	var b bytes.Buffer
	if err := WriteCSV(&b, list); err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(bytes.NewReader(b.Bytes())).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		for _, cell := range record {
			if computes(cell) {
				t.Errorf("a spreadsheet would compute %q", cell)
			}
		}
	}
	again, err := ReadCSV(&b)
	if err != nil || !reflect.DeepEqual(again, list) {
		t.Fatalf("%v; %d of %d", err, len(again), len(list))
	}
}

func TestWriteCSVRefusesWhatJSONCannotHold(t *testing.T) {
	nan := math.NaN()
	if err := WriteCSV(io.Discard, []api.VulnerabilityException{{Spec: api.VulnerabilityExceptionSpec{Until: &api.Until{CVSSAbove: &nan}}}}); err == nil {
		t.Error("NaN is written")
	}
}

// A list of scan results has columns of its own, which may have names of ours.
func TestReadCSVOfAForeignList(t *testing.T) {
	in := "Image;Registry;Repository;Tags;Digest;Created;Packages;CVE;CVSS;Justification;Scope\n" +
		"x;quay.io/x;y;\"[\"\"1\"\"]\";docker-pullable://y;3 days ago;openssl;CVE-2020-1;9;ok;image_tags\n" +
		"x;quay.io/x;y;v1, v2;?;;2;CVE-2020-2;9;ok;repo\n;;;;;;;;;;\n" +
		"x;;;-;;;;CVE-2020-3;9;ok; Any \nx;;z;none;;;;CVE-2020-3;9;ok;any\n" +
		"x;;nginx;;" + digest + ";;;CVE-2020-4;;ok;image\n"
	got, err := ReadCSV(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []api.VulnerabilityException{
		object(api.VulnerabilityExceptionSpec{CVE: "CVE-2020-1", Scope: "image", Registry: "quay.io/x", Repository: "y", Tags: []string{"1"}, Justification: "ok"}),
		object(api.VulnerabilityExceptionSpec{CVE: "CVE-2020-2", Scope: "repo", Registry: "quay.io/x", Repository: "y", Justification: "ok"}),
		object(api.VulnerabilityExceptionSpec{CVE: "CVE-2020-3", Scope: "any", Justification: "ok"}),
		object(api.VulnerabilityExceptionSpec{CVE: "CVE-2020-4", Scope: "image", Repository: "nginx", Digest: digest, Justification: "ok"}),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{
		"Image,CVE,Justification,Scope,Packages\nx,CVE-1,ok,any,pkg:npm/x\n", // would widen what was meant to be narrow
		"CVE,Justification,Scope,Packages\nCVE-1,ok,any,openssl\n",
		"Image,CVE,Justification,Scope,Expires\nx,CVE-1,ok,any,soon\n",
		"CVE,Justification,Scope,Until\nCVE-1,ok,any,\"{\"\"kev\"\":true} x\"\n",
		"CVE,Justification,Scope\nCVE-1,\xff,any\n", "\xff\xfeC\x00", "CVE,Justification,Scope\n\"CVE-1\n",
		"CVE,Justification,Scope\nCVE-1,ok,any\n\"x\"y,ok,any\n",
	} {
		if got, err := ReadCSV(strings.NewReader(bad)); err == nil || got != nil {
			t.Errorf("%q gives %+v", bad, got)
		}
	}
}

func TestReadCSVBounds(t *testing.T) {
	header := "CVE,Justification,Scope\n"
	for name, r := range map[string]io.Reader{
		"bytes": io.MultiReader(strings.NewReader(header), io.LimitReader(repeat("CVE-1,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,any\n"), MaxBytes)),
		"rows":  io.MultiReader(strings.NewReader(header), io.LimitReader(repeat(",,\n"), 3*(MaxRows+1))),
		"quote": io.MultiReader(strings.NewReader(header+"\""), io.LimitReader(repeat("x"), MaxBytes)),
	} {
		if got, err := ReadCSV(r); err == nil || got != nil {
			t.Errorf("%s: %d exceptions", name, len(got))
		}
	}
}

// repeat is a text without end.
type repeat string

func (r repeat) Read(b []byte) (int, error) {
	n := 0
	for n+len(r) <= len(b) {
		n += copy(b[n:], r)
	}
	if n == 0 {
		n = copy(b, r)
	}
	return n, nil
}

func TestValidate(t *testing.T) {
	high, low := 11.0, -0.1
	for want, s := range map[string]api.VulnerabilityExceptionSpec{
		"cve":                       {Scope: "any", Justification: "x"},
		"cve ":                      {CVE: "CVE 1", Scope: "any", Justification: "x"},
		"justification":             {CVE: "CVE-1", Scope: "any", Justification: " \n"},
		"justification ":            {CVE: "CVE-1", Scope: "any", Justification: strings.Repeat("x", maxText+1)},
		"author":                    {CVE: "CVE-1", Scope: "any", Justification: "x", Author: "\xff"},
		"scope":                     {CVE: "CVE-1", Scope: "all", Justification: "x"},
		"scope ":                    {CVE: "CVE-1", Scope: "any", Justification: "x", Repository: "x"},
		"scope  ":                   {CVE: "CVE-1", Scope: "repo", Justification: "x", Repository: "x", Tags: []string{"a"}},
		"repository":                {CVE: "CVE-1", Scope: "repo", Justification: "x"},
		"repository ":               {CVE: "CVE-1", Scope: "repo", Justification: "x", Repository: "X y"},
		"tags":                      {CVE: "CVE-1", Scope: "image", Justification: "x", Repository: "x"},
		"tags ":                     {CVE: "CVE-1", Scope: "image", Justification: "x", Repository: "x", Tags: slices.Repeat([]string{"x"}, maxList+1)},
		"tags[1]":                   {CVE: "CVE-1", Scope: "image", Justification: "x", Repository: "x", Tags: []string{"a", ":"}},
		"digest":                    {CVE: "CVE-1", Scope: "image", Justification: "x", Repository: "x", Digest: "sha256:1"},
		"expires":                   {CVE: "CVE-1", Scope: "any", Justification: "x", Expires: "2026-13-01"},
		"created":                   {CVE: "CVE-1", Scope: "any", Justification: "x", Created: "now"},
		"packages[0]":               {CVE: "CVE-1", Scope: "any", Justification: "x", Packages: []string{"openssl"}},
		"until.cvssAbove":           {CVE: "CVE-1", Scope: "any", Justification: "x", Until: &api.Until{CVSSAbove: &high}},
		"until.epssAbove":           {CVE: "CVE-1", Scope: "any", Justification: "x", Until: &api.Until{EPSSAbove: &low}},
		"cve justification created": {Scope: "any", Created: "x"},
		"":                          {CVE: "RHSA-2024:1234", Scope: "image", Justification: "x", Registry: "localhost:5000", Repository: "a/b", Tags: []string{"v1"}, Digest: digest, Expires: "2026-01-31T00:00:00+02:00"},
	} {
		var got []string
		for _, f := range Validate(s) {
			got = append(got, f.Path)
		}
		if strings.Join(got, " ") != strings.TrimSpace(want) {
			t.Errorf("%+v: %v, want %s", s, got, want)
		}
	}
}

func FuzzReadCSV(f *testing.F) {
	var b bytes.Buffer
	if err := WriteCSV(&b, specs()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.String())
	f.Add("CVE,Justification,Scope\nCVE-1,x,any\n")
	f.Add("x;cve;scope;justification;created;packages\n;CVE-1;any;'=1;;\n")
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
		if err != nil || !reflect.DeepEqual(again, list) {
			t.Fatalf("%q: written and read again: %v\n%+v\n%+v", s, err, list, again)
		}
	})
}
