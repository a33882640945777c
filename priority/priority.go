// Package priority says what to do first: which packages to upgrade, and which images to
// rebuild on a newer base; in one order, for a single image, a scan report or a fleet.
//
// The order has no weights of its own. It goes by [api.Tier]; then by what may be expected to
// be exploited, an [api.Action]'s RunningWeight and then its Weight; then by score, number and
// name, so that it is total. Listing a vulnerability in KEV, a higher EPSS, or one more running
// container never puts an action that removes the vulnerability behind another that does not.
package priority

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// finding is an open vulnerability of a package: the worst of its records.
type finding struct {
	id   string // canonical
	cvss float64
	epss float64 // -1 where there is none, as the score
	kev  bool
	// decides is the highest threshold at which it makes an image Fail: below 0 it never
	// does, at infinity the engine says so.
	decides float64
	word    float64  // the score that the severity stands for
	fixed   []string // versions, each of which fixes it, as do those above the highest
}

// weightUnit is the weight of what is exploited for certain, with the score 10.
const weightUnit = 1e8

// weight is EPSS, in millionths, times CVSS, in tenths: whole numbers add up to the same in
// any order.
func (f *finding) weight() uint64 {
	p, impact := math.Round(max(f.epss, 0)*1e6), f.cvss
	if f.kev {
		p = 1e6
	}
	if impact < 0 {
		impact = f.word
	}
	return uint64(p) * uint64(math.Round(impact*10))
}

// wordScores are the lowest scores of severities, as the evaluator has them.
var wordScores = map[string]float64{"Critical": 9, "High": 7, "Medium": 4, "Low": 0.1}

// pkg are the open vulnerabilities of one package of an image. Equal ones are one, so that
// the images of a fleet share them. It is not changed once it is made.
type pkg struct {
	name, version, kind string
	findings            []finding // by id
	decides             float64   // the highest of the findings
	upgrade             *removal  // of what is fixed; nil where nothing is
}

// removal is what an action removes from one package of an image.
type removal struct {
	number   int // place in the book
	action   *action
	version  string // of the package
	findings []finding
	kev      bool
	likely   bool
	decides  float64 // the highest of the findings
	cvss     float64
	weight   uint64
}

// action is a thing to do, without what it does.
type action struct {
	number       int // place in the book
	id           string
	name, kind   string // of the package; the name of the base image
	distribution string
	rebase       bool
	to           string // digest of the newer base
}

// Book keeps what images have in common, once. It is not safe for concurrent use; images
// that it made may be read at any time.
type Book struct {
	packages map[string]*pkg
	removals map[string]*removal
	actions  map[string]*action
}

// NewBook makes an empty book.
func NewBook() *Book {
	return &Book{packages: map[string]*pkg{}, removals: map[string]*removal{}, actions: map[string]*action{}}
}

// Len is how many things the book keeps.
func (b *Book) Len() int { return len(b.packages) + len(b.removals) + len(b.actions) }

// Image is a name of an image with what is open in it. It is not changed once it is made.
type Image struct {
	Image, Digest string
	Result        api.Result
	Base          *api.BaseImage // nil where nothing is known

	packages []*pkg
	top      []int16 // of the packages: the highest of the layers that brought it
	covered  []content
	findings int
	rebase   *rebase
}

// noLayer is above all layers.
const noLayer = math.MaxInt16

// fromBase says whether a package comes from the base image.
func (m *Image) fromBase(i int) bool {
	return m.Base != nil && int(m.top[i]) < m.Base.Layers
}

type rebase struct {
	from          string // digest of the base
	steps         []*removal
	adds, addsKEV int
}

// Use counts what images use of their book.
type Use map[any]bool

// NewUse counts nothing.
func NewUse() Use { return Use{} }

// Len is how many things are used, as [Book.Len] counts them.
func (u Use) Len() int { return len(u) }

// Add counts what an image uses.
func (u Use) Add(m *Image) {
	for _, p := range m.packages {
		u[p] = true
	}
	m.steps(func(r *removal, _ bool) { u[r], u[r.action] = true, true })
}

type packageKey struct{ name, version, kind string }

