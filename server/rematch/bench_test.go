package rematch_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"
	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/rematch"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// cpu is the time that this process has computed.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// distinct is how many packages there are, of which each image has one for each of its places.
const distinct = 50_000

// variants are the packages of an SBOM in the versions that a fleet has. Where a package has no
// vulnerability the variants have names of their own, so that few images have the same.
func variants(p pkg.Package, vulnerable bool, n int) pkg.Package {
	p.Version += fmt.Sprintf("+%d", n) // which comes after it, and before the next
	if !vulnerable {
		p.Name += fmt.Sprintf("-v%d", n)
	}
	if at := strings.LastIndexByte(p.PURL, '@'); at >= 0 {
		p.PURL = p.PURL[:at] + fmt.Sprintf("-v%d", n) + p.PURL[at:]
	}
	p.SetID()
	return p
}

// BenchmarkFleet matches ASSAY_REMATCH_SBOMS SBOMs (200) of some 670 packages: all, all again, and
// after databases that changed few packages. With ASSAY_TESTDATA the packages and
// advisories are real ones.
func BenchmarkFleet(b *testing.B) {
	images := 200
	if text := os.Getenv("ASSAY_REMATCH_SBOMS"); text != "" {
		var err error
		if images, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	advisories := filepath.Join(dir, "advisories")
	databases, err := vulndb.New(vulndb.Config{Dir: filepath.Join(dir, "db"), MaxAge: -1, Advisories: []string{advisories}})
	if err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(advisories, 0o755); err != nil {
		b.Fatal(err)
	}
	bom, archive := fleetBase(b, dir)
	if _, err := databases.Import(b.Context(), archive); err != nil {
		b.Fatal(err)
	}
	db, err := databases.Open(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	found, _, err := match.New(db.Provider).Match(b.Context(), *bom)
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	vulnerable := map[string]bool{}
	for _, v := range found {
		vulnerable[v.Package] = true
	}
	base := bom.Artifacts.Packages.Sorted()
	versions := max(1, distinct/len(base))
	clock := time.Now()
	s := storetest.Open(b, filepath.Join(dir, "assay.db"), func() time.Time { return clock })
	random := rand.New(rand.NewPCG(1, 2))
	for i := range images {
		if (i+1)%1000 == 0 {
			b.Logf("%d SBOMs", i+1)
		}
		list, kept := make([]pkg.Package, len(base)), store.SBOM{Format: "syft-json", Document: []byte(digestOf(i))}
		for k, p := range base {
			list[k] = variants(p, vulnerable[p.Name], random.IntN(versions))
			kept.Packages = append(kept.Packages, store.Package{Name: list[k].Name, Version: list[k].Version, Type: string(list[k].Type)})
		}
		packages, err := match.PackagesOf(sbom.SBOM{Artifacts: sbom.Artifacts{Packages: pkg.NewCollection(list...), LinuxDistribution: bom.Artifacts.LinuxDistribution}, Source: bom.Source})
		if err != nil {
			b.Fatal(err)
		}
		compact, err := packages.MarshalBinary()
		if err != nil {
			b.Fatal(err)
		}
		kept.Scan = api.Scan{Image: fmt.Sprintf("registry.example/app%d:1", i), Digest: digestOf(i), Packages: len(list)}
		if err := s.Write(b.Context(), func(tx *store.Tx) error {
			if _, err := tx.AddSBOM(b.Context(), kept); err != nil {
				return err
			}
			return tx.Matched(b.Context(), store.Matched{Piece: int64(i) + 1, Compact: compact})
		}); err != nil {
			b.Fatal(err)
		}
	}
	r := rematch.New(rematch.Config{Store: s, Databases: databases, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return clock }})
	defer r.Close()
	workers := runtime.GOMAXPROCS(0)
	run := func(name string, before func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			if b.N > 1 {
				b.Fatal("once is enough: -benchtime 1x")
			}
			before(b)
			b.ResetTimer()
			start, began, matched := cpu(b), time.Now(), 0
			for {
				due, err := r.Due(b.Context(), 10_000)
				if err != nil {
					b.Fatal(err)
				}
				if len(due) == 0 {
					break
				}
				work := make(chan string)
				var wg sync.WaitGroup
				for range workers {
					wg.Go(func() {
						for digest := range work {
							if err := r.Match(b.Context(), digest); err != nil {
								b.Error(err)
							}
						}
					})
				}
				for _, digest := range due {
					work <- digest
				}
				close(work)
				wg.Wait()
				matched += len(due)
			}
			b.ReportMetric(float64(matched), "matched")
			b.ReportMetric((cpu(b) - start).Seconds(), "cpu-s")
			b.ReportMetric(1000*(cpu(b)-start).Seconds()/float64(max(1, matched)), "cpu-ms/SBOM")
			b.ReportMetric(time.Since(began).Seconds(), "s")
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.HeapAlloc)/1e6, "heap-MB")
			b.ReportMetric(float64(m.Sys)/1e6, "sys-MB")
		})
	}
	run("first", func(*testing.B) {})
	run("daily", func(*testing.B) { clock = clock.Add(rematch.DefaultEvery + time.Hour) })
	for _, n := range []int{1, 10, 100} {
		run(fmt.Sprintf("changed=%d", n), func(b *testing.B) {
			var text []string
			for k := 0; len(text) < n; k++ {
				p := variants(base[k%len(base)], vulnerable[base[k%len(base)].Name], k/len(base))
				if p.Type != pkg.NpmPkg || vulnerable[base[k%len(base)].Name] {
					continue
				}
				text = append(text, fmt.Sprintf(`{"id":"OWN-2026-%d%04d","summary":"own","affected":[{"package":{"ecosystem":"npm","name":%q},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}`, n, len(text), p.Name))
			}
			if err := os.WriteFile(filepath.Join(advisories, "own.json"), []byte("["+strings.Join(text, ",")+"]"), 0o644); err != nil {
				b.Fatal(err)
			}
			if _, err := databases.Merge(b.Context()); err != nil {
				b.Fatal(err)
			}
			clock = clock.Add(time.Minute)
		})
	}
}

