package match_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchore/syft/syft/pkg"

	"github.com/assay-dev/assay/scanner/vulndb"
)

// TestEcosystems matches packages of every language that advisories may be
// about, just below and at the fixed version, and compares with grype.
func TestEcosystems(t *testing.T) {
	var advisories []string
	var packages []pkg.Package
	var want []string
	for i, e := range []struct {
		ecosystem, name string
		kind            pkg.Type
		language        pkg.Language
		purl            string
		metadata        any
		from, fixed     string
		hit, miss       []string
	}{
		{"Go", "golang.org/x/crypto", pkg.GoModulePkg, pkg.Go, "golang", pkg.GolangBinaryBuildinfoEntry{},
			"0", "0.31.0", []string{"v0.30.0", "v0.0.0-20200101000000-abcdefabcdef"}, []string{"v0.31.0"}},
		{"Go", "stdlib", pkg.GoModulePkg, pkg.Go, "golang", pkg.GolangBinaryBuildinfoEntry{},
			"1.20.0-0", "1.20.3", []string{"go1.20.2", "go1.20.0"}, []string{"go1.20.3", "go1.19.9"}},
		{"npm", "@babel/traverse", pkg.NpmPkg, pkg.JavaScript, "npm", nil, "0", "7.23.2", []string{"7.23.1", "7.23.2-beta.1"}, []string{"7.23.2"}},
		{"PyPI", "Ruamel_YAML", pkg.PythonPkg, pkg.Python, "pypi", nil, "0.10", "0.17", []string{"0.16.13", "0.17rc1"}, []string{"0.17", "0.9"}},
		{"RubyGems", "rack", pkg.GemPkg, pkg.Ruby, "gem", nil, "2.0.0", "2.2.8.1", []string{"2.2.8"}, []string{"2.2.8.1", "1.9.9"}},
		{"Maven", "org.apache.logging.log4j:log4j-core", pkg.JavaPkg, pkg.Java, "maven",
			pkg.JavaArchive{PomProperties: &pkg.JavaPomProperties{GroupID: "org.apache.logging.log4j", ArtifactID: "log4j-core"}},
			"2.13.0", "2.15.0", []string{"2.14.1", "2.13.0"}, []string{"2.15.0", "2.12.1"}},
		{"crates.io", "time", pkg.RustPkg, pkg.Rust, "cargo", nil, "0.1.0", "0.2.23", []string{"0.2.22"}, []string{"0.2.23"}},
	} {
		id := fmt.Sprintf("GHSA-%04d-aaaa-bbbb", i)
		advisories = append(advisories, fmt.Sprintf(`{"id":%q,"aliases":["CVE-2024-%04d"],"summary":"s","affected":[{"package":{"ecosystem":%q,"name":%q},
			"ranges":[{"type":"ECOSYSTEM","events":[{"introduced":%q},{"fixed":%q}]}]}]}`, id, 1000+i, e.ecosystem, e.name, e.from, e.fixed))
		name := e.name
		switch e.ecosystem {
		case "Maven":
			name = "log4j-core"
		case "PyPI":
			name = "ruamel.yaml"
		}
		for _, v := range slices.Concat(e.hit, e.miss) {
			purl := "pkg:" + e.purl + "/" + strings.ReplaceAll(strings.ReplaceAll(e.name, ":", "/"), "@", "%40") + "@" + v
			packages = append(packages, withID(pkg.Package{
				Name: name, Version: v, Type: e.kind, Language: e.language, PURL: purl, Metadata: e.metadata, Locations: at("/" + name + v),
			}))
		}
		for _, v := range e.hit {
			want = append(want, id+" "+name+"@"+v)
		}
	}
	file := filepath.Join(t.TempDir(), "advisories.json")
	if err := os.WriteFile(file, []byte("["+strings.Join(advisories, ",\n")+"]"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "6")
	if _, err := vulndb.Build(t.Context(), []string{file}, dir, built()); err != nil {
		t.Fatal(err)
	}
	s := smallSBOM(nil)
	s.Artifacts.Packages = pkg.NewCollection(packages...)
	content, read := encode(t, s)
	path := filepath.Join(t.TempDir(), "sbom.json")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	found := matchAll(t, openDatabase(t, dir), read)
	got := names(found)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("matches:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	compareWithStock(t, found, stockMatches(t, filepath.Dir(dir), path))
}
