// Package ranking keeps in memory what the order of actions is made of, in step with the
// store: what is open in each image, and on what base it is built. Nothing of it is stored
// but the briefs of images; each replica makes its own.
package ranking

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/engine"
	"github.com/assay-dev/assay/policies"
	"github.com/assay-dev/assay/priority"
	"github.com/assay-dev/assay/store"
)

// Live is what follows the store (package follow).
type Live interface {
	Engine() *engine.Engine
	Policies() (set *policies.Set, revision string, refused error)
	Settle(ctx context.Context) error
}

// Config says what is ranked.
type Config struct {
	Store *store.Store
	Live  Live
	Log   *slog.Logger
	Now   func() time.Time
}

// Ranking is safe for concurrent use.
type Ranking struct {
	Config

	mu       sync.Mutex // held while it catches up with the store
	versions store.Versions
	current  bool // nothing was left to do at these versions
	book     *priority.Book
	swept    int              // what of it was used when that was counted last
	images   map[int64]*image // by the id of the image
	tags     tags
	// thresholds and folder, the exceptions of the policies, are those in force.
	thresholds api.ThresholdsSpec
	folder     []api.VulnerabilityException
	generation int // grows when they change
	// exceptions are those of the store.
	exceptions []api.VulnerabilityException
	names      map[string]uint32 // of vulnerabilities, with their aliases
	entries    map[int64]*entry  // by the id of the listing
	digests    map[string]*entry // the first listing of each
	unscanned  map[int64]int64   // listings without a scan, as they were classified
	orders     []kept
}

// image is what is remembered of an image.
type image struct {
	brief  int64
	layers api.Scan // digest, layers and label
	names  []uint32
}

// key is what the image of an entry was made of.
type key struct {
	brief int64
	// Where the engine was asked:
	judged     int64
	generation int // of the policies
}

// ground is what it was put on.
type ground struct {
	result api.Result
	base   api.BaseImage
	newer  *priority.Image
}

type entry struct {
	listing store.Listing
	known   *priority.Known
	key     key
	image   *priority.Image // without base
	ground  ground
	on      *priority.Image
}

// kept is an order that may be asked for again, as its next page.
type kept struct {
	versions store.Versions
	filter   string
	order    *priority.Order
}

// keptOrders bounds how many are remembered.
const keptOrders = 8

// New makes a ranking of nothing, which catches up when it is asked.
func New(c Config) *Ranking {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Ranking{Config: c, book: priority.NewBook(), images: map[int64]*image{}, names: map[string]uint32{}, entries: map[int64]*entry{}}
}

// warmEvery is the time between two looks at the store, so that who asks need not wait long.
const warmEvery = time.Second

