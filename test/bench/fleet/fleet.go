// Package fleet makes the inputs of the benchmark: scans, exceptions, policies,
// reviews and events. Equal seeds give equal fleets.
package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
)

// Now is the moment that everything is decided for.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Config says how large a fleet is; its zero value is the default fleet.
type Config struct {
	Seed       uint64 `json:"seed"`       // 1
	Images     int    `json:"images"`     // 10,000
	CVEs       int    `json:"cves"`       // of each image: 200
	Exceptions int    `json:"exceptions"` // 5,000
}

// Fleet is a registry with its scans. It never changes, and its images are made
// when they are asked for: 100,000 of them need not fit in memory.
type Fleet struct {
	Config
	scores []float64 // of each CVE of the catalogue, by rank
	below  [3][]int  // the CVEs that images of each class may have, by rank
	bases  [][]int   // the CVEs of base images
	class  []int     // the class of each base image
}

const (
	catalogue  = 20_000 // CVEs that any image may have
	baseImages = 30
	teams      = 100
)

// caps are the scores that the CVEs of an image stay below: those of a class are
// Pass, Warn or Fail at the default thresholds, but for exceptions.
var caps = [3]float64{7.0, 9.0, 10.1}

// usual CVSS v3 base scores, as often as NVD gives them.
var usual = []float64{9.8, 9.8, 9.1, 8.8, 8.8, 8.1, 7.8, 7.8, 7.8, 7.5, 7.5, 7.5, 7.1, 6.5, 6.5, 6.1, 6.1, 5.9, 5.5, 5.5, 5.5, 5.3, 5.3, 4.7, 4.3, 3.7, 3.3, 2.5}

// New makes a fleet.
func New(c Config) *Fleet {
	if c.Seed == 0 {
		c.Seed = 1
	}
	if c.Images == 0 {
		c.Images = 10_000
	}
	if c.CVEs == 0 {
		c.CVEs = 200
	}
	if c.Exceptions == 0 {
		c.Exceptions = 5_000
	}
	f := &Fleet{Config: c, scores: make([]float64, catalogue)}
	r := rand.New(rand.NewPCG(c.Seed, 0))
	for cve := range f.scores {
		f.scores[cve] = usual[r.IntN(len(usual))]
		for class, limit := range caps {
			if f.scores[cve] < limit {
				f.below[class] = append(f.below[class], cve)
			}
		}
	}
	for range baseImages {
		class := r.IntN(len(caps))
		f.class = append(f.class, class)
		f.bases = append(f.bases, distinct(r, f.below[class][:len(f.below[class])/20], nil, c.CVEs*3/5))
	}
	return f
}

