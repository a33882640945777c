package jobs

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
	"github.com/assay-dev/assay/test/postgresql"
)

// BenchmarkMatch does 10,000 matches that a sweep finds, of no work, and measures how
// long other writers of the store wait meanwhile.
func BenchmarkMatch(b *testing.B) {
	for name, url := range map[string]func() string{
		"sqlite":     func() string { return filepath.Join(b.TempDir(), "assay.db") },
		"postgresql": func() string { return postgresql.Start(b) },
	} {
		b.Run(name, func(b *testing.B) {
			s := storetest.Open(b, url(), nil)
			due := digests(10_000)
			for b.Loop() {
				var done atomic.Int32
				var swept atomic.Bool
				c := config(s, Work{
					Due: func(context.Context, int) ([]string, error) {
						if swept.Swap(true) {
							return nil, nil
						}
						return append([]string(nil), due...), nil
					},
					Match: func(context.Context, string) error { done.Add(1); return nil },
				})
				c.SweepEvery = time.Hour
				j, err := New(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				ended := make(chan error, 1)
				go func() { ended <- j.Run(ctx) }()
				for !swept.Load() {
					time.Sleep(time.Millisecond)
				}
				begun := time.Now()
				var longest, made time.Duration
				for done.Load() < int32(len(due)) {
					before := time.Now()
					if err := s.Write(ctx, func(t *store.Tx) error { return t.SetSetting(ctx, "benchmark", before) }); err != nil {
						b.Fatal(err)
					}
					longest = max(longest, time.Since(before))
					time.Sleep(20 * time.Millisecond)
				}
				took := time.Since(begun)
				if list, err := j.List(ctx, Filter{Kind: Sweep}); err != nil {
					b.Fatal(err)
				} else if list[0].Finalized != nil {
					made = list[0].Finalized.Sub(*list[0].Attempted)
				}
				cancel()
				if err := <-ended; err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(due))/took.Seconds(), "jobs/s")
				b.ReportMetric(made.Seconds(), "s/sweep")
				b.ReportMetric(float64(longest.Milliseconds()), "ms/longest-write")
			}
		})
	}
}
