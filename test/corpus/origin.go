package corpus

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/assay-dev/assay/api"
)

// Clusters and scopes of worlds with origins. The registries begin names of the corpus.
var (
	Clusters = []string{"", "prod", "dev", "lab"}
	// GroupOf is the trust group of each cluster.
	GroupOf = map[string]string{"prod": "live", "dev": "test", "lab": "live"}

	registries = []string{"", "", "docker.io", "docker.io/library", "quay.io", "quay.io/tigera", "ghcr.io/acme", "localhost:5000", "docker.io/lib", "quay.io/tigera/node"}
)

// GenerateScoped makes the case of a seed in a world where scans come from several scopes, in
// several ways, with and without bytes, and some say what is not so.
func GenerateScoped(seed uint64) Case {
	c := Generate(seed)
	g := &gen{Rand: rand.New(rand.NewPCG(seed, 0x5c09e))}
	g.now = c.Now
	c = withBytes(c)
	for i := range c.World.Scans {
		s := &c.World.Scans[i]
		if g.chance(60) {
			s.Scope = g.scope()
		}
		g.origin(s)
		if b := c.Bytes[s.Digest]; b != nil && g.chance(15) {
			s.Manifest = b
		}
		if s.Index != nil && g.chance(20) {
			x := *s.Index
			x.Manifest, s.Index = c.Bytes[x.Digest], &x
		}
	}
	c.World.Cluster = one(g, Clusters)
	if c.World.Cluster != "" && g.chance(30) {
		c.World.Groups = []string{one(g, []string{"live", "test"})}
	}
	if g.chance(25) {
		if c.World.Settings == nil {
			c.World.Settings = &api.AdmissionSettings{TypeMeta: api.TypeMeta{APIVersion: api.GroupAssay, Kind: api.KindAdmissionSettings}}
			c.World.Settings.Metadata.Name = "default"
		}
		c.World.Settings.Spec.Evidence = some(g, 1+g.IntN(3), api.Ways())
	}
	for range g.IntN(6) {
		c.World.Scans = append(c.World.Scans, g.submission(c))
	}
	return c
}

// Submission is something that somebody of a bounded scope might hand in, true or not. It
// brings no bytes that no scan of the world has.
func Submission(c Case, r *rand.Rand) api.Scan {
	g := &gen{Rand: r}
	g.now = c.Now
	s := g.submission(c)
	for s.Scope.All() {
		s.Scope = g.scope()
	}
	return s
}

func (g *gen) scope() api.Scope {
	s := api.Scope{Cluster: one(g, Clusters), Registry: one(g, registries)}
	if g.chance(40) {
		s.Group = GroupOf[s.Cluster]
		if s.Cluster == "" {
			s.Group = one(g, []string{"live", "test"})
		}
	}
	return s
}

// origin sets how and when the packages of a scan were found.
func (g *gen) origin(s *api.Scan) {
	s.Way = one(g, append(api.Ways(), ""))
	if g.chance(40) {
		s.Found = s.ScannedAt.Add(-time.Duration(g.IntN(3)) * 24 * time.Hour)
	}
}

func (g *gen) submission(c Case) api.Scan {
	known := c.World.Scans
	s := one(g, known)
	s.Scope = g.scope()
	s.Manifest = nil
	s.Image = one(g, names) + ":" + one(g, tags)
	if g.chance(30) {
		s.Image = one(g, known).Image
	}
	digests := slices.Sorted(maps.Keys(c.Bytes))
	if g.chance(50) {
		s.Digest = one(g, digests)
	}
	s.Index = nil
	switch g.IntN(3) {
	case 0: // a claim of an index, of whatever is a digest
		x := &api.Index{Digest: one(g, digests), Platforms: map[string]string{}}
		for _, p := range some(g, g.IntN(3), platforms) {
			x.Platforms[p] = one(g, digests)
		}
		s.Index = x
	case 1:
		if other := one(g, known); other.Index != nil {
			x := *other.Index
			s.Index = &x
		}
	}
	if s.Index != nil && s.Index.Digest == s.Digest {
		s.Digest = ""
	}
	if g.chance(50) {
		s.Vulnerabilities = g.vulnerabilities()
	} else {
		s.Vulnerabilities = []api.Vulnerability{}
	}
	s.Error = ""
	if g.chance(15) {
		s.Error, s.Vulnerabilities = "no such image", []api.Vulnerability{}
	}
	s.ScannedAt, s.Found = g.scannedAt(), time.Time{}
	if g.chance(20) {
		s.ScannedAt = c.Now.AddDate(1, 0, 0) // ahead of time
	}
	g.origin(&s)
	return s
}

// withBytes is a case whose digests are those of bytes, which are kept beside it.
func withBytes(c Case) Case {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err)
	}
	all := map[string]*api.Index{}
	manifests := map[string]bool{}
	for i := range c.World.Scans {
		s := &c.World.Scans[i]
		manifests[s.Digest] = s.Digest != ""
		if s.Index != nil {
			all[s.Index.Digest] = s.Index
			for _, d := range s.Index.Platforms {
				manifests[d] = true
			}
		}
	}
	bytes := map[string][]byte{}
	renamed := map[string]string{}
	put := func(old string, raw []byte) {
		digest := fmt.Sprintf("sha256:%x", sha256.Sum256(raw))
		renamed[old], bytes[digest] = digest, raw
	}
	for old := range manifests {
		if manifests[old] {
			put(old, fmt.Appendf(nil, `{"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"%s"},"layers":[]}`, old))
		}
	}
	for old, x := range all {
		var members []string
		for _, p := range slices.Sorted(maps.Keys(x.Platforms)) {
			parts := append(strings.Split(p, "/"), "")
			members = append(members, fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","platform":{"os":"%s","architecture":"%s","variant":"%s"}}`,
				renamed[x.Platforms[p]], parts[0], parts[1], parts[2]))
		}
		put(old, []byte(`{"manifests":[`+strings.Join(members, ",")+`]}`))
	}
	for old, digest := range renamed {
		text = []byte(strings.ReplaceAll(string(text), old, digest))
	}
	var out Case
	if err := json.Unmarshal(text, &out); err != nil {
		panic(err)
	}
	out.Bytes = bytes
	return out
}