// fleetBase is the SBOM whose packages vary, and the archive of a database.
func fleetBase(b *testing.B, dir string) (*sbom.SBOM, string) {
	b.Helper()
	if data := os.Getenv("ASSAY_TESTDATA"); data != "" {
		packed, err := os.ReadFile(filepath.Join(data, "sbom-full.syft.json.zst"))
		if err != nil {
			b.Fatal(err)
		}
		z, err := zstd.NewReader(bytes.NewReader(packed))
		if err != nil {
			b.Fatal(err)
		}
		defer z.Close()
		bom, _, err := scanner.DecodeSBOM(z)
		if err != nil {
			b.Fatal(err)
		}
		return bom, filepath.Join(data, "vulnerability-db-older.tar.zst")
	}
	archive := filepath.Join(dir, "db.tar.zst")
	if _, err := vulndb.Build(b.Context(), []string{filepath.Join("..", "..", "scanner", "vulndb", "testdata", "advisories.json")}, archive, time.Now()); err != nil {
		b.Fatal(err)
	}
	list := []pkg.Package{{Name: "lodash", Version: "4.17.20", Type: pkg.NpmPkg, Language: pkg.JavaScript, PURL: "pkg:npm/lodash@4.17.20"}}
	for i := range 669 {
		list = append(list, pkg.Package{Name: fmt.Sprintf("library%d", i), Version: "1.0.0", Type: pkg.NpmPkg, Language: pkg.JavaScript, PURL: fmt.Sprintf("pkg:npm/library%d@1.0.0", i)})
	}
	for i := range list {
		list[i].SetID()
	}
	return &sbom.SBOM{Artifacts: sbom.Artifacts{Packages: pkg.NewCollection(list...)}}, archive
}
