package registries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/assay-dev/assay/api"
	"github.com/assay-dev/assay/scanner"
	"github.com/assay-dev/assay/server/client"
)

// Config is one run over a registry.
type Config struct {
	Source
	State   *State
	Scanner *scanner.Scanner
	// Made is what scans are made with now. Its Server is set where Server is.
	Made Made
	// Server is sent scans and SBOMs. Absent: nothing is sent.
	Server *client.Client
	// Parallel is how many images are scanned side by side. 0: 1.
	Parallel int
	// Observe, where given, is called after each name, by several goroutines.
	Observe func(Counts)
	Now     func() time.Time // nil: time.Now
}

// Counts tells how far a run is, in names but for Scanned.
type Counts struct {
	Repositories int
	// Names were listed so far; of these Done are dealt with.
	Names, Done int
	// Unchanged lead to where they led to before, and needed no scan.
	Unchanged int
	// Failed could not be asked for or scanned; NoImages lead to something else.
	Failed, NoImages int
	// Signatures and attestations were left out.
	Signatures int
	// Scanned is the number of images that were scanned.
	Scanned int
}

// Failure is a name that could not be asked for or scanned, or a repository whose
// tags could not be listed.
type Failure struct {
	Name string
	Err  error
}

// Summary is what a run came to.
type Summary struct {
	Counts
	// Failures are sorted by name. The next run tries them again.
	Failures []Failure
	// Names are those whose scans [State.Scan] has, sorted.
	Names []string
	// Nothing says why there are neither names nor failures; nil where there are.
	Nothing error
}