// distinct adds n members of a list that it does not have yet, the first ones most often.
func distinct(r *rand.Rand, list, have []int, n int) []int {
	seen := make(map[int]bool, len(have)+n)
	for _, x := range have {
		seen[x] = true
	}
	out := slices.Clone(have)
	zipf := rand.NewZipf(r, 1.05, 20, uint64(len(list)-1))
	for len(out) < len(have)+n {
		if x := list[zipf.Uint64()]; !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	return out
}

// CVE is the id of a CVE by its rank.
func CVE(rank int) string { return fmt.Sprintf("CVE-2025-%05d", 10_000+rank) }

// Image is the name and tag of the i-th image.
func (f *Fleet) Image(i int) (registry, repository, tag string) {
	return fmt.Sprintf("registry.example.com/team-%d", i%teams), fmt.Sprintf("app-%d", i), fmt.Sprintf("v%d", 1+i%7)
}

// Tagged is the reference of the i-th image by its tag.
func (f *Fleet) Tagged(i int) string {
	registry, repository, tag := f.Image(i)
	return registry + "/" + repository + ":" + tag
}

// Pinned is the reference of the i-th image by its digest.
func (f *Fleet) Pinned(i int) string {
	registry, repository, _ := f.Image(i)
	return registry + "/" + repository + "@" + f.Digest(i)
}

// Digest is that of the i-th image.
func (f *Fleet) Digest(i int) string {
	r := f.rand(i, 1)
	return fmt.Sprintf("sha256:%016x%016x%016x%016x", r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
}

func (f *Fleet) rand(i int, purpose uint64) *rand.Rand {
	return rand.New(rand.NewPCG(f.Seed, uint64(i)<<8|purpose))
}

// base is the base image of an image: some have many more than others.
func (f *Fleet) base(i int) int {
	return int(rand.NewZipf(f.rand(i, 6), 1.1, 3, baseImages-1).Uint64())
}

// cves are the CVEs of an image: those of its base, then those of its own.
func (f *Fleet) cves(i int) []int {
	r, base := f.rand(i, 2), f.base(i)
	return distinct(r, f.below[f.class[base]], f.bases[base], f.CVEs-len(f.bases[base]))
}

// Scan is that of the i-th image, made in the last 30 days.
func (f *Fleet) Scan(i int) api.Scan {
	r := f.rand(i, 3)
	s := api.Scan{
		Image: f.Tagged(i), Digest: f.Digest(i), Platform: "linux/amd64", Source: "registry", Distro: "debian 12",
		ScannedAt: Now.Add(-time.Duration(1+r.IntN(30*24*60)) * time.Minute),
		Database:  &api.ScanDatabase{Built: Now.Add(-24 * time.Hour)},
	}
	for _, cve := range f.cves(i) {
		s.Vulnerabilities = append(s.Vulnerabilities, api.Vulnerability{
			ID: CVE(cve), Package: fmt.Sprintf("lib%d", cve%700), Version: "1.2.3-4", Type: "deb",
			CVSS: &f.scores[cve], Severity: severity(f.scores[cve]), Fix: api.Fix{State: "fixed"},
		})
	}
	return s
}

func severity(score float64) string {
	switch {
	case score >= 9:
		return "Critical"
	case score >= 7:
		return "High"
	case score >= 4:
		return "Medium"
	}
	return "Low"
}

// Scans are those of images from (inclusive) to (exclusive).
func (f *Fleet) Scans(from, to int) []api.Scan {
	scans := make([]api.Scan, 0, to-from)
	for i := from; i < to; i++ {
		scans = append(scans, f.Scan(i))
	}
	return scans
}

// ExceptionList is one exception in fifty for all images, half of the others for
// a repository and half for a tag or a digest; one in ten has ended.
func (f *Fleet) ExceptionList() []api.VulnerabilityException {
	list := make([]api.VulnerabilityException, f.Exceptions)
	for i := range list {
		list[i] = f.Exception(i)
	}
	return list
}

// Exception is the i-th one; there are more than those that are in force.
func (f *Fleet) Exception(i int) api.VulnerabilityException {
	r := f.rand(i, 4)
	image := r.IntN(f.Images)
	cves := f.cves(image)
	slices.SortFunc(cves, func(a, b int) int { return int(10*f.scores[b]) - int(10*f.scores[a]) })
	e := api.VulnerabilityException{
		TypeMeta: api.TypeMeta{APIVersion: "assay.dev/v1alpha1", Kind: "VulnerabilityException"},
		Metadata: api.ObjectMeta{Name: fmt.Sprintf("exception-%d", i)},
		Spec: api.VulnerabilityExceptionSpec{
			CVE: CVE(cves[r.IntN(min(20, len(cves)))]), Justification: "not reachable", Author: "security@example.com",
		},
	}
	registry, repository, tag := f.Image(image)
	switch scope := i % 10; {
	case i%50 == 0:
		e.Spec.Scope = api.ScopeAny
	case scope <= 4:
		e.Spec.Scope, e.Spec.Registry, e.Spec.Repository = api.ScopeRepo, registry, repository
	case scope <= 7:
		e.Spec.Scope, e.Spec.Registry, e.Spec.Repository, e.Spec.Tags = api.ScopeImage, registry, repository, []string{tag}
	default:
		e.Spec.Scope, e.Spec.Registry, e.Spec.Repository, e.Spec.Digest = api.ScopeImage, registry, repository, f.Digest(image)
	}
	switch r.IntN(10) {
	case 0:
		e.Spec.Expires = Now.Add(-time.Hour).Format(time.RFC3339)
	case 1, 2, 3:
		e.Spec.Expires = Now.AddDate(0, 3, 0).Format(time.RFC3339)
	}
	return e
}
