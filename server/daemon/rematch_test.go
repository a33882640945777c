package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
)

// A vulnerability that a database adds shows, as an event and as an alert, for exactly the
// images that hold the package. The others are not matched again.
func TestNewVulnerability(t *testing.T) {
	dir, own, rules, archive := filepath.Join(t.TempDir(), "db"), t.TempDir(), policiesFolder(t), filepath.Join(t.TempDir(), "db.tar.zst")
	if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, archive, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	w := start(t, "", func(c *daemon.Config) {
		var err error
		if c.Vulnerabilities, err = vulndb.New(vulndb.Config{Dir: dir, Advisories: []string{own}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Vulnerabilities.Import(t.Context(), archive); err != nil {
			t.Fatal(err)
		}
		c.Source = source.Folder{Path: rules, Log: c.Log}
	})
	const images = 8
	var holders []string
	for i := range images {
		// Every third image has the package, one of the others in a version that is not affected.
		name, version := "left-pad", "1.1.0"
		switch i % 3 {
		case 1:
			name = "right-pad"
		case 2:
			version = "2.0.0"
		default:
			holders = append(holders, digest(i))
		}
		w.want(202, "POST", fmt.Sprintf("/api/v1/sboms?image=registry.example.com/a/b%d:1&digest=%s", i, digest(i)), fmt.Sprintf(`{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": [
			{"type": "library", "name": %q, "version": %q, "purl": "pkg:npm/%s@%s"}]}`, name, version, name, version))
	}
	items := func(path string) (out []map[string]any) {
		t.Helper()
		for _, item := range w.want(200, "GET", path, "")["items"].([]any) {
			out = append(out, item.(map[string]any))
		}
		return out
	}
	scan := func(i int) map[string]any {
		t.Helper()
		return w.want(200, "GET", "/api/v1/images/"+digest(i), "")["scan"].(map[string]any)
	}
	w.until("all are matched", func() bool { return len(items("/api/v1/images?result=Pass")) == images })
	before := map[string]any{}
	for i := range images {
		before[digest(i)] = scan(i)["scanned_at"]
	}
	since := time.Now().UTC().Format(time.RFC3339Nano)

	if err := os.WriteFile(filepath.Join(own, "new.json"), []byte(`{"id": "CVE-2026-7777", "severity": [{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
		"affected": [{"package": {"ecosystem": "npm", "name": "left-pad"}, "versions": ["1.1.0"]}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	w.until("the holders fail", func() bool { return len(items("/api/v1/images?result=Fail")) == len(holders) })
	w.until("nothing waits", func() bool {
		_, _, text := w.send("GET", "/metrics", w.admin, nil, nil)
		return strings.Contains(string(text), "\n"+`assay_rematch_sboms{state="due"} 0`) && strings.Contains(string(text), `assay_rematch_sboms{state="all"} 8`)
	})
	digests := func(list []map[string]any) (out []string) {
		for _, e := range list {
			d, _ := e["digest"].(string)
			out = append(out, d)
		}
		slices.Sort(out)
		return out
	}
	if got := digests(items("/api/v1/events?changed=true&since=" + since)); !slices.Equal(got, holders) {
		t.Errorf("events of a change: %q, not %q", got, holders)
	}
	again := 0
	for i := range images {
		after := scan(i)
		vulnerable := slices.Contains(holders, digest(i))
		if found := strings.Contains(fmt.Sprint(after["vulnerabilities"]), "CVE-2026-7777"); found != vulnerable {
			t.Errorf("image %d: found %t", i, found)
		}
		if after["scanned_at"] != before[digest(i)] {
			again++
		}
	}
	// Those with another version are looked at too, since the database says something of the name.
	if again != 5 {
		t.Errorf("%d images were matched again, not 5", again)
	}

	if err := os.WriteFile(filepath.Join(rules, "alerts.yaml"), []byte(`
apiVersion: assay.dev/v1alpha1
kind: VerdictAlert
metadata: {name: new-fail}
spec: {summary: "${cve} is new in ${digest}", description: "It is new", severity: 90, period: 1m, results: [Fail]}
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: any-fail}
spec:
  summary: "${image} fails"
  description: "It fails"
  severity: 90
  period: 1m
  lookback: 1h
  dataSet: vulnerability
  query: result="Fail"
  aggregateBy: [image]
  metric: count
  condition: gt
  threshold: 0
`), 0o644); err != nil {
		t.Fatal(err)
	}
	of := func(rule string) []map[string]any { t.Helper(); return items("/api/v1/alerts?rule=" + rule) }
	w.until("alerts fire", func() bool { return len(of("new-fail")) > 0 && len(of("any-fail")) > 0 })
	for _, rule := range []string{"new-fail", "any-fail"} {
		text := ""
		for _, a := range of(rule) {
			text += fmt.Sprintln(a["alert"].(map[string]any)["summary"])
		}
		if n := len(of(rule)); n != len(holders) {
			t.Errorf("%s: %d alerts, not %d: %s", rule, n, len(holders), text)
		}
		for i := range images {
			mentioned := strings.Contains(text, digest(i)) || strings.Contains(text, fmt.Sprintf("/b%d:", i))
			if mentioned != slices.Contains(holders, digest(i)) {
				t.Errorf("%s: image %d: %t: %s", rule, i, mentioned, text)
			}
		}
	}
}
