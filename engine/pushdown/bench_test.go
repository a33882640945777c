package pushdown_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/engine/pushdown/pushdowntest"
)

// day makes n events of the last 24 hours: 5,000 images of a fleet, each with a
// dozen CVEs, half of which most images have, and up to three instances.
func day(n int) []api.Event {
	r := rand.New(rand.NewPCG(1, 2))
	events := make([]api.Event, n)
	for i := range events {
		image := r.IntN(5000)
		e := api.Event{
			Time: documents.Time(now.Add(-time.Duration(i) * 24 * time.Hour / time.Duration(n))), Registry: "registry.example.com",
			Repository: fmt.Sprintf("team-%d/app-%d", image%50, image), Tag: "1", Digest: fmt.Sprintf("sha256:%064x", image),
			Result: []api.Result{api.Pass, api.Pass, api.Warned, api.Fail}[image%4], Changed: r.IntN(20) == 0, Fixable: r.IntN(2) == 0,
			MaxCVSSScore: new(float64(r.IntN(101)) / 10), EPSS: new(float64(r.IntN(100_000)) / 100_000), KEV: r.IntN(50) == 0,
			CVE: []string{}, Package: []string{"openssl", fmt.Sprintf("lib%d", r.IntN(500))}, Source: "cluster", Instances: []api.Instance{},
		}
		e.Image = e.Registry + "/" + e.Repository + ":1"
		for j := range 12 {
			id := 1000 + j
			if j >= 6 {
				id = 2000 + r.IntN(4000)
			}
			e.CVE = append(e.CVE, fmt.Sprintf("CVE-2025-%d", id))
		}
		for j := range r.IntN(4) {
			e.Instances = append(e.Instances, api.Instance{Cluster: "east", Namespace: fmt.Sprintf("team-%d", image%50), Pod: fmt.Sprintf("app-%d-%d", image, j), Container: "app"})
		}
		events[i] = e
	}
	return events
}

// typical are rules such as users write; alone, and all together.
func typical(lookback string) map[string]api.GlobalAlertSpec {
	specs := map[string]api.GlobalAlertSpec{
		"failures":       {Query: `result = Fail AND changed = true`, Metric: "count", Condition: "gt", Threshold: new(10.0)},
		"worst-image":    {Query: `result IN {Warn, Fail}`, AggregateBy: []string{"image"}, Metric: "max", Field: "max_cvss_score", Condition: "gte", Threshold: new(10.0)},
		"by-namespace":   {Query: `namespace IN {"team-1*"} AND result = Fail`, AggregateBy: []string{"namespace"}, Metric: "count", Condition: "gt", Threshold: new(5.0)},
		"one-cve":        {Query: `cve = "CVE-2025-3333"`, AggregateBy: []string{"image"}},
		"event-by-event": {Query: `kev = true AND max_cvss_score >= 9.9 AND image IN {"*/team-7/*"}`},
	}
	for name, s := range specs {
		s.Lookback = lookback
		specs[name] = s
	}
	return specs
}

// BenchmarkAlerts: what counts is the ratio between the lines. The pure way reads
// the events of the longest window, and judges them in Rego.
func BenchmarkAlerts(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		s := pushdowntest.SQLite(b)
		events := day(n)
		s.Replace(b, events)
		for _, lookback := range []string{"10m", "24h"} {
			name := fmt.Sprintf("events=%d/lookback=%s/", n, lookback)
			specs := typical(lookback)
			for rule, spec := range specs {
				if lookback == "24h" {
					b.Run(name+"pushed/"+rule, func(b *testing.B) { pushed(b, s, map[string]api.GlobalAlertSpec{rule: spec}) })
				}
			}
			b.Run(name+"pushed/all", func(b *testing.B) { pushed(b, s, specs) })
			if n == 10_000 {
				b.Run(name+"pure/all", func(b *testing.B) { pure(b, s, specs) })
			}
		}
	}
}

func pushed(b *testing.B, s *pushdowntest.Store, specs map[string]api.GlobalAlertSpec) {
	r := rules(b, specs)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Firing(b.Context(), s, now); err != nil {
			b.Fatal(err)
		}
	}
}

func pure(b *testing.B, s *pushdowntest.Store, specs map[string]api.GlobalAlertSpec) {
	built, err := bundles.Build(bundles.Content{Policies: set(b, specs)})
	if err != nil {
		b.Fatal(err)
	}
	e := engine.New(engine.Config{Deadline: time.Hour})
	if err := e.Load(b.Context(), built); err != nil {
		b.Fatal(err)
	}
	lookback, err := time.ParseDuration(specs["failures"].Lookback)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var events []api.Event
		err := s.SelectEvents(b.Context(), now.Add(-lookback), now, "TRUE", nil, func(e api.Event) error {
			events = append(events, e)
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.Alerts(b.Context(), events, now); err != nil {
			b.Fatal(err)
		}
	}
}
