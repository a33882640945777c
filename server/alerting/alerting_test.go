package alerting_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/server/alerting"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/server/notify"
	"github.com/assay-dev/assay/server/notify/config"
	"github.com/assay-dev/assay/server/notify/notifytest"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

func TestOutbox(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		notifytest.TestOutbox(t, func(t *testing.T) notifytest.Store {
			return &outbox{t: t, Outbox: alerting.Outbox{Store: storetest.Open(t, url(), nil)}}
		})
	})
}

// outbox is the store's, as the tests look into it.
type outbox struct {
	alerting.Outbox
	t *testing.T
}

func (o *outbox) Failed() (failed []notifytest.Failed) {
	list, err := o.Store.Deliveries(o.t.Context(), 1000)
	if err != nil {
		o.t.Fatal(err)
	}
	for _, d := range list {
		if d.Failed == "" {
			continue
		}
		f := notifytest.Failed{Delivery: notify.Delivery{ID: d.ID, Receiver: d.Receiver, Attempts: d.Attempts}, Reason: d.Reason}
		if err := json.Unmarshal(d.Notification, &f.Delivery.Notification); err != nil {
			o.t.Fatal(err)
		}
		failed = append(failed, f)
	}
	return failed
}

// hook is a receiver of signed webhooks.
type hook struct {
	mu   sync.Mutex
	said []string
	ids  []string
	down bool
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		http.Error(w, "away", http.StatusServiceUnavailable)
		return
	}
	var body struct {
		Kind  string                    `json:"kind"`
		Data  struct{ Alert api.Alert } `json:"data"`
		Alert api.Alert                 `json:"alert"`
	}
	_ = json.Unmarshal(text, &body)
	h.said = append(h.said, string(text))
	h.ids = append(h.ids, r.Header.Get("webhook-id"))
}

func (h *hook) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	said := h.said
	h.said = nil
	return said
}

type fixed struct{ set *policies.Set }

func (f fixed) Run(ctx context.Context, emit func(source.Update)) error {
	emit(source.Update{Set: f.set, Revision: "r"})
	<-ctx.Done()
	return nil
}

const rules = `
apiVersion: projectcalico.org/v3
kind: GlobalAlert
metadata: {name: fails}
spec:
  description: images fail
  severity: 80
  dataSet: vulnerability
  query: result = Fail
  aggregateBy: [image]
  metric: count
  condition: gte
  threshold: 1
  period: 1m
  lookback: 10m
---
apiVersion: assay.dev/v1alpha1
kind: VerdictAlert
metadata: {name: new-cves}
spec:
  description: ${cve} is new in ${digest}
  severity: 90
  period: 1m
`

func TestAlerts(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		var mu sync.Mutex
		now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
		clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
		pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
		s := storetest.Open(t, url(), clock)
		set, err := policies.Parse("alerts.yaml", []byte(rules))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		f := follow.New(follow.Config{Store: s, Source: fixed{set}, Now: clock})
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		for f.Ready() != nil {
			time.Sleep(time.Millisecond)
		}
		h := &hook{}
		server := httptest.NewServer(h)
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
		a := alerting.New(alerting.Config{Store: s, Engine: f.Engine(), Policies: func() *policies.Set { set, _, _ := f.Policies(); return set }, Notifications: n, Receivers: receivers, Now: clock})
		scan := func(at time.Time, ids ...string) {
			t.Helper()
			v := api.Scan{Image: "nginx:1", Digest: "sha256:" + strings.Repeat("a", 64), Source: "registry", ScannedAt: at, Packages: 1}
			nine := 9.8
			for _, id := range ids {
				v.Vulnerabilities = append(v.Vulnerabilities, api.Vulnerability{ID: id, Package: "openssl", Version: "1", Type: "deb", CVSS: &nine, Severity: "Critical"})
			}
			if err := s.Write(t.Context(), func(tx *store.Tx) error {
				if _, err := tx.AddScan(t.Context(), v); err != nil {
					return err
				}
				return tx.SetInstances(t.Context(), "prod", "", []store.Instance{{Instance: api.Instance{Namespace: "web", Pod: "p-1", Container: "nginx"}, Image: "nginx:1", Digest: v.Digest}})
			}); err != nil {
				t.Fatal(err)
			}
			if err := f.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		// firing are the names and keys of what fires, and what was said since the last call.
		expect := func(what string, firing []string, said ...string) {
			t.Helper()
			if err := a.Evaluate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
			episodes, err := s.Episodes(t.Context(), true, "", 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range episodes {
				got = append(got, e.Alert.Name+" "+e.Alert.Key["image"]+e.Alert.Key["cve"])
			}
			slices.Sort(got)
			if strings.Join(got, ", ") != strings.Join(firing, ", ") {
				t.Errorf("%s: %s fire, want %s", what, got, firing)
			}
			all := h.take()
			if len(all) != len(said) {
				t.Errorf("%s: said %d times, want %d: %s", what, len(all), len(said), all)
			}
			for _, want := range said {
				if !slices.ContainsFunc(all, func(text string) bool {
					for _, part := range strings.Split(want, " & ") {
						if !strings.Contains(text, part) {
							return false
						}
					}
					return true
				}) {
					t.Errorf("%s: nobody was told of %s: %s", what, want, all)
				}
			}
		}
		expect("nothing yet", nil)
		pass(time.Minute)
		scan(clock(), "CVE-2026-0001")
		pass(time.Second)
		expect("a first scan", []string{"fails docker.io/library/nginx:1"}, "fails & open")
		pass(time.Minute)
		scan(clock(), "CVE-2026-0001", "CVE-2026-0002")
		expect("a new CVE", []string{"fails docker.io/library/nginx:1", "new-cves CVE-2026-0002"}, "new-cves & CVE-2026-0002 & prod/web/nginx & open")
		expect("before the period has passed", []string{"fails docker.io/library/nginx:1", "new-cves CVE-2026-0002"})
		pass(2 * time.Minute)
		expect("it still fires", []string{"fails docker.io/library/nginx:1", "new-cves CVE-2026-0002"})
		if err := s.Write(t.Context(), func(tx *store.Tx) error {
			e := api.VulnerabilityException{Spec: api.VulnerabilityExceptionSpec{CVE: "CVE-2026-0002", Scope: "any", Justification: "x"}}
			e.Metadata.Name = "e"
			return tx.AddExceptions(t.Context(), []api.VulnerabilityException{e}, false)
		}); err != nil {
			t.Fatal(err)
		}
		if err := f.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		expect("excepted", []string{"fails docker.io/library/nginx:1"}, "new-cves & resolve")
		h.mu.Lock()
		h.down = true
		h.mu.Unlock()
		pass(20 * time.Minute)
		expect("the receiver is away", nil)
		h.mu.Lock()
		h.down = false
		h.mu.Unlock()
		pass(10 * time.Second)
		expect("and back", nil, "fails & resolve")
	})
}

var _ notify.Outbox = alerting.Outbox{}
