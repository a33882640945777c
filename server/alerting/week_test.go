package alerting_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/alerting"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/config"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// documented are the alerts that Calico documented, by name the examples of "Set up alerts on vulnerabilities" and that of its
// workshops, and three of the kinds that docs/alerts.md recommends.
const documented = `
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata:
  name: example-1
spec:
  summary: 'Vulnerabilities for a specific repo based on results'
  description: 'Vulnerabilities for a specific repo based on results'
  severity: 100
  period: 30m
  lookback: 30m
  dataSet: vulnerability
  query: registry="quay.io/tigera" AND repository="node" AND result="Fail"
  metric: count
  condition: gt
  threshold: 1
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata:
  name: example-2
spec:
  summary: 'Vulnerabilities for a specific repo based on max CVSS score'
  description: 'Vulnerabilities for a specific repo based on max CVSS score'
  severity: 100
  period: 30m
  lookback: 30m
  dataSet: vulnerability
  query: registry="quay.io/tigera" AND repository="node"
  field: max_cvss_score
  metric: max
  condition: gt
  threshold: 7.0
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata:
  name: example-3
spec:
  summary: 'Vulnerabilities for namespace tigera-elasticsearch'
  description: 'Vulnerabilities for namespace tigera-elasticsearch'
  severity: 100
  period: 30m
  lookback: 30m
  dataSet: vulnerability
  query: result="Fail" AND namespace="tigera-elasticsearch"
  metric: count
  condition: gt
  threshold: 1
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata:
  name: example-4
spec:
  summary: 'Vulnerabilities found in a pod'
  description: 'Vulnerabilities found in a pod'
  severity: 100
  period: 10m
  dataSet: vulnerability
  query: result="Fail"
  metric: count
  condition: gt
  threshold: 1
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: one-cve}
spec:
  summary: '${namespace}/${repository}'
  description: 'CVE-2026-0001'
  severity: 90
  period: 30m
  lookback: 30m
  dataSet: vulnerability
  query: cve="CVE-2026-0001"
  aggregateBy: [repository, namespace]
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: deployed}
spec:
  summary: '${image_tag} on ${node_name} in ${cluster_name}'
  description: 'An image that fails was deployed'
  severity: 90
  period: 1m
  lookback: 1m
  dataSet: vulnerability
  query: type="pod_detection" AND result="Fail" AND NOT namespace EMPTY
  aggregateBy: [image_tag, node_name, cluster_name]
---
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: cannot-scan}
spec:
  summary: '${image}'
  description: 'A scan failed'
  severity: 50
  period: 10m
  lookback: 10m
  dataSet: vulnerability
  query: result="Unknown" AND NOT error EMPTY
  aggregateBy: [image]
  metric: count
  condition: gte
  threshold: 1
`

