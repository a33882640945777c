package scan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

// stock runs the grype command, and gives its matches, sorted, a line each.
func stock(t testing.TB, db database, input string) ([]string, time.Duration) {
	t.Helper()
	home := t.TempDir()
	c := exec.Command(must(grypeBinary())(t), input, "-o", "json", "-q")
	c.Dir = home
	c.Env = environment(home, t.TempDir(), grypeSettings(db)...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	begin := time.Now()
	out, err := c.Output()
	took := time.Since(begin)
	if err != nil {
		t.Fatalf("grype %s: %v\n%s", input, err, stderr.String())
	}
	var doc struct {
		Matches []struct {
			Vulnerability struct{ ID string }
			Artifact      struct{ Name, Version, Type string }
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range doc.Matches {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", m.Vulnerability.ID, m.Artifact.Name, m.Artifact.Version, m.Artifact.Type))
	}
	slices.Sort(lines)
	return lines, took
}

func found(s api.Scan) []string {
	var lines []string
	for _, v := range s.Vulnerabilities {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", v.ID, v.Package, v.Version, v.Type))
	}
	slices.Sort(lines)
	return lines
}

// compare scans an input with both commands, in turn, and gives what they agree on.
func compare(t *testing.T, db database, input string) (api.Scan, []string) {
	t.Helper()
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	var ours, theirs []time.Duration
	var s api.Scan
	var lines []string
	for range rounds {
		r := scan(t, db, input)
		s = r.only(t)
		sure(t, s, 1)
		ours = append(ours, r.took)
		want, took := stock(t, db, input)
		theirs = append(theirs, took)
		lines = found(s)
		if !slices.Equal(lines, want) {
			t.Fatalf("assay finds %d matches, grype %d\nonly assay:\n%s\nonly grype:\n%s",
				len(lines), len(want), strings.Join(without(lines, want), "\n"), strings.Join(without(want, lines), "\n"))
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	a, g := ours[rounds/2], theirs[rounds/2]
	t.Logf("%d packages, %d matches; median of %d: assay %s, grype %s (%.2f of it)", s.Packages, len(lines), rounds,
		a.Round(10*time.Millisecond), g.Round(10*time.Millisecond), a.Seconds()/g.Seconds())
	return s, lines
}

// without gives the members of a that b has not, or has fewer times.
func without(a, b []string) []string {
	b = slices.Clone(b)
	var out []string
	for _, s := range a {
		if i := slices.Index(b, s); i >= 0 {
			b = slices.Delete(b, i, i+1)
			continue
		}
		out = append(out, s)
	}
	return out
}

func TestSameMatchesAsGrype(t *testing.T) {
	db := quickstart(t)
	for name, least := range map[string]int{"frontend": 10, "backend": 1} {
		t.Run(name, func(t *testing.T) {
			s, lines := compare(t, db, "oci-archive:"+shopImageOf(t, name).archive)
			if len(lines) < least {
				t.Errorf("%d matches say little; want at least %d", len(lines), least)
			}
			if want := "registry.example.com/shop/" + name; !strings.HasPrefix(s.Image, want) {
				t.Errorf("the image is named %s", s.Image)
			}
		})
	}
}

// TestSameMatchesAsGrypeDebian compares over the packages of the machine itself,
// and over real advisories where $ASSAY_TESTDATA has them.
func TestSameMatchesAsGrypeDebian(t *testing.T) {
	root := debianRoot(t)
	db, least := database{}, 0
	if data := os.Getenv("ASSAY_TESTDATA"); data != "" {
		db, least = install(t, filepath.Join(data, "vulnerability-db-newer.tar.zst")), 51
	} else {
		db = quickstart(t)
	}
	s, lines := compare(t, db, "dir:"+root)
	if s.Packages <= 100 || !strings.HasPrefix(s.Distro, "debian ") {
		t.Errorf("%d packages of %q; want more than 100 of Debian", s.Packages, s.Distro)
	}
	if len(lines) < least {
		t.Errorf("%d matches; want at least %d", len(lines), least)
	}
}

// debianRoot copies the package records of the machine into a root file system.
func debianRoot(t testing.TB) string {
	t.Helper()
	const needs = "this test reads the package records of the machine that it runs on, which must be Debian " +
		"with more than 100 packages installed (a debian container does)"
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatalf("%s: %v", needs, err)
	}
	if !slices.Contains(strings.Split(string(release), "\n"), "ID=debian") {
		t.Fatalf("%s: /etc/os-release does not say ID=debian", needs)
	}
	paths := []string{"/etc/os-release", "/usr/lib/os-release", "/var/lib/dpkg/status"}
	for _, pattern := range []string{"/var/lib/dpkg/status.d/*", "/var/lib/dpkg/info/*.list", "/var/lib/dpkg/info/*.md5sums"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, more...)
	}
	root := t.TempDir()
	copied := 0
	for _, p := range paths {
		content, err := os.ReadFile(p)
		if os.IsNotExist(err) {
			continue // a machine has status or status.d
		}
		if err != nil {
			t.Fatalf("%s: %v", needs, err)
		}
		to := filepath.Join(root, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p, "/dpkg/status") {
			copied++
		}
	}
	if copied == 0 {
		t.Fatalf("%s: there is neither /var/lib/dpkg/status nor a file in status.d", needs)
	}
	return root
}
