package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store/storetest"
)

// What an operator must see in the night is among the metrics: alerts that fire, notifications that do not arrive,
// jobs that wait, and room to store.
func TestMetricsOfTrouble(t *testing.T) {
	storetest.Run(t, func(t *testing.T, database func() string) {
		folder := policiesFolder(t)
		alert := "---\napiVersion: projectcalico.org/v3\nkind: GlobalAlert\nmetadata: {name: fails}\nspec: {summary: s, description: d, severity: 90, period: 1m, lookback: 1h, dataSet: vulnerability, query: 'result=\"Fail\"', aggregateBy: [image], metric: count, condition: gt, threshold: 0}\n"
		if err := os.WriteFile(filepath.Join(folder, "alert.yaml"), []byte(alert), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("HOOK_KEY", "a key of a webhook, long enough for it")
		told := filepath.Join(t.TempDir(), "notifications.yaml")
		if err := os.WriteFile(told, []byte("apiVersion: assay.dev/v1alpha1\nkind: Notifications\nmetadata: {name: default}\nspec: {receivers: [{name: away, webhook: {url: \"http://127.0.0.1:1/\", signingKeyFrom: {env: HOOK_KEY}}}]}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		w := start(t, database(), func(c *daemon.Config) {
			c.Source, c.Notifications = source.Folder{Path: folder, Log: c.Log}, told
		})
		metrics := func() string {
			_, _, text := w.send("GET", "/metrics", w.admin, nil, nil)
			return string(text)
		}
		if text := metrics(); !strings.Contains(text, "\nassay_alerts_firing 0\n") || !strings.Contains(text, "\nassay_storage_writable 1\n") || !strings.Contains(text, `assay_disk_free_bytes{of="data"}`) {
			t.Errorf("at the start:\n%s", text)
		}
		w.want(201, "POST", "/api/v1/scans", report("nginx:1", 1, clock, map[string]float64{"CVE-2026-0001": 9.8}))
		for _, line := range []string{"assay_alerts_firing 1\n", `assay_notifications_undelivered{receiver="away",state="waiting"} 1` + "\n", "assay_jobs{kind="} {
			w.until(line, func() bool { return strings.Contains(metrics(), "\n"+line) })
		}
	})
}
