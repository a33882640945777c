package match_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
)

// TestVersion holds the version of the matcher against the modules that are linked.
func TestVersion(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"grype", "syft"} {
		_, rest, ok := strings.Cut(string(content), "github.com/anchore/"+module+" ")
		version, _, _ := strings.Cut(rest, "\n")
		version, _, _ = strings.Cut(version, " ")
		if !ok || !strings.Contains(match.Version, module+"/"+strings.TrimSpace(version)) {
			t.Errorf("match.Version is %q, and go.mod has %s %s: what was matched by another version must be matched again", match.Version, module, version)
		}
	}
}

// wide are the SBOMs and the databases of a folder of real ones, if there is one.
func wide(t *testing.T, boms map[string]sbom.SBOM, databases map[string]string) {
	t.Helper()
	data := os.Getenv("ASSAY_TESTDATA")
	if data == "" {
		return
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sbom-full", "sbom-debian"} {
		packed, err := os.ReadFile(filepath.Join(data, name+".syft.json.zst"))
		if err != nil {
			t.Fatal(err)
		}
		content, err := z.DecodeAll(packed, nil)
		if err != nil {
			t.Fatal(err)
		}
		boms[name] = decode(t, content)
	}
	for _, name := range []string{"older", "newer"} {
		store, err := vulndb.New(vulndb.Config{Dir: t.TempDir(), MaxAge: -1})
		if err != nil {
			t.Fatal(err)
		}
		st, err := store.Import(t.Context(), filepath.Join(data, "vulnerability-db-"+name+".tar.zst"))
		if err != nil {
			t.Fatal(err)
		}
		databases[name] = filepath.Dir(st.Path)
	}
}

// TestCompact matches packages after they were written and read, by a matcher that knows them from
// other images, and by several at once: always as a matcher that sees them the first time.
func TestCompact(t *testing.T) {
	_, dir := testDatabase(t)
	boms, databases := map[string]sbom.SBOM{}, map[string]string{"small": dir}
	arch := "x86_64"
	epoch := 1
	module := "perl:5.26"
	more := []pkg.Package{
		withID(pkg.Package{Name: "bash", Version: "5.1-2.el9", Type: pkg.RpmPkg, PURL: "pkg:rpm/redhat/bash@5.1-2.el9?arch=x86_64", Locations: at("/var/lib/rpm/rpmdb.sqlite"),
			Metadata: pkg.RpmDBEntry{Name: "bash", Version: "5.1", Release: "2.el9", Epoch: &epoch, Arch: arch, SourceRpm: "bash-5.1-2.el9.src.rpm", ModularityLabel: &module}}),
		withID(pkg.Package{Name: "log4j-core", Version: "2.14.1", Type: pkg.JavaPkg, Language: pkg.Java, PURL: "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1", Locations: at("/a.jar"),
			Metadata: pkg.JavaArchive{PomProperties: &pkg.JavaPomProperties{GroupID: "org.apache.logging.log4j", ArtifactID: "log4j-core"}}}),
		withID(pkg.Package{Name: "guava", Version: "30", Type: pkg.JavaPkg, Language: pkg.Java, PURL: "pkg:maven/com.google/guava@30", Locations: at("/b.jar")}),
		withID(pkg.Package{Name: "jdk", Version: "17.0.1", Type: pkg.BinaryPkg, PURL: "pkg:generic/oracle/jdk@17.0.1", Locations: at("/jdk"),
			Metadata: pkg.JavaVMInstallation{Release: pkg.JavaVMRelease{JavaVersion: "17.0.1", FullVersion: "17.0.1+12"}}}),
		withID(pkg.Package{Name: "main", Version: "v1.0.0", Type: pkg.GoModulePkg, Language: pkg.Go, Locations: at("/main"),
			Metadata: pkg.GolangBinaryBuildinfoEntry{GoCompiledVersion: "go1.22", Architecture: "amd64", MainModule: "main"}}),
		withID(pkg.Package{Name: "m", Version: "v1.0.0", Type: pkg.GoModulePkg, Language: pkg.Go, Locations: at("/go.mod"), Metadata: pkg.GolangModuleEntry{H1Digest: "h1:x"}}),
		withID(pkg.Package{Name: "s", Version: "v1.0.0", Type: pkg.GoModulePkg, Language: pkg.Go, Locations: at("/src"), Metadata: pkg.GolangSourceEntry{CgoEnabled: true, BuildTags: "a"}}),
	}
	for name, s := range map[string]sbom.SBOM{"debian": smallSBOM(debian12(), more...), "alpine": smallSBOM(alpine317()), "none": smallSBOM(nil, more...)} {
		_, boms[name] = encode(t, s)
	}
	wide(t, boms, databases)
	for database, dir := range databases {
		db := openDatabase(t, dir)
		shared := match.New(db.Provider)
		want := map[string][]api.Vulnerability{}
		matches := 0
		for name, s := range boms {
			want[name] = matchAll(t, db, s)
			matches += len(want[name])
		}
		if matches == 0 {
			t.Fatalf("%s: nothing matches", database)
		}
		var wg sync.WaitGroup
		for range 3 {
			for name, s := range boms {
				wg.Go(func() {
					packages, err := match.PackagesOf(s)
					if err != nil {
						t.Error(err)
						return
					}
					data, err := packages.MarshalBinary()
					if err != nil {
						t.Error(err)
						return
					}
					var read match.Packages
					if err := read.UnmarshalBinary(data); err != nil {
						t.Error(err)
						return
					}
					found, err := shared.MatchPackages(t.Context(), read)
					got := found.Vulnerabilities
					if err != nil || len(got) != len(want[name]) || len(got) > 0 && !reflect.DeepEqual(got, want[name]) {
						t.Errorf("%s, %s: %d matches, not %d (%v)", database, name, len(got), len(want[name]), err)
					}
					match.Noted(found.Searches)
				})
			}
		}
		wg.Wait()
		for name, s := range boms {
			packages, err := match.PackagesOf(s)
			if err != nil {
				t.Fatal(err)
			}
			if found, err := shared.MatchPackages(t.Context(), packages); err != nil || len(found.Searches) != 0 {
				t.Errorf("%s, %s: %d searches are told again (%v)", database, name, len(found.Searches), err)
			}
		}
	}
}

