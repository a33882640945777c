package serve_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-dev/assay/bundles/serve"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/download"
	"github.com/open-policy-agent/opa/v1/keys"
	"github.com/open-policy-agent/opa/v1/plugins/rest"
)

// patience bounds what a test waits for; nothing is asserted to be faster.
const patience = 50 * time.Second

// long is a wait that no test sits out.
const long = "modes=snapshot,delta;wait=3600"

type response struct {
	status int
	header http.Header
	body   string
}

func do(t *testing.T, method, url string, header ...string) response {
	t.Helper()
	r, err := request(t.Context(), method, url, header...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func request(ctx context.Context, method, url string, header ...string) (response, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return response{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, string(body)}, err
}

func server(t *testing.T, c serve.Limits) (*serve.Handler, *httptest.Server) {
	h := serve.New(c)
	s := httptest.NewUnstartedServer(h)
	s.Config.WriteTimeout = 200 * time.Millisecond // these must not end the waiting
	s.Config.ReadTimeout = 200 * time.Millisecond
	s.Start()
	t.Cleanup(func() { h.Close(); s.Close() })
	return h, s
}

func etag(text string) string {
	sum := sha256.Sum256([]byte(text))
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func TestRequests(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("policies", []byte("one"))
	h.Set("images-00", []byte("other"))
	one := etag("one")
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		body               string
	}{
		{"plain", "GET", "/bundles/policies", nil, 200, "one"},
		{"with extension", "GET", "/bundles/policies.tar.gz", nil, 200, "one"},
		{"another", "GET", "/bundles/images-00", nil, 200, "other"},
		{"head", "HEAD", "/bundles/policies", nil, 200, ""},
		{"held already", "GET", "/bundles/policies", []string{"If-None-Match", one}, 304, ""},
		{"held already, head", "HEAD", "/bundles/policies", []string{"If-None-Match", one}, 304, ""},
		{"held among superseded", "GET", "/bundles/policies", []string{"If-None-Match", `"x", ` + one}, 304, ""},
		{"held weakly", "GET", "/bundles/policies", []string{"If-None-Match", "W/" + one}, 304, ""},
		{"any", "GET", "/bundles/policies", []string{"If-None-Match", "*"}, 304, ""},
		{"another held", "GET", "/bundles/policies", []string{"If-None-Match", `"x"`}, 200, "one"},
		{"empty, as OPA sends first", "GET", "/bundles/policies", []string{"If-None-Match", ""}, 200, "one"},
		{"would wait, but holds another", "GET", "/bundles/policies", []string{"If-None-Match", `"x"`, "Prefer", long}, 200, "one"},
		{"would wait, but holds none", "GET", "/bundles/policies", []string{"Prefer", long}, 200, "one"},
		{"waits a second", "GET", "/bundles/policies", []string{"If-None-Match", one, "Prefer", "modes=snapshot,delta;wait=1"}, 304, ""},
		{"wait of nonsense", "GET", "/bundles/policies", []string{"If-None-Match", one, "Prefer", "wait=-1;wait=x;wait=99999999999999999999"}, 304, ""},
		{"part", "GET", "/bundles/policies", []string{"Range", "bytes=1-"}, 206, "ne"},
		{"unknown", "GET", "/bundles/none", []string{"Prefer", long}, 404, ""},
		{"no name", "GET", "/bundles/", nil, 404, ""},
		{"elsewhere", "GET", "/policies", nil, 404, ""},
		{"traversal", "GET", "/bundles/%2e%2e/policies", nil, 404, ""},
		{"post", "POST", "/bundles/policies", nil, 405, ""},
		{"delete", "DELETE", "/bundles/policies", nil, 405, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := do(t, c.method, s.URL+c.path, c.header...)
			if r.status != c.status {
				t.Fatalf("status %d, want %d: %s", r.status, c.status, r.body)
			}
			if c.status >= 400 {
				var p struct {
					Title, Detail string
					Status        int
				}
				if err := json.Unmarshal([]byte(r.body), &p); err != nil || p.Status != c.status || p.Title == "" || p.Detail == "" {
					t.Errorf("problem details %q (%v)", r.body, err)
				}
				if got := r.header.Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("Content-Type %s", got)
				}
				return
			}
			if r.body != c.body {
				t.Errorf("body %q, want %q", r.body, c.body)
			}
			if c.status != 304 && r.header.Get("Content-Type") != serve.ContentType {
				t.Errorf("Content-Type %s", r.header.Get("Content-Type"))
			}
			if r.header.Get("Content-Encoding") != "" {
				t.Error("the gzip of the bundle was declared a content encoding")
			}
			if strings.Contains(c.path, "policies") && r.header.Get("ETag") != one {
				t.Errorf("ETag %s, want %s", r.header.Get("ETag"), one)
			}
			if c.method == "HEAD" && c.status == 200 && r.header.Get("Content-Length") != "3" {
				t.Errorf("Content-Length %s, want 3", r.header.Get("Content-Length"))
			}
		})
	}
}

