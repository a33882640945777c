// Package follow keeps an engine in step with the bundles that a server serves, as its head
// names them: all of one moment, and never one that came before what was seen. It keeps the
// last good ones on disk: who follows decides while the server is away, and from its
// start on. docs/design/023-freshness.md says what it holds against.
//
// It is not OPA's own downloader: that one knows no head, forgets the ETag at every error,
// so that each outage of the server ends in a download of all images, and keeps connections
// and credentials for clouds that an admission path has no use for. The protocol
// is the same, https://www.openpolicyagent.org/docs/management-bundles.
package follow

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
	"github.com/assay-dev/assay/documents"
	"github.com/assay-dev/assay/outgoing"
)

// Config says what is followed.
type Config struct {
	// URL is that of the server, below which the bundles are.
	URL string
	// TokenFile holds a bearer token; it is read at each request.
	TokenFile string
	// CAFile has further certificates to trust.
	CAFile string
	// Keys are those of which one must have signed the head and each bundle; none takes any.
	Keys []*bundles.VerificationKey
	// Persist is the folder of the last good bundles, and of what was seen; "" keeps none.
	Persist string
	// View is the one whose head is followed, and all that it names; "" is that of the parts that
	// all have. Parts are names that it must have; nil is bundles.Parts.
	View  string
	Parts []string
	// MaxAge is how old the data may be before TooOld says so; 0 is any age.
	MaxAge time.Duration
	// Load takes the bundles that changed, verified, in the place of those before: all or, where one
	// is an error, nothing.
	Load func(ctx context.Context, changed iter.Seq2[*bundle.Bundle, error]) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Follower follows. Its methods may be used concurrently.
type Follower struct {
	Config
	client *http.Client
	base   *url.URL

	// What only the goroutine of Restore and Run uses.
	fetched map[string][]byte   // by digest, where nothing is persisted
	roots   map[string][]string // of the parts in force
	refused refusal

	mu     sync.Mutex
	loaded bundles.Head // its parts are in force; zero before
	etag   string       // of loaded
	taken  time.Time    // when it was loaded
	seen   seen
	fault  error
	since  time.Time // of the fault
}

// seen is the newest head that was ever taken.
type seen struct {
	Store    string `json:"store"`
	View     string `json:"view,omitempty"`
	Sequence int64  `json:"sequence"`
}

// refusal are parts that verified and that Load did not take: they are not loaded again.
type refusal struct {
	parts map[string]string
	err   error
}

// The server is asked to answer within wait even when nothing changes; a failed
// request is made again after some time between the least and the most.
const (
	wait       = 60 * time.Second
	patience   = wait + 30*time.Second
	leastDelay = 200 * time.Millisecond
	mostDelay  = 15 * time.Second
	// atOnce bundles are decoded at a time, which bounds memory.
	atOnce = 2
	// ahead is how far the server's clock may be ahead of this one.
	ahead = 5 * time.Minute
	// What another replica would answer is nothing to report at first.
	turns     = 30
	turnDelay = 50 * time.Millisecond
)

// What may only mean that another of several replicas answered, or that a change came in between.
var (
	errMoved = errors.New("the part is not the one that the head names")
	errOlder = errors.New("old bundles are served again, or the server's clock and its database went back")
)

// New checks a configuration; it asks for nothing.
func New(c Config) (*Follower, error) {
	base, err := url.Parse(strings.TrimSuffix(c.URL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.User != nil {
		return nil, errors.New("the URL of the server must be such as https://assay.example.com, without user and password")
	}
	if c.TokenFile != "" && base.Scheme == "http" && !outgoing.IsLoopback(base.Hostname()) {
		return nil, fmt.Errorf("the token would cross the network in the clear: use https for %s", base.Host)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Parts == nil {
		c.Parts = bundles.Parts()
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = patience
	if c.CAFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		text, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("reading certificates: %s has none", c.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	if c.Persist != "" {
		if err := os.MkdirAll(c.Persist, 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of bundles: %w", err)
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: outgoing.NoRedirects} // the token would go along
	return &Follower{Config: c, base: base, client: client, fetched: map[string][]byte{}, roots: map[string][]string{}}, nil
}

// Run follows until the context ends. It is called once, after Restore.
func (f *Follower) Run(ctx context.Context) error {
	delay, moved := leastDelay, 0
	for ctx.Err() == nil {
		err := f.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		pause := delay/2 + rand.N(delay)
		switch {
		case err == nil:
			f.note(nil)
			delay, moved = leastDelay, 0
			continue
		case (errors.Is(err, errMoved) || errors.Is(err, errOlder)) && moved < turns:
			moved++
			pause = turnDelay + rand.N(turnDelay)
		default:
			f.note(err)
			delay = min(2*delay, mostDelay)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// note keeps and logs what goes wrong, once for each kind of trouble.
func (f *Follower) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil && f.fault != nil:
		f.Log.Info("following the server again", "sequence", f.loaded.Sequence, "time", f.loaded.Time)
		f.since = time.Time{}
	case err != nil && (f.fault == nil || f.fault.Error() != err.Error()):
		f.Log.Error("following the server; the last good bundles stay", "error", err)
	}
	if err != nil && f.fault == nil {
		f.since = f.Now()
	}
	f.fault = err
}

// once asks for the head, and takes what it names.
func (f *Follower) once(ctx context.Context) error {
	text, err := f.fetchHead(ctx)
	if err != nil || text == nil {
		return err
	}
	head, err := bundles.OpenHead(text, f.Now(), f.Keys...)
	if err == nil {
		err = f.follows(head)
	}
	if err != nil {
		return fmt.Errorf("the head is refused: %w", err)
	}
	if head.Sequence == f.current().Sequence { // it is sent again to who has it
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return nil
	}
	// What was seen is on disk before anything is made of it: who is killed now takes
	// nothing older when it is back.
	if err := f.see(head); err != nil {
		return err
	}
	names := f.changed(head)
	if len(names) > 0 {
		if err := f.tidy(head, f.current()); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := f.fetch(ctx, name, head.Parts[name]); err != nil {
			return err
		}
	}
	if err := f.load(ctx, head, text); err != nil {
		return err
	}
	return f.keep(head, text)
}

// follows says why a head that verified is not one to go on with.
func (f *Follower) follows(head bundles.Head) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.Now()
	moment := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	if err := f.whole(head); err != nil {
		return err
	}
	switch {
	case head.Time.Sub(now) > ahead:
		return fmt.Errorf("it is of %s, and here it is %s: one of the two clocks is wrong", moment(head.Time), moment(now))
	case f.seen.Store != "" && head.Store != f.seen.Store:
		return fmt.Errorf("it is of the data %q, and %q was followed so far. Where the server's database was made anew, or another server is to be followed, remove the folder of persisted bundles and start again", head.Store, f.seen.Store)
	case head.Sequence < f.seen.Sequence:
		return fmt.Errorf("it is number %d, of %s, and number %d was seen already: %w", head.Sequence, moment(head.Time), f.seen.Sequence, errOlder)
	case head.Sequence == f.loaded.Sequence && !maps.Equal(head.Parts, f.loaded.Parts):
		return fmt.Errorf("it is number %d with other parts than the number %d that is in force", head.Sequence, head.Sequence)
	}
	return nil
}

// whole says that a head is not that of the view, or lacks parts.
func (f *Follower) whole(head bundles.Head) error {
	if head.View != f.View {
		return fmt.Errorf("it is that of %q, not of %q", head.View, f.View)
	}
	var missing []string
	for _, name := range f.Parts {
		if head.Parts[name] == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("it does not name %s", strings.Join(missing, ", "))
	}
	return nil
}

// changed are the parts that are others than what is in force.
func (f *Follower) changed(head bundles.Head) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(head.Parts)) {
		if head.Parts[name] != f.loaded.Parts[name] {
			names = append(names, name)
		}
	}
	return names
}

// gone are empty bundles in the place of parts that the head no longer names.
func (f *Follower) gone(head bundles.Head) (empty []*bundle.Bundle) {
	for name, roots := range f.roots {
		if head.Parts[name] == "" {
			empty = append(empty, &bundle.Bundle{Manifest: bundle.Manifest{Roots: &roots}, Data: map[string]any{}})
		}
	}
	return empty
}

func (f *Follower) current() bundles.Head {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.loaded
}

// load puts the parts that changed in force, all at once.
func (f *Follower) load(ctx context.Context, head bundles.Head, text []byte) error {
	names, gone := f.changed(head), f.gone(head)
	if len(names)+len(gone) > 0 {
		if f.refused.err != nil && maps.Equal(f.refused.parts, head.Parts) {
			return f.refused.err
		}
		var unread error // which may be other the next time
		roots := map[string][]string{}
		changed := func(yield func(*bundle.Bundle, error) bool) {
			for _, b := range gone {
				if !yield(b, nil) {
					return
				}
			}
			f.decoded(ctx, names, head, &unread)(func(b *bundle.Bundle, err error) bool {
				if err == nil {
					roots[partOf(b)] = *b.Manifest.Roots
				}
				return yield(b, err)
			})
		}
		if err := f.Load(ctx, changed); err != nil {
			if unread == nil && ctx.Err() == nil {
				f.refused = refusal{head.Parts, err}
			}
			return err
		}
		f.refused = refusal{}
		maps.DeleteFunc(f.roots, func(name string, _ []string) bool { return head.Parts[name] == "" })
		maps.Copy(f.roots, roots)
		f.Log.Debug("bundles were loaded", "sequence", head.Sequence, "parts", names)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded, f.etag, f.taken = head, serve.ETag(text), f.Now()
	return nil
}

// decoded are the bundles of parts that were fetched, verified; some are decoded ahead. What one
// of them cannot be read for is kept in unread.
func (f *Follower) decoded(ctx context.Context, names []string, head bundles.Head, unread *error) iter.Seq2[*bundle.Bundle, error] {
	type result struct {
		b   *bundle.Bundle
		err error
	}
	return func(yield func(*bundle.Bundle, error) bool) {
		var group sync.WaitGroup
		defer group.Wait()
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		slots := make(chan struct{}, atOnce)
		results := make([]chan result, len(names))
		for i := range results {
			results[i] = make(chan result, 1)
		}
		group.Go(func() {
			for i, name := range names {
				select {
				case slots <- struct{}{}:
				case <-ctx.Done():
					results[i] <- result{nil, context.Cause(ctx)}
					return
				}
				group.Go(func() {
					b, err := f.part(name, head.Parts[name])
					if err != nil {
						err = fmt.Errorf("%s: %w", name, err)
					}
					results[i] <- result{b, err}
				})
			}
		})
		for _, next := range results {
			r := <-next
			*unread = r.err
			if !yield(r.b, r.err) || r.err != nil {
				return
			}
			<-slots
		}
	}
}

// part is a bundle that was fetched, if it is the one of its name and digest, and verifies.
func (f *Follower) part(name, digest string) (*bundle.Bundle, error) {
	text, err := f.read(name, digest)
	if err != nil {
		return nil, err
	}
	var b *bundle.Bundle
	if len(f.Keys) == 0 {
		b, err = bundles.Read(bytes.NewReader(text))
	} else {
		b, err = bundles.Verify(text, f.Now(), f.Keys...)
	}
	if err != nil {
		return nil, err
	}
	// A signature says who made it, and not where it belongs.
	if has := partOf(b); has != name {
		return nil, fmt.Errorf("the bundle is that of the part %q, not of %q", has, name)
	}
	return b, nil
}

// partOf is the name of the part that a bundle is by its roots; "" is none.
func partOf(b *bundle.Bundle) string {
	if b.Manifest.Roots != nil {
		for _, r := range *b.Manifest.Roots {
			if part, ok := strings.CutPrefix(strings.Trim(r, "/"), "assay/revisions/"); ok {
				if name, err := url.PathUnescape(part); err == nil && documents.RevisionKey(name) == part {
					return name
				}
			}
		}
	}
	return ""
}

// Ready says why there is no data yet.
func (f *Follower) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.loaded.Sequence > 0 {
		return nil
	}
	return errors.Join(errors.New("the bundles of the server are not loaded yet"), f.fault)
}

// Fault is why the server cannot be followed now, and since when; nil while it can.
func (f *Follower) Fault() (since time.Time, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since, f.fault
}

// Age is how old the data is: the time since a moment of which it has everything. The error
// says why that is not known.
func (f *Follower) Age() (time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.Now()
	switch {
	case f.loaded.Sequence == 0:
		return 0, errors.New("there is no data yet")
	case f.loaded.Time.Sub(now) > ahead:
		return 0, fmt.Errorf("the age of the data is not known: it is of %s, and here it is %s", f.loaded.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	// Where this clock is set back, the time since it was taken still counts.
	return max(0, now.Sub(f.loaded.Time), now.Sub(f.taken)), nil
}

// TooOld says that the data is older than MaxAge allows, or may be; nil while it is not.
func (f *Follower) TooOld() error {
	if f.MaxAge <= 0 {
		return nil
	}
	age, err := f.Age()
	if err != nil {
		return err
	}
	if age <= f.MaxAge {
		return nil
	}
	return fmt.Errorf("the policies and scan results are %s old, and at most %s is allowed; the log says why the server cannot be followed", age.Round(time.Second), f.MaxAge)
}
