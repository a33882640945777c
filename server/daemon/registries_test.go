package daemon_test

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
	"github.com/assay-dev/assay/store/storetest"
)

// read makes what the file of registries says.
func read(t *testing.T, text string) ([]daemon.Registry, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return daemon.ReadRegistries(file)
}

// A server lists the registries that it is told of, scans each image once, and knows it
// by all its names.
func TestRegistries(t *testing.T) {
	storetest.Run(t, func(t *testing.T, url func() string) {
		inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
		var mu sync.Mutex
		blobs := map[string]int{}
		r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
				mu.Lock()
				blobs[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]++
				mu.Unlock()
			}
			inner.ServeHTTP(w, r)
		}))
		defer r.Close()
		host := strings.TrimPrefix(r.URL, "http://")
		pushed(t, host+"/shop/web:1")
		ref, err := name.ParseReference(host + "/shop/web:1")
		if err != nil {
			t.Fatal(err)
		}
		image, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
		for _, tag := range []string{"shop/web:latest", "shop/api:1", "shop/multi:1", "shop/web:dev", "other/web:1"} {
			at, err := name.ParseReference(host + "/" + tag)
			if err == nil && strings.Contains(tag, "multi") {
				err = remote.WriteIndex(at, index)
			} else if err == nil {
				err = remote.Write(at, image)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		mu.Lock()
		clear(blobs)
		mu.Unlock()
		db := filepath.Join(t.TempDir(), "db")
		if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, db, time.Now()); err != nil {
			t.Fatal(err)
		}
		database := url()
		serve := func(text string) *world {
			list, err := read(t, fmt.Sprintf(text, host))
			if err != nil {
				t.Fatal(err)
			}
			return start(t, database, func(c *daemon.Config) { c.VulnerabilityPath, c.Registries = db, list })
		}
		token := ""
		known := func(w *world, want ...string) {
			t.Helper()
			if w.admin == "" {
				w.admin = token
			}
			token = w.admin
			w.until("all names are known", func() bool {
				text := fmt.Sprint(w.want(200, "GET", "/api/v1/images?result=Warn", ""))
				for _, n := range want {
					if !strings.Contains(text, host+"/"+n) {
						return false
					}
				}
				return !strings.Contains(text, "other/web") && strings.Contains(text, "shop/web:dev") == (want[len(want)-1] == "shop/web:dev")
			})
		}
		w := serve("registries: [{insecureHTTP: true, registry: %s/shop, exclude: [':dev$'], every: 1h}]")
		known(w, "shop/web:1", "shop/web:latest", "shop/api:1", "shop/multi:1")
		w.until("the listing ends", func() bool { return strings.Contains(w.log.String(), "a registry was listed") })
		w.stop()
		mu.Lock()
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if digest, _ := layers[0].Digest(); blobs[digest.String()] != 1 {
			t.Errorf("the layer was pulled %d times", blobs[digest.String()])
		}
		clear(blobs)
		mu.Unlock()
		// Other settings have it listed at once. What is known is not pulled again.
		w = serve("registries: [{insecureHTTP: true, registry: %s/shop, every: 1h}]")
		known(w, "shop/web:1", "shop/web:latest", "shop/api:1", "shop/multi:1", "shop/web:dev")
		w.until("the listing ends", func() bool { return strings.Contains(w.log.String(), "a registry was listed") })
		w.stop()
		// The same settings do not.
		w = serve("registries: [{insecureHTTP: true, registry: %s/shop, every: 1h}]")
		known(w, "shop/web:dev")
		w.stop()
		if strings.Contains(w.log.String(), "a registry was listed") {
			t.Error("a registry was listed although it was not due")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(blobs) != 0 {
			t.Errorf("%v were pulled again", blobs)
		}
	})
}

func TestWrongRegistries(t *testing.T) {
	for text, want := range map[string][]string{
		"registries: []": {"registries.yaml:1:13: registries: must list 1 to 100"},
		"registries: [{registry: a.example.com, evry: 1h}]": {"1:40: registries[0].evry: unknown field; known are every, exclude, include"},
		"registries: [{registry: nohost}, {registry: a.example.com, every: 5s, include: ['('], rate: -1}]": {
			`1:25: registries[0].registry: the registry cannot be scanned: "nohost" must be HOST or HOST/PATH`, "1:81: registries[1].include[0]: error parsing regexp: missing closing )",
			"registries[1].rate: must not be negative", "registries[1].every: must be a time of at least 1m0s, such as 6h"},
		"registries: [{registry: a.example.com}, {registry: a.example.com}]":                      {"registries[1]: a.example.com is listed twice"},
		"registries: [{registry: a.example.com}]\n---\nregistries: [{registry: b.example.com}]\n": {"3:1: document 2: there must be one document, and this is another one"},
		"registries: [{registry: a.example.com}]\n...\nregistries: [{registry: b.example.com}]\n": {"3:1: document 2: there must be one document, and this is another one"},
		"{\"registries\": []}{}": {"1:19: document 2: there must be one document"},
		"# nothing":              {"registries.yaml: there is nothing in it"},
	} {
		_, err := read(t, text)
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) || !strings.Contains(err.Error(), "registries.yaml:") {
				t.Errorf("%s: %v, want %s", text, err, w)
			}
		}
	}
}
