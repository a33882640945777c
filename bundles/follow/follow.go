// Package follow keeps an engine in step with the bundles that a server serves,
// one for each part, and keeps the last good ones on disk: who follows decides
// while the server is away, and from its start on.
//
// It is not OPA's own downloader: that one forgets the ETag at every error, so that
// each outage of the server ends in a download of all images, and keeps connections
// and credentials for clouds that an admission path has no use for. The protocol
// is the same, https://www.openpolicyagent.org/docs/management-bundles.
package follow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/bundle"
	"golang.org/x/sync/errgroup"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/serve"
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
	// Keys are those of which one must have signed each bundle; none takes any bundle.
	Keys []*bundles.VerificationKey
	// Persist is the folder of the last good bundles; "" keeps none.
	Persist string
	// Parts are the names of the bundles; nil is bundles.Parts.
	Parts []string
	// Load takes a bundle that verified. It is called concurrently, for different parts.
	Load func(ctx context.Context, b *bundle.Bundle) error
	Now  func() time.Time
	Log  *slog.Logger
}

// Follower follows. Its methods may be used concurrently.
type Follower struct {
	Config
	client *http.Client
	base   *url.URL

	decoding chan struct{} // as many bundles are decoded at a time as it holds, which bounds memory
	mu       sync.Mutex
	part     map[string]*part
}

type part struct {
	etag   string
	loaded bool
	fault  error
	since  time.Time // of the fault
}

// The server is asked to answer within wait even when nothing changes; a failed
// request is made again after some time between the least and the most.
const (
	wait       = 60 * time.Second
	patience   = wait + 30*time.Second
	leastDelay = 200 * time.Millisecond
	mostDelay  = 15 * time.Second
	atOnce     = 2
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
	transport.MaxIdleConnsPerHost = len(c.Parts)
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
	f := &Follower{Config: c, base: base, part: map[string]*part{}, decoding: make(chan struct{}, atOnce), client: &http.Client{
		Transport: transport, CheckRedirect: outgoing.NoRedirects, // the token would go along
	}}
	for _, name := range c.Parts {
		f.part[name] = &part{}
	}
	if c.Persist != "" {
		if err := os.MkdirAll(c.Persist, 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of bundles: %w", err)
		}
	}
	return f, nil
}

// Restore loads the bundles on disk. One that does not verify is left out, and logged.
func (f *Follower) Restore(ctx context.Context) {
	if f.Persist == "" {
		return
	}
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, name := range f.Parts {
		group.Go(func() error {
			text, err := readBundle(f.file(name))
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil {
				err = f.take(ctx, name, text)
			}
			if err != nil {
				f.Log.Warn("a bundle on disk is not loaded", "bundle", name, "error", err)
			}
			return nil
		})
	}
	_ = group.Wait() // what is not loaded was logged
}

func (f *Follower) file(name string) string { return filepath.Join(f.Persist, name+".tar.gz") }

func readBundle(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, bundles.MaxBundle+1))
	if err == nil && len(text) > bundles.MaxBundle {
		err = fmt.Errorf("the bundle has more than %d bytes", bundles.MaxBundle)
	}
	return text, err
}

// Run follows until the context ends.
func (f *Follower) Run(ctx context.Context) error {
	var group errgroup.Group
	for _, name := range f.Parts {
		group.Go(func() error {
			f.follow(ctx, name)
			return nil
		})
	}
	return group.Wait()
}

func (f *Follower) follow(ctx context.Context, name string) {
	delay := leastDelay
	refused := "" // the ETag of what did not verify or load: it is asked for again only when it changes
	for ctx.Err() == nil {
		etag, err := f.once(ctx, name, refused)
		if ctx.Err() != nil {
			return
		}
		f.note(name, err)
		switch {
		case err == nil:
			delay, refused = leastDelay, ""
			continue
		case etag != "":
			refused = etag
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay/2 + rand.N(delay)):
		}
		delay = min(2*delay, mostDelay)
	}
}

// note keeps and logs what goes wrong, once for each kind of trouble.
func (f *Follower) note(name string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.part[name]
	switch {
	case err == nil && p.fault != nil:
		f.Log.Info("following again", "bundle", name)
		p.since = time.Time{}
	case err != nil && (p.fault == nil || p.fault.Error() != err.Error()):
		f.Log.Error("following a bundle; the last good one stays", "bundle", name, "error", err)
	}
	if err != nil && p.fault == nil {
		p.since = f.Now()
	}
	p.fault = err
}

