package scanner

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// startRegistry serves an empty registry behind a handler, and gives its host.
func startRegistry(t testing.TB, around func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if around != nil {
		h = around(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t testing.TB, ref string, what remote.Taggable, o ...remote.Option) {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	switch x := what.(type) {
	case v1.Image:
		err = remote.Write(r, x, o...)
	case v1.ImageIndex:
		err = remote.WriteIndex(r, x, o...)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRegistry(t *testing.T) {
	host := startRegistry(t, nil)
	img := debianImage(t)
	push(t, host+"/team/app:1.0", img)
	digest := digestOf(t, img)
	for _, in := range []string{"registry:" + host + "/team/app:1.0", host + "/team/app:1.0", "registry:" + host + "/team/app@" + digest, host + "/team/app:other@" + digest} {
		o := newScanner(t).Scan(t.Context(), in, nil)
		mustPass(t, o, wantPackages)
		if o.Scan.Image != strings.TrimPrefix(in, "registry:") || o.Scan.Digest != digest || o.Scan.Source != "registry" || o.Scan.Index != nil {
			t.Errorf("%s: scan is %+v", in, o.Scan)
		}
	}
	for in, want := range map[string]string{
		host + "/team/app:nosuch":                            "says there is no such tag nosuch",
		host + "/team/none:1":                                "says there is no such",
		host + "/team/app@sha256:" + strings.Repeat("0", 64): "no such digest",
		"registry:127.0.0.1:1/x:1":                           "cannot be reached",
	} {
		o := newScanner(t).Scan(t.Context(), in, nil)
		mustFail(t, o, want)
		if !strings.HasPrefix(o.Scan.Error, strings.TrimPrefix(in, "registry:")+": the registry ") {
			t.Errorf("error is %q", o.Scan.Error)
		}
	}
}

func TestRegistryIndex(t *testing.T) {
	host := startRegistry(t, nil)
	amd, arm := debianImage(t), imageOf(t, "linux/arm/v7", tarOf(t, nodeFiles()))
	platform := func(os, arch, variant string) v1.Descriptor {
		return v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.DockerManifestList),
		mutate.IndexAddendum{Add: amd, Descriptor: platform("linux", "amd64", "")},
		mutate.IndexAddendum{Add: arm, Descriptor: platform("linux", "arm", "v7")},
		mutate.IndexAddendum{Add: imageOf(t, "linux/amd64", tarOf(t, map[string]string{"a": "b"})), Descriptor: platform("unknown", "unknown", "")})
	push(t, host+"/team/app:1.0", index)
	o := newScanner(t).Scan(t.Context(), host+"/team/app:1.0", nil)
	mustPass(t, o, wantPackages)
	if x := o.Scan.Index; x == nil || x.Digest != digestOf(t, index) || len(x.Platforms) != 2 ||
		x.Platforms["linux/amd64"] != digestOf(t, amd) || x.Platforms["linux/arm/v7"] != digestOf(t, arm) || o.Scan.Digest != digestOf(t, amd) {
		t.Errorf("scan is %+v, index %+v", o.Scan, x)
	}
	with := func(p string) Outcome {
		return newScanner(t, func(c *Config) { c.Platform = p }).Scan(t.Context(), host+"/team/app:1.0", nil)
	}
	o = with("linux/arm")
	mustPass(t, o, []string{"lodash 4.17.15"})
	if o.Scan.Platform != "linux/arm/v7" {
		t.Errorf("platform is %s", o.Scan.Platform)
	}
	mustFail(t, with("windows/amd64"), "it has linux/amd64, linux/arm/v7")
	o = newScanner(t, func(c *Config) { c.As = "example.com/x@" + digestOf(t, index) }).Scan(t.Context(), host+"/team/app:1.0", nil)
	mustPass(t, o, wantPackages)
}

// basicAuth asks for a user's password on every request.
func basicAuth(user, password string) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	}
}

func dockerConfig(t testing.TB, host, user, password string) {
	t.Helper()
	dir := t.TempDir()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, auth), 0o600); err != nil {
		t.Fatal(err)
	}
	t.(*testing.T).Setenv("DOCKER_CONFIG", dir)
}

func TestRegistryCredentials(t *testing.T) {
	const user, password = "robot", "s3cret-passw0rd"
	host := startRegistry(t, basicAuth(user, password))
	push(t, host+"/team/app:1", debianImage(t), remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	var logged bytes.Buffer
	scan := func() Outcome {
		s := newScanner(t, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		return s.Scan(t.Context(), "registry:"+host+"/team/app:1", nil)
	}
	dockerConfig(t, host, user, password)
	mustPass(t, scan(), wantPackages)
	dockerConfig(t, host, user, "wr0ng-passw0rd")
	o := scan()
	mustFail(t, o, "asks for credentials")
	dockerConfig(t, "elsewhere.example.com", user, password)
	mustFail(t, scan(), "asks for credentials")
	if all := o.Scan.Error + logged.String(); strings.Contains(all, "passw0rd") || strings.Contains(all, base64.StdEncoding.EncodeToString([]byte(user))[:6]) {
		t.Errorf("a secret shows: %s", all)
	}
}

func TestSecretsInInputs(t *testing.T) {
	for _, in := range []string{
		"https://user:hunter2@registry.example.com/app:1", "registry:https://user:hunter2@registry.example.com/app:1",
		"user:hunter2@registry.example.com/app:1", "registry:user:hunter2@registry.example.com:5000/app:1",
		"docker:tcp://user:hunter2@h/x?token=hunter2", "oci-archive:https://u:hunter2@h/x.tar", "sbom:https://h/x?sig=hunter2",
		"https://user:hun@hunter2@registry.example.com/app",
	} {
		var events sync.Map
		o := newScanner(t).Scan(t.Context(), in, ProgressFunc(func(e Event) { events.Store(e.Input, true) }))
		mustFail(t, o, "")
		if strings.Contains(o.Scan.Error+o.Scan.Image, "hunter2") {
			t.Errorf("%s: %s (%s)", in, o.Scan.Error, o.Scan.Image)
		}
		events.Range(func(k, _ any) bool {
			if strings.Contains(k.(string), "hunter2") {
				t.Errorf("an event tells %v", k)
			}
			return true
		})
	}
	for _, keep := range []string{"nginx:1.27@sha256:" + strings.Repeat("a", 64), "example.com:5000/x:1", "docker-archive:x.tar:a/b:1"} {
		if scrub(keep) != keep {
			t.Errorf("%s became %s", keep, scrub(keep))
		}
	}
}

func TestRegistryFailures(t *testing.T) {
	for status, want := range map[int]string{
		http.StatusForbidden: "denies access", http.StatusTooManyRequests: "rate limit", http.StatusTeapot: "HTTP status 418",
	} {
		host := startRegistry(t, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v2/" {
					return
				}
				w.WriteHeader(status)
				fmt.Fprint(w, `{"errors":[{"code":"X","message":"see https://h/p?token=hunter2"}]}`)
			})
		})
		o := newScanner(t).Scan(t.Context(), host+"/x:1", nil)
		mustFail(t, o, want)
		if strings.Contains(o.Scan.Error, "hunter2") {
			t.Error(o.Scan.Error)
		}
	}
}