// Image reads a scan that the engine annotated, in which it writes nothing. Vulnerabilities
// that an exception covers are left out.
func (b *Book) Image(scan *api.Scan) *Image {
	return b.image(scan, func(v *api.Vulnerability) float64 {
		if v.Decides && scan.Result == api.Fail {
			return math.Inf(1)
		}
		return -1
	})
}

// Unexcepted reads a scan in which no exception covers anything, and whose result goes by
// the score alone: it need not be annotated.
func (b *Book) Unexcepted(scan *api.Scan) *Image {
	scores := map[*api.Vulnerability]float64{}
	for _, g := range documents.Groups(scan.Vulnerabilities) {
		for _, v := range g.Members {
			scores[v] = -1
			if g.Score != nil {
				scores[v] = *g.Score
			}
		}
	}
	return b.image(scan, func(v *api.Vulnerability) float64 { return scores[v] })
}

func (b *Book) image(scan *api.Scan, decides func(*api.Vulnerability) float64) *Image {
	m := &Image{Image: scan.Image, Digest: scan.Digest, Result: scan.Result}
	type collected struct {
		list []finding
		at   map[string]int
		top  int16
	}
	layers := map[string]int16{}
	for i, l := range scan.Layers[:min(len(scan.Layers), noLayer)] {
		if _, ok := layers[l.DiffID]; !ok {
			layers[l.DiffID] = int16(i)
		}
	}
	found := map[packageKey]*collected{}
	var keys []packageKey
	for i := range scan.Vulnerabilities {
		v := &scan.Vulnerabilities[i]
		if v.Exception != nil {
			m.covered = append(m.covered, contentOf(v))
			continue
		}
		k := packageKey{v.Package, v.Version, v.Type}
		c, ok := found[k]
		if !ok {
			c = &collected{at: map[string]int{}}
			found[k] = c
			keys = append(keys, k)
		}
		layer, ok := layers[v.Layer]
		if !ok {
			layer = noLayer
		}
		c.top = max(c.top, layer)
		f := findingOf(v, decides(v))
		if n, ok := c.at[f.id]; ok {
			c.list[n].join(f, v.Type)
			continue
		}
		c.at[f.id] = len(c.list)
		c.list = append(c.list, f)
	}
	slices.SortFunc(keys, func(x, y packageKey) int {
		return cmp.Or(cmp.Compare(x.name, y.name), cmp.Compare(x.kind, y.kind), cmp.Compare(x.version, y.version))
	})
	m.packages, m.top = make([]*pkg, len(keys)), make([]int16, len(keys))
	for i, k := range keys {
		c := found[k]
		slices.SortFunc(c.list, func(x, y finding) int { return cmp.Compare(x.id, y.id) })
		m.packages[i], m.top[i] = b.pkg(k, distribution(k.kind, scan.Distro), c.list), c.top
		m.findings += len(c.list)
	}
	return m
}

// On is an image with its result, as it is built on a base; newer is what the base's newest build has, nil
// where the image is built on that, or none is known.
func (b *Book) On(m *Image, result api.Result, base *api.BaseImage, newer *Contents) *Image {
	other := *m
	other.Result, other.Base, other.rebase = result, base, nil
	if newer != nil && base != nil {
		other.rebase = b.rebase(&other, newer)
	}
	return &other
}

func findingOf(v *api.Vulnerability, decides float64) finding {
	f := finding{id: documents.CanonicalID(*v), cvss: -1, epss: -1, kev: v.KEV, decides: decides, word: wordScores[v.Severity]}
	if v.CVSS != nil {
		f.cvss = *v.CVSS
	}
	if v.EPSS != nil {
		f.epss = *v.EPSS
	}
	if v.Fix.State == "fixed" {
		f.fixed = slices.DeleteFunc(slices.Clone(v.Fix.Versions), func(s string) bool { return s == "" })
		slices.SortFunc(f.fixed, func(x, y string) int { return cmp.Or(Compare(v.Type, x, y), cmp.Compare(x, y)) })
		f.fixed = slices.Compact(f.fixed)
	}
	return f
}

