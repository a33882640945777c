package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

func usageOf(t *testing.T, s *store.Store, identity string) store.Usage {
	t.Helper()
	all, err := s.Usages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all[identity]
}

// What is counted as it comes is never less than what is there, and what is there once it was counted anew,
// whatever was handed in, replaced, kept no longer and removed.
func TestUsage(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		ctx, now := t.Context(), day
		s := storetest.Open(t, url(), func() time.Time { return now })
		random := rand.New(rand.NewPCG(1, 2))
		identities := []string{"token:1", "token:2", "user:x"}
		anyOf := func(n int) string { return string(rune('a' + random.IntN(n))) }
		image := func() string { return fmt.Sprintf("example.com/%s:%d", anyOf(3), random.IntN(3)) }
		released := int64(0)
		for n := range 300 {
			now = now.Add(time.Minute)
			identity := identities[random.IntN(len(identities))]
			scan := scanOf(image(), anyOf(6), now, fmt.Sprintf("CVE-2024-%04d", random.IntN(5)))
			scan.Scope = []api.Scope{{}, {Cluster: "dev"}}[random.IntN(2)]
			write(t, s, func(tx *store.Tx) (err error) {
				tx.By(identity)
				switch random.IntN(8) {
				case 0:
					_, err = tx.AddSBOM(ctx, store.SBOM{Scan: scan, Format: "syft-json", Document: []byte(fmt.Sprintf(`{"n":%d}`, random.IntN(3))), Packages: []store.Package{{Name: "a", Version: anyOf(3)}}})
				case 1:
					_, err = tx.Claim(ctx, scan.Scope, "dev", "n", []string{digest(anyOf(6))}, time.Minute)
				case 2:
					err = tx.Report(ctx, store.NodeReport{Cluster: "dev", Node: "n" + anyOf(2)}, []store.Instance{{Instance: api.Instance{Cluster: "dev", Namespace: "n", Pod: anyOf(4), Container: "c"}, Image: scan.Image, Digest: scan.Digest}})
				case 3:
					if err = tx.DeleteImage(ctx, digest(anyOf(6))); errors.Is(err, store.ErrNotFound) {
						err = nil
					}
				case 4:
					scan.Index = &api.Index{Digest: digest(anyOf(3)), Platforms: map[string]string{"linux/" + anyOf(3): scan.Digest}}
					_, err = tx.AddScan(ctx, scan)
				default:
					_, err = tx.AddScan(ctx, scan)
				}
				return err
			})
			if n%50 == 49 {
				write(t, s, func(tx *store.Tx) error { // what is not classified is kept
					tasks, done, err := tx.Tasks(ctx, 1<<40, 1000, nil)
					if err != nil {
						return err
					}
					verdicts := make([]store.Verdict, len(tasks))
					for i, task := range tasks {
						verdicts[i] = said(task, api.Fail, nil)
					}
					return tx.Classified(ctx, verdicts, done)
				})
				before := map[string]store.Usage{}
				for _, i := range identities {
					before[i] = usageOf(t, s, i)
				}
				if err := s.Retain(ctx, store.Retention{Scans: 20 * time.Minute}); err != nil {
					t.Fatal(err)
				}
				for _, i := range identities {
					if b, a := before[i], usageOf(t, s, i); a.Digests > b.Digests || a.Names > b.Names || a.Bytes > b.Bytes || a.Digests == 0 {
						t.Errorf("step %d: %s was counted as %+v, and holds %+v", n, i, b, a)
					}
					released += before[i].Bytes - usageOf(t, s, i).Bytes
				}
			}
		}
		if released < 10_000 {
			t.Errorf("only %d bytes were let go", released)
		}
		for _, i := range identities {
			write(t, s, func(tx *store.Tx) error { return tx.Withdraw(ctx, i) })
		}
		if all, err := s.Usages(ctx); err != nil || len(all) != 0 {
			t.Errorf("all was withdrawn, and held are %v %v", all, err)
		}
	})
}

// What a quota counts is about what the database grows by.
func TestQuotaBoundsTheDisk(t *testing.T) {
	at := t.TempDir() + "/assay.db"
	s := storetest.Open(t, at, nil)
	ctx, quota := t.Context(), store.Quota{Bytes: 8 << 20}
	size := func() (n int64) {
		for _, suffix := range []string{"", "-wal"} {
			if info, err := os.Stat(at + suffix); err == nil {
				n += info.Size()
			}
		}
		return n
	}
	for kind, hands := range map[string]func(tx *store.Tx, n int) error{
		"scans": func(tx *store.Tx, n int) error {
			scan := scanOf(fmt.Sprintf("example.com/x:%d", n), "a", day.Add(time.Duration(n)*time.Second))
			scan.Digest = fmt.Sprintf("sha256:%064x", n)
			_, err := tx.AddScan(ctx, scan)
			return err
		},
		"vulnerabilities": func(tx *store.Tx, n int) error {
			scan := scanOf("example.com/y:1", "b", day.Add(time.Duration(n)*time.Second))
			for i := range 100 {
				scan.Vulnerabilities = append(scan.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-%d-%d", n, i), Package: fmt.Sprintf("p%d", i), Version: fmt.Sprint(n), Type: "deb"})
			}
			_, err := tx.AddScan(ctx, scan)
			return err
		},
		"packages": func(tx *store.Tx, n int) error {
			b := store.SBOM{Scan: scanOf(fmt.Sprintf("example.com/z:%d", n), "c", day), Format: "syft-json", Document: []byte(fmt.Sprintf(`{"n":%d}`, n))}
			b.Scan.Digest = fmt.Sprintf("sha256:%064x", 1<<20+n)
			for i := range 200 {
				b.Packages = append(b.Packages, store.Package{Name: fmt.Sprintf("p%d", i), Version: fmt.Sprint(n), Type: "deb"})
			}
			_, err := tx.AddSBOM(ctx, b)
			return err
		},
	} {
		before, n := size(), 0
		for ; ; n++ {
			err := s.Write(ctx, func(tx *store.Tx) error { return hands(tx.By("token:"+kind).Within(quota), n) })
			var full *store.QuotaError
			if errors.As(err, &full) {
				break
			}
			if err != nil || n > 20_000 {
				t.Fatal(kind, n, err)
			}
		}
		grown := size() - before
		t.Logf("%s: %d were taken, and the database grew by %d KiB for %d", kind, n, grown>>10, quota.Bytes>>10)
		if grown > 3*quota.Bytes+8<<20 { // the journal is truncated at times
			t.Errorf("%s: the database grew by %d MiB", kind, grown>>20)
		}
	}
}