// damage changes the blobs that a registry serves.
func damage(change func([]byte) []byte) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
				h.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if len(body) > 300 { // the layers, not the small configuration
				body = change(body)
			}
			w.WriteHeader(rec.Code)
			w.Write(body)
		})
	}
}

func TestRegistryServesDamage(t *testing.T) {
	for _, change := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)/2] },
		func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b },
		func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		func([]byte) []byte { return nil },
	} {
		host := startRegistry(t, damage(change))
		push(t, host+"/x:1", debianImage(t))
		mustFail(t, newScanner(t).Scan(t.Context(), host+"/x:1", nil), "")
	}
}

func TestBlobCache(t *testing.T) {
	var gets atomic.Int64
	host := startRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				gets.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	push(t, host+"/x:1", debianImage(t))
	cache := t.TempDir()
	with := func(max int64) *Scanner {
		return newScanner(t, func(c *Config) { c.CacheDir, c.MaxCacheBytes = cache, max })
	}
	s := with(0)
	mustPass(t, s.Scan(t.Context(), host+"/x:1", nil), wantPackages)
	first := gets.Load()
	mustPass(t, s.Scan(t.Context(), host+"/x:1", nil), wantPackages)
	if first != 3 || gets.Load() != first {
		t.Errorf("%d blobs were fetched, then %d more", first, gets.Load()-first)
	}
	blobs, err := filepath.Glob(filepath.Join(cache, blobPrefix+"*"))
	if err != nil || len(blobs) != 3 {
		t.Fatalf("the cache holds %v, %v", blobs, err)
	}
	for _, b := range blobs {
		if err := os.WriteFile(b, []byte("damage"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustPass(t, s.Scan(t.Context(), host+"/x:1", nil), wantPackages)
	if gets.Load() != 2*first {
		t.Errorf("damaged blobs were not fetched again: %d", gets.Load())
	}
	mustPass(t, with(700).Scan(t.Context(), host+"/x:1", nil), wantPackages)
	push(t, host+"/y:1", imageOf(t, "linux/amd64", tarOf(t, nodeFiles())))
	mustPass(t, with(700).Scan(t.Context(), host+"/y:1", nil), []string{"lodash 4.17.15"})
	var total int64
	left, _ := os.ReadDir(cache)
	for _, e := range left {
		info, _ := e.Info()
		total += info.Size()
	}
	if total > 700 {
		t.Errorf("the cache holds %d bytes in %d files", total, len(left))
	}
}

func TestScanAll(t *testing.T) {
	host := startRegistry(t, nil)
	push(t, host+"/x:1", debianImage(t))
	push(t, host+"/y:1", imageOf(t, "linux/amd64", tarOf(t, nodeFiles())))
	var mu sync.Mutex
	done, bytesOf := map[int]int{}, map[int]int64{}
	inputs := []string{host + "/x:1", "NOT VALID", host + "/none:1", host + "/y:1", "", host + "/x:1"}
	s := newScanner(t)
	outcomes := s.ScanAll(t.Context(), inputs, 3, ProgressFunc(func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		if e.Stage == Done {
			done[e.Index]++
		}
		if e.Stage == Pulling && e.Done > 0 {
			if e.Done > e.Total {
				t.Errorf("%d of %d bytes", e.Done, e.Total)
			}
			bytesOf[e.Index] = max(bytesOf[e.Index], e.Done)
		}
	}))
	mustPass(t, outcomes[0], wantPackages)
	mustFail(t, outcomes[1], "")
	if !errors.Is(outcomes[1].Err, ErrInput) {
		t.Errorf("%v is no ErrInput", outcomes[1].Err)
	}
	mustFail(t, outcomes[2], "no such")
	mustPass(t, outcomes[3], []string{"lodash 4.17.15"})
	mustFail(t, outcomes[4], "an image is missing")
	mustPass(t, outcomes[5], wantPackages)
	for i := range inputs {
		if done[i] != 1 {
			t.Errorf("input %d: %d events say that it is done", i, done[i])
		}
	}
	if bytesOf[0] == 0 || bytesOf[5] == 0 {
		t.Errorf("no bytes were counted: %v", bytesOf)
	}
}
