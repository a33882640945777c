package priority

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
)

// fleet is a small fleet drawn by chance: scans as the engine annotates them.
type fleet struct {
	scans    []api.Scan
	bases    []*api.BaseImage
	newer    []*Contents
	clusters []map[string]int
}

func draw(r *rand.Rand) fleet {
	var f fleet
	number := func(x float64) *float64 { return &x }
	maybe := func(x float64) *float64 {
		if r.IntN(5) == 0 {
			return nil
		}
		return number(x)
	}
	newest := api.Scan{Image: "docker.io/library/debian:12", Digest: "sha256:new"}
	for range r.IntN(4) {
		newest.Vulnerabilities = append(newest.Vulnerabilities, api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%d", r.IntN(12)), Package: fmt.Sprintf("p%d", r.IntN(4)), Type: "deb", KEV: r.IntN(6) == 0})
	}
	for n := range 1 + r.IntN(8) {
		s := api.Scan{Image: fmt.Sprintf("registry.example.com/a%d:1", n), Digest: fmt.Sprintf("sha256:%d", n), Distro: []string{"debian 12", "debian 11"}[r.IntN(2)],
			Result: []api.Result{api.Fail, api.Warned, api.Pass}[r.IntN(3)], Layers: []api.Layer{{DiffID: "low"}, {DiffID: "high"}}}
		for range r.IntN(14) {
			v := api.Vulnerability{ID: fmt.Sprintf("CVE-2026-%d", r.IntN(12)), Package: fmt.Sprintf("p%d", r.IntN(4)), Version: fmt.Sprintf("1.%d", r.IntN(2)), Type: []string{"deb", "npm"}[r.IntN(2)],
				CVSS: maybe(float64(r.IntN(101)) / 10), EPSS: maybe(float64(r.IntN(100_000)) / 1e5 * float64(r.IntN(2)+1) / 8), KEV: r.IntN(12) == 0, Severity: []string{"Critical", "High", "Low", "Unknown"}[r.IntN(4)],
				Fix: api.Fix{State: "not-fixed"}, Layer: []string{"low", "high"}[r.IntN(2)]}
			for range r.IntN(3) {
				v.Fix.State = "fixed"
				v.Fix.Versions = append(v.Fix.Versions, fmt.Sprintf("%d.%d", 1+r.IntN(2), 5+r.IntN(4)))
			}
			if r.IntN(6) == 0 {
				v.Exception = &api.AppliedException{Scope: "any"}
			} else {
				v.Decides = s.Result != api.Pass && r.IntN(3) == 0
			}
			s.Vulnerabilities = append(s.Vulnerabilities, v)
		}
		var base *api.BaseImage
		var newer *Contents
		switch r.IntN(3) {
		case 0:
			base = &api.BaseImage{Name: newest.Image, Digest: "sha256:old", Layers: 1, Found: api.BaseContained}
			newer = NewContents(newest.Image, NewBook().Image(&newest))
		case 1:
			base = &api.BaseImage{Layers: 1, Found: api.BaseShared}
		}
		var clusters map[string]int
		for range r.IntN(3) {
			if clusters == nil {
				clusters = map[string]int{}
			}
			clusters[fmt.Sprintf("c%d", r.IntN(3))] += 1 + r.IntN(4)
		}
		f.scans, f.bases, f.newer, f.clusters = append(f.scans, s), append(f.bases, base), append(f.newer, newer), append(f.clusters, clusters)
	}
	return f
}

func (f fleet) items() []Item {
	book := NewBook()
	var items []Item
	for i := range f.scans {
		items = append(items, Item{Image: book.On(book.Image(&f.scans[i]), f.scans[i].Result, f.bases[i], f.newer[i]), Clusters: f.clusters[i]})
	}
	return items
}

func (f fleet) order(t *testing.T) []api.Action {
	t.Helper()
	o := NewOrder(f.items(), 9)
	list, next, err := o.Page("", o.Len()+1)
	if err != nil || next != "" {
		t.Fatalf("%q %v", next, err)
	}
	return list
}

// counted is one open vulnerability of a package of an image, as the reference counts them.
type counted struct {
	image             int
	pkg, version, typ string
	id                string
	records           []*api.Vulnerability
}

// reference computes an action anew from the scans, slowly, knowing only its id.
func (f fleet) reference(id string) (a api.Action) {
	kind, rest, _ := strings.Cut(id, "/")
	images, clusters, removed := map[int]bool{}, map[string]bool{}, map[string]bool{}
	exploited := map[string]bool{}
	all := 0
	for n := range f.scans {
		s := &f.scans[n]
		var found []*counted
		for i := range s.Vulnerabilities {
			v := &s.Vulnerabilities[i]
			if v.Exception != nil {
				continue
			}
			k := counted{n, v.Package, v.Version, v.Type, documents.CanonicalID(*v), nil}
			at := slices.IndexFunc(found, func(p *counted) bool {
				return p.pkg == k.pkg && p.version == k.version && p.typ == k.typ && p.id == k.id
			})
			if at < 0 {
				at = len(found)
				found = append(found, &k)
			}
			found[at].records = append(found[at].records, v)
		}
		fromBase := func(p *counted) bool { // all that is open in the package
			if f.bases[n] == nil {
				return false
			}
			for _, q := range found {
				for _, v := range q.records {
					if q.pkg == p.pkg && q.version == p.version && q.typ == p.typ && v.Layer != "low" {
						return false
					}
				}
			}
			return true
		}
		any := func(p *counted, is func(*api.Vulnerability) bool) bool { return slices.ContainsFunc(p.records, is) }
		decides := func(p *counted) bool {
			return s.Result == api.Fail && any(p, func(v *api.Vulnerability) bool { return v.Decides })
		}
		removes := func(p *counted) bool {
			if kind == api.ActionRebase {
				if f.newer[n] == nil || !fromBase(p) {
					return false
				}
				_, stays := f.newer[n].found[content{id: p.id, name: p.pkg, kind: p.typ}]
				return !stays
			}
			d := ""
			if p.typ == "deb" {
				d = s.Distro
			}
			return rest == p.typ+"/"+d+"/"+p.pkg && !any(p, func(v *api.Vulnerability) bool { return v.Fix.State != "fixed" })
		}
		running := 0
		for _, c := range f.clusters[n] {
			running += c
		}
		touched, below, decisive, stays := false, false, 0, 0
		for _, p := range found {
			if decides(p) {
				decisive++
			}
			if !removes(p) {
				if decides(p) {
					stays++
				}
				continue
			}
			touched, below = true, below || fromBase(p)
			removed[p.id] = true
			a.Findings++
			var score, epss *float64
			kev, word := false, 0.0
			for _, v := range p.records {
				kev = kev || v.KEV
				word = max(word, map[string]float64{"Critical": 9, "High": 7, "Medium": 4, "Low": 0.1}[v.Severity])
				for _, x := range []struct{ to, from **float64 }{{&score, &v.CVSS}, {&epss, &v.EPSS}, {&a.CVSS, &v.CVSS}, {&a.EPSS, &v.EPSS}} {
					if *x.from != nil && (*x.to == nil || **x.to < **x.from) {
						*x.to = *x.from
					}
				}
			}
			if kev {
				exploited[p.id] = true
			}
			probability, impact := 0.0, word
			if epss != nil {
				probability = *epss
			}
			if kev {
				probability = 1
			}
			if score != nil {
				impact = *score
			}
			a.Weight += probability * impact / 10
			a.RunningWeight += probability * impact / 10 * float64(running)
			tier := api.TierRest
			switch likely := epss != nil && *epss >= 0.1; {
			case kev && running > 0:
				tier = api.TierExploitedRunning
			case likely && running > 0:
				tier = api.TierLikelyRunning
			case kev:
				tier = api.TierExploited
			case likely:
				tier = api.TierLikely
			case decides(p):
				tier = api.TierDecides
			}
			if a.Tier == 0 || tier < a.Tier {
				a.Tier = tier
			}
		}
		if !touched {
			continue
		}
		images[n] = true
		all += len(found)
		a.Images++
		a.Containers += running
		if running > 0 {
			a.RunningImages++
		}
		for c := range f.clusters[n] {
			clusters[c] = true
		}
		if below {
			a.FromBase++
		}
		if decisive > 0 && stays == 0 {
			a.Unfailed++
		}
	}
	a.Vulnerabilities, a.Exploited = len(removed), len(exploited)
	a.Clusters = slices.Sorted(func(yield func(string) bool) {
		for c := range clusters {
			if !yield(c) {
				return
			}
		}
	})
	if kind == api.ActionRebase {
		a.Rebase = &api.Rebase{Share: float64(a.Findings) / float64(all)}
	}
	return a
}

// ids are those of all actions that the scans give, as the reference finds them.
func (f fleet) ids() (ids []string) {
	for n := range f.scans {
		if f.newer[n] != nil {
			ids = append(ids, "rebase/"+f.newer[n].Name+"@"+f.newer[n].Digest)
		}
		for _, v := range f.scans[n].Vulnerabilities {
			d := ""
			if v.Type == "deb" {
				d = f.scans[n].Distro
			}
			ids = append(ids, "upgrade/"+v.Type+"/"+d+"/"+v.Package)
		}
	}
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return f.reference(id).Findings == 0 })
}

