package priority

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-dev/assay/api"
)

// Item is an image in an order, with the containers that run it by cluster.
type Item struct {
	*Image
	Clusters map[string]int
}

func (i *Item) containers() (n int) {
	for _, c := range i.Clusters {
		n += c
	}
	return n
}

// steps calls fn with all that actions remove from an image.
func (m *Image) steps(fn func(r *removal, fromBase bool)) {
	for i, p := range m.packages {
		if p.upgrade != nil {
			fn(p.upgrade, m.fromBase(i))
		}
	}
	if m.rebase != nil {
		for _, r := range m.rebase.steps {
			fn(r, true)
		}
	}
}

// rank is the place of an action: the first member that differs says which is first.
type rank struct {
	Tier     api.Tier `json:"t"`
	Running  uint64   `json:"r"` // the higher, the earlier
	Weight   uint64   `json:"w"`
	CVSS     float64  `json:"c"`
	Findings int      `json:"f"`
	ID       string   `json:"i"`
}

func (a rank) compare(b rank) int {
	return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(b.Running, a.Running), cmp.Compare(b.Weight, a.Weight),
		cmp.Compare(b.CVSS, a.CVSS), cmp.Compare(b.Findings, a.Findings), cmp.Compare(a.ID, b.ID))
}

// Order is the order of all actions for some images.
type Order struct {
	items  []Item
	fail   float64
	ranks  []rank
	places []*action
}

// NewOrder orders the actions for images, none of which is twice in the list. Those that are
// Fail by their score alone reach the threshold fail.
func NewOrder(items []Item, fail float64) *Order {
	type count struct {
		removal                    *removal
		images, failed, containers uint64
	}
	var counts []count // by the removal's number
	for i := range items {
		n, failed := uint64(items[i].containers()), uint64(0)
		if items[i].Result == api.Fail {
			failed = 1
		}
		items[i].steps(func(r *removal, _ bool) {
			if r.number >= len(counts) {
				counts = append(counts, make([]count, r.number+r.number/4+64-len(counts))...)
			}
			c := &counts[r.number]
			c.removal = r
			c.images++
			c.failed += failed
			c.containers += n
		})
	}
	o := &Order{items: items, fail: fail}
	at := map[*action]int{}
	for i := range counts {
		c := &counts[i]
		r := c.removal
		if r == nil {
			continue
		}
		n, ok := at[r.action]
		if !ok {
			n = len(o.ranks)
			at[r.action] = n
			o.ranks = append(o.ranks, rank{Tier: api.TierRest, CVSS: -1, ID: r.action.id})
			o.places = append(o.places, r.action)
		}
		k := &o.ranks[n]
		k.Tier = min(k.Tier, tier(r, c.containers > 0, c.failed > 0 && r.decides >= fail))
		k.Running += r.weight * c.containers
		k.Weight += r.weight * c.images
		k.CVSS = max(k.CVSS, r.cvss)
		k.Findings += len(r.findings) * int(c.images)
	}
	order := make([]int, len(o.ranks))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return o.ranks[i].compare(o.ranks[j]) })
	ranks, places := make([]rank, len(order)), make([]*action, len(order))
	for to, from := range order {
		ranks[to], places[to] = o.ranks[from], o.places[from]
	}
	o.ranks, o.places = ranks, places
	return o
}

func tier(r *removal, runs, decides bool) api.Tier {
	switch {
	case r.kev && runs:
		return api.TierExploitedRunning
	case r.likely && runs:
		return api.TierLikelyRunning
	case r.kev:
		return api.TierExploited
	case r.likely:
		return api.TierLikely
	case decides:
		return api.TierDecides
	}
	return api.TierRest
}

// Len is the number of actions.
func (o *Order) Len() int { return len(o.ranks) }

// Images is how many were looked at.
func (o *Order) Images() int { return len(o.items) }

// Running says whether any of the images runs.
func (o *Order) Running() bool {
	return slices.ContainsFunc(o.items, func(i Item) bool { return len(i.Clusters) > 0 })
}

// ErrCursor says that a cursor is not one of [Order.Page].
var ErrCursor = errors.New("the cursor is not one of this list")

