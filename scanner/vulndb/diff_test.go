package vulndb

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestDiff changes one thing at a time of the advisories.
func TestDiff(t *testing.T) {
	text := string(read(t, advisories))
	build := func(t *testing.T, text string) string {
		t.Helper()
		dir := t.TempDir()
		put(t, filepath.Join(dir, "in"), "advisories.json", text)
		out := filepath.Join(dir, "6")
		if _, err := Build(t.Context(), []string{filepath.Join(dir, "in")}, out, builtAt()); err != nil {
			t.Fatal(err)
		}
		return out
	}
	base := build(t, text)
	for _, tt := range []struct {
		name, old, new    string
		records, packages []string
	}{
		{"nothing", "", "", nil, nil},
		{"fix", `{"fixed": "4.17.21"}`, `{"fixed": "4.17.22"}`, []string{"GHSA-35jh-r3h4-6jhm changed"}, []string{"npm lodash true"}},
		{"summary", "Command Injection in lodash", "Injection in lodash", []string{"CVE-2021-23337 changed", "GHSA-35jh-r3h4-6jhm changed"}, []string{"npm lodash false"}},
		{"score", "AV:N/AC:L/PR:H/UI:N/S:U/C:H/I:H/A:H", "AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", []string{"CVE-2021-23337 changed", "GHSA-35jh-r3h4-6jhm changed"}, []string{"npm lodash false"}},
		{"epss", `"probability": 0.0123`, `"probability": 0.0124`, []string{"CVE-2021-23337 rescored"}, []string{"npm lodash false"}},
		{"name", `"name": "lodash"`, `"name": "lodash-es"`, []string{"GHSA-35jh-r3h4-6jhm changed"}, []string{"npm lodash true", "npm lodash-es true"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.old != "" && !strings.Contains(text, tt.old) {
				t.Fatalf("the advisories have no %s", tt.old)
			}
			next := build(t, strings.Replace(text, tt.old, tt.new, 1))
			for _, pair := range [][2]string{{base, next}, {next, base}} {
				c, err := Diff(t.Context(), pair[0], pair[1])
				if err != nil {
					t.Fatal(err)
				}
				var records, packages []string
				for _, v := range c.Vulnerabilities {
					records = append(records, v.ID+" "+v.Kind)
				}
				for _, p := range c.Packages {
					packages = append(packages, fmt.Sprintf("%s %s %t", p.Ecosystem, p.Name, p.Affected))
				}
				if c.All || !slices.Equal(records, tt.records) || !slices.Equal(packages, tt.packages) {
					t.Errorf("all %t, records %q, packages %q", c.All, records, packages)
				}
			}
		})
	}
	t.Run("added", func(t *testing.T) {
		next := build(t, strings.Replace(text, "[", "["+ownAdvisory+",", 1))
		c, err := Diff(t.Context(), base, next)
		if err != nil {
			t.Fatal(err)
		}
		affected, details := c.Searches()
		if want := []string{AnyKey, "name:lodash", "name:openssl"}; !slices.Equal(affected, want) || len(details) != 0 {
			t.Errorf("searches: %q, %q", affected, details)
		}
		if c.Count(Added) != 2 || c.Count(Changed)+c.Count(Removed)+c.Count(Rescored) != 0 {
			t.Errorf("vulnerabilities: %+v", c.Vulnerabilities)
		}
	})
	t.Run("bad", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := Diff(t.Context(), dir, base); !errors.Is(err, ErrMissing) {
			t.Errorf("an empty directory: %v", err)
		}
		put(t, dir, "vulnerability.db", "no database")
		if _, err := Diff(t.Context(), base, dir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("no database: %v", err)
		}
	})
}