func orNone(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

func near(a, b float64) bool { return a-b < 1e-3 && b-a < 1e-3 }

// All numbers and places are those of a count from the beginning.
func TestOrderIsTrue(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	for range 400 {
		f := draw(r)
		got := f.order(t)
		var names []string
		for _, a := range got {
			names = append(names, a.ID)
		}
		slices.Sort(names)
		if want := f.ids(); !slices.Equal(names, want) {
			t.Fatalf("actions %q instead of %q", names, want)
		}
		for i, a := range got {
			want := f.reference(a.ID)
			if !near(a.Weight, want.Weight) || !near(a.RunningWeight, want.RunningWeight) {
				t.Fatalf("%s: weights %v %v instead of %v %v", a.ID, a.Weight, a.RunningWeight, want.Weight, want.RunningWeight)
			}
			type numbers struct {
				Tier                                                                                        api.Tier
				Vulnerabilities, Exploited, Findings, Images, RunningImages, Containers, Unfailed, FromBase int
				Clusters                                                                                    string
				EPSS, CVSS                                                                                  float64
			}
			of := func(a api.Action) numbers {
				return numbers{a.Tier, a.Vulnerabilities, a.Exploited, a.Findings, a.Images, a.RunningImages, a.Containers, a.Unfailed, a.FromBase, strings.Join(a.Clusters, ","), orNone(a.EPSS), orNone(a.CVSS)}
			}
			if of(a) != of(want) {
				t.Fatalf("%s: %+v\ninstead of %+v", a.ID, of(a), of(want))
			}
			if a.Rebase != nil && !near(a.Rebase.Share, want.Rebase.Share) {
				t.Fatalf("%s: share %v instead of %v", a.ID, a.Rebase.Share, want.Rebase.Share)
			}
			if a.Upgrade != nil {
				f.holdTarget(t, a)
			}
			if i > 0 {
				before := got[i-1]
				if c := cmp.Or(cmp.Compare(before.Tier, a.Tier), cmp.Compare(a.RunningWeight, before.RunningWeight)); c > 0 && !near(a.RunningWeight, before.RunningWeight) {
					t.Fatalf("%s is before %s", before.ID, a.ID)
				}
			}
		}
	}
}

// holdTarget checks that no lower version fixes all that is fixed, by trying each.
func (f fleet) holdTarget(t *testing.T, a api.Action) {
	t.Helper()
	var sets [][]string
	candidates := []string{}
	for n := range f.scans {
		for _, p := range f.items()[n].packages {
			if p.upgrade != nil && p.upgrade.action.id == a.ID {
				for _, x := range p.upgrade.findings {
					sets = append(sets, x.fixed)
					candidates = append(candidates, x.fixed...)
				}
			}
		}
	}
	fixes := func(v string) bool {
		for _, set := range sets {
			highest := slices.MaxFunc(set, func(x, y string) int { return Compare(a.Upgrade.Type, x, y) })
			if !slices.Contains(set, v) && Compare(a.Upgrade.Type, v, highest) < 0 {
				return false
			}
		}
		return true
	}
	if !fixes(a.Upgrade.To) {
		t.Fatalf("%s: %s does not fix all of %v", a.ID, a.Upgrade.To, sets)
	}
	for _, v := range candidates {
		if fixes(v) && Compare(a.Upgrade.Type, v, a.Upgrade.To) < 0 {
			t.Fatalf("%s: %s is lower than %s and fixes all of %v", a.ID, v, a.Upgrade.To, sets)
		}
	}
}

// The order does not depend on that of the images, and pages are parts of it.
func TestOrderIsTotal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		f := draw(r)
		want, err := json.Marshal(f.order(t))
		if err != nil {
			t.Fatal(err)
		}
		g := fleet{}
		for _, i := range r.Perm(len(f.scans)) {
			s := f.scans[i]
			s.Vulnerabilities = slices.Clone(s.Vulnerabilities)
			r.Shuffle(len(s.Vulnerabilities), func(i, j int) {
				s.Vulnerabilities[i], s.Vulnerabilities[j] = s.Vulnerabilities[j], s.Vulnerabilities[i]
			})
			g.scans, g.bases, g.newer, g.clusters = append(g.scans, s), append(g.bases, f.bases[i]), append(g.newer, f.newer[i]), append(g.clusters, f.clusters[i])
		}
		got, err := json.Marshal(g.order(t))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Fatalf("%s\ninstead of\n%s", got, want)
		}
		o := NewOrder(f.items(), 9)
		var paged []api.Action
		for after := ""; ; {
			list, next, err := o.Page(after, 1+r.IntN(3))
			if err != nil {
				t.Fatal(err)
			}
			paged = append(paged, list...)
			if after = next; after == "" {
				break
			}
		}
		if all := f.order(t); !reflect.DeepEqual(paged, all) && len(all) > 0 {
			t.Fatalf("%d actions in pages, %d at once", len(paged), len(all))
		}
	}
}