// join takes another record of the same vulnerability. What fixes it must fix both.
func (f *finding) join(g finding, kind string) {
	f.cvss, f.epss, f.word = max(f.cvss, g.cvss), max(f.epss, g.epss), max(f.word, g.word)
	f.kev, f.decides = f.kev || g.kev, max(f.decides, g.decides)
	switch {
	case len(f.fixed) == 0 || len(g.fixed) == 0:
		f.fixed = nil
	case !slices.Equal(f.fixed, g.fixed):
		x, y := f.fixed[len(f.fixed)-1], g.fixed[len(g.fixed)-1]
		if Compare(kind, x, y) < 0 {
			x = y
		}
		f.fixed = []string{x}
	}
}

// fixedBy says whether a version fixes it. Between two versions that fix it, on two lines of
// releases, others may not.
func (f *finding) fixedBy(kind, version string) bool {
	n := len(f.fixed)
	return n > 0 && (slices.Contains(f.fixed, version) || Compare(kind, version, f.fixed[n-1]) >= 0)
}

// distributions have packages of their own, whose versions compare within one release.
var distributions = []string{"deb", "rpm", "apk", "alpm", "portage"}

// distribution is the release that packages of a type belong to, from a scan's distro:
// "debian 12" of "debian 12.5", but "alpine 3.19" and "ubuntu 22.04".
func distribution(kind, distro string) string {
	if !slices.Contains(distributions, kind) {
		return ""
	}
	name, version, _ := strings.Cut(distro, " ")
	parts := strings.Split(version, ".")
	n := 1
	if name == "alpine" || name == "ubuntu" || name == "wolfi" || strings.HasPrefix(name, "opensuse") || name == "sles" {
		n = 2
	}
	return strings.TrimSpace(name + " " + strings.Join(parts[:min(n, len(parts))], "."))
}

// key writes what findings are into one text.
type key []byte

func (k *key) text(s string) {
	*k = append(binary.AppendUvarint(*k, uint64(len(s))), s...)
}

func (k *key) findings(list []finding) {
	for _, f := range list {
		k.text(f.id)
		*k = binary.BigEndian.AppendUint64(*k, math.Float64bits(f.cvss))
		*k = binary.BigEndian.AppendUint64(*k, math.Float64bits(f.epss))
		*k = binary.BigEndian.AppendUint64(*k, math.Float64bits(f.word))
		*k = binary.BigEndian.AppendUint64(*k, math.Float64bits(f.decides))
		*k = strconv.AppendBool(*k, f.kev)
		*k = binary.AppendUvarint(*k, uint64(len(f.fixed)))
		for _, v := range f.fixed {
			k.text(v)
		}
	}
}

func (b *Book) pkg(k packageKey, distribution string, list []finding) *pkg {
	var id key
	for _, s := range []string{k.name, k.version, k.kind, distribution} {
		id.text(s)
	}
	id.findings(list)
	if p, ok := b.packages[string(id)]; ok {
		return p
	}
	p := &pkg{name: k.name, version: k.version, kind: k.kind, findings: list, decides: -1}
	for i := range list {
		p.decides = max(p.decides, list[i].decides)
	}
	fixed := list
	if slices.ContainsFunc(list, func(f finding) bool { return len(f.fixed) == 0 }) {
		fixed = slices.DeleteFunc(slices.Clone(list), func(f finding) bool { return len(f.fixed) == 0 })
	}
	if len(fixed) > 0 {
		p.upgrade = b.removal(b.action(action{id: strings.Join([]string{api.ActionUpgrade, k.kind, distribution, k.name}, "/"),
			name: k.name, kind: k.kind, distribution: distribution}), k.version, fixed)
	}
	b.packages[string(id)] = p
	return p
}

func (b *Book) action(a action) *action {
	if known, ok := b.actions[a.id]; ok {
		return known
	}
	a.number = len(b.actions)
	b.actions[a.id] = &a
	return &a
}

func (b *Book) removal(a *action, version string, list []finding) *removal {
	var id key
	id.text(a.id)
	id.text(version)
	id.findings(list)
	if r, ok := b.removals[string(id)]; ok {
		return r
	}
	r := &removal{number: len(b.removals), action: a, version: version, findings: list, cvss: -1, decides: -1}
	for i := range list {
		f := &list[i]
		r.kev, r.likely = r.kev || f.kev, r.likely || f.epss >= api.LikelyEPSS
		r.cvss, r.decides = max(r.cvss, f.cvss), max(r.decides, f.decides)
		r.weight += f.weight()
	}
	b.removals[string(id)] = r
	return r
}
