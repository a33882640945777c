package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/scanner/pace"
	"github.com/assay-dev/assay/scanner/registries"
	"github.com/assay-dev/assay/server/jobs"
	"github.com/assay-dev/assay/store"
	"github.com/assay-dev/assay/stream"
)

// Registry is one that is listed from time to time.
type Registry struct {
	// Registry is HOST or HOST/PATH.
	Registry     string   `json:"registry"`
	Repositories []string `json:"repositories"`
	Include      []string `json:"include"`
	Exclude      []string `json:"exclude"`
	Untagged     bool     `json:"untagged"`
	InsecureHTTP bool     `json:"insecureHTTP"`
	// Every is the time between two listings, such as "6h"; "" is a day.
	Every string `json:"every"`
	// Rate is how many requests a second it gets at most; 0 is any number.
	Rate float64 `json:"rate"`

	source registries.Source
	every  time.Duration
}

// Bounds on the file of registries and on what is in it.
const (
	maxRegistries = 100
	minEvery      = time.Minute
)

var registriesBounds = stream.Config{Document: 1 << 20, Total: 1 << 20, Nodes: 50_000, Depth: 16}

// ReadRegistries reads the file of --registries, and finds all that is wrong with it.
func ReadRegistries(file string) ([]Registry, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > int64(registriesBounds.Total) {
		err = fmt.Errorf("%s is larger than %d bytes", file, registriesBounds.Total)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the registries: %w", err)
	}
	doc, err := stream.One(file, text, registriesBounds)
	if err != nil {
		return nil, err
	}
	node, err := doc.Node()
	if err != nil {
		return nil, err
	}
	var document struct {
		Registries []Registry `json:"registries"`
	}
	var faults stream.Diagnostics
	places := doc.Decode(node, &document, &faults)
	wrong := func(path, format string, args ...any) {
		n, _ := places.At(path)
		faults = append(faults, doc.Fault(n, path, format, args...))
	}
	list := document.Registries
	if len(list) == 0 || len(list) > maxRegistries {
		wrong("registries", "must list 1 to %d", maxRegistries)
	}
	seen := map[string]bool{}
	for i := range list {
		path := fmt.Sprintf("registries[%d]", i)
		list[i].complete(func(member, format string, args ...any) { wrong(path+"."+member, format, args...) })
		if seen[list[i].Registry] {
			wrong(path, "%s is listed twice: put what is wanted of it into one", list[i].Registry)
		}
		seen[list[i].Registry] = true
	}
	return list, faults.Err()
}

// complete fills in what follows from the rest, and says of which member something is wrong.
func (r *Registry) complete(wrong func(member, format string, args ...any)) {
	compile := func(field string, list []string) (all []*regexp.Regexp) {
		for i, text := range list {
			compiled, err := regexp.Compile(text)
			if err != nil {
				wrong(fmt.Sprintf("%s[%d]", field, i), "%v", err)
				continue
			}
			all = append(all, compiled)
		}
		return all
	}
	r.source = registries.Source{Registry: r.Registry, Repositories: r.Repositories, Untagged: r.Untagged, InsecureHTTP: r.InsecureHTTP,
		Include: compile("include", r.Include), Exclude: compile("exclude", r.Exclude), QuayToken: os.Getenv("QUAY_TOKEN"),
		Transport: pace.New(pace.Config{Rate: r.Rate})}
	if _, err := r.source.Host(); err != nil {
		wrong("registry", "%v", err)
	}
	if r.Rate < 0 {
		wrong("rate", "must not be negative")
	}
	r.every = 24 * time.Hour
	if r.Every != "" {
		var err error
		if r.every, err = time.ParseDuration(r.Every); err != nil || r.every < minEvery {
			wrong("every", "must be a time of at least %s, such as 6h, not %q", minEvery, r.Every)
		}
	}
}

