package console_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/store"
)

// Lists stay small and quick with many images. ASSAY_CONSOLE_IMAGES says how many (10000 is what
// the documentation's figures are of); each has 200 vulnerabilities. Times are printed, since they are
// the machine's; sizes are the server's, and bounded.
func TestSize(t *testing.T) {
	images := 300
	if s := os.Getenv("ASSAY_CONSOLE_IMAGES"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		images = n
	}
	data := os.Getenv("ASSAY_CONSOLE_DATA") // kept for the next run
	if data == "" {
		data = t.TempDir()
	}
	begin := time.Now()
	fillStore(t, data, images)
	t.Logf("%d images with 200 vulnerabilities each were stored in %s", images, time.Since(begin).Round(time.Second))
	w := serve(t, data)
	begin = time.Now()
	for deadline := begin.Add(time.Hour); ; time.Sleep(200 * time.Millisecond) { // results are computed behind
		var counts struct {
			Counts map[api.Result]int `json:"counts"`
		}
		w.send(200, "GET", "/counts", nil, &counts)
		if counts.Counts[api.Unknown] == 0 && len(counts.Counts) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not classified: %v", counts)
		}
	}
	t.Logf("they were classified in %s", time.Since(begin).Round(time.Second))
	p := w.person(w.admin)
	list := []string{"/", "/images", "/images?sort=image", "/images?search=repository-7&result=Fail,Warn&running=true", "/images?cve=CVE-2024-10010", "/images?package=package-7", "/running", "/running?cluster=c1", "/vulnerabilities", "/vulnerabilities?sort=-images",
		"/vulnerabilities?package=package-7", "/vulnerabilities/CVE-2024-10010", "/packages", "/packages?search=age-7", "/exceptions", "/alerts", "/policies", "/decisions", "/jobs", "/settings", imagePath(bigImage(7), 7)}
	for _, path := range list {
		var took []time.Duration
		size := 0
		for range 20 {
			begin := time.Now()
			status, _, text := p.get(path)
			took = append(took, time.Since(begin))
			if status != http.StatusOK {
				t.Fatalf("%s: %d", path, status)
			}
			size = len(text)
		}
		slices.Sort(took)
		t.Logf("%-75s p50 %4d ms, p95 %4d ms, %3d kB", path[:min(len(path), 75)], took[10].Milliseconds(), took[18].Milliseconds(), size>>10)
		if size > 150<<10 {
			t.Errorf("%s weighs %d bytes", path, size)
		}
	}
	b := w.tab().signIn(w.admin)
	for _, path := range []string{"/", "/images", "/running", "/vulnerabilities", "/packages"} {
		b.open(path)
		b.wait("the page is painted", `performance.getEntriesByName("first-contentful-paint").length > 0`)
		t.Logf("%-75s first contentful paint after %4.0f ms", path, value[float64](b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`))
	}
}

func bigImage(n int) string {
	return fmt.Sprintf("registry.example.com/team-%d/repository-%d:1.%d", n%20, n%500, n)
}

// fillStore writes images into the SQLite database of a data folder, where it has none.
func fillStore(t *testing.T, data string, images int) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	file := filepath.Join(data, "assay.db")
	if _, err := os.Stat(file); err == nil {
		return
	}
	s, err := store.Open(ctx, store.Config{URL: file})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	for from := 0; from < images; from += 100 {
		if err := s.Write(ctx, func(tx *store.Tx) error {
			for n := from; n < min(from+100, images); n++ {
				scan := api.Scan{Image: bigImage(n), Digest: digest(n), Source: "registry", Platform: "linux/amd64", Distro: "debian 12", ScannedAt: at, Packages: 300}
				for k := range 200 {
					v := flaws[(n+k)%len(flaws)].vulnerability()
					i := (n*37 + k*13) % 8000
					v.ID, v.Package = fmt.Sprintf("CVE-2024-%d", 10000+i), fmt.Sprintf("package-%d", i%600)
					score := float64(i%70)/10 + float64(n%4)
					v.CVSS = &score
					scan.Vulnerabilities = append(scan.Vulnerabilities, v)
				}
				if _, err := tx.AddScan(ctx, scan); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for c := range 4 {
		var list []store.Instance
		for n := c; n < images; n += 8 {
			x := store.Instance{Image: bigImage(n), Digest: digest(n), Node: fmt.Sprintf("node-%d", n%50)}
			x.Namespace, x.Pod, x.Container = fmt.Sprintf("namespace-%d", n%40), fmt.Sprintf("pod-%d", n), "main"
			list = append(list, x)
		}
		if err := s.Write(ctx, func(tx *store.Tx) error { return tx.SetInstances(ctx, fmt.Sprintf("c%d", c), "", list) }); err != nil {
			t.Fatal(err)
		}
	}
}
