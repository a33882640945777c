package serve

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-dev/assay/bundles"
	"github.com/assay-dev/assay/bundles/source"
	"github.com/assay-dev/assay/intake"
	"github.com/assay-dev/assay/policies"
	"github.com/open-policy-agent/opa/v1/bundle"
	"golang.org/x/sync/errgroup"
)

// grace is how long a shutdown waits for responses that are being sent.
const grace = 10 * time.Second

// Config says what [Run] serves.
type Config struct {
	// Listener is where to serve; Run closes it.
	Listener net.Listener
	// CertFile and KeyFile switch TLS on; a renewed pair is taken at once.
	CertFile, KeyFile string
	// TokenFile holds bearer tokens, one a line, of which each request needs
	// one; it is read at each request. "" serves everyone.
	TokenFile string

	// Source gives the policies, and Build makes bundles by name of them. Inputs
	// are files that Build reads; when one changes it builds again. Without a
	// Source only Files are served.
	Source source.Source
	Build  func(*policies.Set) (map[string]*bundle.Bundle, error)
	Inputs []string
	// Key signs what Build makes, and the head; nil leaves them unsigned.
	Key *bundles.SigningKey
	// Name is that of what is served, in the head: who followed another takes none of it.
	// "" is DefaultName.
	Name string
	// ValidFor is for how long data.assay.fresh admits by a head; 0 is DefaultValidFor.
	ValidFor time.Duration
	// Files are bundles on disk by name, served as they are. When one changes,
	// the new one is served.
	Files map[string]string

	// Handler is what serves; nil is one with the usual limits.
	Handler *Handler
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger
}

// DefaultName is that of what is served without another.
const DefaultName = "bundles"

// Run serves bundles until the context ends, and then shuts down: who waits is
// answered, who is being answered gets the rest. A state that cannot be built
// is logged, and the last good one stays.
func Run(ctx context.Context, c Config) error {
	if c.Handler == nil {
		c.Handler = New(Limits{})
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Name, c.ValidFor = cmp.Or(c.Name, DefaultName), cmp.Or(c.ValidFor, DefaultValidFor)
	s := &server{Config: c}
	mux := http.NewServeMux()
	mux.Handle(Prefix, s.authorize(c.Handler))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, "there is nothing here; bundles are at "+Prefix+"NAME")
	})
	conns := intake.Listen(c.Listener, intake.Limits{})
	httpServer := &http.Server{
		Handler: conns.Handler(mux), ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	httpServer.RegisterOnShutdown(c.Handler.Close)
	serve := httpServer.Serve
	if c.CertFile != "" {
		pair := &KeyPair{CertFile: c.CertFile, KeyFile: c.KeyFile}
		if _, err := pair.Get(nil); err != nil {
			return errors.Join(err, c.Listener.Close())
		}
		httpServer.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.Get}
		serve = func(l net.Listener) error { return httpServer.ServeTLS(l, "", "") }
	}
	if c.TokenFile != "" {
		if _, err := readTokens(c.TokenFile); err != nil {
			return errors.Join(err, c.Listener.Close())
		}
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := serve(conns); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving bundles: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := httpServer.Shutdown(end); err != nil {
			_ = httpServer.Close()
		}
		return nil
	})
	if c.Source != nil {
		g.Go(func() error { return c.Source.Run(ctx, s.update) })
	}
	if len(c.Inputs) > 0 {
		g.Go(func() error { return source.Watch(ctx, c.Log, c.Inputs, s.build) })
	}
	if len(c.Files) > 0 {
		g.Go(func() error {
			return source.Watch(ctx, c.Log, slices.Sorted(maps.Values(c.Files)), s.readFiles)
		})
	}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(HeadEvery):
			}
			s.mu.Lock()
			s.issue()
			s.mu.Unlock()
		}
	})
	return g.Wait()
}

type server struct {
	Config

	mu    sync.Mutex
	set   *policies.Set   // the last good one, nil before it
	built []string        // the names of what was built of it
	read  map[string]bool // of Files, those that could be read
	last  int64           // sequence of the last head
}

// issue serves a head of all that is served, once that is all there is to serve. There is no store to
// count its sequence: that is the time, and so grows over a restart, and in each of several replicas.
func (s *server) issue() {
	if !s.complete() {
		return
	}
	now := s.Now()
	s.last = max(s.last+1, now.UnixMilli())
	head := bundles.Head{Store: s.Name, Sequence: s.last, Time: now, Until: now.Add(s.ValidFor)}
	if err := s.Handler.Issue(head, s.Key, slices.Concat(s.built, slices.Collect(maps.Keys(s.Files)))); err != nil {
		s.Log.Error("the head cannot be made; the last one stays, and gets older", "error", err)
	}
}

