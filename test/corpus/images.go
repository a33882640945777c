package corpus

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

var platforms = []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}

// names are image names as users write them; several are the same.
var names = []string{
	"nginx", "nginx", "library/nginx", "docker.io/nginx", "index.docker.io/library/nginx", "docker.io/library/nginx",
	"redis", "quay.io/tigera/node", "quay.io/tigera/node", "ghcr.io/acme/app", "localhost:5000/app", "acme/app",
	"registry-1.docker.io/library/nginx", "Registry.hub.docker.com:443/nginx", "Quay.io/tigera/node", "quay.io:0443/tigera/node", "GHCR.io:443/acme/app", "LOCALHOST:05000/app", "Acme/app",
}

var tags = []string{"1.0", "2.0", "latest"}

// invalid are references that do not parse.
var invalid = []string{
	"Nginx", "nginx:bad tag", "nginx@sha256:abc", "acme//app", "nginx:", "", strings.Repeat("a", 64), "UPPER.example.com/App:1",
}

func digest(n int) string {
	return "sha256:" + strings.Repeat(fmt.Sprintf("%02x", n), 32)
}

// images makes the digests of the case: manifests, and indexes over them.
func (g *gen) images() {
	for i := range 7 {
		g.manifests = append(g.manifests, digest(0x10+i*0x21))
	}
	for i := range 2 {
		index := api.Index{Digest: digest(0xe0 - i*0x77), Platforms: map[string]string{}}
		for k, p := range some(g, 1+g.IntN(3), platforms) {
			index.Platforms[p] = g.manifests[(3+2*i+k)%7]
		}
		g.indexes = append(g.indexes, index)
	}
}

func (g *gen) anyDigest() string {
	switch g.IntN(8) {
	case 0, 1:
		return one(g, g.indexes).Digest
	case 2:
		return digest(0xff) // never scanned
	}
	return one(g, g.manifests)
}

// reference is an image reference as somebody writes it.
func (g *gen) reference() string {
	name := one(g, names)
	switch n := g.IntN(100); {
	case n < 20:
		return name
	case n < 65:
		return name + ":" + one(g, tags)
	case n < 80:
		return name + "@" + g.anyDigest()
	case n < 92:
		return name + ":" + one(g, tags) + "@" + g.anyDigest()
	}
	return one(g, invalid)
}

// A flaw is a vulnerability of the pool; its names are the same in all scans.
type flaw struct {
	id      string
	aliases []string
}

var flaws = func() []flaw {
	out := []flaw{
		{"CVE-2021-44228", []string{"GHSA-jfh8-c2jp-5v3q"}},
		{"GHSA-jfh8-c2jp-5v3q", []string{"CVE-2021-44228"}},
		{"GHSA-aaaa-bbbb-cccc", []string{"CVE-2024-0001"}},
		{"CVE-2024-0001", nil},
		{"GHSA-dddd-eeee-ffff", nil},
		{"GHSA-two2-cves-here", []string{"CVE-2023-0001", "CVE-2023-0002"}},
		{"DSA-5000-1", []string{"CVE-2024-0002"}},
		{"CVE-2024-0002", []string{"DSA-5000-1"}},
		{"ALAS-2024-77", nil},
	}
	for i := range 16 {
		out = append(out, flaw{id: fmt.Sprintf("CVE-2025-%04d", 100+i)})
	}
	return out
}()

type pkg struct{ name, version, kind, purl string }

var packages = []pkg{
	{"openssl", "3.0.1", "deb", "pkg:deb/debian/openssl@3.0.1?arch=amd64&distro=debian-12"},
	{"openssl", "3.0.2", "deb", "pkg:deb/debian/openssl@3.0.2"},
	{"@scope/lib", "1.2.3", "npm", "pkg:npm/%40scope/lib@1.2.3"},
	{"github.com/foo/bar", "v1.0.0", "go-module", "pkg:golang/github.com/foo/bar@v1.0.0#cmd/x"},
	{"log4j-core", "2.14.1", "java-archive", "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1"},
	{"lib", "1.2.3", "npm", "pkg:npm/lib@1.2.3"},
	{"binary", "9", "binary", ""},
}

// purls are those that exceptions name.
var purls = []string{
	"pkg:deb/debian/openssl", "pkg:deb/debian/openssl@3.0.1", "pkg:deb/debian/openssl@3.0.2?arch=arm64", "pkg:deb/ubuntu/openssl",
	"pkg:npm/%40scope/lib", "pkg:npm/lib@1.2.3", "pkg:golang/github.com/foo/bar@v1.0.0", "pkg:golang/github.com/foo/bar@v1.0.1",
	"pkg:maven/org.apache.logging.log4j/log4j-core",
}

