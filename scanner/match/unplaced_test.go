package match_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/linux"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/match"
)

// ofPURL is a package as an SBOM of another tool has it: without metadata.
func ofPURL(kind pkg.Type, name, version, purl string) pkg.Package {
	return withID(pkg.Package{Name: name, Version: version, Type: kind, PURL: purl, Locations: at("/" + name + version)})
}

// TestUnplaced: what only advisories of a distribution speak of is counted where there are none.
func TestUnplaced(t *testing.T) {
	db, _ := testDatabase(t)
	debs := func(r *linux.Release) sbom.SBOM {
		s := smallSBOM(debian12())
		s.Artifacts.LinuxDistribution = r
		for _, p := range s.Artifacts.Packages.Sorted(pkg.DebPkg) { // whose PURLs then say nothing
			s.Artifacts.Packages.Delete(p.ID())
			p.PURL, _, _ = strings.Cut(p.PURL, "?")
			s.Artifacts.Packages.Add(withID(p))
		}
		return s
	}
	for what, c := range map[string]struct {
		s    sbom.SBOM
		want []api.Unplaced
	}{
		"a known distribution":       {smallSBOM(debian12()), nil},
		"one that is taken for it":   {debs(&linux.Release{ID: "raspbian", VersionID: "12"}), nil},
		"one that is like it":        {debs(&linux.Release{ID: "shopos", IDLike: []string{"debian"}, VersionID: "12"}), nil},
		"another":                    {smallSBOM(alpine317()), nil},
		"a newer minor version":      {smallSBOM(&linux.Release{ID: "alpine", VersionID: "3.99.1"}), nil},
		"no distribution":            {debs(nil), []api.Unplaced{{Packages: 4}}},
		"one that nobody knows":      {debs(&linux.Release{ID: "shopos", VersionID: "7"}), []api.Unplaced{{Distro: "shopos 7", Packages: 4}}},
		"a version that nobody has":  {debs(&linux.Release{ID: "debian", VersionID: "99"}), []api.Unplaced{{Distro: "debian 99", Packages: 4}}},
		"languages alone":            {smallSBOM(nil), nil},
		"languages of nobody's":      {smallSBOM(&linux.Release{ID: "shopos", VersionID: "7"}), nil},
		"the PURLs say it":           {smallSBOM(nil, ofPURL(pkg.DebPkg, "apt", "1", "pkg:deb/debian/apt@1?distro=debian-12")), nil},
		"the PURLs say another":      {smallSBOM(nil, ofPURL(pkg.DebPkg, "apt", "1", "pkg:deb/x/apt@1?distro=x-3")), []api.Unplaced{{Distro: "x 3", Packages: 1}}},
		"each type that has one":     {smallSBOM(nil, ofPURL(pkg.RpmPkg, "a", "1", ""), ofPURL(pkg.ApkPkg, "b", "1", ""), ofPURL(pkg.AlpmPkg, "c", "1", ""), ofPURL(pkg.PortagePkg, "d", "1", "")), []api.Unplaced{{Packages: 4}}},
		"a name that is no name":     {smallSBOM(nil, ofPURL(pkg.DebPkg, "apt", "1", "pkg:deb/x/apt@1?distro=%00%0a'; DROP TABLE x--3")), nil},
		"a name longer than any one": {smallSBOM(&linux.Release{ID: strings.Repeat("é", 400)}, ofPURL(pkg.DebPkg, "apt", "1", "")), []api.Unplaced{{Distro: strings.Repeat("é", 31) + "…", Packages: 1}}},
	} {
		_, got, err := match.New(db.Provider).Match(t.Context(), c.s)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if what == "a name that is no name" { // whatever it is read as, it is not placed
			if len(got) != 1 || got[0].Packages != 1 {
				t.Errorf("%s: %v", what, got)
			}
			continue
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, not %+v", what, got, c.want)
		}
		packages, err := match.PackagesOf(c.s)
		if err != nil {
			t.Fatal(err)
		}
		text, err := packages.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var read match.Packages
		if err := read.UnmarshalBinary(text); err != nil {
			t.Fatal(err)
		}
		if found, err := match.New(db.Provider).MatchPackages(t.Context(), read); err != nil || !reflect.DeepEqual(found.Unplaced, c.want) {
			t.Errorf("%s, kept: %+v, %v", what, found.Unplaced, err)
		}
	}
}

// TestUnplacedIsBounded: a hostile SBOM has a distribution for each package.
func TestUnplacedIsBounded(t *testing.T) {
	db, _ := testDatabase(t)
	var packages []pkg.Package
	for i := range 500 {
		packages = append(packages, ofPURL(pkg.DebPkg, "a", fmt.Sprint(i), fmt.Sprintf("pkg:deb/x/a@%d?distro=x%d-1", i, i)))
	}
	_, got, err := match.New(db.Provider).Match(t.Context(), smallSBOM(nil, packages...))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, u := range got {
		sum += u.Packages
	}
	if len(got) != 10 || sum != 500 || got[9].Distro != "further distributions" {
		t.Errorf("%d, of %d packages: %v", len(got), sum, got)
	}
	if err := (api.Scan{ScannedAt: built(), Unplaced: got}).Validate(); err != nil {
		t.Error(err)
	}
}

// TestMatchWithoutDistributions: a database that cannot tell is an error, not a Pass.
func TestMatchWithoutDistributions(t *testing.T) {
	db, _ := testDatabase(t)
	type mute struct{ vulnerability.Provider }
	if _, _, err := match.New(mute{db.Provider}).Match(t.Context(), smallSBOM(debian12())); err == nil || !strings.Contains(err.Error(), "which distributions it has") {
		t.Errorf("it is %v", err)
	}
}

// TestSourcePackagesBesideADistribution: an SBOM of another tool names its source packages in PURLs,
// whoever says what distribution it is.
func TestSourcePackagesBesideADistribution(t *testing.T) {
	db, _ := testDatabase(t)
	s := smallSBOM(debian12(), ofPURL(pkg.DebPkg, "libssl-other", "3.0.7-1", "pkg:deb/debian/libssl-other@3.0.7-1?upstream=openssl"))
	for _, v := range matchAll(t, db, s) {
		if v.Package == "libssl-other" {
			return
		}
	}
	t.Error("nothing is found of its source package")
}