// pollers waits with n requests and returns where their answers come.
func pollers(t *testing.T, h *serve.Handler, url, etag string, n int) <-chan response {
	t.Helper()
	answers := make(chan response, n)
	ctx := t.Context()
	for range n {
		go func() {
			r, err := request(ctx, "GET", url, "If-None-Match", etag, "Prefer", long)
			if err != nil {
				r.body = err.Error()
			}
			answers <- r
		}()
	}
	eventually(t, fmt.Sprintf("%d wait", n), func() bool { return h.Waiting() == n })
	return answers
}

func TestChangeWakesAll(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", []byte("one"))
	h.Set("b", []byte("b"))
	answers := pollers(t, h, s.URL+"/bundles/a", etag("one"), 50)
	time.Sleep(300 * time.Millisecond) // beyond the timeouts of the server
	if h.Set("a", []byte("one")) {
		t.Error("equal bytes count as a change")
	}
	h.Set("b", []byte("b2"))
	if n := h.Waiting(); n != 50 {
		t.Fatalf("%d wait after no change, want 50", n)
	}
	h.Set("a", []byte("two"))
	for range 50 {
		if r := <-answers; r.status != 200 || r.body != "two" || r.header.Get("ETag") != etag("two") {
			t.Fatalf("got %+v", r)
		}
	}
	if n := h.Waiting(); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

// The same over HTTP/2.
func TestHTTP2(t *testing.T) {
	h := serve.New(serve.Limits{})
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ReadTimeout, s.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	s.StartTLS()
	defer s.Close()
	h.Set("a", []byte("one"))
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/bundles/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("If-None-Match", etag("one"))
	req.Header.Set("Prefer", long)
	answers := make(chan string, 1)
	go func() {
		resp, err := s.Client().Do(req)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answers <- resp.Proto + " " + string(body)
	}()
	eventually(t, "one waits", func() bool { return h.Waiting() == 1 })
	time.Sleep(300 * time.Millisecond)
	h.Set("a", []byte("two"))
	if got := <-answers; got != "HTTP/2.0 two" {
		t.Error(got)
	}
}

func TestRemoveWakes(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", []byte("one"))
	answers := pollers(t, h, s.URL+"/bundles/a", etag("one"), 1)
	h.Remove("a")
	h.Remove("a")
	if r := <-answers; r.status != 404 {
		t.Errorf("status %d, want 404", r.status)
	}
}

// A bundle that changes and changes back keeps the poller waiting for what it
// does not have.
func TestChangeAndBack(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", []byte("one"))
	answers := pollers(t, h, s.URL+"/bundles/a", etag("one"), 1)
	h.Set("a", []byte("two"))
	h.Set("a", []byte("one"))
	time.Sleep(50 * time.Millisecond) // time to wake up wrongly
	h.Set("a", []byte("three"))
	if r := <-answers; r.status != 200 || r.body == "one" {
		t.Errorf("got %d %q", r.status, r.body)
	}
}

func TestWaitIsBounded(t *testing.T) {
	h, s := server(t, serve.Limits{MaxWait: time.Millisecond})
	h.Set("a", []byte("one"))
	if r := do(t, "GET", s.URL+"/bundles/a", "If-None-Match", etag("one"), "Prefer", long); r.status != 304 {
		t.Errorf("status %d, want 304", r.status)
	}
}

// One more than may wait is sent off long polling, not into a busy loop.
func TestWaitingIsBounded(t *testing.T) {
	h, s := server(t, serve.Limits{MaxWaiting: 2})
	h.Set("a", []byte("one"))
	answers := pollers(t, h, s.URL+"/bundles/a", etag("one"), 2)
	r := do(t, "GET", s.URL+"/bundles/a", "If-None-Match", etag("one"), "Prefer", long)
	if r.status != 200 || r.header.Get("Content-Type") == serve.ContentType {
		t.Errorf("status %d, Content-Type %s", r.status, r.header.Get("Content-Type"))
	}
	h.Set("a", []byte("two"))
	<-answers
	<-answers
}

func TestClientLeaves(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", []byte("one"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := request(ctx, "GET", s.URL+"/bundles/a", "If-None-Match", etag("one"), "Prefer", long)
		done <- err
	}()
	eventually(t, "one waits", func() bool { return h.Waiting() == 1 })
	cancel()
	if err := <-done; err == nil {
		t.Error("the request was answered")
	}
	eventually(t, "none waits", func() bool { return h.Waiting() == 0 })
}

