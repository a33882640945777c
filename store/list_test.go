package store_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
	"github.com/assay-dev/assay/test/postgresql"
)

func numbered(n int) string { return fmt.Sprintf("sha256:%064x", uint64(n)*0x9e3779b97f4a7c15+1) }

// world fills a store with random scans, classified at random, and gives what was put in.
func world(t *testing.T, s *store.Store, r *rand.Rand) (all []store.Image, scans map[string]api.Scan) {
	t.Helper()
	ctx := t.Context()
	scans = map[string]api.Scan{}
	hosts := []string{"registry.example.com/a_b", "registry.example.com/ab", "quay.io/x%y", "docker.io/library"}
	hosts[2] = "quay.io/xy"
	write(t, s, func(tx *store.Tx) error {
		for n := range 120 {
			scan := api.Scan{Image: fmt.Sprintf("%s/app%d:%d", hosts[r.IntN(len(hosts))], n%40, r.IntN(3)), Digest: numbered(n / 2), Source: "registry", ScannedAt: day.Add(time.Duration(r.IntN(100)) * time.Hour), Packages: n}
			for i := range 12 {
				if r.IntN(3) == 0 {
					v := api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%04d", i), Package: []string{"log4j", "Log4J_core", "it's; DROP TABLE images;--", "pa%ck", "🐳"}[r.IntN(5)], Version: strconv.Itoa(r.IntN(3)), Type: "deb", Severity: "High", KEV: r.IntN(6) == 0}
					v.CVSS = score(float64(r.IntN(101)) / 10)
					if r.IntN(3) == 0 {
						v.EPSS = score(float64(r.IntN(100)) / 100)
					}
					if r.IntN(2) == 0 {
						v.Fix.State = "fixed"
					}
					if r.IntN(4) == 0 {
						v.Aliases = []string{fmt.Sprintf("GHSA-aaaa-bbbb-%04d", i)}
					}
					scan.Vulnerabilities = append(scan.Vulnerabilities, v)
				}
			}
			if old, ok := scans[scan.Digest]; !ok || !scan.ScannedAt.Before(old.ScannedAt) {
				scans[scan.Digest] = scan
			}
			if _, err := tx.AddScan(ctx, scan); err != nil {
				return err
			}
		}
		var running []store.Instance
		for n := range 30 {
			running = append(running, store.Instance{Instance: api.Instance{Namespace: fmt.Sprintf("ns%d", n%3), Pod: fmt.Sprintf("p%d", n), Container: "c"}, Image: fmt.Sprintf("%s/app%d:%d", hosts[r.IntN(4)], r.IntN(40), r.IntN(3)), Digest: numbered(r.IntN(60))})
		}
		if err := tx.SetInstances(ctx, "prod", "", running); err != nil {
			return err
		}
		tasks, done, err := tx.Tasks(ctx, 1<<40, 1000, nil)
		if err != nil {
			return err
		}
		var verdicts []store.Verdict
		for _, task := range tasks {
			result := []api.Result{api.Pass, api.Warned, api.Fail, api.Unknown}[r.IntN(4)]
			var highest *float64
			if r.IntN(5) > 0 {
				highest = score(float64(r.IntN(6)))
			}
			verdicts = append(verdicts, said(task, result, highest))
		}
		return tx.Classified(ctx, verdicts, done)
	})
	if err := s.EachImage(ctx, store.Filter{}, func(m store.Image) error { all = append(all, m); return nil }); err != nil {
		t.Fatal(err)
	}
	return all, scans
}

// fits is a filter in plain Go.
func fits(f store.Filter, m store.Image, scan api.Scan, namespaces map[string]bool) bool {
	has := func(want string, of func(v api.Vulnerability) []string) bool {
		return slices.ContainsFunc(scan.Vulnerabilities, func(v api.Vulnerability) bool { return slices.Contains(of(v), want) })
	}
	switch {
	case len(f.Results) > 0 && !slices.Contains(f.Results, m.Result),
		f.Registry != "" && f.Registry != m.Registry, f.Repository != "" && f.Repository != m.Repository, f.Tag != "" && f.Tag != m.Tag, f.Digest != "" && f.Digest != m.Digest,
		f.Search != "" && !strings.Contains(strings.ToLower(m.Image), strings.ToLower(f.Search)),
		f.Within != "" && !strings.HasPrefix(m.Registry+"/"+m.Repository+"/", f.Within+"/"),
		f.CVE != "" && !has(api.NormalizeID(f.CVE), func(v api.Vulnerability) []string { return append([]string{v.ID}, v.Aliases...) }),
		f.Package != "" && !has(f.Package, func(v api.Vulnerability) []string { return []string{v.Package} }),
		f.KEV != nil && m.KEV != *f.KEV, f.Fixable != nil && m.Fixable != *f.Fixable,
		f.EPSS != nil && (m.EPSS == nil || *m.EPSS < *f.EPSS), f.Score != nil && (m.MaxCVSS == nil || *m.MaxCVSS < *f.Score),
		f.Running != nil && m.Instances > 0 != *f.Running,
		f.Namespace != "" && !namespaces[f.Namespace],
		f.Cluster != "" && (f.Cluster != "prod" || m.Instances == 0):
		return false
	}
	return true
}

