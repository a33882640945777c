package scanner

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/anchore/syft/syft/linux"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/assay-dev/assay/api"
)

func TestParseDistro(t *testing.T) {
	for in, want := range map[string]linux.Release{
		"debian:12":          {ID: "debian", VersionID: "12"},
		"debian:sid":         {ID: "debian", VersionCodename: "sid"},
		"opensuse-leap:15.5": {ID: "opensuse-leap", VersionID: "15.5"},
		"wolfi":              {ID: "wolfi"},
	} {
		got, err := parseDistro(in)
		if err != nil || got.ID != want.ID || got.VersionID != want.VersionID || got.VersionCodename != want.VersionCodename {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	for _, in := range []string{":12", "debian:", "Debian 12", "debian:12:3", "debian:12\n", "-x", strings.Repeat("d", 50)} {
		if r, err := parseDistro(in); !errors.Is(err, ErrInput) {
			t.Errorf("%q is %+v, %v", in, r, err)
		}
		if _, err := New(Config{Distro: in}); !errors.Is(err, ErrInput) {
			t.Errorf("a scanner takes %q: %v", in, err)
		}
	}
}

// TestSaysDistro: what was said is in the SBOM that a server stores, and what the image said is told.
func TestSaysDistro(t *testing.T) {
	for was, warned := range map[string]bool{"": false, "debian": false, "alpine": true} {
		s := &sbom.SBOM{Artifacts: sbom.Artifacts{Packages: pkg.NewCollection()}}
		if was != "" {
			s.Artifacts.LinuxDistribution = &linux.Release{ID: was, VersionID: "12"}
		}
		o := Outcome{SBOM: s}
		if err := o.saysDistro("debian:12"); err != nil {
			t.Fatal(err)
		}
		if got := distroText(s); got != "debian 12" {
			t.Errorf("it is %q", got)
		}
		if len(o.Scan.Warnings) > 0 != warned || warned && !strings.Contains(o.Scan.Warnings[0], "says that it is alpine 12") {
			t.Errorf("of %q it is warned %q", was, o.Scan.Warnings)
		}
	}
}

// TestScanTellsOfUnplacedPackages: what the matcher could not look up is in the scan.
func TestScanTellsOfUnplacedPackages(t *testing.T) {
	want := []api.Unplaced{{Packages: 3}}
	s := newScanner(t, func(c *Config) { c.Matcher = &fakeMatcher{unplaced: want} })
	o := s.Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": debianImage(t)}), nil)
	if o.Err != nil || !slices.Equal(o.Scan.Unplaced, want) {
		t.Errorf("%v, %v", o.Scan.Unplaced, o.Err)
	}
}
