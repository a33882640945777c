package match_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/format"
	"github.com/anchore/syft/syft/format/syftjson"
	"github.com/anchore/syft/syft/linux"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
)

var _ scanner.Matcher = (*match.Matcher)(nil)

const (
	lowLayer  = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	highLayer = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

func built() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// testDatabase builds the database of the advisories in vulndb's testdata.
func testDatabase(t testing.TB) (*vulndb.DB, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "6")
	if _, err := vulndb.Build(t.Context(), []string{filepath.Join("..", "vulndb", "testdata", "advisories.json")}, dir, built()); err != nil {
		t.Fatal(err)
	}
	return openDatabase(t, dir), dir
}

func openDatabase(t testing.TB, path string) *vulndb.DB {
	t.Helper()
	s, err := vulndb.New(vulndb.Config{MaxAge: -1})
	if err != nil {
		t.Fatal(err)
	}
	db, err := s.OpenPath(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func at(paths ...string) file.LocationSet {
	var l []file.Location
	for i, p := range paths {
		layer := highLayer
		if i > 0 {
			layer = lowLayer
		}
		l = append(l, file.NewLocationFromCoordinates(file.Coordinates{RealPath: p, FileSystemID: layer}))
	}
	return file.NewLocationSet(l...)
}

func withID(p pkg.Package) pkg.Package {
	p.SetID()
	return p
}

// smallSBOM has packages of each kind, some affected and some not.
func smallSBOM(distribution *linux.Release, more ...pkg.Package) sbom.SBOM {
	deb := func(name, version, source string) pkg.Package {
		return withID(pkg.Package{
			Name: name, Version: version, Type: pkg.DebPkg,
			PURL:      "pkg:deb/debian/" + name + "@" + version + "?distro=debian-12",
			Locations: at("/var/lib/dpkg/status", "/usr/share/doc/"+name+"/copyright"),
			Metadata: pkg.DpkgDBEntry{Package: name, Version: version, Source: source,
				Files: []pkg.DpkgFileRecord{{Path: "/usr/lib/python3/dist-packages/jinja2/METADATA"}}},
		})
	}
	npm := func(name, version, path string) pkg.Package {
		return withID(pkg.Package{
			Name: name, Version: version, Type: pkg.NpmPkg, Language: pkg.JavaScript,
			PURL: "pkg:npm/" + name + "@" + version, Locations: at(path), Metadata: pkg.NpmPackage{Name: name, Version: version},
		})
	}
	python := func(version, path string) pkg.Package {
		return withID(pkg.Package{
			Name: "Jinja2", Version: version, Type: pkg.PythonPkg, Language: pkg.Python,
			PURL: "pkg:pypi/jinja2@" + version, Locations: at(path), Metadata: pkg.PythonPackage{Name: "Jinja2", Version: version},
		})
	}
	golang := func(name, version string) pkg.Package {
		return withID(pkg.Package{
			Name: name, Version: version, Type: pkg.GoModulePkg, Language: pkg.Go,
			PURL: "pkg:golang/" + name + "@" + version, Locations: at("/app"), Metadata: pkg.GolangBinaryBuildinfoEntry{},
		})
	}
	packages := append([]pkg.Package{
		npm("lodash", "4.17.20", "/a/package.json"), npm("lodash", "4.17.20", "/b/package.json"), npm("lodash", "4.17.21", "/c/package.json"),
		python("2.10", "/usr/lib/python3.11/site-packages/jinja2/METADATA"), python("3.0.0a1", "/opt/jinja2/METADATA"), python("3.1", "/srv/jinja2/METADATA"),
		golang("golang.org/x/net", "v0.16.0"), golang("golang.org/x/net", "v0.17.0"),
		golang("example.com/log4go", "v2.3.1"), golang("example.com/log4go", "v2.14.1"), golang("example.com/log4go", "v2.2.0"),
	}, more...)
	if distribution != nil && distribution.ID == "debian" {
		packages = append(packages, deb("libssl3", "3.0.7-1", "openssl"), deb("openssl", "3.0.8-1", ""), deb("apt", "2.6.1", ""), deb("python3-jinja2", "2.10-2", "jinja2"),
			python("2.10", "/usr/lib/python3/dist-packages/jinja2/METADATA"))
	}
	if distribution != nil && distribution.ID == "alpine" {
		packages = append(packages, withID(pkg.Package{
			Name: "libssl3", Version: "3.0.7-r0", Type: pkg.ApkPkg, PURL: "pkg:apk/alpine/libssl3@3.0.7-r0?upstream=openssl",
			Locations: at("/lib/apk/db/installed"), Metadata: pkg.ApkDBEntry{Package: "libssl3", Version: "3.0.7-r0", OriginPackage: "openssl"},
		}))
	}
	return sbom.SBOM{
		Artifacts:     sbom.Artifacts{Packages: pkg.NewCollection(packages...), LinuxDistribution: distribution},
		Relationships: []artifact.Relationship{},
		Source: source.Description{ID: "s", Name: "test", Metadata: source.ImageMetadata{
			UserInput: "test", Layers: []source.LayerMetadata{{Digest: lowLayer}, {Digest: highLayer}},
		}},
		Descriptor: sbom.Descriptor{Name: "syft", Version: "test"},
	}
}

func debian12() *linux.Release {
	return &linux.Release{ID: "debian", Name: "Debian GNU/Linux", VersionID: "12", Version: "12 (bookworm)", VersionCodename: "bookworm"}
}

func alpine317() *linux.Release {
	return &linux.Release{ID: "alpine", Name: "Alpine Linux", VersionID: "3.17.2"}
}

// encode writes an SBOM as Syft's JSON, and gives what reading it back gives.
func encode(t testing.TB, s sbom.SBOM) ([]byte, sbom.SBOM) {
	t.Helper()
	content, err := format.Encode(s, syftjson.NewFormatEncoder())
	if err != nil {
		t.Fatal(err)
	}
	return content, decode(t, content)
}

func decode(t testing.TB, content []byte) sbom.SBOM {
	t.Helper()
	s, _, _, err := format.Decode(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

func matchAll(t testing.TB, db *vulndb.DB, s sbom.SBOM) []api.Vulnerability {
	t.Helper()
	v, _, err := match.New(db.Provider).Match(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
