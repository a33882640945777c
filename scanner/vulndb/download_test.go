package vulndb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mirror serves a listing and an archive, and fails as it is told.
type mirror struct {
	*httptest.Server
	archive []byte
	etag    string
	built   time.Time
	// serve answers for the archive; nil serves it whole, ranges too.
	serve func(w http.ResponseWriter, r *http.Request, n int)

	mu     sync.Mutex
	asked  int
	ranges []string // of the requests for the archive
}

func newMirror(t *testing.T, archive []byte) *mirror {
	t.Helper()
	m := &mirror{archive: archive, etag: `"1"`, built: builtAt()}
	mux := http.NewServeMux()
	mux.HandleFunc("/v6/latest.json", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"status":"active","schemaVersion":"v6.1.10","built":%q,"path":"db.tar.zst","checksum":"sha256:%x"}`,
			m.built.Format(time.RFC3339), sha256.Sum256(archive))
	})
	mux.HandleFunc("/v6/db.tar.zst", func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.asked++
		n := m.asked
		m.ranges = append(m.ranges, r.Header.Get("Range"))
		m.mu.Unlock()
		if m.serve != nil {
			m.serve(w, r, n)
			return
		}
		m.whole(w, r)
	})
	m.Server = httptest.NewServer(mux)
	t.Cleanup(m.Close)
	return m
}

func (m *mirror) whole(w http.ResponseWriter, r *http.Request) {
	if m.etag != "" {
		w.Header().Set("ETag", m.etag)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.archive))
}

// cut sends a part of what is asked for and ends the connection.
func (m *mirror) cut(w http.ResponseWriter, r *http.Request, bytes int) {
	m.whole(&cutting{ResponseWriter: w, left: bytes}, r)
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func (m *mirror) store(t *testing.T, change ...func(*Config)) *Store {
	s := testStore(t, append(change, func(c *Config) { c.LatestURL = m.URL })...)
	s.pause = 0
	return s
}

func partials(t *testing.T, s *Store) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.cfg.Dir, partialPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A download that breaks off at random places goes on from each of them, and
// fetches no byte twice.
func TestDownloadGoesOn(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	m := newMirror(t, archive)
	random := rand.New(rand.NewPCG(1, 2))
	m.serve = func(w http.ResponseWriter, r *http.Request, n int) {
		if n < 6 {
			m.cut(w, r, 1+random.IntN(len(archive)/8))
		}
		m.whole(w, r)
	}
	var events []Event
	s := m.store(t, func(c *Config) { c.Progress = func(e Event) { events = append(events, e) } })
	res, err := s.Update(t.Context())
	if err != nil || !res.Updated {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(m.ranges) != 6 || m.ranges[0] != "" || m.ranges[5] == "" {
		t.Errorf("ranges: %q", m.ranges)
	}
	if len(partials(t, s)) > 0 {
		t.Errorf("left behind: %v", partials(t, s))
	}
	last := int64(-1)
	for _, e := range events {
		if e.Stage == Downloading && (e.Done < last || e.Total != int64(len(archive))) {
			t.Errorf("an event goes back, or counts wrongly: %+v after %d", e, last)
		}
		last = max(last, e.Done)
	}
	if last != int64(len(archive)) || events[len(events)-1].Stage != Verifying {
		t.Errorf("events: %+v", events)
	}
}

func TestNextUpdateGoesOn(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	half := len(archive) / 2
	for name, c := range map[string]struct {
		change func(m *mirror)
		ranged bool
	}{
		"same":       {func(*mirror) {}, true},
		"other etag": {func(m *mirror) { m.etag = `"2"` }, true},
		"no ranges": {func(m *mirror) {
			m.serve = func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = w.Write(archive) }
		}, true},
		"already whole":   {func(m *mirror) {}, true},
		"spoilt on disk":  {func(m *mirror) {}, true},
		"weak etag first": {func(m *mirror) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, archive)
			m.serve = func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				m.cut(w, r, half)
			}
			if !c.ranged {
				m.etag = `W/"1"`
			}
			s := m.store(t)
			if _, err := s.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "goes on from there") {
				t.Fatalf("error: %v", err)
			}
			file := partials(t, s)[0]
			if got := sizeOf(file); got != int64(half) {
				t.Fatalf("kept %d bytes of %d", got, half)
			}
			switch name {
			case "already whole":
				if err := os.WriteFile(file, archive, 0o600); err != nil {
					t.Fatal(err)
				}
			case "spoilt on disk":
				if err := os.WriteFile(file, bytes.Repeat([]byte("x"), half), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m.serve = nil
			c.change(m)
			at := len(m.ranges)
			res, err := s.Update(t.Context())
			if err != nil || !res.Updated || len(partials(t, s)) > 0 {
				t.Fatalf("%+v, %v; left %v", res, err, partials(t, s))
			}
			if ranged := m.ranges[at] != ""; ranged != c.ranged {
				t.Errorf("ranges: %q", m.ranges)
			}
		})
	}
}

func TestDownloadFaults(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	for name, c := range map[string]struct {
		serve func(m *mirror, w http.ResponseWriter, r *http.Request)
		text  []string
		is    error
		asked int
	}{
		"truncated": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(archive)))
			_, _ = w.Write(archive[:1000])
		}, []string{"broke off after 1000 of", "next update goes on"}, nil, fruitless + 1},
		"truncated, of no length": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(archive[:1000])
			_ = http.NewResponseController(w).Flush()
		}, []string{"checksum", "1000 bytes", "thrown away"}, ErrCorrupt, 1},
		"another file": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("no"), len(archive)/2))
		}, []string{"checksum", "the listing says"}, ErrCorrupt, 1},
		"too long": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "99999999")
		}, []string{"99999999 bytes, the bound is"}, ErrTooLarge, 1},
		"too long, of no length": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			for range 100 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}, []string{"more than"}, ErrTooLarge, 1},
		"another part": {func(m *mirror, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Content-Range", "bytes 7-9/10")
			if r.Header.Get("Range") == "" {
				m.cut(w, r, 1000)
			}
			w.WriteHeader(http.StatusPartialContent)
		}, []string{"another part"}, nil, 2},
		"forbidden":    {func(_ *mirror, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, []string{"403"}, nil, 1},
		"proxy's user": {func(_ *mirror, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(407) }, []string{"407", "HTTP_PROXY"}, nil, 1},
		"too many":     {func(_ *mirror, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, []string{"429"}, nil, fruitless},
		"silent": {func(_ *mirror, w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(archive[:10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, []string{"nothing came for too long"}, errStalled, fruitless + 1},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t, archive)
			m.serve = func(w http.ResponseWriter, r *http.Request, _ int) { c.serve(m, w, r) }
			s := m.store(t, func(c *Config) { c.MaxArchiveBytes = 4 << 20 })
			if name == "silent" {
				s.stall = 50 * time.Millisecond
			}
			_, err := s.Update(t.Context())
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("error: %v", err)
			}
			for _, text := range c.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error without %q: %v", text, err)
				}
			}
			if m.asked != c.asked {
				t.Errorf("asked %d times, want %d", m.asked, c.asked)
			}
			if _, err := s.Status(t.Context()); !errors.Is(err, ErrMissing) {
				t.Errorf("a database came of it: %v", err)
			}
			// Whatever it was, the next update does it.
			m.serve = nil
			if res, err := s.Update(t.Context()); err != nil || !res.Updated {
				t.Errorf("afterwards: %+v, %v", res, err)
			}
		})
	}
}

func TestUpdateIsBounded(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	m := newMirror(t, archive)
	m.serve = func(w http.ResponseWriter, r *http.Request, _ int) {
		for i := range archive {
			if _, err := w.Write(archive[i : i+1]); err != nil || r.Context().Err() != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Millisecond)
		}
	}
	s := m.store(t, func(c *Config) { c.Timeout = 300 * time.Millisecond })
	if _, err := s.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "took longer than 300ms") {
		t.Errorf("error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := m.store(t).Update(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	t.Cleanup(refusing.Close)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	signIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<!DOCTYPE html>\n<p>Sign in") }))
	t.Cleanup(signIn.Close)
	for name, c := range map[string]struct {
		url, proxy string
		text       []string
	}{
		"proxy refuses":   {"https://user:secret@databases.example", strings.Replace(refusing.URL, "//", "//me:hidden@", 1), []string{"databases.example", "the proxy http://me:xxxxx@", "407", "HTTPS_PROXY"}},
		"proxy is gone":   {"https://user:secret@databases.example", closed.URL, []string{"proxy", "does not answer", "refused", "HTTPS_PROXY"}},
		"certificate":     {secure.URL, "", []string{"is not trusted", "unknown authority", "SSL_CERT_FILE"}},
		"nobody":          {strings.Replace(closed.URL, "//", "//user:secret@", 1), "", []string{"does not answer", "refused"}},
		"page to sign in": {signIn.URL, "", []string{"no listing", `"<!DOCTYPE html>"`, "sign in"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t, func(cfg *Config) { cfg.LatestURL = c.url })
			s.cfg.HTTPClient.Transport.(*http.Transport).Proxy = nil
			if c.proxy != "" {
				u, err := url.Parse(c.proxy)
				if err != nil {
					t.Fatal(err)
				}
				s.cfg.HTTPClient.Transport.(*http.Transport).Proxy = http.ProxyURL(u)
			}
			_, err := s.Update(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, text := range c.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error without %q: %v", text, err)
				}
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hidden") {
				t.Errorf("a password is told: %v", err)
			}
		})
	}
}

// The second of two that update one directory waits, says so, and finds it done.
func TestUpdatesWait(t *testing.T) {
	archive := read(t, testArchive(t, builtAt()))
	m := newMirror(t, archive)
	begun, waits := make(chan struct{}), make(chan Event, 1)
	m.serve = func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			close(begun)
			<-waits
		}
		m.whole(w, r)
	}
	s := m.store(t)
	first := make(chan error, 1)
	go func() { _, err := s.Update(t.Context()); first <- err }()
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := m.store(t, func(c *Config) { c.Dir = s.cfg.Dir }).Update(ctx); err == nil || !strings.Contains(err.Error(), "waiting for") {
		t.Errorf("waiting in vain: %v", err)
	}
	second := m.store(t, func(c *Config) {
		c.Dir = s.cfg.Dir
		c.Progress = func(e Event) {
			if e.Stage == Waiting {
				if want := fmt.Sprintf("process %d", os.Getpid()); e.Holder != want {
					t.Errorf("holder: %q", e.Holder)
				}
				waits <- e
			}
		}
	})
	res, err := second.Update(t.Context())
	if err != nil || res.Updated || res.Status == nil {
		t.Errorf("the second: %+v, %v", res, err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if m.asked != 1 {
		t.Errorf("downloaded %d times", m.asked)
	}
}