// To list a vulnerability in KEV, to raise its EPSS, to run one more container puts no action
// that removes it behind one that is not touched.
func TestOrderIsMonotone(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	changed := 0
	for range 600 {
		f := draw(r)
		before := f.order(t)
		image := r.IntN(len(f.scans))
		s := &f.scans[image]
		touched := map[string]bool{}
		switch what := r.IntN(3); {
		case what == 2:
			if f.clusters[image] == nil {
				f.clusters[image] = map[string]int{}
			}
			f.clusters[image]["c1"]++
			for _, a := range before {
				touched[a.ID] = slices.ContainsFunc(a.Where, func(p api.Place) bool { return p.Image == s.Image })
			}
		case len(s.Vulnerabilities) == 0:
			continue
		default:
			v := &s.Vulnerabilities[r.IntN(len(s.Vulnerabilities))]
			if what == 0 {
				v.KEV = true
			} else if v.EPSS == nil || *v.EPSS < 0.9 {
				p := orNone(v.EPSS) + 1.05 - r.Float64()
				p = min(max(p, 0.001), 1)
				if v.EPSS != nil {
					p = max(p, *v.EPSS)
				}
				v.EPSS = &p
			}
			if v.Exception != nil {
				if after := f.order(t); !reflect.DeepEqual(before, after) {
					t.Fatal("what an exception covers changes the order")
				}
				continue
			}
			for _, a := range before {
				touched[a.ID] = a.Upgrade != nil && a.Upgrade.Package == v.Package && a.Upgrade.Type == v.Type || a.Rebase != nil
			}
		}
		changed++
		place := map[string]int{}
		for i, a := range f.order(t) {
			place[a.ID] = i
		}
		for i, a := range before {
			for _, b := range before[i+1:] {
				if touched[a.ID] && !touched[b.ID] && place[a.ID] > place[b.ID] {
					t.Fatalf("%s was before %s, and is behind it now", a.ID, b.ID)
				}
			}
		}
	}
	if changed < 300 {
		t.Errorf("only %d changes were tried", changed)
	}
}

