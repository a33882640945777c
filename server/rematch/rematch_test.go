package rematch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/match"
	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/rematch"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/store/storetest"
)

// advisory is what a test changes of an advisory in OSV's format.
type advisory struct {
	id, alias, ecosystem, name, fixed, vector, summary, published string
	epss                                                          float64
	kev                                                           bool
	withdrawn                                                     bool
}

func (a advisory) text(t *testing.T) map[string]any {
	t.Helper()
	events := []map[string]string{{"introduced": "0"}}
	if a.fixed != "" {
		events = append(events, map[string]string{"fixed": a.fixed})
	}
	specific := map[string]any{"severity": "HIGH"}
	if a.epss > 0 {
		specific["epss"] = map[string]any{"probability": a.epss, "percentile": 0.5, "date": "2026-01-01"}
	}
	if a.kev {
		specific["kev"] = true
	}
	out := map[string]any{
		"id": a.id, "summary": a.summary, "published": a.published, "database_specific": specific,
		"affected": []any{map[string]any{"package": map[string]string{"ecosystem": a.ecosystem, "name": a.name}, "ranges": []any{map[string]any{"type": "ECOSYSTEM", "events": events}}}},
	}
	if a.alias != "" {
		out["aliases"] = []string{a.alias}
	}
	if a.vector != "" {
		out["severity"] = []any{map[string]string{"type": "CVSS_V3", "score": a.vector}}
	}
	if a.withdrawn {
		out["withdrawn"] = "2026-01-02T00:00:00Z"
	}
	return out
}

// kinds of packages, with the ecosystem of their advisories and the PURL of a version.
var kinds = []struct {
	ecosystem, name, purl, fixed string
	versions                     []string
}{
	{"npm", "pkg%d", "pkg:npm/pkg%d@%s", "2.0.0", []string{"1.0.0", "1.5.0", "2.0.0", "3.0.0"}},
	{"PyPI", "mod-%d", "pkg:pypi/mod_%d@%s", "2.0", []string{"1.0", "1.9", "2.0", "2.1"}},
	{"Go", "example.com/m%d", "pkg:golang/example.com/m%d@%s", "1.2.0", []string{"v1.1.0", "v1.2.0", "v1.0.0"}},
	{"Maven", "org.example:lib%d", "pkg:maven/org.example/lib%d@%s", "2.1", []string{"2.0", "2.1", "1.0"}},
	{"RubyGems", "gem%d", "pkg:gem/gem%d@%s", "3.0", []string{"2.9", "3.0"}},
	{"Debian:12", "src%d", "pkg:deb/debian/bin%[1]d@%[2]s?distro=debian-12&upstream=src%[1]d", "2-1", []string{"1-1", "2-1", "3-1"}},
	{"Alpine:v3.17", "apk%d", "pkg:apk/alpine/apk%d@%s?distro=alpine-3.17.2", "2-r0", []string{"1-r0", "2-r0"}},
}

var vectors = []string{"", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "CVSS:3.1/AV:L/AC:H/PR:N/UI:N/S:U/C:L/I:N/A:N"}

// fleet is a store of SBOMs, and databases that change.
type fleet struct {
	t         *testing.T
	store     *store.Store
	databases *vulndb.Store
	rematch   *rematch.Rematch
	clock     time.Time
	boms      map[string][]byte // by digest
	random    *rand.Rand
	built     int
}

func digestOf(n int) string { return fmt.Sprintf("sha256:%064x", n+1) }

