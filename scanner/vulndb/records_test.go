package vulndb

import (
	"path/filepath"
	"testing"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
)

// TestDecorations reads what an advisory says of EPSS, KEV and the source of
// its score back from the tables of the database.
func TestDecorations(t *testing.T) {
	const affected = `"affected":[{"package":{"ecosystem":"npm","name":"a"},"versions":["1.0.0"]}]`
	file := write(t, []byte(`[
		{"id":"GHSA-aaaa-aaaa-aaaa","aliases":["CVE-2021-44228"],`+affected+`,
			"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"}],
			"database_specific":{"cvss":{"source":"nvd@nist.gov"},"epss":{"probability":0.97,"percentile":0.99,"date":"2026-01-02"},
				"kev":{"date_added":"2021-12-10","due_date":"2021-12-24","vendor":"Apache","product":"Log4j2"}}},
		{"id":"GHSA-bbbb-bbbb-bbbb","aliases":["CVE-2021-44228"],`+affected+`,
			"severity":[{"type":"CVSS_V3","score":"CVSS:3.0/AV:N/AC:H/PR:N/UI:N/S:C/C:H/I:H/A:H"}],
			"database_specific":{"epss":{"probability":0.5,"percentile":0.6,"date":"2026-01-01"},"kev":true}},
		{"id":"CVE-2022-0001",`+affected+`,"database_specific":{"epss":{"probability":0.25,"percentile":0.5,"date":"2025-12-31"}}}
	]`))
	dir := filepath.Join(t.TempDir(), "db")
	if _, err := Build(t.Context(), []string{file}, dir, builtAt()); err != nil {
		t.Fatal(err)
	}
	r, err := v6.NewReader(v6.Config{DBDirPath: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The newest counts, and the day of the newest stands for all.
	for cve, want := range map[string]float64{"CVE-2021-44228": 0.97, "CVE-2022-0001": 0.25} {
		epss, err := r.GetEpss(cve)
		if err != nil || len(epss) != 1 || epss[0].Epss != want || epss[0].Date.Format(time.DateOnly) != "2026-01-02" {
			t.Errorf("%s: EPSS %+v, %v", cve, epss, err)
		}
	}
	kev, err := r.GetKnownExploitedVulnerabilities("CVE-2021-44228")
	if err != nil || len(kev) != 1 {
		t.Fatalf("KEV: %+v, %v", kev, err)
	}
	if b := kev[0].BlobValue; b.Product != "Log4j2" || b.VendorProject != "Apache" || b.DateAdded == nil ||
		b.DateAdded.Format(time.DateOnly) != "2021-12-10" || b.DueDate == nil || b.DueDate.Format(time.DateOnly) != "2021-12-24" {
		t.Errorf("KEV: %+v", b)
	}
	nvd, err := r.GetVulnerabilities(&v6.VulnerabilitySpecifier{Name: "CVE-2021-44228", Providers: []string{"nvd"}}, &v6.GetVulnerabilityOptions{Preload: true})
	if err != nil || len(nvd) != 1 {
		t.Fatalf("NVD: %+v, %v", nvd, err)
	}
	var got []string
	for _, s := range nvd[0].BlobValue.Severities {
		got = append(got, s.Source+" "+s.Value.(v6.CVSSSeverity).Version)
	}
	if len(got) != 2 || got[0] != "nvd@nist.gov 3.1" || got[1] != " 3.0" {
		t.Errorf("scores: %q", got)
	}
}
