package priority

import (
	"cmp"
	"crypto/sha256"
	"slices"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Known is an image as a possible base of others, under one of its names.
type Known struct {
	Image, Digest string
	repository    string
	chains        []chain
	label         *api.BaseImage // as its labels name it
	rank          int            // of names: those with a tag first
}

// NewKnown reads a scan of an image.
func NewKnown(image string, scan *api.Scan) *Known {
	k := &Known{Image: image, Digest: scan.Digest, repository: image, chains: chains(scan.Layers), rank: 1}
	if ref, err := api.ParseReference(image); err == nil {
		k.repository = ref.Name()
		if ref.Digest == "" {
			k.rank = 0
		}
	}
	if b := scan.Base; b != nil && b.Found == api.BaseLabelled {
		k.label = b
	}
	return k
}

// chain names the lowest layers of an image.
type chain [16]byte

func chains(layers []api.Layer) []chain {
	list := make([]chain, len(layers))
	var c chain
	for i, l := range layers {
		sum := sha256.Sum256(append(c[:], l.DiffID...))
		copy(c[:], sum[:])
		list[i] = c
	}
	return list
}

// Bases finds base images. It is safe for concurrent use once all images are added.
type Bases struct {
	whole  map[chain][]*Known
	shared map[chain]sharing
}

// sharing says who has the same lowest layers.
type sharing struct {
	repository string
	more       bool // others too
}

// NewBases makes an index of images.
func NewBases() *Bases {
	return &Bases{whole: map[chain][]*Known{}, shared: map[chain]sharing{}}
}

// Add makes an image known.
func (b *Bases) Add(k *Known) {
	for _, c := range k.chains {
		if s, ok := b.shared[c]; !ok {
			b.shared[c] = sharing{repository: k.repository}
		} else if !s.more && s.repository != k.repository {
			b.shared[c] = sharing{k.repository, true}
		}
	}
	if n := len(k.chains); n > 0 {
		b.whole[k.chains[n-1]] = append(b.whole[k.chains[n-1]], k)
	}
}

// Find says what an image is built on: the known image of another repository with the most
// layers, all of which are the image's lowest; else what its labels name; else the layers
// that it has in common with images of other repositories. Labels come second: what is built
// on an image inherits its labels, which then name the base of its base.
func (b *Bases) Find(k *Known) *api.BaseImage {
	for i := len(k.chains) - 2; i >= 0; i-- {
		var best *Known
		for _, c := range b.whole[k.chains[i]] {
			if c.Digest != "" && c.repository != k.repository && (best == nil || k.prefers(c, best)) {
				best = c
			}
		}
		if best != nil {
			return &api.BaseImage{Name: best.Image, Digest: best.Digest, Layers: i + 1, Found: api.BaseContained}
		}
	}
	if k.label != nil {
		return &api.BaseImage{Name: k.label.Name, Digest: k.label.Digest, Found: api.BaseLabelled}
	}
	for i := len(k.chains) - 2; i >= 0; i-- {
		if s := b.shared[k.chains[i]]; s.more || s.repository != "" && s.repository != k.repository {
			return &api.BaseImage{Layers: i + 1, Found: api.BaseShared}
		}
	}
	return nil
}

// prefers the name that labels give, then names with a tag, then the first.
func (k *Known) prefers(a, b *Known) bool {
	rank := func(c *Known) int {
		if k.label != nil && k.label.Name == c.Image {
			return -1
		}
		return c.rank
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Image, b.Image), cmp.Compare(a.Digest, b.Digest)) < 0
}

// baseLayers are the diff ids of the base's layers; nil where they are not known.
func baseLayers(layers []api.Layer, base *api.BaseImage) map[string]bool {
	if base == nil || base.Layers <= 0 || base.Layers > len(layers) {
		return nil
	}
	ids := make(map[string]bool, base.Layers)
	for _, l := range layers[:base.Layers] {
		ids[l.DiffID] = true
	}
	return ids
}

// Annotate writes a base into a scan: at each vulnerability its origin, and how many have which.
func Annotate(scan *api.Scan, base *api.BaseImage) {
	scan.Base = base
	below := baseLayers(scan.Layers, base)
	if base != nil {
		found := *base
		found.Vulnerabilities, found.Own = 0, 0
		scan.Base = &found
	}
	for i := range scan.Vulnerabilities {
		v := &scan.Vulnerabilities[i]
		v.Origin = ""
		switch {
		case below == nil || v.Layer == "":
		case below[v.Layer]:
			v.Origin = api.FromBase
			scan.Base.Vulnerabilities++
		default:
			v.Origin = api.FromOwn
			scan.Base.Own++
		}
	}
}

// content is a vulnerability of a package, of whatever version.
type content struct {
	id, name, kind string
	kev            bool
}

func contentOf(v *api.Vulnerability) content {
	return content{documents.CanonicalID(*v), v.Package, v.Type, v.KEV}
}

// Contents is what was found in an image that others may be built on.
type Contents struct {
	Name   string // with its tag
	Digest string
	found  map[content]bool // without kev; and whether it is known to be exploited
}

// NewContents reads the newest build of a base, by the name that images are built on.
func NewContents(name string, m *Image) *Contents {
	return &Contents{Name: name, Digest: m.Digest, found: m.contents()}
}

// Named is the same by another name.
func (c *Contents) Named(name string) *Contents {
	return &Contents{Name: name, Digest: c.Digest, found: c.found}
}

// contents is all that was found, also what exceptions cover: they are of its own name.
func (m *Image) contents() map[content]bool {
	found := make(map[content]bool, m.findings+len(m.covered))
	add := func(c content) {
		kev := c.kev
		c.kev = false
		found[c] = found[c] || kev
	}
	for _, p := range m.packages {
		for _, f := range p.findings {
			add(content{f.id, p.name, p.kind, f.kev})
		}
	}
	for _, c := range m.covered {
		add(c)
	}
	return found
}

// rebase is what a newer base does to an image: what its own layers hold stays.
func (b *Book) rebase(m *Image, newer *Contents) *rebase {
	a := b.action(action{id: api.ActionRebase + "/" + newer.Name + "@" + newer.Digest, name: newer.Name, rebase: true, to: newer.Digest})
	out := &rebase{from: m.Base.Digest}
	for i, p := range m.packages {
		if !m.fromBase(i) {
			continue
		}
		gone := slices.DeleteFunc(slices.Clone(p.findings), func(f finding) bool {
			_, stays := newer.found[content{id: f.id, name: p.name, kind: p.kind}]
			return stays
		})
		if len(gone) > 0 {
			out.steps = append(out.steps, b.removal(a, p.version, gone))
		}
	}
	if len(out.steps) == 0 {
		return nil
	}
	has := m.contents()
	for c, kev := range newer.found {
		if _, ok := has[c]; !ok {
			out.adds++
			if kev {
				out.addsKEV++
			}
		}
	}
	return out
}