// Page are at most limit actions after the place that a cursor names, "" for the first; with
// the cursor of the next page, "" at the end. Places keep their meaning while images change.
func (o *Order) Page(after string, limit int) (list []api.Action, next string, err error) {
	from := 0
	if after != "" {
		text, err := base64.RawURLEncoding.Strict().DecodeString(after)
		var k rank
		if err != nil || json.Unmarshal(text, &k) != nil || k.ID == "" {
			return nil, "", ErrCursor
		}
		var found bool
		if from, found = slices.BinarySearchFunc(o.ranks, k, rank.compare); found {
			from++
		}
	}
	until := min(from+limit, len(o.ranks))
	if until < len(o.ranks) {
		text, err := json.Marshal(o.ranks[until-1])
		if err != nil {
			return nil, "", err
		}
		next = base64.RawURLEncoding.EncodeToString(text)
	}
	return o.actions(from, until), next, nil
}

// sum is what is collected of an action.
type sum struct {
	action         *action
	rank           rank
	removals       map[*removal]int // the containers that run what it is in
	from           map[string]bool  // versions, or digests of bases
	clusters       map[string]bool
	places         []api.Place
	images         int
	runningImages  int
	containers     int
	unfailed       int
	fromBase       int
	all            int // findings of its images
	adds, addsKEV  int
	image          int // the last that it was seen in
	removed        int // of that image's decisive findings
	removedPackage bool
}

func (o *Order) actions(from, until int) []api.Action {
	sums := make([]sum, until-from)
	var at []*sum // by the action's number
	for i := range sums {
		sums[i] = sum{action: o.places[from+i], rank: o.ranks[from+i], removals: map[*removal]int{}, from: map[string]bool{}, clusters: map[string]bool{}, image: -1}
		if n := sums[i].action.number; n >= len(at) {
			at = append(at, make([]*sum, n+1-len(at))...)
		}
		at[sums[i].action.number] = &sums[i]
	}
	var touched []*sum
	for i := range o.items {
		item := &o.items[i]
		n := item.containers()
		touched = touched[:0]
		item.steps(func(r *removal, fromBase bool) {
			if r.action.number >= len(at) || at[r.action.number] == nil {
				return
			}
			s := at[r.action.number]
			if s.image != i {
				s.image, s.removed, s.removedPackage = i, 0, false
				touched = append(touched, s)
			}
			s.removals[r] += n
			if item.Result == api.Fail && r.decides >= o.fail {
				s.removed += decisive(r.findings, o.fail)
			}
			s.removedPackage = s.removedPackage || fromBase
			if !s.action.rebase {
				s.from[r.version] = true
			}
		})
		all := 0
		if item.Result == api.Fail {
			for _, p := range item.packages {
				if p.decides >= o.fail {
					all += decisive(p.findings, o.fail)
				}
			}
		}
		for _, s := range touched {
			s.add(item, n, all)
		}
	}
	list := make([]api.Action, len(sums))
	for i := range sums {
		list[i] = sums[i].finish(o.Running())
	}
	return list
}

// decisive is how many of some findings make an image Fail.
func decisive(list []finding, fail float64) (n int) {
	for i := range list {
		if list[i].decides >= fail {
			n++
		}
	}
	return n
}

// add counts an image, of which all removals were seen, and which has so many decisive findings.
func (s *sum) add(item *Item, containers, decisive int) {
	unfailed := decisive > 0 && s.removed == decisive
	s.images++
	s.containers += containers
	s.all += item.findings
	if containers > 0 {
		s.runningImages++
	}
	if unfailed {
		s.unfailed++
	}
	if s.removedPackage {
		s.fromBase++
	}
	for c, n := range item.Clusters {
		if n > 0 {
			s.clusters[c] = true
		}
	}
	if s.action.rebase {
		s.from[item.rebase.from] = true
		s.adds += item.rebase.adds
		s.addsKEV += item.rebase.addsKEV
	}
	s.places = append(s.places, api.Place{Image: item.Image.Image, Digest: item.Digest, Result: item.Result, Containers: containers, Unfailed: unfailed})
	if len(s.places) > 8*api.MaxPlaces {
		s.keepFirst()
	}
}