// Lists hold what a plain filter over all of it holds, in the order asked for, page by page.
func TestLists(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		r := rand.New(rand.NewPCG(7, 7))
		all, scans := world(t, s, r)
		if len(all) < 80 {
			t.Fatalf("only %d images", len(all))
		}
		at := map[string]map[string]bool{}
		if err := s.EachPod(t.Context(), store.Filter{}, func(m store.Image, pods []store.StaleInstance) error {
			at[m.Image+m.Digest] = map[string]bool{}
			for _, p := range pods {
				at[m.Image+m.Digest][p.Namespace] = true
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		yes, no := true, false
		pick := func(list ...string) string { return list[r.IntN(len(list))] }
		found := 0
		for range 400 {
			var f store.Filter
			for range 1 + r.IntN(2) {
				switch r.IntN(15) {
				case 0:
					f.Results = []api.Result{api.Fail, api.Unknown}[:1+r.IntN(2)]
				case 1:
					f.Registry = pick("registry.example.com/a_b", "quay.io/xy", "' OR 1=1 --")
				case 2:
					f.Repository = pick("app1", "app2")
				case 3:
					f.Tag = pick("0", "1")
				case 4:
					f.Search = pick("A_B", "APP1", "%", "_", "'", "!", "\\", "\x00", "🐳")
				case 5:
					f.CVE = pick("cve-2026-0001", "ghsa-AAAA-bbbb-0002", "CVE-2026-0011", "nothing'; --")
				case 6:
					f.Package = pick("log4j", "Log4J_core", "it's; DROP TABLE images;--", "pa%ck", "🐳", "pa_ck")
				case 7:
					f.Namespace = pick("ns0", "ns1", "ns9")
				case 8:
					f.Running = &[]bool{yes, no}[r.IntN(2)]
				case 9:
					f.KEV = &[]bool{yes, no}[r.IntN(2)]
				case 10:
					f.Fixable = &[]bool{yes, no}[r.IntN(2)]
				case 11:
					f.EPSS = score(0.5)
				case 12:
					f.Score = score(3)
				case 13:
					f.Within = pick("registry.example.com", "registry.example.com/a", "registry.example.com/a_b", "quay.io/xy/app1")
				case 14:
					f.Cluster = pick("prod", "dev")
				}
			}
			var want []store.Image
			for _, m := range all {
				if fits(f, m, scans[m.Digest], at[m.Image+m.Digest]) {
					want = append(want, m)
				}
			}
			found += len(want)
			sort := pick("", "image", "-image", "result", "-score", "score", "scanned", "-scanned", "instances", "-instances", "-result")
			number := func(f *float64) float64 {
				if f == nil {
					return -1
				}
				return *f
			}
			name, descending := strings.CutPrefix(sort, "-")
			slices.SortStableFunc(want, func(a, b store.Image) int {
				var c int
				switch name {
				case "image":
					c = cmp.Compare(a.Image, b.Image)
				case "result":
					c = cmp.Compare(a.Result, b.Result)
				case "score":
					c = cmp.Compare(number(a.MaxCVSS), number(b.MaxCVSS))
				case "scanned":
					c = cmp.Compare(a.ScannedAt, b.ScannedAt)
				case "instances":
					c = cmp.Compare(a.Instances, b.Instances)
				}
				if c = cmp.Or(c, cmp.Compare(a.ID, b.ID)); descending {
					return -c
				}
				return c
			})
			var got []store.Image
			for p := (store.Page{Sort: sort, Limit: 1 + r.IntN(40)}); ; {
				list, err := s.Images(t.Context(), f, p)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, list.Items...)
				if p.After = list.Next; p.After == "" {
					break
				}
			}
			if fmt.Sprint(identities(got)) != fmt.Sprint(identities(want)) {
				t.Fatalf("%+v sorted by %q:\ngot  %v\nwant %v", f, sort, identities(got), identities(want))
			}
			counts, err := s.Counts(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			total := 0
			for _, n := range counts {
				total += n
			}
			if total != len(want) {
				t.Fatalf("%+v: counts %v, want %d", f, counts, len(want))
			}
		}
		if found < 1000 {
			t.Fatalf("the filters found only %d images", found)
		}
		for _, p := range []store.Page{{After: "x"}, {After: "e30"}, {Sort: "score", After: "eyJzIjoiIiwidiI6bnVsbCwiaSI6MX0"}} {
			if _, err := s.Images(t.Context(), store.Filter{}, p); !errors.Is(err, store.ErrCursor) {
				t.Errorf("%+v: %v", p, err)
			}
		}
		if _, err := s.Images(t.Context(), store.Filter{}, store.Page{Sort: "id; DROP TABLE images"}); !errors.Is(err, store.ErrSort) {
			t.Error(err)
		}
		terms(t, s, scans)
		for _, m := range all {
			write(t, s, func(tx *store.Tx) error {
				if err := tx.DeleteImage(t.Context(), m.Digest); !errors.Is(err, store.ErrNotFound) {
					return err
				}
				return nil
			})
		}
		terms(t, s, nil)
	})
}

func identities(list []store.Image) (ids []int64) {
	for _, m := range list {
		ids = append(ids, m.ID)
	}
	return ids
}

// terms holds the list of vulnerabilities against the scans.
func terms(t *testing.T, s *store.Store, scans map[string]api.Scan) {
	t.Helper()
	want := map[string]int{}
	for _, scan := range scans {
		seen := map[string]bool{}
		for _, v := range scan.Vulnerabilities {
			seen[v.ID] = true
		}
		for id := range seen {
			want[id]++
		}
	}
	got := map[string]int{}
	for p := (store.Page{Sort: "-images", Limit: 5}); ; {
		list, err := s.Vulnerabilities(t.Context(), store.VulnerabilityFilter{}, p)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list.Items {
			got[v.ID] = v.Images
		}
		if p.After = list.Next; p.After == "" {
			break
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("vulnerabilities: got %v, want %v", got, want)
	}
}

// BenchmarkSearch is the search of lists by CVE: over images of 200 vulnerabilities,
// ASSAY_IMAGES of them (1,000; the bar is for 10,000). p95 is of all queries of a kind.
func BenchmarkSearch(b *testing.B) {
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
			r := rand.New(rand.NewPCG(1, 1))
			for from := 0; from < images; from += 200 {
				if err := s.Write(b.Context(), func(t *store.Tx) error {
					for n := from; n < min(from+200, images); n++ {
						scan := api.Scan{Image: fmt.Sprintf("registry.example.com/team%d/app%d:1", n%20, n), Digest: numbered(n), Source: "registry", ScannedAt: day, Packages: 200}
						add := func(id string, f float64) {
							scan.Vulnerabilities = append(scan.Vulnerabilities, api.Vulnerability{ID: id, Package: fmt.Sprintf("package-%d", r.IntN(2000)), Version: fmt.Sprintf("%d.0", r.IntN(5)), Type: "deb", CVSS: &f, Severity: "High"})
						}
						add("CVE-2026-0000", 9.5)
						if n%100 == 0 {
							add("CVE-2026-0001", 9.1)
						}
						if n == images/2 {
							add("CVE-2026-0002", 9.0)
						}
						for len(scan.Vulnerabilities) < 200 {
							add(fmt.Sprintf("CVE-2025-%04d", r.IntN(9000)), float64(r.IntN(90))/10)
						}
						if _, err := t.AddScan(b.Context(), scan); err != nil {
							return err
						}
					}
					tasks, done, err := t.Tasks(b.Context(), 1<<40, 100_000, nil)
					if err != nil {
						return err
					}
					var verdicts []store.Verdict
					for _, task := range tasks {
						f := float64(r.IntN(100)) / 10
						verdicts = append(verdicts, said(task, []api.Result{api.Pass, api.Warned, api.Fail}[r.IntN(3)], &f))
					}
					return t.Classified(b.Context(), verdicts, done)
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.Logf("%d images in %s", images, time.Since(begun).Round(time.Second))
			for _, share := range []struct{ name, cve string }{{"one", "CVE-2026-0002"}, {"1%", "CVE-2026-0001"}, {"all", "CVE-2026-0000"}, {"2%", "CVE-2025-0042"}} {
				for _, sort := range []string{"", "-score", "image", "-scanned", "-instances"} {
					for _, f := range []store.Filter{{CVE: share.cve}, {CVE: share.cve, Results: []api.Result{api.Fail}}, {CVE: share.cve, Registry: "registry.example.com/team3"}} {
						kind := map[bool]string{true: "cve", false: "cve+result"}[f.Results == nil]
						if f.Registry != "" {
							kind = "cve+registry"
						}
						b.Run(share.name+"/"+cmp.Or(sort, "id")+"/"+kind, func(b *testing.B) {
							var took []time.Duration
							p := store.Page{Sort: sort, Limit: 100}
							for b.Loop() {
								begun := time.Now()
								list, err := s.Images(b.Context(), f, p)
								if err != nil {
									b.Fatal(err)
								}
								took = append(took, time.Since(begun))
								p.After = list.Next // page after page
							}
							slices.Sort(took)
							b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
						})
					}
				}
			}
		})
	}
}