// TestSearches compares two databases: a package whose searches did not change has the same matches.
func TestSearches(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "vulndb", "testdata", "advisories.json"))
	if err != nil {
		t.Fatal(err)
	}
	build := func(text string) string {
		dir := t.TempDir()
		file, out := filepath.Join(dir, "a.json"), filepath.Join(dir, "6")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := vulndb.Build(t.Context(), []string{file}, out, built()); err != nil {
			t.Fatal(err)
		}
		return out
	}
	boms := map[string]sbom.SBOM{}
	for name, s := range map[string]sbom.SBOM{"debian": smallSBOM(debian12()), "alpine": smallSBOM(alpine317())} {
		_, boms[name] = encode(t, s)
	}
	databases := map[string]string{"older": build(string(text)), "newer": build(strings.ReplaceAll(string(text), `{"fixed": "3.0.8-1"}`, `{"fixed": "3.0.6-1"}`))}
	check := func(older, newer string) {
		changes, err := vulndb.Diff(t.Context(), older, newer)
		if err != nil {
			t.Fatal(err)
		}
		if changes.All {
			t.Fatal("all changed")
		}
		affected, details := changes.Searches()
		touched := map[string]bool{}
		for _, k := range slices.Concat(affected, details) {
			touched[k] = true
		}
		of := func(v api.Vulnerability) string { return v.Package + " " + v.Version + " " + v.Type }
		was, is := openDatabase(t, older), openDatabase(t, newer)
		differ, stay := 0, 0
		for name, s := range boms {
			packages, err := match.PackagesOf(s)
			if err != nil {
				t.Fatal(err)
			}
			before, err := match.New(was.Provider).MatchPackages(t.Context(), packages)
			if err != nil {
				t.Fatal(err)
			}
			again := map[string]bool{}
			for _, search := range before.Searches {
				if len(search.Keys) == 0 && search.Type != string(pkg.GoModulePkg) { // Grype leaves out main modules
					t.Errorf("%s: nothing was looked up for %s %s", name, search.Type, search.Name)
				}
				if slices.ContainsFunc(search.Keys, func(k string) bool { return touched[k] }) {
					again[search.Name+" "+search.Version+" "+search.Type] = true
				}
			}
			after, err := match.New(is.Provider).MatchPackages(t.Context(), packages)
			if err != nil {
				t.Fatal(err)
			}
			collect := func(list []api.Vulnerability) map[string][]string {
				out := map[string][]string{}
				for _, v := range list {
					out[of(v)] = append(out[of(v)], fmt.Sprintf("%+v %+v", v, v.Fix))
				}
				return out
			}
			a, b := collect(pointerless(before.Vulnerabilities)), collect(pointerless(after.Vulnerabilities))
			for _, set := range []map[string][]string{a, b} {
				for p := range set {
					switch {
					case !slices.Equal(a[p], b[p]):
						differ++
						if !again[p] {
							t.Errorf("%s: %s changed, though none of its searches did:\n%v\n%v", name, p, a[p], b[p])
						}
					case !again[p]:
						stay++
					}
				}
			}
		}
		if differ == 0 || stay == 0 {
			t.Errorf("%d packages differ, %d are not looked up again: the test says nothing", differ, stay)
		}
	}
	check(databases["older"], databases["newer"])
	check(databases["newer"], databases["older"])
	real := map[string]string{}
	wide(t, boms, real)
	if len(real) == 2 {
		check(real["older"], real["newer"])
		check(real["newer"], real["older"])
	}
}

// pointerless is a list whose scores print as numbers.
func pointerless(list []api.Vulnerability) []api.Vulnerability {
	for i := range list {
		for _, f := range []**float64{&list[i].CVSS, &list[i].EPSS} {
			if *f != nil {
				list[i].Description += fmt.Sprint(" ", **f)
				*f = nil
			}
		}
	}
	return list
}

func FuzzPackages(f *testing.F) {
	packages, err := match.PackagesOf(smallSBOM(debian12()))
	if err != nil {
		f.Fatal(err)
	}
	data, err := packages.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)/2])
	f.Add([]byte(match.Version + "\n"))
	db, _ := testDatabase(f)
	m := match.New(db.Provider)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<20 {
			return
		}
		var p match.Packages
		if p.UnmarshalBinary(data) == nil {
			_, _ = m.MatchPackages(t.Context(), p) // an error, or matches; never a crash
		}
		runtime.KeepAlive(p)
	})
}
