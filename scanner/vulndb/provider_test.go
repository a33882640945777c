package vulndb

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v6 "github.com/anchore/grype/grype/db/v6"
)

// TestOddPaths opens databases under names that a URI has other uses for, and
// refuses to write under them.
func TestOddPaths(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "db")
	if _, err := Build(t.Context(), []string{advisories}, plain, builtAt()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a b", "a#b", "a?b", "a%41", "a&b=c", "ä"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.CopyFS(dir, os.DirFS(plain)); err != nil {
			t.Fatal(err)
		}
		db, err := testStore(t).OpenPath(t.Context(), dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if db.Path != filepath.Join(dir, v6.VulnerabilityDBFileName) {
			t.Errorf("path: %s", db.Path)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		odd := strings.ContainsAny(name, "%?#")
		into := testStore(t, func(c *Config) { c.Dir = filepath.Join(t.TempDir(), name) })
		if _, err := into.Import(t.Context(), testArchive(t, builtAt())); (err != nil) != odd {
			t.Errorf("%s: importing: %v", name, err)
		}
		if _, err := Build(t.Context(), []string{advisories}, filepath.Join(t.TempDir(), name), builtAt()); (err != nil) != odd {
			t.Errorf("%s: building: %v", name, err)
		}
	}
}
