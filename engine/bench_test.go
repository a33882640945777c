package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
)

// fleet makes images of which each has some of 4,000 CVEs, base-image CVEs in most.
func fleet(images, cves int) []api.Scan {
	r := rand.New(rand.NewPCG(1, 2))
	scans := make([]api.Scan, images)
	for i := range scans {
		s := api.Scan{Image: fmt.Sprintf("registry.example.com/team-%d/app-%d:1", i%100, i), Digest: fmt.Sprintf("sha256:%064x", r.Uint64()), ScannedAt: now.Add(-time.Hour)}
		for j := range cves {
			n := r.IntN(4000)
			if j < cves/2 {
				n = j
			}
			score := float64(n%98)/10 + 0.1
			s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-2025-%d", 1000+n), CVSS: &score})
		}
		scans[i] = s
	}
	return scans
}

// rulebook makes policies of ten rules each, whose patterns have literal prefixes.
func rulebook(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "---\napiVersion: containersecurity.tigera.io/v1beta1\nkind: ContainerAdmissionPolicy\nmetadata: {name: p%d}\nspec:\n  order: %d\n  rules:\n", i, i)
		for j := range 10 {
			fmt.Fprintf(&b, "  - action: Reject\n    imagePath: {operator: IsOneOf, values: ['^registry\\.example\\.com/squad-%d-%d/']}\n    imageScanStatus: {operator: IsOneOf, values: [Fail]}\n", i, j)
		}
	}
	return b.String()
}

// BenchmarkAdmit: three containers, 1,000 images of 200 CVEs, 1 to 200 policies
// of ten rules. What counts is the ratio between the lines.
func BenchmarkAdmit(b *testing.B) {
	scans := fleet(1000, 200)
	for _, n := range []int{1, 50, 200} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			e := load(b, rulebook(n), scans...)
			r := deployment("prod", scans[1].Image, scans[2].Image, scans[3].Image)
			for b.Loop() {
				if _, err := e.Admit(context.Background(), r, now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkClassify(b *testing.B) {
	scans := fleet(1000, 200)
	e := load(b, "", scans...)
	for b.Loop() {
		if _, err := e.Classify(context.Background(), scans[1].Image, "", now); err != nil {
			b.Fatal(err)
		}
	}
}
