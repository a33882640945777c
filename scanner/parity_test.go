package scanner

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// describePackages writes all that matching reads of an SBOM's packages.
func describePackages(s *sbom.SBOM) string {
	var out []string
	for p := range s.Artifacts.Packages.Enumerate() {
		var places []string
		for _, l := range p.Locations.ToSlice() {
			places = append(places, l.RealPath+"@"+l.FileSystemID)
		}
		metadata, err := json.Marshal(p.Metadata)
		out = append(out, fmt.Sprintf("%s %s %s %s %v %v %s %v", p.ID(), p.Name, p.Version, p.PURL, p.CPEs, places, metadata, err))
	}
	for _, r := range s.Relationships {
		// The source has an id of its own, and what relates packages to single
		// files goes with the records of files.
		_, from := r.From.(pkg.Package)
		if _, to := r.To.(pkg.Package); from && to {
			out = append(out, fmt.Sprintf("%s %s %s", r.From.ID(), r.Type, r.To.ID()))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n") + fmt.Sprintf("\n%+v", s.Artifacts.LinuxDistribution)
}

// TestSameSBOMAsSyft compares with Syft's own way to an archive, configured as Grype's command does.
func TestSameSBOMAsSyft(t *testing.T) {
	img := debianImage(t)
	for kind, path := range map[string]string{
		"docker-archive": dockerArchive(t, map[string]v1.Image{"example.com/app:1": img}),
		"oci-archive":    ociArchive(t, map[string]v1.Image{"": img}),
	} {
		src, err := syft.GetSource(t.Context(), path, syft.DefaultGetSourceConfig().WithSources(kind))
		if err != nil {
			t.Fatal(err)
		}
		cfg := syft.DefaultCreateSBOMConfig()
		cfg.Packages.Golang = cfg.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
		cfg.Compliance.MissingVersion = cataloging.ComplianceActionDrop
		theirs, err := syft.CreateSBOM(t.Context(), src, cfg)
		if err != nil {
			t.Fatal(err)
		}
		o := newScanner(t).Scan(t.Context(), kind+":"+path, nil)
		mustPass(t, o, wantPackages)
		if got, want := describePackages(o.SBOM), describePackages(theirs); got != want {
			t.Errorf("%s:\n%s\nSyft finds\n%s", kind, got, want)
		}
		src.Close()
	}
}