// settings is a sum of what decides which names are listed.
func (r *Registry) settings() string {
	text, err := json.Marshal([]any{r.Repositories, r.Include, r.Exclude, r.Untagged})
	if err != nil {
		panic(err) // texts and a boolean
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// due says whether a registry is to be listed.
func (r *Registry) due(l store.Listed, now time.Time) bool {
	if l.Settings != r.settings() {
		return true
	}
	again := min(r.every, 15*time.Minute) // after a failure
	return l.Finished < documents.Time(now.Add(-r.every)) && l.Tried < documents.Time(now.Add(-again))
}

// registryOf finds the registry that an image is of.
func (c Config) registryOf(ref api.Reference) *Registry {
	for i := range c.Registries {
		if c.Registries[i].source.Covers(ref) {
			return &c.Registries[i]
		}
	}
	return nil
}

// lookDue is how often registries are looked for that are due.
const lookDue = 30 * time.Second

// whenDue asks for the registries that are due, until the context ends.
func (c Config) whenDue(ctx context.Context, s *store.Store, ask func(registry string)) {
	for len(c.Registries) > 0 {
		for i := range c.Registries {
			r := &c.Registries[i]
			l, err := s.Listed(ctx, r.Registry)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				c.Log.Warn("it is not known whether a registry is to be listed", "registry", r.Registry, "error", err)
			case r.due(l, time.Now()):
				ask(r.Registry)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookDue):
		}
	}
}

// listRegistry lists a registry, has what is new scanned, and keeps the names; nil where
// there are no registries.
func (c Config) listRegistry(s *store.Store, scan func(ctx context.Context, image string)) func(ctx context.Context, registry string) error {
	if len(c.Registries) == 0 {
		return nil
	}
	return func(ctx context.Context, name string) error {
		for i := range c.Registries {
			r := &c.Registries[i]
			if r.Registry != name {
				continue
			}
			l, err := s.Listed(ctx, name)
			if err != nil || !r.due(l, time.Now()) {
				return err
			}
			if l.Settings != r.settings() {
				l.Finished = ""
			}
			l.Settings, l.Tried = r.settings(), documents.Time(time.Now())
			note := func() error { return s.Write(ctx, func(t *store.Tx) error { return t.SetListed(ctx, l) }) }
			if err := note(); err != nil { // it is not due while it is being listed
				return err
			}
			listing := &listing{Config: c, store: s, scan: scan, waiting: map[string][]arrival{}, indexes: map[string]api.Scan{}}
			err = listing.run(ctx, r)
			if ctx.Err() != nil {
				return err
			}
			l.Names, l.Error = int(listing.counts.Names.Load()), ""
			if err != nil {
				l.Error = err.Error()
			}
			if listing.whole {
				l.Finished = l.Tried
			}
			return errors.Join(err, note())
		}
		return jobs.Permanent(fmt.Errorf("this replica is told of no registry %s", name))
	}
}

// listing is one listing of a registry.
type listing struct {
	Config
	store  *store.Store
	scan   func(ctx context.Context, image string)
	counts registries.Listing

	scanner *scanner.Scanner

	mu       sync.Mutex
	waiting  map[string][]arrival // by the image that is being scanned
	indexes  map[string]api.Scan  // what those lead to that were met
	failures []error
	failed   int
	added    int
	whole    bool // to the end, whatever failed with single names
}

// arrival is a name that is new, or leads elsewhere than before.
type arrival struct {
	ref    api.Reference
	digest string
	index  *api.Index // where digest is one that was not known
}

// Bounds on the time that names wait for the scan of their image: between two looks,
// and since the last that came.
const (
	lookWaiting = 2 * time.Second
	maxWaiting  = 3 * time.Minute
)

// shownFailures are those that the error of a listing tells.
const shownFailures = 5

func (l *listing) run(ctx context.Context, r *Registry) error {
	source := r.source
	source.UserAgent, source.Log, source.Realms = "assay/"+l.Version, l.Log, l.Realms
	var err error
	if l.scanner, err = scanner.New(scanner.Config{NoDaemons: true, UserAgent: source.UserAgent, Transport: source.Transport, InsecureHTTP: source.InsecureHTTP, Realms: source.Realms, Log: l.Log}); err != nil {
		return jobs.Permanent(err)
	}
	if err := registries.Walk(ctx, source, &l.counts, l.found); err != nil {
		if errors.Is(err, registries.ErrSource) {
			return jobs.Permanent(err)
		}
		return err
	}
	l.whole = true
	if l.failed == 0 {
		if err := l.counts.Nothing(r.Registry); err != nil {
			return jobs.Permanent(err)
		}
	}
	requested := len(l.waiting)
	for last := time.Now(); len(l.waiting) > 0 && time.Since(last) < maxWaiting; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookWaiting):
		}
		for image, arrivals := range l.waiting {
			known, _, err := l.store.Rests(ctx, arrivals[0].ref, image)
			if err != nil {
				return err
			}
			if known == "" {
				continue
			}
			if err := l.add(ctx, image, arrivals...); err != nil {
				return err
			}
			delete(l.waiting, image)
			last = time.Now()
		}
	}
	l.Log.Info("a registry was listed", "registry", r.Registry, "names", l.counts.Names.Load(), "scans", requested, "new names", l.added, "not scanned", len(l.waiting), "failed", l.failed)
	if l.failed > 0 {
		text := fmt.Sprintf("%d names could not be asked for", l.failed)
		for _, err := range l.failures {
			text += "\n" + err.Error()
		}
		return errors.New(text)
	}
	return nil
}

// found deals with one name.
func (l *listing) found(ctx context.Context, f registries.Found) error {
	if f.Err != nil {
		l.fail(f.Err)
		return nil
	}
	ref, err := api.ParseReference(f.Name)
	if err != nil {
		return err
	}
	came := arrival{ref: ref, digest: f.Digest}
	image, same, err := l.store.Rests(ctx, ref, f.Digest)
	switch {
	case err != nil || same:
		return err
	case image != "":
		return l.add(ctx, image, came)
	}
	image = f.Digest
	if f.Index {
		found, err := l.find(ctx, f)
		switch {
		case errors.Is(err, scanner.ErrNoImage):
			return nil
		case ctx.Err() != nil || errors.Is(err, pace.ErrBusy):
			return err
		case err != nil:
			l.fail(err)
			return nil
		}
		image, came.index = found.Digest, found.Index
		if known, _, err := l.store.Rests(ctx, ref, image); err != nil {
			return err
		} else if known != "" {
			return l.add(ctx, image, came)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting[image] == nil {
		l.scan(ctx, ref.String())
	}
	l.waiting[image] = append(l.waiting[image], came)
	return nil
}

func (l *listing) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if len(l.failures) < shownFailures {
		l.failures = append(l.failures, err)
	}
}

// find says which image an index leads to.
func (l *listing) find(ctx context.Context, f registries.Found) (api.Scan, error) {
	l.mu.Lock()
	found, ok := l.indexes[f.Digest]
	l.mu.Unlock()
	if ok {
		return found, nil
	}
	found, err := l.scanner.Find(ctx, f.At())
	if err == nil {
		l.mu.Lock()
		l.indexes[f.Digest] = found
		l.mu.Unlock()
	}
	return found, err
}

// add keeps names of an image that has an SBOM.
func (l *listing) add(ctx context.Context, image string, list ...arrival) error {
	err := l.store.Write(ctx, func(t *store.Tx) error {
		for _, a := range list {
			if err := t.AddName(ctx, a.ref, a.digest, image, a.index); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		l.mu.Lock()
		l.added += len(list)
		l.mu.Unlock()
	}
	return err
}
