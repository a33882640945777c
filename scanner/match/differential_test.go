package match_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/anchore/syft/syft/linux"
	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner/vulndb"
)

// grypeBinary builds the grype command of the module's own version, once per machine.
func grypeBinary(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/anchore/grype").Output()
	if err != nil {
		t.Fatalf("finding the version of grype: %v", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	name := "grype-" + strings.TrimSpace(string(out))
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	path := filepath.Join(cache, "assay-test", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	partial := fmt.Sprintf("%s.%d", path, os.Getpid())
	if out, err := exec.Command("go", "build", "-o", partial, "github.com/anchore/grype/cmd/grype").CombinedOutput(); err != nil {
		t.Fatalf("building grype: %v\n%s", err, out)
	}
	if err := os.Rename(partial, path); err != nil {
		t.Fatal(err)
	}
	return path
}

type grypeVulnerability struct {
	ID, Severity, DataSource, Namespace string
	Fix                                 struct {
		Versions []string
		State    string
	}
	CVSS []struct {
		Source, Version, Vector string
		Metrics                 struct{ BaseScore float64 }
	}
	EPSS           []struct{ EPSS float64 }
	KnownExploited []struct{ CVE string }
}

type grypeMatch struct {
	Vulnerability          grypeVulnerability
	RelatedVulnerabilities []grypeVulnerability
	Artifact               struct {
		Name, Version, Type, PURL string
	}
}

// stockMatches runs the grype command on a file with an SBOM. dbDir is the
// directory above "6".
func stockMatches(t testing.TB, dbDir, sbomFile string) []grypeMatch {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(grypeBinary(t), "sbom:"+sbomFile, "-o", "json", "-q")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "GRYPE_DB_CACHE_DIR="+dbDir,
		"GRYPE_DB_AUTO_UPDATE=false", "GRYPE_DB_VALIDATE_AGE=false", "GRYPE_CHECK_FOR_APP_UPDATE=false")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("grype: %v\n%s", err, stderr.String())
	}
	var doc struct{ Matches []grypeMatch }
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	return doc.Matches
}

// decorations words the score, vector, EPSS and KEV that follow from what grype
// prints of a vulnerability and the related ones: NVD's score before others,
// then 3.1 before 3.0, then the highest.
func (m grypeMatch) decorations() string {
	var best, vector string
	epss, kev := -1.0, false
	for _, v := range append([]grypeVulnerability{m.Vulnerability}, m.RelatedVulnerabilities...) {
		for _, c := range v.CVSS {
			if !strings.HasPrefix(c.Version, "3") {
				continue
			}
			rank := fmt.Sprintf("%t %s %04.1f", c.Source == "nvd@nist.gov", c.Version, c.Metrics.BaseScore)
			if rank > best || rank == best && c.Vector < vector {
				best, vector = rank, c.Vector
			}
		}
		for _, e := range v.EPSS {
			epss = max(epss, e.EPSS)
		}
		kev = kev || len(v.KnownExploited) > 0
	}
	score := " "
	if best != "" {
		score = strings.TrimLeft(best[strings.LastIndexByte(best, ' ')+1:], "0") + vector
	}
	return score + fmt.Sprint(epss, " ", kev)
}

// decorationsOf words the same of our side.
func decorationsOf(v api.Vulnerability) string {
	score, epss := " ", -1.0
	if v.CVSS != nil {
		score = strings.TrimLeft(fmt.Sprintf("%04.1f", *v.CVSS), "0") + v.Vector
	}
	if v.EPSS != nil {
		epss = *v.EPSS
	}
	return score + fmt.Sprint(epss, " ", v.KEV)
}

// compareWithStock compares, match by match, all that both sides tell.
func compareWithStock(t *testing.T, ours []api.Vulnerability, theirs []grypeMatch) {
	t.Helper()
	var a, b []string
	for _, v := range ours {
		a = append(a, fmt.Sprint(v.ID, v.Package, v.Version, v.Type, v.PURL, v.Severity, v.Namespace, v.DataSource, v.Fix.State, v.Fix.Versions, decorationsOf(v)))
	}
	for _, m := range theirs {
		v := m.Vulnerability
		state := v.Fix.State
		if state == "" {
			state = "unknown"
		}
		b = append(b, fmt.Sprint(v.ID, m.Artifact.Name, m.Artifact.Version, m.Artifact.Type, m.Artifact.PURL, v.Severity, v.Namespace, v.DataSource, state, v.Fix.Versions, m.decorations()))
	}
	slices.Sort(a)
	slices.Sort(b)
	if len(b) == 0 {
		t.Error("grype found nothing: the comparison says nothing")
	}
	if !slices.Equal(a, b) {
		t.Errorf("Assay (%d):\n%s\n\ngrype (%d):\n%s", len(a), strings.Join(a, "\n"), len(b), strings.Join(b, "\n"))
	}
}

func TestSameMatchesAsGrype(t *testing.T) {
	db, dir := testDatabase(t)
	for name, distribution := range map[string]*linux.Release{"debian": debian12(), "alpine": alpine317(), "none": nil} {
		t.Run(name, func(t *testing.T) {
			content, s := encode(t, smallSBOM(distribution))
			file := filepath.Join(t.TempDir(), "sbom.json")
			if err := os.WriteFile(file, content, 0o644); err != nil {
				t.Fatal(err)
			}
			compareWithStock(t, matchAll(t, db, s), stockMatches(t, filepath.Dir(dir), file))
		})
	}
}

// TestSameMatchesAsGrypeWide compares over real advisories, where they are at hand.
func TestSameMatchesAsGrypeWide(t *testing.T) {
	data := os.Getenv("ASSAY_TESTDATA")
	if data == "" {
		t.Skip("ASSAY_TESTDATA is not set")
	}
	for _, c := range []struct {
		sbom, database string
		want           int
	}{
		{"sbom-full.syft.json.zst", "vulnerability-db-newer.tar.zst", 242},
		{"sbom-full.syft.json.zst", "vulnerability-db-older.tar.zst", 0},
		{"sbom-debian.syft.json.zst", "vulnerability-db-newer.tar.zst", 0},
	} {
		t.Run(c.sbom+" "+c.database, func(t *testing.T) {
			root := t.TempDir()
			store, err := vulndb.New(vulndb.Config{Dir: filepath.Join(root, "store"), MaxAge: -1})
			if err != nil {
				t.Fatal(err)
			}
			st, err := store.Import(t.Context(), filepath.Join(data, c.database))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(root, "grype", "6"), os.DirFS(filepath.Dir(st.Path))); err != nil {
				t.Fatal(err)
			}
			packed, err := os.ReadFile(filepath.Join(data, c.sbom))
			if err != nil {
				t.Fatal(err)
			}
			z, err := zstd.NewReader(nil)
			if err != nil {
				t.Fatal(err)
			}
			content, err := z.DecodeAll(packed, nil)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(root, "sbom.json")
			if err := os.WriteFile(file, content, 0o644); err != nil {
				t.Fatal(err)
			}
			ours := matchAll(t, openDatabase(t, filepath.Dir(st.Path)), decode(t, content))
			if c.want > 0 && len(ours) != c.want {
				t.Errorf("%d matches, not %d", len(ours), c.want)
			}
			compareWithStock(t, ours, stockMatches(t, filepath.Join(root, "grype"), file))
		})
	}
}