// A week of scans, matchings, deployments, exceptions and failures, on three replicas that take turns: each alert is told when its
// text says, and at no other time.
func TestWeek(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		begin := time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC) // a Monday
		w := newWeek(t, url(), begin)
		const node, cve = "quay.io/tigera/node:v3", "CVE-2026-0001"
		container := func(namespace, pod string) store.Instance {
			return store.Instance{Instance: api.Instance{Namespace: namespace, Pod: pod, Container: "c"}, Node: "n1", Image: node, Digest: digestA}
		}
		day := func(n int, clock string) time.Time {
			at, err := time.Parse("15:04", clock)
			if err != nil {
				t.Fatal(err)
			}
			return begin.AddDate(0, 0, n).Add(time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute)
		}
		script := map[time.Time]func(){
			day(0, "09:05"): func() { w.upload(node, cve) }, // a pipeline: the SBOM, its matching, the report
			day(0, "09:12"): func() { w.runs(container("tigera-elasticsearch", "p1")) },
			day(0, "09:14"): func() {
				w.runs(container("tigera-elasticsearch", "p1"), container("tigera-elasticsearch", "p2"))
			},
			day(1, "10:07"): func() { w.scan("token:registry", node, cve) }, // a scanner of registries, while it runs
			day(1, "10:17"): func() { w.scan("token:registry", node, cve) },
			day(2, "12:03"): func() { w.except(cve, day(3, "12:03")) },
			day(3, "12:03"): func() { w.becomes(api.Fail) }, // the exception has expired
			day(4, "08:31"): func() { w.fails(node, "unauthorized") },
			day(4, "08:32"): func() { w.fails(node, "too large") },
			day(5, "15:01"): func() { w.runs() },
		}
		// Each line is a moment and what is told then; the windows of half an hour end at the full and half hours.
		want := strings.Split(strings.TrimSpace(`
Mon 09:13 deployed open: v3 on n1 in prod
Mon 09:14 deployed resolve: v3 on n1 in prod
Mon 09:30 example-1 open
Mon 09:30 example-2 open
Mon 09:30 one-cve open: /node
Mon 09:30 one-cve open: tigera-elasticsearch/node
Mon 10:00 example-1 resolve
Mon 10:00 example-2 resolve
Mon 10:00 one-cve resolve: /node
Mon 10:00 one-cve resolve: tigera-elasticsearch/node
Tue 00:30 example-2 open
Tue 00:30 one-cve open: tigera-elasticsearch/node
Tue 01:00 example-2 resolve
Tue 01:00 one-cve resolve: tigera-elasticsearch/node
Tue 10:30 example-1 open
Tue 10:30 example-2 open
Tue 10:30 example-3 open
Tue 10:30 one-cve open: tigera-elasticsearch/node
Tue 11:00 example-1 resolve
Tue 11:00 example-2 resolve
Tue 11:00 example-3 resolve
Tue 11:00 one-cve resolve: tigera-elasticsearch/node
Wed 00:30 example-2 open
Wed 00:30 one-cve open: tigera-elasticsearch/node
Wed 01:00 example-2 resolve
Wed 01:00 one-cve resolve: tigera-elasticsearch/node
Wed 12:30 one-cve open: tigera-elasticsearch/node
Wed 13:00 one-cve resolve: tigera-elasticsearch/node
Thu 00:30 one-cve open: tigera-elasticsearch/node
Thu 01:00 one-cve resolve: tigera-elasticsearch/node
Thu 12:30 example-2 open
Thu 12:30 one-cve open: tigera-elasticsearch/node
Thu 13:00 example-2 resolve
Thu 13:00 one-cve resolve: tigera-elasticsearch/node
Fri 00:30 example-2 open
Fri 00:30 one-cve open: tigera-elasticsearch/node
Fri 01:00 example-2 resolve
Fri 01:00 one-cve resolve: tigera-elasticsearch/node
Fri 08:40 cannot-scan open: quay.io/tigera/node:v3
Fri 08:50 cannot-scan resolve: quay.io/tigera/node:v3
Sat 00:30 example-2 open
Sat 00:30 one-cve open: tigera-elasticsearch/node
Sat 01:00 example-2 resolve
Sat 01:00 one-cve resolve: tigera-elasticsearch/node
Sat 15:30 example-2 open
Sat 15:30 one-cve open: /node
Sat 16:00 example-2 resolve
Sat 16:00 one-cve resolve: /node
Sun 00:30 example-2 open
Sun 00:30 one-cve open: /node
Sun 01:00 example-2 resolve
Sun 01:00 one-cve resolve: /node
`), "\n")
		close := time.Time{} // until when it is looked at each minute, and else every ten
		for at := begin; at.Before(begin.AddDate(0, 0, 7)); at = at.Add(time.Minute) {
			do := script[at]
			if do != nil {
				close = at.Add(10 * time.Minute)
			}
			if at.After(close) && at.Minute()%10 != 0 {
				continue
			}
			w.clock.set(at)
			if at.Hour()%6 == 0 && at.Minute() == 10 && at.After(day(0, "12:00")) {
				w.match(cve) // a database that says nothing else of it
			}
			if do != nil {
				do()
			}
			w.evaluate()
		}
		if got := w.said; !slices.Equal(got, want) {
			t.Errorf("said:\n%s\n", strings.Join(got, "\n"))
		}
	})
}

var digestA = "sha256:" + strings.Repeat("a", 64)

// week is three replicas on one store, with a clock that is moved, and a receiver.
type week struct {
	*testing.T
	*store.Store
	clock     *clock
	followers []*follow.Follower
	alerters  []*alerting.Alerting
	hook      *hook
	turn      int
	said      []string
}

func newWeek(t *testing.T, url string, begin time.Time) *week {
	w := &week{T: t, clock: &clock{now: begin}, hook: &hook{}}
	server := httptest.NewServer(w.hook)
	t.Cleanup(server.Close)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := config.Parse("notifications.yaml", fmt.Appendf(nil, "apiVersion: assay.dev/v1alpha1\nkind: Notifications\nspec:\n  receivers:\n  - name: hook\n    webhook: {url: %q, signingKeyFrom: {file: %q}}\n", server.URL, secret))
	if err != nil {
		t.Fatal(err)
	}
	receivers, err := n.Open()
	if err != nil {
		t.Fatal(err)
	}
	set, err := policies.Parse("alerts.yaml", []byte(documented))
	if err != nil {
		t.Fatal(err)
	}
	replicas := 1
	if strings.HasPrefix(url, "postgres") {
		replicas = 3
	}
	for range replicas {
		s := storetest.Open(t, url, w.clock.Now)
		w.Store = s
		ctx, cancel := context.WithCancel(t.Context())
		f := follow.New(follow.Config{Store: s, Source: fixed{set}, Now: w.clock.Now})
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		for f.Ready() != nil {
			time.Sleep(time.Millisecond)
		}
		w.followers = append(w.followers, f)
		w.alerters = append(w.alerters, alerting.New(alerting.Config{Store: s, Engine: f.Engine(), Policies: func() *policies.Set { set, _, _ := f.Policies(); return set }, Notifications: n, Receivers: receivers, Now: w.clock.Now}))
	}
	return w
}