// Run keeps up with the store until the context ends.
func (r *Ranking) Run(ctx context.Context) error {
	for {
		if err := r.catchUp(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("ranking what to do first", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(warmEvery):
		}
	}
}

// Order is the order of the actions for the images that fit a filter, and the number of these
// images. Containers count in the filter's cluster and namespace alone. rebases says whether
// to look at newer base images, whose names not all may see.
func (r *Ranking) Order(ctx context.Context, f store.Filter, rebases bool) (*priority.Order, error) {
	if err := r.catchUp(ctx); err != nil {
		return nil, err
	}
	text, err := json.Marshal(struct {
		Filter  store.Filter
		Rebases bool
	}{f, rebases})
	if err != nil {
		return nil, err
	}
	var versions store.Versions
	if err := r.Store.View(ctx, func(t *store.Tx) (err error) {
		versions, err = t.Versions(ctx)
		return err
	}); err != nil {
		return nil, err
	}
	if order := r.keptOrder(versions, string(text)); order != nil {
		return order, nil
	}
	var fitting []int64
	var containers map[int64]map[string]int
	if err := r.Store.View(ctx, func(t *store.Tx) (err error) {
		if versions, err = t.Versions(ctx); err != nil {
			return err
		}
		if fitting, err = t.Fitting(ctx, f); err != nil {
			return err
		}
		containers, err = t.Containers(ctx, f.Cluster, f.Namespace)
		return err
	}); err != nil {
		return nil, err
	}
	items := make([]priority.Item, 0, len(fitting))
	r.mu.Lock()
	settled := r.current && r.versions == versions
	_, fail := policies.Limits(r.thresholds)
	for _, id := range fitting {
		if e, ok := r.entries[id]; ok {
			m := e.on
			if !rebases {
				m = r.book.On(e.image, e.listing.Result, nil, nil)
			}
			items = append(items, priority.Item{Image: m, Clusters: containers[id]})
		}
	}
	r.mu.Unlock()
	order := priority.NewOrder(items, fail)
	if settled {
		r.mu.Lock()
		r.orders = append(r.orders, kept{versions, string(text), order})
		r.orders = slices.Clone(r.orders[max(0, len(r.orders)-keptOrders):])
		r.mu.Unlock()
	}
	return order, nil
}

// keptOrder is one that was made of the same.
func (r *Ranking) keptOrder(versions store.Versions, filter string) *priority.Order {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.current {
		return nil
	}
	for _, k := range r.orders {
		if k.versions == versions && k.filter == filter {
			return k.order
		}
	}
	return nil
}

// Base is what the image of a digest is built on, nil where nothing is known of it.
func (r *Ranking) Base(ctx context.Context, digest string) (*api.BaseImage, error) {
	if err := r.catchUp(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.digests[digest]; ok {
		return e.on.Base, nil
	}
	return nil, nil
}

// policies are those in force, empty before there are any.
func (r *Ranking) policies() *policies.Set {
	if set, _, _ := r.Live.Policies(); set != nil {
		return set
	}
	return &policies.Set{}
}

// tags says what tags lead to, and what platforms indexes have.
type tags struct {
	newest    map[[2]string]string // digest, of an image or an index, by name and tag
	platforms map[string]map[string]string
}

// catchUp makes anew what changed since the last time.
func (r *Ranking) catchUp(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if set := r.policies(); !reflect.DeepEqual(set.Thresholds, r.thresholds) || !reflect.DeepEqual(set.Exceptions, r.folder) {
		r.thresholds, r.folder, r.current = set.Thresholds, set.Exceptions, false
		r.generation++
	}
	r.sweep()
	var versions store.Versions
	var judged map[int64]int64
	var fresh []store.Listing
	tags, exceptions := r.tags, r.exceptions
	same := false
	err := r.Store.View(ctx, func(t *store.Tx) (err error) {
		if versions, err = t.Versions(ctx); err != nil {
			return err
		}
		if same = r.current && versions == r.versions; same {
			return nil
		}
		changed, err := r.changed(ctx, t)
		if err != nil {
			return err
		}
		same = r.current && versions.Listings == r.versions.Listings && versions.Judged == r.versions.Judged
		for kind := range changed {
			same = same && (kind == store.InstancesChanged || kind == store.SBOMAdded || kind == store.AlertsChanged || kind == store.DecisionMade)
		}
		if same {
			return nil
		}
		if changed[store.NameChanged] || changed[store.IndexChanged] {
			if tags, err = readTags(ctx, t); err != nil {
				return err
			}
		}
		if changed[store.ExceptionsChanged] {
			if exceptions, err = t.Exceptions(ctx); err != nil {
				return err
			}
		}
		if judged, err = t.Judged(ctx); err != nil {
			return err
		}
		var ids []int64
		for id, n := range judged {
			e, ok := r.entries[id]
			if last, empty := r.unscanned[id]; (!ok || e.listing.Judged != n) && (!empty || last != n) {
				ids = append(ids, id)
			}
		}
		fresh, err = t.Listings(ctx, ids)
		return err
	})
	if err != nil {
		return err
	}
	if same {
		if r.versions != versions {
			r.versions, r.orders = versions, nil
		}
		return nil
	}
	r.current = false
	r.unscanned = nil // until all went well
	r.tags, r.exceptions = tags, exceptions
	if err := r.update(ctx, judged, fresh); err != nil {
		return err
	}
	r.versions, r.current, r.orders = versions, true, nil
	return nil
}

// changed are the kinds of changes since the last time; all, where that is not known.
func (r *Ranking) changed(ctx context.Context, t *store.Tx) (map[store.Kind]bool, error) {
	all := map[store.Kind]bool{store.NameChanged: true, store.IndexChanged: true, store.ExceptionsChanged: true}
	if !r.current {
		return all, nil
	}
	const most = 10_000
	list, first, err := t.Changes(ctx, r.versions.Head, most)
	if err != nil || first > r.versions.Head+1 || len(list) == most {
		return all, err
	}
	kinds := map[store.Kind]bool{}
	for _, c := range list {
		kinds[c.Kind] = true
	}
	return kinds, nil
}

func readTags(ctx context.Context, t *store.Tx) (tags, error) {
	all := tags{newest: map[[2]string]string{}, platforms: map[string]map[string]string{}}
	last := map[[2]string]string{}
	if err := t.NewestNames(ctx, nil, nil, func(o store.Observation) error { // wherever it was seen
		if key := [2]string{o.Name, o.Tag}; last[key] <= o.Last {
			last[key], all.newest[key] = o.Last, o.Digest
		}
		return nil
	}); err != nil {
		return all, err
	}
	return all, t.Indexes(ctx, nil, func(x store.IndexDocument) error {
		all.platforms[x.Digest] = x.Platforms
		return nil
	})
}

// update makes the entries of listings: those that are fresh anew, the others as they were.
func (r *Ranking) update(ctx context.Context, judged map[int64]int64, fresh []store.Listing) error {
	asks := r.asking()
	listings := make([]store.Listing, 0, len(judged))
	for id, e := range r.entries {
		if n, ok := judged[id]; ok && n == e.listing.Judged {
			listings = append(listings, e.listing)
		}
	}
	listings = append(listings, fresh...)
	r.unscanned = maps.Clone(judged)
	for _, l := range listings {
		delete(r.unscanned, l.ID)
	}
	slices.SortFunc(listings, func(a, b store.Listing) int { return cmp.Compare(a.ID, b.ID) })
	entries := make(map[int64]*entry, len(listings))
	list := make([]*entry, len(listings))
	stale := map[int64][]*entry{} // to be made anew, by image
	listed := make(map[int64]bool, len(listings))
	for i, l := range listings {
		e := &entry{listing: l}
		if old, ok := r.entries[l.ID]; ok {
			*e = *old
			e.listing = l
		}
		listed[l.ImageID] = true
		m, ok := r.images[l.ImageID]
		if !ok || m.brief != l.Brief || e.image == nil || e.key != asks.key(l, m.names) {
			stale[l.ImageID] = append(stale[l.ImageID], e)
		}
		entries[l.ID], list[i] = e, e
	}
	for id := range r.images {
		if !listed[id] {
			delete(r.images, id)
		}
	}
	if err := r.remake(ctx, stale, asks); err != nil {
		return err
	}
	// An image that was removed meanwhile is not in the next look.
	list = slices.DeleteFunc(list, func(e *entry) bool {
		if e.image == nil {
			delete(entries, e.listing.ID)
		}
		return e.image == nil
	})
	bases := priority.NewBases()
	byDigest := make(map[string]*entry, len(list))
	for _, e := range list {
		bases.Add(e.known)
		if _, ok := byDigest[e.listing.Digest]; !ok {
			byDigest[e.listing.Digest] = e
		}
	}
	contents := map[*priority.Image]*priority.Contents{}
	for _, e := range list {
		base := bases.Find(e.known)
		g := ground{result: e.listing.Result}
		if base != nil {
			g.base = *base
			if n := newerBase(r.tags, byDigest, base); n != nil {
				g.newer = n.image
			}
		}
		if e.on != nil && e.ground == g {
			continue
		}
		var newer *priority.Contents
		if g.newer != nil {
			c, ok := contents[g.newer]
			if !ok {
				c = priority.NewContents(base.Name, g.newer)
				contents[g.newer] = c
			}
			newer = c.Named(base.Name)
		}
		e.on, e.ground = r.book.On(e.image, g.result, base, newer), g
	}
	r.entries, r.digests = entries, byDigest
	return nil
}

// remake reads the briefs of images, and makes what is known of their listings anew.
func (r *Ranking) remake(ctx context.Context, stale map[int64][]*entry, asks asking) error {
	settled := false
	return r.briefs(ctx, keys(stale), func(id int64, scan *api.Scan) error {
		m := &image{brief: stale[id][0].listing.Brief, layers: api.Scan{Digest: scan.Digest, Layers: scan.Layers, Base: scan.Base}}
		for _, g := range documents.Groups(scan.Vulnerabilities) {
			for _, name := range g.Names {
				n := r.name(name)
				m.names = append(m.names, n)
				if int(n) == len(asks.of) {
					asks.of = append(asks.of, asks.ids[name])
				}
			}
		}
		r.images[id] = m
		for _, e := range stale[id] {
			k := asks.key(e.listing, m.names)
			scan.Image, scan.Digest, scan.Result = e.listing.Image, e.listing.Digest, e.listing.Result
			if k.judged != 0 {
				if !settled { // the engine must have seen what the results were computed with
					if err := r.Live.Settle(ctx); err != nil {
						return err
					}
					settled = true
				}
				if err := r.Live.Engine().In(e.listing.Reader).Annotate(ctx, scan.Image, scan.Digest, scan, r.Now()); err != nil {
					return fmt.Errorf("%s: %w", scan.Image, err)
				}
				e.image = r.book.Image(scan)
			} else {
				for i := range scan.Vulnerabilities {
					scan.Vulnerabilities[i].Exception = nil // of another name
				}
				e.image = r.book.Unexcepted(scan)
			}
			e.key, e.on = k, nil
			e.known = priority.NewKnown(e.listing.Image, &m.layers)
		}
		return nil
	})
}

// name is the number of an id or alias.
func (r *Ranking) name(s string) uint32 {
	n, ok := r.names[s]
	if !ok {
		n = uint32(len(r.names))
		r.names[strings.Clone(s)] = n
	}
	return n
}

// sweepFrom is how large a book may be before it is looked at whether most of it is still used.
const sweepFrom = 100_000

// sweep forgets everything when little of the book is used, each time that it has doubled.
func (r *Ranking) sweep() {
	if r.book.Len() < 2*max(r.swept, sweepFrom) {
		return
	}
	used := priority.NewUse()
	for _, e := range r.entries {
		used.Add(e.image)
		used.Add(e.on)
	}
	if r.swept = used.Len(); r.book.Len() > 2*r.swept {
		r.book, r.entries, r.images, r.names, r.current = priority.NewBook(), nil, map[int64]*image{}, map[string]uint32{}, false
	}
}

// briefs reads those of some images, decoding on all CPUs; fn is called for one at a time.
func (r *Ranking) briefs(ctx context.Context, ids []int64, fn func(int64, *api.Scan) error) error {
	slices.Sort(ids)
	for chunk := range slices.Chunk(ids, 500) {
		var raw [][]byte
		var of []int64
		if err := r.Store.View(ctx, func(t *store.Tx) error {
			raw, of = nil, nil
			return t.EachBrief(ctx, chunk, func(id int64, document []byte) error {
				raw, of = append(raw, slices.Clone(document)), append(of, id)
				return nil
			})
		}); err != nil {
			return err
		}
		scans := make([]api.Scan, len(raw))
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i := range raw {
			g.Go(func() (err error) {
				scans[i], err = store.Brief(raw[i])
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i := range scans {
			if err := fn(of[i], &scans[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func keys[V any](m map[int64]V) []int64 {
	list := make([]int64, 0, len(m))
	for id := range m {
		list = append(list, id)
	}
	return list
}

// asking says for which images the engine must be asked. For the others, thresholds and
// scores tell the same, as a test holds: no exception names what they have, and the result
// goes by the score alone.
type asking struct {
	all        bool
	generation int
	ids        map[string]bool // that exceptions name
	of         []bool          // the same by number
}

func (r *Ranking) asking() asking {
	a := asking{all: documents.NeedsOf(r.thresholds, nil).All, generation: r.generation, ids: map[string]bool{}}
	for _, list := range [][]api.VulnerabilityException{r.folder, r.exceptions} {
		for _, e := range list {
			a.ids[api.NormalizeID(e.Spec.CVE)] = true
		}
	}
	a.of = make([]bool, len(r.names))
	for id := range a.ids {
		if n, ok := r.names[id]; ok {
			a.of[n] = true
		}
	}
	return a
}

// key is what the image of a listing must be made of, whose vulnerabilities have some names.
func (a asking) key(l store.Listing, names []uint32) key {
	k := key{brief: l.Brief}
	if a.all || slices.ContainsFunc(names, func(n uint32) bool { return a.of[n] }) {
		k.judged, k.generation = l.Judged+1, a.generation // never 0
	}
	return k
}

// newerBase is what the name of a base leads to now, where that is another image that was
// scanned; nil where it is not.
func newerBase(s tags, byDigest map[string]*entry, base *api.BaseImage) *entry {
	own := byDigest[base.Digest]
	ref, err := api.ParseReference(base.Name)
	if base.Layers == 0 || own == nil || err != nil || ref.Tag == "" || ref.Digest != "" {
		return nil
	}
	digest, ok := s.newest[[2]string{ref.Name(), ref.Tag}]
	if !ok {
		return nil
	}
	if d, ok := s.platforms[digest][own.listing.Platform]; ok {
		digest = d
	}
	found := byDigest[digest]
	if digest == base.Digest || found == nil || found.listing.Platform != own.listing.Platform {
		return nil
	}
	return found
}