// complete says whether all that is to be served has been built or read.
func (s *server) complete() bool {
	return (s.Source == nil || s.built != nil) && len(s.read) == len(s.Files)
}

// update takes a state of the policies.
func (s *server) update(u source.Update) {
	if u.Err != nil {
		s.Log.Error("policies are refused; the last good ones stay", "revision", u.Revision, "error", u.Err)
		return
	}
	s.mu.Lock()
	s.set = u.Set
	s.mu.Unlock()
	s.Log.Info("policies were read", "revision", u.Revision, "policies", len(u.Set.Policies), "alerts", len(u.Set.Alerts))
	s.build()
}

// build serves the bundles of the present policies and inputs.
func (s *server) build() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == nil {
		return
	}
	made, err := s.pack()
	if err != nil {
		s.Log.Error("bundles cannot be built; the last good ones stay", "error", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(made)) {
		s.serve(name, made[name])
	}
	for _, name := range s.built {
		if _, ok := made[name]; !ok {
			s.Handler.Remove(name)
			s.Log.Info("bundle removed", "bundle", name)
		}
	}
	s.built = slices.Collect(maps.Keys(made))
	s.issue()
}

// pack makes the bytes of the bundles that Build makes.
func (s *server) pack() (map[string][]byte, error) {
	built, err := s.Build(s.set)
	if err != nil {
		return nil, err
	}
	made := map[string][]byte{}
	for name, b := range built {
		if file := s.Files[name]; file != "" {
			return nil, fmt.Errorf("%s is both built and the file %s", name, file)
		}
		if made[name], err = bundles.Pack(b, s.Key); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return made, nil
}

func (s *server) serve(name string, text []byte) {
	if s.Handler.Set(name, text) {
		s.Log.Info("bundle changed", "bundle", name, "bytes", len(text), "sha256", fmt.Sprintf("%x", sha256.Sum256(text)))
	}
}

// readFiles serves the bundles on disk. One that is half written or gone does
// not replace what is served.
func (s *server) readFiles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read == nil {
		s.read = map[string]bool{}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		text, err := readBundle(s.Files[name])
		if err != nil {
			s.Log.Error("bundle is refused; the last good one stays", "bundle", name, "error", err)
			continue
		}
		s.read[name] = true
		s.serve(name, text)
	}
	s.issue()
}

func readBundle(name string) ([]byte, error) {
	text, err := readBounded(name, bundles.MaxBundle)
	if err != nil {
		return nil, err
	}
	loader := bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(text), "").WithSizeLimitBytes(bundles.MaxBundle)
	for {
		if _, err := loader.NextFile(); err == io.EOF {
			return text, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s is no bundle: %w", name, err)
		}
	}
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", name, limit)
	}
	return text, nil
}

// ready answers 200 once all that is to be served has been built or read.
func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	ready := s.complete()
	s.mu.Unlock()
	if !ready {
		problem(w, http.StatusServiceUnavailable, "not every bundle could be built yet")
		return
	}
	fmt.Fprintln(w, "ok")
}

// authorize lets those through who have a token of the file.
func (s *server) authorize(next http.Handler) http.Handler {
	if s.TokenFile == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens, err := readTokens(s.TokenFile)
		if err != nil {
			s.Log.Error("tokens cannot be read", "error", err)
			problem(w, http.StatusServiceUnavailable, "the tokens cannot be read")
			return
		}
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum := sha256.Sum256([]byte(strings.TrimSpace(given)))
		ok := 0
		for _, t := range tokens {
			want := sha256.Sum256([]byte(t))
			ok |= subtle.ConstantTimeCompare(sum[:], want[:])
		}
		if ok != 1 || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			problem(w, http.StatusUnauthorized, "a bearer token is needed")
			return
		}
		next.ServeHTTP(w, r)
	})
}

const maxTokens = 1 << 20

func readTokens(name string) ([]string, error) {
	text, err := readBounded(name, maxTokens)
	if err != nil {
		return nil, fmt.Errorf("reading tokens: %w", err)
	}
	tokens := strings.Fields(string(text))
	if len(tokens) == 0 {
		return nil, fmt.Errorf("reading tokens: %s has none", name)
	}
	return tokens, nil
}

// KeyPair is a certificate that is read at each handshake; the last good one
// serves while the files do not fit together. It is safe for concurrent use.
type KeyPair struct {
	CertFile, KeyFile string

	mu   sync.Mutex
	last *tls.Certificate
}

// Get is for [tls.Config.GetCertificate].
func (k *KeyPair) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(k.CertFile, k.KeyFile)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.last = &pair
	} else if k.last == nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	return k.last, nil
}