// dateNear is a date at the bound of a grace period, or a plain one, or none.
func (g *gen) dateNear() string {
	bound := g.now.AddDate(0, 0, -one(g, graceDays))
	switch g.IntN(5) {
	case 0:
		return ""
	case 1:
		return bound.Format(time.DateOnly)
	case 2, 3:
		return g.around(bound).Format(time.RFC3339)
	}
	return g.now.AddDate(-1, 0, 0).Format(time.RFC3339)
}

func (g *gen) vulnerability(f flaw) api.Vulnerability {
	p := one(g, packages)
	v := api.Vulnerability{
		ID: f.id, Aliases: f.aliases, Package: p.name, Version: p.version, Type: p.kind, PURL: p.purl,
		Severity: one(g, []string{"Critical", "High", "Medium", "Low", "Negligible", "Unknown"}),
		KEV:      g.chance(8), Published: g.dateNear(),
	}
	v.Fix.State = one(g, []string{"fixed", "fixed", "not-fixed", "wont-fix", "unknown"})
	if v.Fix.State == "fixed" {
		v.Fix.Versions = []string{"99.1"}
		v.Fix.Available = g.dateNear()
	}
	if g.chance(75) {
		v.CVSS = ptr(g.score())
	}
	if g.chance(50) {
		v.EPSS = ptr(g.probability())
	}
	return v
}

func (g *gen) vulnerabilities() []api.Vulnerability {
	out := []api.Vulnerability{}
	n := one(g, []int{0, 1, 1, 2, 3, 5, 24, 24})
	for _, f := range some(g, n, flaws) {
		if f.id == "CVE-2024-0001" { // never alone, so that its GHSA is known wherever it is
			out = append(out, g.vulnerability(flaws[2]))
		}
		for range one(g, []int{1, 1, 1, 2, 3}) {
			out = append(out, g.vulnerability(f))
		}
	}
	g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func (g *gen) scannedAt() time.Time {
	d := one(g, durations)
	t := g.around(g.now.AddDate(-d.Years, -d.Months, -d.Days))
	switch g.IntN(6) {
	case 0, 1:
		t = g.now.Add(-time.Hour) // often equal
	case 2:
		at, err := time.Parse(time.RFC3339, one(g, absolute))
		if err != nil {
			panic(err)
		}
		if at = g.around(at); at.Before(g.now) {
			t = at
		}
	}
	if g.chance(15) {
		t = t.In(time.FixedZone("", 2*3600))
	}
	return t
}

// scans are those of the system: several of a digest, failed ones, those of indexes.
func (g *gen) scans() []api.Scan {
	var out []api.Scan
	for range 6 + g.IntN(14) {
		s := api.Scan{Image: one(g, names), Platform: one(g, platforms), Source: "registry", ScannedAt: g.scannedAt(), Packages: 7}
		s.Digest = one(g, g.manifests)
		if g.chance(35) {
			index := one(g, g.indexes)
			for _, p := range platforms {
				if d, ok := index.Platforms[p]; ok && (s.Index == nil || g.chance(50)) {
					s.Index, s.Platform, s.Digest = &index, p, d
				}
			}
		}
		subject := s.Digest
		if s.Index != nil {
			subject = s.Index.Digest
		}
		switch n := g.IntN(20); {
		case n < 3:
			s.Image += "@" + subject
		case n < 4:
			s.Image += ":" + one(g, tags) + "@" + subject
		case n < 18:
			s.Image += ":" + one(g, tags)
		}
		s.Vulnerabilities = g.vulnerabilities()
		if g.chance(15) {
			s.Unplaced = some(g, 1+g.IntN(2), []api.Unplaced{{Packages: 3}, {Distro: "debian 99", Packages: 1}})
		}
		s.Result = one(g, []api.Result{api.Pass, api.Fail}) // a claim that nobody may believe
		if g.chance(15) {
			s.Error, s.Vulnerabilities, s.Result = "no such image", []api.Vulnerability{}, api.Unknown
			if g.chance(20) {
				s.Digest, s.Index = "", nil
			}
		}
		out = append(out, s)
	}
	return out
}

// splitName gives Calico's columns for a name, as written or not, one of the spellings of Docker Hub among them.
func (g *gen) splitName(name string) (registry, repository string) {
	ref, err := api.ParseReference(name)
	if err != nil {
		panic(err)
	}
	if repo, ok := strings.CutPrefix(ref.Name(), "docker.io/library/"); ok {
		switch g.IntN(4) {
		case 0:
			return "", repo
		case 1:
			return "", "library/" + repo
		case 2:
			return "docker.io", repo
		}
	}
	if written := ref.WrittenName(); g.chance(30) {
		slash := strings.LastIndexByte(written, '/')
		return written[:slash], written[slash+1:]
	}
	return ref.Registry(), ref.Repository()
}
