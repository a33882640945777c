package webhook

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/follow"
	bundleserver "github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
)

// What follows a server says how old its data is: as metrics, and where /readyz is ready in its text.
func TestAgeIsTold(t *testing.T) {
	set, err := policies.Parse("policies.yaml", []byte(allowAll))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := bundles.Split(bundles.Content{Policies: set})
	if err != nil {
		t.Fatal(err)
	}
	h := bundleserver.New(bundleserver.Limits{})
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	t.Cleanup(h.Close)
	for name, b := range parts {
		text, err := bundles.Bytes(b)
		if err != nil {
			t.Fatal(err)
		}
		h.Set(name, text)
	}
	at := time.Now().Add(-20 * time.Minute)
	if err := h.Issue(bundles.Head{Store: "s", Sequence: 1, Time: at, Until: at}, nil, bundles.Parts()); err != nil {
		t.Fatal(err)
	}
	run := func(limit time.Duration, refuse bool) (p *program, tooOld func() error, gauges func() map[string]float64) {
		metrics := prometheus.NewRegistry()
		p = &program{Config: Config{Follow: &follow.Config{URL: server.URL, MaxAge: limit, Log: slog.New(slog.DiscardHandler)}, RefuseOld: refuse, Metrics: metrics, Now: time.Now, Log: slog.New(slog.DiscardHandler)},
			engine: engine.New(engine.Config{})}
		ctx, end := context.WithCancel(t.Context())
		p.ctx = ctx
		t.Cleanup(func() {
			end()
			_ = p.background.Wait()
		})
		ready, tooOld, err := p.data()
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ready() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(ready())
			}
		}
		return p, tooOld, func() map[string]float64 {
			families, err := metrics.Gather()
			if err != nil {
				t.Fatal(err)
			}
			values := map[string]float64{}
			for _, f := range families {
				values[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
			}
			return values
		}
	}
	answer := func(p *program, status int) string {
		w := httptest.NewRecorder()
		p.serving.noted(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("ok"))
		})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Body.String()
	}

	p, tooOld, gauges := run(time.Hour, true)
	if g := gauges(); g["assay_data_too_old"] != 0 || g["assay_bundles_stale"] != 0 || g["assay_data_age_seconds"] < 1200 || g["assay_data_age_seconds"] > 1300 {
		t.Errorf("%v", g)
	}
	if got := answer(p, http.StatusOK); !strings.HasPrefix(got, "ok\nthe policies and scan results are 20m") || tooOld() != nil {
		t.Errorf("%q, %v", got, tooOld())
	}
	if got := answer(p, http.StatusInternalServerError); got != "ok" {
		t.Errorf("not ready: %q", got)
	}
	p, tooOld, gauges = run(15*time.Minute, false)
	if g := gauges(); g["assay_data_too_old"] != 1 || tooOld != nil {
		t.Errorf("%v; it refuses: %v", g, tooOld != nil)
	}
	if got := answer(p, http.StatusOK); !strings.Contains(got, "\nwarning: the policies and scan results are 20m") || !strings.Contains(got, "at most 15m0s is allowed") {
		t.Errorf("%q", got)
	}
	if _, tooOld, _ = run(15*time.Minute, true); tooOld() == nil {
		t.Error("what is too old is not refused")
	}
}
