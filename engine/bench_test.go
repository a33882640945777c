package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
)

// fleet makes images of which each has some of 4,000 CVEs, base-image CVEs in most.
func fleet(images, cves int) []api.Scan {
	r := rand.New(rand.NewPCG(1, 2))
	scans := make([]api.Scan, images)
	for i := range scans {
		s := api.Scan{Image: fmt.Sprintf("registry.example.com/team-%d/app-%d:1", i%100, i), Digest: fmt.Sprintf("sha256:%016x%048x", r.Uint64(), i), ScannedAt: now.Add(-time.Hour)}
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
// of ten rules, and where all evidence and every tag is of the cluster's scope.
// What counts is the ratio between the lines.
func BenchmarkAdmit(b *testing.B) {
	scans := fleet(1000, 200)
	scoped := slices.Clone(scans)
	for i := range scoped {
		scoped[i].Scope = api.Scope{Cluster: "prod"}
	}
	admit := func(name, cluster string, policies int, scans []api.Scan) {
		b.Run(name, func(b *testing.B) {
			e := loadFor(b, cluster, rulebook(policies), scans...)
			r := deployment("prod", scans[1].Image, scans[2].Image, scans[3].Image)
			for b.Loop() {
				d, err := e.Admit(context.Background(), r, now)
				if err != nil {
					b.Fatal(err)
				}
				if len(d.Images) != 3 || slices.ContainsFunc(d.Images, func(i api.ImageDecision) bool { return i.Result == api.Unknown }) {
					b.Fatalf("%+v", d)
				}
			}
		})
	}
	for _, n := range []int{1, 50, 200} {
		admit(fmt.Sprintf("policies=%d", n), "", n, scans)
	}
	admit("policies=50/scoped", "prod", 50, scoped)
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

// BenchmarkReload: policies from YAML to a program in force, beside 1,000 images.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{50, 200} {
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			e := load(b, rulebook(n), fleet(1000, 200)...)
			text := []byte(rulebook(n))
			for b.Loop() {
				set, err := policies.Parse("p.yaml", text)
				if err != nil {
					b.Fatal(err)
				}
				next, err := bundles.Policies(set)
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Replace(context.Background(), next); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkUpdate: one image, and one exception, beside 10,000 images.
func BenchmarkUpdate(b *testing.B) {
	scans := fleet(10_000, 20)
	e := load(b, "", scans...)
	image, _ := documents.Image(fleet(1, 200)[0], documents.Needs{})
	b.Run("image", func(b *testing.B) {
		for b.Loop() {
			d := scans[7].Digest
			if err := e.Update(context.Background(), engine.Change{Path: []string{"images", documents.Shard(d), d}, Value: image}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("exception", func(b *testing.B) {
		for b.Loop() {
			if err := e.Update(context.Background(), engine.Change{Path: []string{"exceptions", "ends", "*", "CVE-2025-1000"}, Value: documents.Never}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
