package priority

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// Known is an image as a possible base of others.
type Known struct {
	Image  string // a name; more than one Known may have a digest
	Digest string
	Layers []api.Layer
	Base   *api.BaseImage // as its labels name it
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
	whole  map[chain][]Known
	shared map[chain]*sharing
	names  map[string]string
}

// sharing says who has the same lowest layers.
type sharing struct {
	name string // of a repository
	more bool   // of others too
}

// NewBases makes an index of images.
func NewBases() *Bases {
	return &Bases{whole: map[chain][]Known{}, shared: map[chain]*sharing{}, names: map[string]string{}}
}

// repository is the name of an image without tag and digest.
func (b *Bases) repository(image string) string {
	if name, ok := b.names[image]; ok {
		return name
	}
	name := image
	if ref, err := api.ParseReference(image); err == nil {
		name = ref.Name()
	}
	b.names[image] = name
	return name
}

// Add makes an image known.
func (b *Bases) Add(k Known) {
	list := chains(k.Layers)
	if len(list) == 0 {
		return
	}
	name := b.repository(k.Image)
	for _, c := range list {
		if s, ok := b.shared[c]; !ok {
			b.shared[c] = &sharing{name: name}
		} else if s.name != name {
			s.more = true
		}
	}
	last := list[len(list)-1]
	b.whole[last] = append(b.whole[last], k)
}

// Find says what an image that was added is built on: the known image of another repository
// with the most layers, all of which are the image's lowest; else what its labels name;
// else the layers that it has in common with images of other repositories. Labels come
// second: what is built on an image inherits its labels, which then name its base.
func (b *Bases) Find(k Known) *api.BaseImage {
	list := chains(k.Layers)
	name := b.names[k.Image]
	for i := len(list) - 2; i >= 0; i-- {
		var best *Known
		for n := range b.whole[list[i]] {
			c := &b.whole[list[i]][n]
			if c.Digest != "" && c.Digest != k.Digest && b.names[c.Image] != name && (best == nil || better(c, best, k.Base)) {
				best = c
			}
		}
		if best != nil {
			return &api.BaseImage{Name: best.Image, Digest: best.Digest, Layers: i + 1, Found: api.BaseContained}
		}
	}
	if k.Base != nil {
		return &api.BaseImage{Name: k.Base.Name, Digest: k.Base.Digest, Found: api.BaseLabelled}
	}
	for i := len(list) - 2; i >= 0; i-- {
		if s := b.shared[list[i]]; s != nil && (s.more || s.name != name) {
			return &api.BaseImage{Layers: i + 1, Found: api.BaseShared}
		}
	}
	return nil
}

// better prefers the name that labels give, then names with a tag, then the first.
func better(a, b *Known, label *api.BaseImage) bool {
	rank := func(k *Known) int {
		ref, err := api.ParseReference(k.Image)
		switch {
		case label != nil && label.Name == k.Image:
			return 0
		case err == nil && ref.Digest == "":
			return 1
		}
		return 2
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
type content struct{ id, name, kind string }

// Contents is what was found in an image that others may be built on.
type Contents struct {
	Name   string // with its tag
	Digest string
	At     time.Time
	found  map[content]bool // and whether it is known to be exploited
}

// NewContents reads the newest scan of a base image, under the name that images are built on.
func NewContents(name string, scan *api.Scan) *Contents {
	return &Contents{Name: name, Digest: scan.Digest, At: scan.ScannedAt, found: contents(scan)}
}

func contents(scan *api.Scan) map[content]bool {
	found := make(map[content]bool, len(scan.Vulnerabilities))
	for i := range scan.Vulnerabilities {
		v := &scan.Vulnerabilities[i]
		c := content{documents.CanonicalID(*v), v.Package, v.Type}
		found[c] = found[c] || v.KEV
	}
	return found
}

// rebase is what a newer base does to an image: what its own layers hold stays.
func (b *Book) rebase(m *Image, scan *api.Scan, newer *Contents) *rebase {
	a := b.action(action{id: api.ActionRebase + "/" + newer.Name + "@" + newer.Digest, name: newer.Name, rebase: true, to: newer.Digest, at: newer.At})
	out := &rebase{from: m.Base.Digest}
	for i, p := range m.packages {
		if !m.fromBase[i] {
			continue
		}
		gone := slices.DeleteFunc(slices.Clone(p.findings), func(f finding) bool {
			_, stays := newer.found[content{f.id, p.name, p.kind}]
			return stays
		})
		if len(gone) > 0 {
			out.steps = append(out.steps, b.removal(a, p.version, gone))
		}
	}
	if len(out.steps) == 0 {
		return nil
	}
	has := contents(scan)
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