func TestCursor(t *testing.T) {
	o := NewOrder(draw(rand.New(rand.NewPCG(6, 6))).items(), 9)
	for _, after := range []string{"x", "e30", "bnVsbA", "W10"} {
		if _, _, err := o.Page(after, 1); err != ErrCursor {
			t.Errorf("%q: %v", after, err)
		}
	}
}

func TestBases(t *testing.T) {
	layers := func(ids ...string) (list []api.Layer) {
		for _, id := range ids {
			list = append(list, api.Layer{DiffID: id})
		}
		return list
	}
	label := &api.BaseImage{Name: "docker.io/library/debian:12", Digest: "sha256:a", Found: api.BaseLabelled}
	known := []*Known{
		NewKnown("docker.io/library/debian:12", &api.Scan{Digest: "sha256:a", Layers: layers("1"), Base: nil}),
		NewKnown("docker.io/library/node:20", &api.Scan{Digest: "sha256:b", Layers: layers("1", "2"), Base: label}),
		NewKnown("registry.example.com/app:1", &api.Scan{Digest: "sha256:c", Layers: layers("1", "2", "3"), Base: label}), // inherited from node
		NewKnown("registry.example.com/app:2", &api.Scan{Digest: "sha256:d", Layers: layers("1", "2", "3", "4"), Base: nil}),
		NewKnown("registry.example.com/x:1", &api.Scan{Digest: "sha256:e", Layers: layers("7", "8", "9"), Base: nil}),
		NewKnown("registry.example.com/y:1", &api.Scan{Digest: "sha256:f", Layers: layers("7", "8", "10"), Base: nil}),
		NewKnown("registry.example.com/z:1", &api.Scan{Digest: "sha256:g", Layers: layers("20", "21"), Base: label}),
		NewKnown("registry.example.com/z:2", &api.Scan{Digest: "sha256:h", Layers: layers("30", "31"), Base: nil}),
		NewKnown("registry.example.com/z:3", &api.Scan{Digest: "sha256:i", Layers: layers("30", "32"), Base: nil}), // shares with its own repository alone
		NewKnown("registry.example.com/none:1", &api.Scan{Digest: "sha256:j", Layers: nil, Base: nil}),
	}
	bases := NewBases()
	for _, k := range known {
		bases.Add(k)
	}
	want := []*api.BaseImage{
		nil,
		{Name: "docker.io/library/debian:12", Digest: "sha256:a", Layers: 1, Found: api.BaseContained},
		{Name: "docker.io/library/node:20", Digest: "sha256:b", Layers: 2, Found: api.BaseContained},
		{Name: "docker.io/library/node:20", Digest: "sha256:b", Layers: 2, Found: api.BaseContained},
		{Layers: 2, Found: api.BaseShared},
		{Layers: 2, Found: api.BaseShared},
		label, nil, nil, nil,
	}
	for i, k := range known {
		if got := bases.Find(k); !reflect.DeepEqual(got, want[i]) {
			t.Errorf("%s: %+v instead of %+v", k.Image, got, want[i])
		}
	}
}

