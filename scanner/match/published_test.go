package match_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/anchore/syft/syft/pkg"

	"github.com/assay-dev/assay/scanner/vulndb"
)

// TestPublishedOfTheCVE takes the date from the CVE where the record of the
// distribution has none.
func TestPublishedOfTheCVE(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.json")
	if err := os.WriteFile(file, []byte(`[
		{"id": "CVE-2024-0553", "affected": [{"package": {"ecosystem": "Debian:12", "name": "gnutls28"},
			"ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]},
		{"id": "GHSA-aaaa-bbbb-cccc", "aliases": ["CVE-2024-0553"], "published": "2024-01-16T12:15:45Z",
			"affected": [{"package": {"ecosystem": "npm", "name": "gnutls"}, "versions": ["1.0.0"]}]}
	]`), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "6")
	if _, err := vulndb.Build(t.Context(), []string{file}, dir, built()); err != nil {
		t.Fatal(err)
	}
	lib := withID(pkg.Package{Name: "libgnutls30", Version: "3.7.9-2", Type: pkg.DebPkg, PURL: "pkg:deb/debian/libgnutls30@3.7.9-2",
		Metadata: pkg.DpkgDBEntry{Package: "libgnutls30", Version: "3.7.9-2", Source: "gnutls28"}})
	got := matchAll(t, openDatabase(t, dir), smallSBOM(debian12(), lib))
	if len(got) != 1 || got[0].ID != "CVE-2024-0553" || got[0].Published != "2024-01-16T12:15:45Z" {
		t.Errorf("matches: %+v", got)
	}
}