func newFleet(t *testing.T, url string, images int) *fleet {
	f := &fleet{t: t, clock: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), boms: map[string][]byte{}, random: rand.New(rand.NewPCG(7, 7))}
	now := func() time.Time { return f.clock }
	f.store = storetest.Open(t, url, now)
	var err error
	if f.databases, err = vulndb.New(vulndb.Config{Dir: filepath.Join(t.TempDir(), "db"), MaxAge: -1, Keep: 3, Now: now}); err != nil {
		t.Fatal(err)
	}
	f.open()
	for i := range images {
		f.boms[digestOf(i)] = f.sbom(i)
		kept, err := rematch.Decode(bytes.NewReader(f.boms[digestOf(i)]), fmt.Sprintf("registry.example/app%d:1", i), digestOf(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.store.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.AddSBOM(t.Context(), kept)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// open is what a process does when it starts.
func (f *fleet) open() {
	f.rematch = rematch.New(rematch.Config{Store: f.store, Databases: f.databases, Now: func() time.Time { return f.clock }, Log: slog.New(slog.DiscardHandler)})
	f.t.Cleanup(func() { _ = f.rematch.Close() })
}

// sbom is CycloneDX of some 12 packages of three kinds, of a distribution only one.
func (f *fleet) sbom(n int) []byte {
	var components []any
	seen := map[string]bool{}
	system := 5 + n%2
	for range 12 {
		k := f.random.IntN(6)
		if k == 5 {
			k = system
		}
		kind := kinds[k]
		i, v := f.random.IntN(8), kind.versions[f.random.IntN(len(kind.versions))]
		purl := fmt.Sprintf(kind.purl, i, v)
		if seen[purl] {
			continue
		}
		seen[purl] = true
		name := purl[strings.LastIndexByte(purl[:strings.LastIndexByte(purl, '@')], '/')+1 : strings.LastIndexByte(purl, '@')]
		if kind.ecosystem == "Go" {
			name = fmt.Sprintf(kind.name, i)
		}
		components = append(components, map[string]any{"type": "library", "name": name, "version": v, "purl": purl, "bom-ref": purl})
	}
	text, err := json.Marshal(map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components})
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

// publish makes a database of advisories the current one.
func (f *fleet) publish(list map[string]advisory) {
	f.t.Helper()
	var texts []any
	for _, a := range list {
		texts = append(texts, a.text(f.t))
	}
	content, err := json.Marshal(texts)
	if err != nil {
		f.t.Fatal(err)
	}
	dir := f.t.TempDir()
	file, archive := filepath.Join(dir, "a.json"), filepath.Join(dir, "db.tar.zst")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		f.t.Fatal(err)
	}
	f.built++
	f.clock = f.clock.Add(time.Minute)
	if _, err := vulndb.Build(f.t.Context(), []string{file}, archive, time.Date(2026, 2, 1, 0, f.built, 0, 0, time.UTC)); err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.databases.Import(f.t.Context(), archive); err != nil {
		f.t.Fatal(err)
	}
}

// work does all that is due, and gives what was matched.
func (f *fleet) work() (matched []string) {
	f.t.Helper()
	for {
		due, err := f.rematch.Due(f.t.Context(), 1000)
		if err != nil {
			f.t.Fatal(err)
		}
		if len(due) == 0 {
			return matched
		}
		for _, digest := range due {
			if err := f.rematch.Match(f.t.Context(), digest); err != nil {
				f.t.Fatal(err)
			}
		}
		matched = append(matched, due...)
	}
}

// differences are the images whose stored result is another than a match of their SBOM, by a
// matcher that remembers nothing, and the vulnerabilities of all.
func (f *fleet) differences(ctx context.Context) (list []string, all map[string][]api.Vulnerability) {
	f.t.Helper()
	db, err := f.databases.Open(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	defer db.Close()
	all = map[string][]api.Vulnerability{}
	for digest, text := range f.boms {
		bom, _, err := scanner.DecodeSBOM(bytes.NewReader(text))
		if err != nil {
			f.t.Fatal(err)
		}
		want, _, err := match.New(db.Provider).Match(ctx, *bom)
		if err != nil {
			f.t.Fatal(err)
		}
		scan, _, err := f.store.Scan(ctx, digest, "", "")
		if err != nil {
			f.t.Fatal(err)
		}
		a, err1 := json.Marshal(want)
		b, err2 := json.Marshal(scan.Vulnerabilities)
		if err1 != nil || err2 != nil {
			f.t.Fatal(err1, err2)
		}
		if !bytes.Equal(a, b) && len(want)+len(scan.Vulnerabilities) > 0 {
			list = append(list, fmt.Sprintf("%s:\nfull        %s\nincremental %s", digest, a, b))
		}
		all[digest] = want
	}
	return list, all
}

// TestIncremental changes a database in many ways, one after the other. After each change the
// stored results are those of a full scan, though only some of the SBOMs were matched.
func TestIncremental(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		const images = 30
		f := newFleet(t, url(), images)
		list := map[string]advisory{}
		add := func(k, i int) string {
			id := fmt.Sprintf("CVE-2026-%04d", 1000+len(list)+f.built*100)
			kind := kinds[k]
			list[id] = advisory{id: id, ecosystem: kind.ecosystem, name: fmt.Sprintf(kind.name, i), fixed: kind.fixed, vector: vectors[f.random.IntN(3)],
				summary: "first", published: "2026-01-01T00:00:00Z"}
			return id
		}
		for k := range kinds {
			for i := range 6 {
				add(k, i)
			}
		}
		f.publish(list)
		if matched := f.work(); len(matched) != images {
			t.Fatalf("%d SBOMs were matched first", len(matched))
		}
		ids := func() []string {
			var out []string
			for id := range list {
				out = append(out, id)
			}
			slices.Sort(out)
			return out
		}
		change := func(do func(a *advisory)) func() {
			return func() {
				all := ids()
				a := list[all[f.random.IntN(len(all))]]
				do(&a)
				list[a.id] = a
			}
		}
		steps := []struct {
			name string
			do   func()
		}{
			{"added", func() { add(f.random.IntN(len(kinds)), 6) }},
			{"added of a known package", func() { add(f.random.IntN(len(kinds)), 1) }},
			{"removed", func() { all := ids(); delete(list, all[f.random.IntN(len(all))]) }},
			{"score", change(func(a *advisory) { a.vector = vectors[1+f.random.IntN(2)] })},
			{"fix", change(func(a *advisory) { a.fixed = "" })},
			{"text", change(func(a *advisory) { a.summary += " and more" })},
			{"date", change(func(a *advisory) { a.published = "2026-01-03T00:00:00Z" })},
			{"EPSS", change(func(a *advisory) { a.epss += 0.01 })},
			{"KEV", change(func(a *advisory) { a.kev = !a.kev })},
			{"alias", change(func(a *advisory) { a.alias = fmt.Sprintf("CVE-2025-%04d", 1000+f.random.IntN(9000)) })},
			{"withdrawn", change(func(a *advisory) { a.withdrawn = !a.withdrawn })},
			{"renamed", change(func(a *advisory) {
				for _, kind := range kinds {
					if kind.ecosystem == a.ecosystem {
						a.name = fmt.Sprintf(kind.name, f.random.IntN(8))
					}
				}
			})},
			{"another distribution", func() { a := list[add(5, 2)]; a.ecosystem = "Debian:11"; list[a.id] = a }},
			{"nothing", func() {}},
		}
		total, changed := 0, 0
		before, results := f.differences(t.Context())
		if len(before) > 0 {
			t.Fatalf("at first:\n%s", strings.Join(before, "\n"))
		}
		for round := range 2 {
			for _, step := range steps {
				step.do()
				f.publish(list)
				if round == 1 { // as after a restart
					f.open()
				}
				matched := f.work()
				after, now := f.differences(t.Context())
				if len(after) > 0 {
					t.Fatalf("after %q, of which %d were matched:\n%s", step.name, len(matched), strings.Join(after, "\n"))
				}
				total += len(matched)
				for digest := range now {
					if !reflect.DeepEqual(now[digest], results[digest]) {
						changed++
						if !slices.Contains(matched, digest) {
							t.Errorf("%s: %s changed and was not matched", step.name, digest)
						}
					}
				}
				results = now
			}
		}
		// A new distribution and a Rename make others search elsewhere; the rest is in proportion.
		if total > len(steps)*2*images/2 || changed < 2*len(steps)/2 {
			t.Errorf("%d of %d results changed, and %d were matched", changed, 2*len(steps)*images, total)
		}
		t.Logf("%d databases, %d images: %d results changed, %d of %d matched", 2*len(steps), images, changed, total, 2*len(steps)*images)
	})
}

// TestFull says when all is matched again.
func TestFull(t *testing.T) {
	f := newFleet(t, filepath.Join(t.TempDir(), "assay.db"), 6)
	kind := kinds[0]
	list := map[string]advisory{"CVE-2026-1": {id: "CVE-2026-1", ecosystem: kind.ecosystem, name: "unknown", fixed: "1"}}
	f.publish(list)
	f.work()
	f.publish(list)
	if n := len(f.work()); n != 0 {
		t.Errorf("a database that says the same: %d matched", n)
	}
	f.clock = f.clock.Add(rematch.DefaultEvery + time.Minute)
	if n := len(f.work()); n != 6 {
		t.Errorf("after a day: %d matched", n)
	}
	list["CVE-2026-2"] = advisory{id: "CVE-2026-2", ecosystem: "Debian:12", name: "unknown", fixed: "1"}
	f.publish(list)
	if n := len(f.work()); n != 6 {
		t.Errorf("a database with a new distribution: %d matched", n)
	}
	// The databases in between are gone before anyone looks.
	for range 4 {
		f.publish(list)
	}
	if _, err := f.databases.Prune(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := len(f.work()); n != 6 {
		t.Errorf("the older database is gone: %d matched", n)
	}
	counts, err := f.rematch.Counts(t.Context())
	if err != nil || counts.SBOMs != 6 || counts.Due != 0 || counts.Urgent != 0 || counts.Failed != 0 {
		t.Errorf("counts: %+v, %v", counts, err)
	}
}

// TestReplicas has two replicas with a folder of databases each: what the newer database said stays,
// until somebody goes back to an older one.
func TestReplicas(t *testing.T) {
	f := newFleet(t, filepath.Join(t.TempDir(), "assay.db"), 4)
	list := map[string]advisory{"CVE-2026-1": {id: "CVE-2026-1", ecosystem: "npm", name: "pkg1", fixed: "1"}}
	f.publish(list)
	other, err := vulndb.New(vulndb.Config{Dir: filepath.Join(t.TempDir(), "db"), MaxAge: -1})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "db.tar.zst")
	if _, _, err := f.databases.Export(t.Context(), archive, false); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Import(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	list["CVE-2026-2"] = advisory{id: "CVE-2026-2", ecosystem: "Debian:12", name: "src1"}
	f.publish(list)
	if n := len(f.work()); n != 4 {
		t.Fatalf("%d matched", n)
	}
	mine, slow := f.rematch, rematch.New(rematch.Config{Store: f.store, Databases: other, Now: func() time.Time { return f.clock }})
	t.Cleanup(func() { _ = slow.Close() })
	for range 3 {
		for name, r := range map[string]*rematch.Rematch{"with the newer database": mine, "with the older database": slow} {
			f.rematch = r
			if n := len(f.work()); n != 0 {
				t.Errorf("the replica %s matched %d", name, n)
			}
		}
	}
	f.rematch = mine
	f.clock = f.clock.Add(time.Minute)
	if _, err := f.databases.Rollback(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if n := len(f.work()); n != 4 {
		t.Errorf("after going back: %d matched", n)
	}
}