// Shutdown answers those who wait.
func TestShutdownReleases(t *testing.T) {
	h, s := server(t, serve.Limits{})
	s.Config.RegisterOnShutdown(h.Close)
	h.Set("a", []byte("one"))
	answers := pollers(t, h, s.URL+"/bundles/a", etag("one"), 10)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Config.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if r := <-answers; r.status != 304 || r.header.Get("ETag") != etag("one") {
			t.Fatalf("got %+v", r)
		}
	}
}

// Writers and readers at once: every answer is one whole version.
func TestConcurrently(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", []byte("0"))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			held := ""
			for ctx.Err() == nil {
				r, err := request(ctx, "GET", s.URL+"/bundles/a", "If-None-Match", held, "Prefer", long)
				switch {
				case err != nil && ctx.Err() == nil:
					t.Error(err)
					return
				case err == nil && (r.status != 200 || r.header.Get("ETag") != etag(r.body)):
					t.Errorf("status %d, ETag %s for %q", r.status, r.header.Get("ETag"), r.body)
					return
				}
				held = r.header.Get("ETag")
			}
		})
	}
	for i := range 500 {
		h.Set("a", fmt.Append(nil, i))
	}
	stop()
	wg.Wait()
}

// OPA's own downloader follows by long polling.
func TestDownloader(t *testing.T) {
	h, s := server(t, serve.Limits{})
	h.Set("a", pack(t, "1"))
	client, err := rest.New(fmt.Appendf(nil, `{"name": "assay", "url": %q}`, s.URL), map[string]*keys.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var c download.Config
	if err := json.Unmarshal([]byte(`{"polling": {"long_polling_timeout_seconds": 3600, "min_delay_seconds": 3600, "max_delay_seconds": 7200}}`), &c); err != nil {
		t.Fatal(err)
	}
	if err := c.ValidateAndInjectDefaults(); err != nil {
		t.Fatal(err)
	}
	updates := make(chan download.Update, 10)
	d := download.New(c, client, "/bundles/a").WithCallback(func(_ context.Context, u download.Update) error {
		updates <- u
		return nil
	})
	d.Start(t.Context())
	defer d.Stop(t.Context())
	for _, revision := range []string{"1", "2", "3"} {
		select {
		case u := <-updates:
			if u.Error != nil || u.Bundle == nil || u.Bundle.Manifest.Revision != revision {
				t.Fatalf("got %+v, want revision %s", u, revision)
			}
		case <-time.After(patience):
			t.Fatalf("no revision %s", revision)
		}
		eventually(t, "the downloader waits", func() bool { return h.Waiting() == 1 })
		h.Set("a", pack(t, revision+"x"))
		if u := <-updates; u.Bundle == nil || u.Bundle.Manifest.Revision != revision+"x" {
			t.Fatalf("got %+v, want revision %sx", u, revision)
		}
		eventually(t, "the downloader waits", func() bool { return h.Waiting() == 1 })
		h.Set("a", pack(t, fmt.Sprint(revision[0]-'0'+1)))
	}
}

func pack(t *testing.T, revision string) []byte {
	t.Helper()
	b := bundle.Bundle{Manifest: bundle.Manifest{Revision: revision, Roots: &[]string{"a"}}, Data: map[string]any{"a": 1}}
	var out strings.Builder
	if err := bundle.NewWriter(&out).Write(b); err != nil {
		t.Fatal(err)
	}
	return []byte(out.String())
}
