package store_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// Whatever comes, is replaced and goes, the list of packages says in how many images each is.
func TestPackageCounts(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		s := storetest.Open(t, url(), nil)
		random := rand.New(rand.NewPCG(3, 3))
		alive := map[string]bool{}
		held := 0
		for step := range 60 {
			c := string("abcdef"[random.IntN(6)])
			write(t, s, func(tx *store.Tx) error {
				at := day.Add(time.Duration(step) * time.Minute)
				switch random.IntN(4) {
				case 0:
					if !alive[c] {
						return nil
					}
					delete(alive, c)
					return tx.DeleteImage(t.Context(), digest(c))
				case 1:
					alive[c] = true
					b := store.SBOM{Scan: scanOf("nginx:1", c, at), Format: "syft-json", Document: fmt.Append(nil, step)}
					for k := range 4 {
						if random.IntN(2) == 0 {
							b.Packages = append(b.Packages, store.Package{Name: fmt.Sprint("p", k), Version: "1", Type: "npm"}, store.Package{Name: "openssl", Version: fmt.Sprint("3.", k), Type: "deb"})
						}
					}
					_, err := tx.AddSBOM(t.Context(), b)
					return err
				}
				alive[c] = true
				var ids []string
				for k := range 4 {
					if random.IntN(2) == 0 {
						ids = append(ids, fmt.Sprintf("CVE-2026-000%d", k))
					}
				}
				_, err := tx.AddScan(t.Context(), scanOf("nginx:1", c, at, ids...))
				return err
			})
			list, err := s.Packages(t.Context(), store.PackageFilter{}, store.Page{Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			counted := map[store.Package]int{}
			for c := range alive {
				of, err := s.Packages(t.Context(), store.PackageFilter{Digest: digest(c)}, store.Page{Limit: 100})
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range of.Items {
					counted[p.Package]++
				}
			}
			if len(list.Items) != len(counted) {
				t.Fatalf("step %d: %d packages, not %d", step, len(list.Items), len(counted))
			}
			for _, p := range list.Items {
				held = max(held, p.Images)
				if p.Images != counted[p.Package] {
					t.Fatalf("step %d: %v is in %d images, not %d", step, p.Package, counted[p.Package], p.Images)
				}
			}
		}
		if held < 3 {
			t.Errorf("no package is in more than %d images: the test says little", held)
		}
	})
}
