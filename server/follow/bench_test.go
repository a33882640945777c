package follow_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/server/follow"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
	"github.com/assay-dev/assay/test/postgresql"
)

// BenchmarkAtOnce measures how long stored results take to follow a change: images of
// 200 vulnerabilities, ASSAY_IMAGES of them (1,000; the bar is for 10,000).
func BenchmarkAtOnce(b *testing.B) {
	images := 1000
	if n, err := strconv.Atoi(os.Getenv("ASSAY_IMAGES")); err == nil {
		images = n
	}
	for name, url := range map[string]func() string{
		"sqlite":     func() string { return filepath.Join(b.TempDir(), "assay.db") },
		"postgresql": func() string { return postgresql.Start(b) },
	} {
		b.Run(name, func(b *testing.B) {
			s := storetest.Open(b, url(), nil)
			begun := time.Now()
			seed(b, s, images)
			b.Logf("%s: %d images in %s", name, images, time.Since(begun).Round(time.Millisecond))
			begun = time.Now()
			f := follow.New(follow.Config{Store: s})
			done := make(chan error, 1)
			go func() { done <- f.Run(b.Context()) }()
			for f.Ready() != nil {
				time.Sleep(time.Millisecond)
			}
			b.Logf("loaded in %s", time.Since(begun).Round(time.Millisecond))
			must(b, f.Settle(b.Context()))
			b.Logf("classified first after %s", time.Since(begun).Round(time.Millisecond))
			n := 0
			b.Run("threshold", func(b *testing.B) {
				for b.Loop() {
					n++
					must(b, s.Write(b.Context(), func(t *store.Tx) error {
						return t.SetSetting(b.Context(), follow.SettingThresholds, api.ThresholdsSpec{Warn: number(1), Fail: number(9 + float64(n%2))})
					}))
					must(b, f.Settle(b.Context()))
				}
			})
			for _, cve := range []string{"CVE-2026-9999", "CVE-2026-0000"} {
				b.Run("exception/"+map[string]string{"CVE-2026-9999": "rare", "CVE-2026-0000": "everywhere"}[cve], func(b *testing.B) {
					for b.Loop() {
						n++
						must(b, s.Write(b.Context(), func(t *store.Tx) error {
							return t.AddExceptions(b.Context(), []api.VulnerabilityException{exception(fmt.Sprintf("e%d", n), cve, "")}, false)
						}))
						must(b, f.Settle(b.Context()))
					}
				})
			}
		})
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// seed adds images whose worst vulnerability is 9.5, so that a threshold of 10 changes every result.
func seed(b *testing.B, s *store.Store, images int) {
	r := rand.New(rand.NewPCG(1, 1))
	for from := 0; from < images; from += 200 {
		must(b, s.Write(b.Context(), func(t *store.Tx) error {
			for n := from; n < min(from+200, images); n++ {
				list := []api.Vulnerability{vulnerability("CVE-2026-0000", 9.5)}
				for len(list) < 200 {
					v := vulnerability(fmt.Sprintf("CVE-2025-%04d", r.IntN(9000)), float64(r.IntN(90))/10)
					v.Package, v.Version = fmt.Sprintf("package-%d", r.IntN(2000)), fmt.Sprintf("%d.0", r.IntN(5))
					list = append(list, v)
				}
				if n%100 == 0 {
					list = append(list, vulnerability("CVE-2026-9999", 9.1))
				}
				if _, err := t.AddScan(b.Context(), scanOf(fmt.Sprintf("registry.example.com/team%d/app%d:1", n%20, n), n, day, list...)); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}