// keepFirst leaves the places that are shown.
func (s *sum) keepFirst() {
	slices.SortFunc(s.places, func(a, b api.Place) int {
		return cmp.Or(cmp.Compare(b.Containers, a.Containers), cmp.Compare(a.Image, b.Image), cmp.Compare(a.Digest, b.Digest))
	})
	s.places = s.places[:min(len(s.places), api.MaxPlaces)]
}

func (s *sum) finish(running bool) api.Action {
	s.keepFirst()
	a := api.Action{
		ID: s.action.id, Kind: api.ActionUpgrade, Tier: s.rank.Tier, Findings: s.rank.Findings,
		Images: s.images, RunningImages: s.runningImages, Containers: s.containers, Clusters: slices.Sorted(maps.Keys(s.clusters)),
		Unfailed: s.unfailed, FromBase: s.fromBase, Weight: float64(s.rank.Weight) / weightUnit, RunningWeight: float64(s.rank.Running) / weightUnit, Where: s.places,
	}
	if a.Clusters == nil {
		a.Clusters = []string{}
	}
	s.removes(&a)
	froms := slices.Collect(maps.Keys(s.from))
	if s.action.rebase {
		slices.Sort(froms)
		a.Kind = api.ActionRebase
		a.Rebase = &api.Rebase{Name: s.action.name, From: froms[:min(len(froms), api.MaxPlaces)], To: s.action.to,
			Share: float64(a.Findings) / float64(s.all), Adds: s.adds, AddsExploited: s.addsKEV}
	} else {
		kind := s.action.kind
		slices.SortFunc(froms, func(x, y string) int { return cmp.Or(Compare(kind, x, y), cmp.Compare(x, y)) })
		a.Upgrade = &api.PackageUpgrade{Package: s.action.name, Type: kind, Distro: s.action.distribution, From: froms[:min(len(froms), api.MaxPlaces)], To: s.target()}
	}
	describe(&a, s.lead(), running)
	return a
}

// lead is the vulnerability that gives the action its tier.
func (s *sum) lead() (lead finding) {
	likely := s.rank.Tier == api.TierLikely || s.rank.Tier == api.TierLikelyRunning
	for r, containers := range s.removals {
		if tier(r, containers > 0, false) != s.rank.Tier {
			continue
		}
		for _, f := range r.findings {
			if (f.kev || likely) && (lead.id == "" || cmp.Or(cmp.Compare(f.epss, lead.epss), cmp.Compare(f.cvss, lead.cvss), cmp.Compare(lead.id, f.id)) > 0) {
				lead = f
			}
		}
	}
	return lead
}

// removes lists the vulnerabilities.
func (s *sum) removes(a *api.Action) {
	at := map[string]*finding{}
	for r := range s.removals {
		for i := range r.findings {
			f := r.findings[i]
			if known, ok := at[f.id]; ok {
				known.cvss, known.epss, known.kev = max(known.cvss, f.cvss), max(known.epss, f.epss), known.kev || f.kev
				continue
			}
			at[f.id] = &f
		}
	}
	list := slices.SortedFunc(maps.Values(at), func(x, y *finding) int {
		if x.kev != y.kev {
			return map[bool]int{true: -1, false: 1}[x.kev]
		}
		return cmp.Or(cmp.Compare(y.epss, x.epss), cmp.Compare(y.cvss, x.cvss), cmp.Compare(x.id, y.id))
	})
	a.Vulnerabilities = len(list)
	a.Removes = []api.RemovedVulnerability{}
	for i, f := range list {
		if f.kev {
			a.Exploited++
		}
		a.EPSS, a.CVSS = higher(a.EPSS, f.epss), higher(a.CVSS, f.cvss)
		if i < api.MaxRemoved {
			a.Removes = append(a.Removes, api.RemovedVulnerability{ID: f.id, CVSS: higher(nil, f.cvss), EPSS: higher(nil, f.epss), KEV: f.kev})
		}
	}
}

// higher is the higher of two numbers, of which those below 0 are none.
func higher(a *float64, b float64) *float64 {
	if b < 0 || a != nil && *a >= b {
		return a
	}
	return &b
}