// once makes one request. The ETag is that of a bundle that was refused.
func (f *Follower) once(ctx context.Context, name, refused string) (etag string, err error) {
	f.mu.Lock()
	have, failing := f.part[name].etag, f.part[name].fault != nil && refused == ""
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience+10*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.base.JoinPath(serve.Prefix, name).String(), nil)
	if err != nil {
		return "", err
	}
	for _, known := range []string{have, refused} {
		if known != "" {
			request.Header.Add("If-None-Match", known)
		}
	}
	if !failing { // else an answer at once says that all is well again
		request.Header.Set("Prefer", fmt.Sprintf("modes=snapshot;wait=%d", int(wait.Seconds())))
	}
	if f.TokenFile != "" {
		token, err := os.ReadFile(f.TokenFile)
		if err != nil {
			return "", fmt.Errorf("reading the token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	begun := time.Now()
	response, err := f.client.Do(request)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return "", fmt.Errorf("asking %s: %w", f.base, err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNotModified:
		// Who does not hold requests is polled.
		if since := time.Since(begun); since < time.Second && !failing {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		if refused != "" && response.Header.Get("ETag") == refused {
			return refused, f.fault(name)
		}
		return "", nil
	case http.StatusOK:
	default:
		return "", fmt.Errorf("asking %s: the server answers %s", f.base, response.Status)
	}
	text, err := readAll(response.Body)
	if err != nil {
		return "", fmt.Errorf("asking %s: %w", f.base, err)
	}
	if err := f.take(ctx, name, text); err != nil {
		return response.Header.Get("ETag"), err
	}
	if f.Persist != "" {
		if err := replaceFile(f.file(name), text); err != nil {
			f.Log.Error("keeping a bundle on disk", "bundle", name, "error", err)
		}
	}
	return "", nil
}

func (f *Follower) fault(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.part[name].fault
}

// take verifies and loads a bundle.
func (f *Follower) take(ctx context.Context, name string, text []byte) error {
	f.decoding <- struct{}{}
	defer func() { <-f.decoding }()
	b, err := f.verified(text)
	if err != nil {
		return err
	}
	if err := roots(name, b); err != nil {
		return err
	}
	if err := f.Load(ctx, b); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.part[name]
	p.etag, p.loaded = serve.ETag(text), true
	f.Log.Debug("a bundle was loaded", "bundle", name, "revision", b.Manifest.Revision)
	return nil
}

func (f *Follower) verified(text []byte) (*bundle.Bundle, error) {
	if len(f.Keys) == 0 {
		return bundles.Read(strings.NewReader(string(text)))
	}
	return bundles.Verify(text, f.Now(), f.Keys...)
}

// roots refuses a bundle that is put in the place of another part: a signature says
// who made it, and not where it belongs.
func roots(name string, b *bundle.Bundle) error {
	has := ""
	if b.Manifest.Roots != nil {
		for _, r := range *b.Manifest.Roots {
			if part, ok := strings.CutPrefix(strings.Trim(r, "/"), "assay/revisions/"); ok {
				has = part
			}
		}
	}
	if has != name {
		return fmt.Errorf("the bundle is that of the part %q, not of %q", has, name)
	}
	return nil
}

// replaceFile puts a file in the place of another, whole or not at all.
func replaceFile(name string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(name), ".bundle-*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}

// Ready names the parts that were never loaded.
func (f *Follower) Ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var missing []string
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(f.part)) {
		if p := f.part[name]; !p.loaded {
			missing = append(missing, name)
			if p.fault != nil && len(faults) == 0 {
				faults = append(faults, p.fault)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.Join(append([]error{fmt.Errorf("bundles are missing: %s", strings.Join(missing, ", "))}, faults...)...)
}

// Stale are the parts that cannot be followed now, by the time that it began.
func (f *Follower) Stale() map[string]time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	stale := map[string]time.Time{}
	for name, p := range f.part {
		if p.fault != nil {
			stale[name] = p.since
		}
	}
	return stale
}