// Run lists a registry, scans what is new or changed, sends it where that is wanted,
// and notes it in the state. An error says why it ended early: what was done until
// then is in the state, and the next run goes on from there.
func Run(ctx context.Context, c Config) (Summary, error) {
	t, err := c.Source.check()
	if err != nil {
		return Summary{}, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &run{Config: c, target: t, inHand: map[string]*task{}, broken: map[string]error{}, fresh: map[string]bool{}}
	r.scans.SetLimit(max(c.Parallel, 1))
	ctx, r.cancel = context.WithCancelCause(ctx)
	defer r.cancel(nil)
	// A scan outlives the listing of the repository that it was found in.
	err = t.walk(ctx, &r.listing, func(_ context.Context, f Found) error { return r.found(ctx, f) })
	if of := r.scans.Wait(); of != nil {
		err = of
	}
	if err == nil {
		err = r.flush(ctx)
	}
	if err == nil {
		err = r.sendFailures(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // what it is wrapped in came of it
	}
	s := Summary{Counts: r.now(), Failures: r.failures}
	slices.SortFunc(s.Failures, func(a, b Failure) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	if err != nil {
		return s, err
	}
	if !r.partial {
		if err := c.State.forget(t.covers); err != nil {
			return s, err
		}
	}
	failed := map[string]bool{}
	for _, f := range s.Failures {
		failed[f.Name] = true
	}
	s.Names = slices.DeleteFunc(c.State.seen(), func(name string) bool {
		_, nothing := c.State.known(c.State.image(c.State.leads(name)), c.Made)
		return nothing || failed[name]
	})
	if len(s.Names)+len(s.Failures) == 0 {
		if s.Nothing = r.listing.Nothing(t.Registry); s.Nothing == nil {
			s.Nothing = fmt.Errorf("none of the %d names of %s leads to an image", s.Counts.Names, t.Registry)
		}
	}
	return s, nil
}

type run struct {
	Config
	target  target
	listing Listing
	finds   singleflight.Group
	scans   errgroup.Group
	cancel  context.CancelCauseFunc

	mu       sync.Mutex
	counts   Counts
	failures []Failure
	partial  bool             // some names were not listed
	inHand   map[string]*task // by digest of the image
	broken   map[string]error // images that failed in this run
	fresh    map[string]bool  // images that were scanned in this run
	links    []link
}

// task is an image that is being scanned.
type task struct {
	image string
	first Found
	names []link
}

// link is a name that is to be noted.
type link struct{ name, digest string }

// now is how far the run is.
func (r *run) now() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts
	c.Repositories, c.Names, c.Signatures = int(r.listing.Repositories.Load()), int(r.listing.Names.Load()), int(r.listing.Signatures.Load())
	return c
}

func (r *run) observe(change func(*Counts)) {
	r.mu.Lock()
	change(&r.counts)
	r.mu.Unlock()
	if r.Observe != nil {
		r.Observe(r.now())
	}
}

// end ends the whole run.
func (r *run) end(err error) error {
	r.cancel(err)
	return err
}

// fail notes what failed with names.
func (r *run) fail(err error, names ...string) {
	r.observe(func(c *Counts) {
		for _, n := range names {
			r.failures = append(r.failures, Failure{Name: n, Err: err})
			c.Failed++
			c.Done++
		}
	})
	for _, n := range names {
		r.State.leads(n) // it is there, whatever is wrong with it
	}
}

// found deals with one name.
func (r *run) found(ctx context.Context, f Found) error {
	if f.Err != nil {
		if f.Repository {
			r.mu.Lock()
			r.partial = true
			r.mu.Unlock()
		}
		r.fail(f.Err, f.Name)
		return nil
	}
	before := r.State.leads(f.Name)
	image := f.Digest
	if f.Index {
		var err error
		if image, err = r.find(ctx, f); err != nil {
			if fatal(ctx, err) || errors.Is(err, ErrState) {
				return r.end(err)
			}
			if errors.Is(err, scanner.ErrNoImage) {
				return r.nothing(f.Digest, link{f.Name, f.Digest})
			}
			r.fail(err, f.Name)
			return nil
		}
	}
	known, nothing := r.known(image, f, before)
	switch {
	case known && before == f.Digest && nothing:
		r.observe(func(c *Counts) { c.NoImages++; c.Unchanged++; c.Done++ })
		return nil
	case known && before == f.Digest:
		r.observe(func(c *Counts) { c.Unchanged++; c.Done++ })
		return nil
	}
	r.mu.Lock()
	if err := r.broken[image]; err != nil {
		r.mu.Unlock()
		r.fail(err, f.Name)
		return nil
	}
	if t := r.inHand[image]; t != nil {
		t.names = append(t.names, link{f.Name, f.Digest})
		r.mu.Unlock()
		return nil
	}
	// Between known and here it may have been scanned.
	if known, nothing = r.knownLocked(image, f, before); known {
		r.mu.Unlock()
		if nothing {
			return r.nothing(image, link{f.Name, f.Digest})
		}
		return r.link(ctx, link{f.Name, f.Digest})
	}
	t := &task{image: image, first: f, names: []link{{f.Name, f.Digest}}}
	r.inHand[image] = t
	r.mu.Unlock()
	// It waits here until fewer are being scanned, and with it the listing.
	r.scans.Go(func() error { return r.scan(ctx, t) })
	return nil
}

// known says whether a name needs no scan of its image. A server takes what a tag leads
// to from the newest scan under the tag: where the tag came back to an image, an old
// scan would not tell it so.
func (r *run) known(image string, f Found, before string) (known, nothing bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.knownLocked(image, f, before)
}

func (r *run) knownLocked(image string, f Found, before string) (known, nothing bool) {
	known, nothing = r.State.known(image, r.Made)
	if known && !nothing && r.Server != nil && before != "" && before != f.Digest && !r.fresh[image] {
		known = false
	}
	return known, nothing
}

// find gives the digest of the image that an index leads to.
func (r *run) find(ctx context.Context, f Found) (string, error) {
	image, err, _ := r.finds.Do(f.Digest, func() (any, error) {
		image, ok, err := r.State.index(f.Digest, r.Made.By)
		if ok || err != nil {
			return image, err
		}
		scan, err := r.Scanner.Find(ctx, f.At())
		if err != nil {
			return "", err
		}
		if scan.Index == nil {
			return scan.Digest, nil
		}
		return scan.Digest, r.State.putIndex(*scan.Index, scan.Digest, r.Made.By)
	})
	return image.(string), err
}

// nothing notes names of what is no image.
func (r *run) nothing(image string, names ...link) error {
	if known, nothing := r.State.known(image, r.Made); !known || !nothing {
		if err := r.State.putScan(image, nil, r.Made); err != nil {
			return r.end(err)
		}
	}
	if err := r.put(names); err != nil {
		return err
	}
	r.observe(func(c *Counts) { c.NoImages += len(names); c.Done += len(names) })
	return nil
}

func (r *run) put(names []link) error {
	list, digests := make([]string, len(names)), make([]string, len(names))
	for i, l := range names {
		list[i], digests[i] = l.name, l.digest
	}
	if err := r.State.putNames(list, digests); err != nil {
		return r.end(err)
	}
	return nil
}

// scan scans an image, and notes it for all names that came together meanwhile.
func (r *run) scan(ctx context.Context, t *task) error {
	err := ctx.Err()
	var o scanner.Outcome
	if err == nil {
		o = r.Scanner.Scan(ctx, "registry:"+t.first.At(), nil)
		err = o.Err
	}
	if err == nil && o.Scan.Digest != t.image {
		err = fmt.Errorf("%s: the registry gave %s, not %s", t.first.Name, o.Scan.Digest, t.image)
	}
	if err != nil && fatal(ctx, err) {
		return r.end(err)
	}
	if err == nil && r.Server != nil {
		if err = r.sendSBOM(ctx, t.first.Name, o); err != nil && !errors.Is(err, client.ErrRefused) {
			return r.end(err)
		}
	}
	if err == nil {
		// The names may lead to it through different indexes, which the state adds.
		o.Scan.Image, o.Scan.Index = "", nil
		if err := r.State.putScan(t.image, &o.Scan, r.Made); err != nil {
			return r.end(err)
		}
	}
	r.mu.Lock()
	delete(r.inHand, t.image)
	r.fresh[t.image] = err == nil
	if err != nil && !errors.Is(err, scanner.ErrNoImage) {
		r.broken[t.image] = err
	}
	r.mu.Unlock()
	switch {
	case errors.Is(err, scanner.ErrNoImage):
		return r.nothing(t.image, t.names...)
	case err != nil:
		names := make([]string, len(t.names))
		for i, l := range t.names {
			names[i] = l.name
		}
		r.fail(err, names...)
		return nil
	}
	r.observe(func(c *Counts) { c.Scanned++ })
	return r.link(ctx, t.names...)
}

// sendSBOM sends what the server matches from then on.
func (r *run) sendSBOM(ctx context.Context, name string, o scanner.Outcome) error {
	var document bytes.Buffer
	if err := scanner.EncodeSBOM(&document, o.SBOM, scanner.SyftJSON); err != nil {
		return err
	}
	return r.Server.SBOM(ctx, name, o.Scan.Digest, document.Bytes())
}

// Bounds on what is sent to a server at once.
const (
	maxLinks       = 100
	maxLinkedBytes = 8 << 20
)

// link notes names of an image that has a scan, and sends that under each.
func (r *run) link(ctx context.Context, names ...link) error {
	if r.Server == nil {
		if err := r.put(names); err != nil {
			return err
		}
		r.observe(func(c *Counts) { c.Done += len(names) })
		return nil
	}
	r.mu.Lock()
	r.links = append(r.links, names...)
	full := len(r.links) >= maxLinks
	r.mu.Unlock()
	if full {
		return r.flush(ctx)
	}
	return nil
}

// flush sends the scans of the names that wait, and then notes these.
func (r *run) flush(ctx context.Context) error {
	r.mu.Lock()
	links := r.links
	r.links = nil
	r.mu.Unlock()
	for len(links) > 0 {
		report := api.ScanReport{Schema: api.SchemaScan}
		n, size := 0, 0
		for n < len(links) && n < maxLinks && size < maxLinkedBytes {
			scan, err := r.State.scanOf(links[n].name, links[n].digest)
			if err != nil {
				return r.end(err)
			}
			size += 600 * len(scan.Vulnerabilities)
			report.Images = append(report.Images, *scan)
			n++
		}
		_, err := r.Server.Scans(ctx, report)
		switch {
		case err == nil:
			if err := r.put(links[:n]); err != nil {
				return err
			}
			r.observe(func(c *Counts) { c.Done += n })
		case errors.Is(err, client.ErrRefused):
			names := make([]string, n)
			for i, l := range links[:n] {
				names[i] = l.name
			}
			r.fail(err, names...)
		default:
			return r.end(err)
		}
		links = links[n:]
	}
	return nil
}

// sendFailures tells the server what could not be scanned.
func (r *run) sendFailures(ctx context.Context) error {
	if r.Server == nil {
		return nil
	}
	var list []api.Scan
	for _, f := range r.failures {
		if _, err := api.ParseReference(f.Name); err == nil && !errors.Is(f.Err, client.ErrRefused) {
			list = append(list, f.Scan(r.Now()))
		}
	}
	for part := range slices.Chunk(list, 1000) {
		if _, err := r.Server.Scans(ctx, api.ScanReport{Schema: api.SchemaScan, Images: part}); err != nil && !errors.Is(err, client.ErrRefused) {
			return r.end(err)
		}
	}
	return nil
}

// Scan is the failure as a report has it.
func (f Failure) Scan(now time.Time) api.Scan {
	return api.Scan{Image: f.Name, Source: string(scanner.Registry), Result: api.Unknown, ScannedAt: now.UTC(), Error: f.Err.Error(), Vulnerabilities: []api.Vulnerability{}}
}