// target is the lowest version that fixes all findings.
func (s *sum) target() string {
	kind := s.action.kind
	candidates := map[string]bool{}
	least := "" // of those that have one way only
	var several []*finding
	for r := range s.removals {
		for i := range r.findings {
			f := &r.findings[i]
			for _, v := range f.fixed {
				candidates[v] = true
			}
			if len(f.fixed) > 1 {
				several = append(several, f)
			} else if least == "" || Compare(kind, f.fixed[0], least) > 0 {
				least = f.fixed[0]
			}
		}
	}
	list := slices.SortedFunc(maps.Keys(candidates), func(x, y string) int { return cmp.Or(Compare(kind, x, y), cmp.Compare(x, y)) })
	for _, v := range list {
		if (least == "" || Compare(kind, v, least) >= 0) && !slices.ContainsFunc(several, func(f *finding) bool { return !f.fixedBy(kind, v) }) {
			return v
		}
	}
	return list[len(list)-1] // the highest fixes all
}

// describe says in words what an action does, and why it has its place.
func describe(a *api.Action, lead finding, running bool) {
	images := count(a.Images, "image", "images")
	if u := a.Upgrade; u != nil {
		from := strings.Join(u.From[:min(3, len(u.From))], ", ")
		if len(u.From) > 3 {
			from += ", …"
		}
		a.Summary = fmt.Sprintf("upgrade %s %s to %s in %s", u.Package, from, u.To, images)
		if u.Distro != "" {
			a.Summary += " (" + u.Distro + ")"
		}
	} else {
		a.Summary = fmt.Sprintf("rebuild %s on the newer %s (%s)", images, a.Rebase.Name, short(a.Rebase.To))
	}
	add := func(format string, args ...any) { a.Reasons = append(a.Reasons, fmt.Sprintf(format, args...)) }
	switch a.Tier {
	case api.TierExploitedRunning:
		add("%s is known to be exploited, in an image that runs", lead.id)
	case api.TierLikelyRunning:
		add("%s is likely to be exploited (EPSS %s), in an image that runs", lead.id, percent(lead.epss))
	case api.TierExploited:
		add("%s is known to be exploited", lead.id)
	case api.TierLikely:
		add("%s is likely to be exploited (EPSS %s)", lead.id, percent(lead.epss))
	case api.TierDecides:
		add("it removes what makes an image Fail")
	}
	what := count(a.Vulnerabilities, "vulnerability", "vulnerabilities")
	if a.Vulnerabilities == 1 {
		what += " (" + a.Removes[0].ID + ")"
	}
	details := ""
	switch {
	case a.Exploited > 0 && a.Vulnerabilities == 1:
		details = ", in KEV"
	case a.Exploited > 0:
		details = fmt.Sprintf(", %d of them in KEV", a.Exploited)
	}
	if a.Findings > a.Vulnerabilities {
		details += fmt.Sprintf(", %d findings in all", a.Findings)
	}
	add("removes %s%s", what, details)
	if r := a.Rebase; r != nil {
		add("that is %s of all that is found in these images", percent(r.Share))
		if r.Adds > 0 {
			text := fmt.Sprintf("brings %s that they do not have", count(r.Adds, "finding", "findings"))
			if r.AddsExploited > 0 {
				text += fmt.Sprintf(", %d of them known to be exploited", r.AddsExploited)
			}
			add("%s", text)
		}
	}
	switch {
	case a.EPSS != nil && a.CVSS != nil:
		add("the highest EPSS is %s, the highest CVSS score %.1f", percent(*a.EPSS), *a.CVSS)
	case a.CVSS != nil:
		add("the highest CVSS score is %.1f", *a.CVSS)
	case a.EPSS != nil:
		add("the highest EPSS is %s", percent(*a.EPSS))
	}
	switch {
	case a.Containers > 0:
		add("%s in %s %s", count(a.Containers, "container", "containers"), count(len(a.Clusters), "cluster", "clusters"), map[bool]string{true: "runs it", false: "run it"}[a.Containers == 1])
	case running:
		add("nothing runs it")
	}
	if a.Unfailed > 0 {
		add("turns %s from Fail to a better result", count(a.Unfailed, "image", "images"))
	}
	if a.FromBase > 0 && a.Upgrade != nil {
		add("the package comes from the base image in %s", count(a.FromBase, "image", "images"))
	}
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

func percent(p float64) string { return strconv.FormatFloat(100*p, 'f', 1, 64) + "%" }

func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(12, len(digest))]
}
