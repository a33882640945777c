package match

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	grypematch "github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/vulnerability"
)

// maxMemo bounds the memo: a package counts 1, a match 4. A match takes some 3 KB and a
// package 1 KB, so that both halves take 400 MB at most.
const maxMemo = 150_000

// memo keeps what matching found of a package: the same package in another image is not
// looked up again. It is safe for concurrent use, and readers do not wait for each other.
//
// It has two halves. When the younger is full it becomes the older, and what was
// not asked for since is forgotten.
type memo struct {
	halves atomic.Pointer[halves]
	// day is what the end of life of a distribution is compared with.
	now func() time.Time
}

type halves struct {
	day            string
	young, old     *sync.Map // [sha256.Size]byte: *entry
	weight         atomic.Int64
	related        sync.Map // of converter
	relatedEntries atomic.Int64
}

func newMemo() *memo { return &memo{now: time.Now} }

// use gives the halves of today.
func (m *memo) use() *halves {
	day := m.now().UTC().Format(time.DateOnly)
	for {
		h := m.halves.Load()
		if h != nil && h.day == day && h.weight.Load() < maxMemo && h.relatedEntries.Load() < maxMemo {
			return h
		}
		next := &halves{day: day, young: &sync.Map{}}
		if h != nil && h.day == day {
			next.old = h.young
		}
		m.halves.CompareAndSwap(h, next)
	}
}

// entry gives what is kept of a package.
func (h *halves) entry(text []byte) (*entry, error) {
	key := sha256.Sum256(text)
	if e, ok := h.young.Load(key); ok {
		return e.(*entry), nil
	}
	var e *entry
	if h.old != nil {
		if kept, ok := h.old.Load(key); ok {
			e = kept.(*entry)
		}
	}
	if e == nil {
		p, err := decode(text)
		if err != nil {
			return nil, fmt.Errorf("reading a package: %w", err)
		}
		p.ID = anyID
		e = &entry{pkg: p, found: map[grypematch.MatcherType]found{}, searches: map[string]bool{}}
	}
	kept, there := h.young.LoadOrStore(key, e)
	if !there {
		h.weight.Add(1 + 4*e.matches.Load())
	}
	return kept.(*entry), nil
}

// Keep takes over what another Matcher knows, of a database that says the same as this one's
// but under the keys that changed: [vulndb.Changes.Searches], all of them.
func (m *Matcher) Keep(other *Matcher, changed ...[]string) {
	touched := map[string]bool{}
	for _, keys := range changed {
		for _, k := range keys {
			touched[k] = true
		}
	}
	from, to := other.memo.use(), m.memo.use()
	for _, half := range []*sync.Map{from.old, from.young} {
		if half == nil {
			continue
		}
		for key, e := range half.Range {
			if fresh := e.(*entry).unless(touched); fresh != nil {
				if _, there := to.young.LoadOrStore(key, fresh); !there {
					to.weight.Add(1 + 4*fresh.matches.Load())
				}
			}
		}
	}
}

// unless copies an entry that nothing changed for; nil where something did.
func (e *entry) unless(touched map[string]bool) *entry {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k := range e.searches {
		if touched[k] {
			return nil
		}
	}
	if len(e.found) == 0 {
		return nil
	}
	out := &entry{pkg: e.pkg, found: maps.Clone(e.found), searches: maps.Clone(e.searches)}
	out.matches.Store(e.matches.Load())
	out.noted.Store(e.noted.Load())
	return out
}

// anyID stands for the id of a package, which differs between SBOMs.
const anyID pkg.ID = "any"

// entry is what is known of a package, wherever it is.
type entry struct {
	pkg     pkg.Package
	matches atomic.Int64
	// noted says that the searches are in the index.
	noted atomic.Bool

	mu       sync.Mutex // of what follows, held while it is looked up
	found    map[grypematch.MatcherType]found
	searches map[string]bool
}

// found is what a matcher says of a package.
type found struct {
	matches []grypematch.Match
	ignores []grypematch.IgnoreFilter
	err     error
}

// remembering is a matcher of Grype that looks into the memo first.
type remembering struct {
	grypematch.Matcher
	entries map[pkg.ID]*entry
	memo    *halves
	faults  *recorder
}

// Match implements [grypematch.Matcher].
func (r *remembering) Match(vp vulnerability.Provider, p pkg.Package) ([]grypematch.Match, []grypematch.IgnoreFilter, error) {
	e, ok := r.entries[p.ID]
	if !ok {
		return nil, nil, fmt.Errorf("package %s is not one of those to match", p.ID)
	}
	f, err := r.ask(e)
	if err != nil {
		return nil, nil, err
	}
	matches := make([]grypematch.Match, len(f.matches))
	for i, m := range f.matches {
		m.Package.ID, m.Package.RelatedPackages = p.ID, p.RelatedPackages
		m.Details = slices.Clone(m.Details) // what merges matches orders them
		matches[i] = m
	}
	ignores := make([]grypematch.IgnoreFilter, len(f.ignores))
	for i, ignore := range f.ignores {
		if rule, ok := ignore.(grypematch.IgnoreRelatedPackage); ok {
			rule.RelatedPackageID = p.ID
			ignore = rule
		}
		ignores[i] = ignore
	}
	return matches, ignores, f.err
}

// ask asks the matcher, once for each package.
func (r *remembering) ask(e *entry) (found, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f, ok := e.found[r.Type()]; ok {
		return f, nil
	}
	rec := &recorder{Provider: r.faults.Provider, searches: map[string]bool{}}
	var f found
	f.matches, f.ignores, f.err = r.Matcher.Match(rec.provider(), e.pkg)
	if err := rec.err(); err != nil { // what the database did not tell is not kept
		r.faults.note(err)
		return f, nil
	}
	for _, m := range f.matches {
		if m.Package.ID != anyID {
			return f, fmt.Errorf("a matcher made up the package %s", m.Package.ID)
		}
	}
	for _, ignore := range f.ignores {
		switch ignore := ignore.(type) {
		case grypematch.IgnoreRule:
		case grypematch.IgnoreRelatedPackage:
			if ignore.RelatedPackageID != anyID {
				return f, fmt.Errorf("a matcher made up the package %s", ignore.RelatedPackageID)
			}
		default:
			return f, fmt.Errorf("a matcher ignores by a rule of an unknown kind, %T", ignore)
		}
	}
	e.found[r.Type()] = f
	maps.Copy(e.searches, rec.searches)
	e.matches.Add(int64(len(f.matches)))
	r.memo.weight.Add(4 * int64(len(f.matches)))
	return f, nil
}

// Search is what was looked up for a package.
type Search struct {
	// Name, Version and Type are those of the package, which others may share that differ
	// in their CPEs or source.
	Name, Version, Type string
	// Keys are [vulndb.NameKey] and so on.
	Keys []string

	of *entry
}

// Noted says that the searches are kept, and need not be told again.
func Noted(list []Search) {
	for _, s := range list {
		s.of.noted.Store(true)
	}
}

func (e *entry) search() Search {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Search{Name: e.pkg.Name, Version: e.pkg.Version, Type: string(e.pkg.Type), Keys: slices.Sorted(maps.Keys(e.searches)), of: e}
}