func (w *week) by(identity string, fn func(*store.Tx) error) {
	w.Helper()
	if err := w.Write(w.Context(), func(tx *store.Tx) error { return fn(tx.By(identity)) }); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

func (w *week) settle() {
	w.Helper()
	for _, f := range w.followers {
		if err := f.Settle(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *week) scanOf(image string, ids ...string) api.Scan {
	s := api.Scan{Image: image, Digest: digestA, Source: "pipeline", ScannedAt: w.clock.Now(), Packages: 1, Database: &api.ScanDatabase{Built: w.clock.Now()}}
	for _, id := range ids {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: id, Package: "openssl", Version: "1", Type: "deb", CVSS: new(9.8), Severity: "Critical"})
	}
	return s
}

// upload is what `assay scan` sends to a server, which matches the SBOM before the report is there.
func (w *week) upload(image string, ids ...string) {
	w.Helper()
	bare := w.scanOf(image)
	bare.Database, bare.ScannedAt = nil, time.Time{}
	w.by("token:ci", func(tx *store.Tx) error {
		_, err := tx.AddSBOM(w.Context(), store.SBOM{Scan: bare, Format: "syft-json", Document: []byte("{}"), Packages: []store.Package{{Name: "openssl", Version: "1", Type: "deb"}}})
		return err
	})
	w.match(ids...)
	w.clock.pass(time.Second)
	w.scan("token:ci", image, ids...)
}

func (w *week) scan(identity, image string, ids ...string) {
	w.Helper()
	w.by(identity, func(tx *store.Tx) error { _, err := tx.AddScan(w.Context(), w.scanOf(image, ids...)); return err })
}

func (w *week) fails(image, why string) {
	w.Helper()
	s := w.scanOf(image)
	s.Packages, s.Error = 0, why
	w.by("token:ci", func(tx *store.Tx) error { _, err := tx.AddScan(w.Context(), s); return err })
}

func (w *week) match(ids ...string) {
	w.Helper()
	w.clock.pass(time.Second)
	pieces, err := w.SBOMPieces(w.Context(), digestA)
	if err != nil || len(pieces) != 1 {
		w.Fatalf("%d SBOMs, %v", len(pieces), err)
	}
	kept, err := w.SBOM(w.Context(), pieces[0])
	if err != nil {
		w.Fatal(err)
	}
	s := w.scanOf(kept.Scan.Image, ids...)
	s.Found = kept.Scan.Found
	w.by(kept.Identity, func(tx *store.Tx) error {
		if _, err := tx.AddMatch(w.Context(), s, kept.State.MatchedAt == ""); err != nil {
			return err
		}
		return tx.Matched(w.Context(), store.Matched{Piece: pieces[0], Checksum: "x", Matcher: "m", Built: w.clock.Now()})
	})
}

func (w *week) runs(list ...store.Instance) {
	w.Helper()
	w.by("token:node", func(tx *store.Tx) error { return tx.SetInstances(w.Context(), "prod", "n1", list) })
}

func (w *week) except(cve string, until time.Time) {
	w.Helper()
	e := api.VulnerabilityException{Spec: api.VulnerabilityExceptionSpec{CVE: cve, Scope: "any", Justification: "x", Expires: until.Format(time.RFC3339)}}
	e.Metadata.Name = "e"
	w.by("user:admin", func(tx *store.Tx) error {
		return tx.AddExceptions(w.Context(), []api.VulnerabilityException{e}, false)
	})
}

// evaluate has a replica, the next each time, evaluate the rules and deliver; what is said is noted.
func (w *week) evaluate() {
	w.Helper()
	w.settle()
	a := w.alerters[w.turn%len(w.alerters)]
	w.turn++
	if err := a.Evaluate(w.Context()); err != nil {
		w.Fatal(err)
	}
	if _, err := a.Deliver(w.Context()); err != nil {
		w.Fatal(err)
	}
	var now []string
	for _, text := range w.hook.take() {
		now = append(now, w.clock.Now().Format("Mon 15:04 ")+w.line(text))
	}
	slices.Sort(now)
	w.said = append(w.said, now...)
}

// becomes waits for a result that comes with time alone.
func (w *week) becomes(result api.Result) {
	w.Helper()
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		list, err := w.Images(w.Context(), store.Filter{}, store.Page{Limit: 10})
		if err != nil {
			w.Fatal(err)
		}
		if len(list.Items) == 1 && list.Items[0].Result == result {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("it is not %s: %+v", result, list.Items)
		}
	}
}

// line is what a notification says.
func (w *week) line(text string) string {
	w.Helper()
	var n notify.Notification
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		w.Fatal(err)
	}
	line := n.Alert.Name + " " + string(n.Kind)
	if len(n.Alert.Key) > 0 {
		line += ": " + n.Alert.Summary
	}
	return line
}

// clock is one that is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = at
}

func (c *clock) pass(d time.Duration) { c.set(c.Now().Add(d)) }