func TestAnnotate(t *testing.T) {
	scan := api.Scan{Layers: []api.Layer{{DiffID: "1"}, {DiffID: "2"}}, Vulnerabilities: []api.Vulnerability{{Layer: "1"}, {Layer: "2"}, {Layer: "1"}, {}, {Layer: "other"}}}
	Annotate(&scan, &api.BaseImage{Layers: 1, Found: api.BaseShared})
	var origins []api.Origin
	for _, v := range scan.Vulnerabilities {
		origins = append(origins, v.Origin)
	}
	if want := []api.Origin{api.FromBase, api.FromOwn, api.FromBase, "", api.FromOwn}; !slices.Equal(origins, want) || scan.Base.Vulnerabilities != 2 || scan.Base.Own != 2 {
		t.Errorf("%v %+v", origins, scan.Base)
	}
	Annotate(&scan, nil)
	if scan.Base != nil || scan.Vulnerabilities[0].Origin != "" {
		t.Errorf("%+v", scan)
	}
	Annotate(&scan, &api.BaseImage{Layers: 3}) // more than there are
	if scan.Vulnerabilities[0].Origin != "" {
		t.Errorf("%+v", scan)
	}
}

func TestDistribution(t *testing.T) {
	for in, want := range map[[2]string]string{
		{"deb", "debian 12"}: "debian 12", {"deb", "debian 12.5"}: "debian 12", {"deb", "ubuntu 22.04"}: "ubuntu 22.04", {"apk", "alpine 3.19.1"}: "alpine 3.19",
		{"rpm", "rhel 9.4"}: "rhel 9", {"npm", "debian 12"}: "", {"deb", ""}: "", {"deb", "debian"}: "debian",
	} {
		if got := distribution(in[0], in[1]); got != want {
			t.Errorf("%v: %q instead of %q", in, got, want)
		}
	}
}
