package match_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/match"
)

func names(list []api.Vulnerability) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.ID+" "+v.Package+"@"+v.Version)
	}
	return out
}

func TestMatch(t *testing.T) {
	db, _ := testDatabase(t)
	got := matchAll(t, db, smallSBOM(debian12()))
	want := []string{
		"GHSA-jfh8-c2jp-5v3q example.com/log4go@v2.14.1", // 10.0
		"GHSA-jfh8-c2jp-5v3q example.com/log4go@v2.2.0",
		"CVE-2023-0286 libssl3@3.0.7-1",         // 7.4
		"GHSA-35jh-r3h4-6jhm lodash@4.17.20",    // 7.2, in two places
		"GHSA-35jh-r3h4-6jhm lodash@4.17.20",    //
		"PYSEC-2021-66 Jinja2@2.10",             // 5.3
		"PYSEC-2021-66 Jinja2@3.0.0a1",          // listed, in no range
		"CVE-2011-3374 apt@2.6.1",               // no score
		"GO-2023-2102 golang.org/x/net@v0.16.0", //
	}
	if !slices.Equal(names(got), want) {
		t.Fatalf("matches:\n%s\nwant:\n%s", strings.Join(names(got), "\n"), strings.Join(want, "\n"))
	}
	score, probability := 7.2, 0.0123
	wantLodash := api.Vulnerability{
		ID: "GHSA-35jh-r3h4-6jhm", Aliases: []string{"CVE-2021-23337"}, Package: "lodash", Version: "4.17.20", Type: "npm",
		PURL: "pkg:npm/lodash@4.17.20", CVSS: &score, Vector: "CVSS:3.1/AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H", Severity: "High",
		Fix:  api.Fix{State: "fixed", Versions: []string{"4.17.21"}, Available: "2021-02-20T00:00:00Z"},
		EPSS: &probability, Published: "2021-05-06T16:05:51Z", Namespace: "github:language:javascript",
		DataSource: "https://example.com/CVE-2021-23337", Description: "Command Injection in lodash",
		Locations: []string{"/a/package.json"}, Layer: highLayer,
	}
	if !reflect.DeepEqual(got[3], wantLodash) {
		t.Errorf("lodash:\n%+v\nwant:\n%+v", got[3], wantLodash)
	}
	if v := got[0]; !v.KEV || v.EPSS == nil || *v.EPSS != 0.97 || *v.CVSS != 10 || v.Severity != "Critical" || v.Fix.State != "not-fixed" {
		t.Errorf("log4go: %+v", v)
	}
	if v := got[1]; v.Fix.State != "fixed" || !slices.Equal(v.Fix.Versions, []string{"2.3.1"}) {
		t.Errorf("the first interval of log4go: %+v", v.Fix)
	}
	if v := got[2]; v.Layer != lowLayer || v.Namespace != "debian:distro:debian:12" || v.Fix.Available != "2023-02-07T00:00:00Z" || *v.CVSS != 7.4 {
		t.Errorf("libssl3: %+v", v)
	}
	if v := got[7]; v.CVSS != nil || v.Vector != "" || v.Severity != "Low" || v.Fix.State != "not-fixed" || v.EPSS != nil || v.KEV {
		t.Errorf("apt: %+v", v)
	}
	if v := got[8]; !v.KEV || !slices.Equal(v.Aliases, []string{"CVE-2023-39325", "CVE-2023-44487", "GHSA-4374-p667-p6c8"}) {
		t.Errorf("x/net: %+v", v)
	}
}

func TestMatchAlpineAndNoDistribution(t *testing.T) {
	db, _ := testDatabase(t)
	if got := names(matchAll(t, db, smallSBOM(alpine317()))); !slices.Contains(got, "CVE-2023-0286 libssl3@3.0.7-r0") {
		t.Errorf("Alpine: %v", got)
	}
	// As from CycloneDX: the distribution and the source are in the PURL alone.
	bare := withID(pkg.Package{Name: "libssl3", Version: "3.0.7-1", Type: pkg.DebPkg,
		PURL: "pkg:deb/debian/libssl3@3.0.7-1?distro=debian-12&upstream=openssl%403.0.7-1"})
	if got := names(matchAll(t, db, smallSBOM(nil, bare))); !slices.Contains(got, "CVE-2023-0286 libssl3@3.0.7-1") {
		t.Errorf("PURL: %v", got)
	}
	if got := matchAll(t, db, sbom.SBOM{}); got == nil || len(got) != 0 {
		t.Errorf("no packages: %#v", got)
	}
}

func TestMatchSideBySide(t *testing.T) {
	db, _ := testDatabase(t)
	m := match.New(db.Provider)
	s := smallSBOM(debian12())
	want := matchAll(t, db, s)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, _, err := m.Match(t.Context(), s)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%v\n%v", err, names(got))
			}
		})
	}
	wg.Wait()
}

// failing is a database that breaks after some questions.
type failing struct {
	vulnerability.Provider
	err error
}

func (f failing) FindVulnerabilities(...vulnerability.Criteria) ([]vulnerability.Vulnerability, error) {
	return nil, f.err
}

func TestMatchFails(t *testing.T) {
	db, _ := testDatabase(t)
	broken := errors.New("disk image is malformed")
	if got, _, err := match.New(failing{db.Provider, broken}).Match(t.Context(), smallSBOM(debian12())); !errors.Is(err, broken) || got != nil {
		t.Errorf("a broken database: %v, %d matches", err, len(got))
	}
	if _, _, err := match.New(nil).Match(t.Context(), smallSBOM(nil)); !errors.Is(err, match.ErrNoDatabase) {
		t.Errorf("no database: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := match.New(db.Provider).Match(ctx, smallSBOM(nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestMatchDamagedWhileOpen damages the file under an open database: that is
// an error or the same matches from what is in memory, but never fewer.
func TestMatchDamagedWhileOpen(t *testing.T) {
	db, _ := testDatabase(t)
	want := names(matchAll(t, db, smallSBOM(debian12())))
	info, err := os.Stat(db.Path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(db.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, info.Size()-4096), 4096); err != nil {
		t.Fatal(err)
	}
	got, _, err := match.New(db.Provider).Match(t.Context(), smallSBOM(debian12()))
	if err == nil && !slices.Equal(names(got), want) {
		t.Errorf("a damaged database gave %v", names(got))
	}
}
