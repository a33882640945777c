package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
)

// Own advisories are followed: they come and go with their files, stay while one
// is bad, and are in each database that comes.
func TestOwnAdvisories(t *testing.T) {
	dir, own, archive := filepath.Join(t.TempDir(), "db"), t.TempDir(), filepath.Join(t.TempDir(), "db.tar.zst")
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(own, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	advisory := func(id string) string {
		return fmt.Sprintf(`{"id": %q, "severity": [{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
			"affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "versions": ["1.1.0"]}]}`, id)
	}
	come := func(built time.Time) {
		t.Helper()
		_ = os.Remove(archive)
		if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, archive, built); err != nil {
			t.Fatal(err)
		}
		plain, err := vulndb.New(vulndb.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plain.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
	}
	come(time.Now().Add(-time.Hour))
	put("a.json", advisory("ACME-1"))
	w := start(t, "", func(c *daemon.Config) {
		var err error
		if c.Vulnerabilities, err = vulndb.New(vulndb.Config{Dir: dir, Advisories: []string{own}}); err != nil {
			t.Fatal(err)
		}
	})
	image := "registry.example.com/a/b:1"
	w.want(202, "POST", "/api/v1/sboms?image="+image+"&digest="+digest(1), `{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": [
		{"type": "library", "name": "left-pad", "version": "1.1.0", "purl": "pkg:npm/left-pad@1.1.0"}]}`)
	found := func(id string) func() bool {
		return func() bool {
			status, _, text := w.send("GET", "/api/v1/images/"+digest(1), w.admin, nil, nil)
			return status == 200 && strings.Contains(string(text), id)
		}
	}
	w.until("the advisory is found", found("ACME-1"))
	state := func() map[string]any { t.Helper(); return w.want(200, "GET", "/api/v1/database", "") }
	current := func() map[string]any {
		t.Helper()
		for _, g := range state()["generations"].([]any) {
			if g := g.(map[string]any); g["current"] == true {
				return g
			}
		}
		t.Fatal("no generation is current")
		return nil
	}
	first := current()
	if first["advisories"] != 1.0 || first["base"] == nil || first["advisoriesDigest"] == nil || first["path"] != nil || state()["providers"] == nil || state()["error"] != nil {
		t.Errorf("state: %v", state())
	}
	if changes, _ := first["changes"].(map[string]any); changes["added"] != 1.0 || changes["packages"] != 1.0 {
		t.Errorf("changes: %v", first)
	}

	put("bad.json", "{\"id\": \"ACME-2\",\n oops}")
	w.until("the fault is told", func() bool { return strings.Contains(fmt.Sprint(state()["advisoriesError"]), "bad.json:2") })
	if !strings.Contains(w.log.String(), "own advisories cannot be used") {
		t.Error("the fault is not in the log")
	}
	_, _, text := w.send("GET", "/metrics", w.admin, nil, nil)
	if !strings.Contains(string(text), "\nassay_advisories_refused 1") {
		t.Error("the fault is no metric")
	}
	come(time.Now().Add(-time.Minute)) // without them
	put("bad.json", "{\"id\": \"ACME-2\",\n oops }")
	w.until("the last good ones are in the newer database", func() bool {
		g := current()
		return g["built"] != first["built"] && g["advisoriesDigest"] == first["advisoriesDigest"]
	})
	put("bad.json", advisory("ACME-2"))
	w.until("all is well", func() bool { return state()["advisoriesError"] == nil && current()["advisories"] == 2.0 })
	if err := os.Remove(filepath.Join(own, "a.json")); err != nil {
		t.Fatal(err)
	}
	w.until("it is gone", func() bool { return current()["advisories"] == 1.0 })
}
