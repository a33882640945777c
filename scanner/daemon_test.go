package scanner

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/plugins/content/local"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// startDocker answers as the Docker daemon does, and holds one image.
func startDocker(t *testing.T, name, archive string) string {
	t.Helper()
	saved, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			fmt.Fprint(w, "OK")
		case path == "images/"+name+"/json":
			_ = json.NewEncoder(w).Encode(map[string]any{"Id": "sha256:x", "Size": 1000, "RepoDigests": []string{name + "@sha256:" + strings.Repeat("a", 64)}})
		case path == "images/get" && r.URL.Query().Get("names") == name:
			w.Write(saved)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"message":"No such image"}`)
		}
	}))
	t.Cleanup(s.Close)
	return "tcp://" + strings.TrimPrefix(s.URL, "http://")
}

func TestDockerDaemon(t *testing.T) {
	registry := startRegistry(t, nil)
	push(t, registry+"/y:1", imageOf(t, "linux/amd64", tarOf(t, nodeFiles())))
	archive := dockerArchive(t, map[string]v1.Image{"example.com/team/app:1.0": debianImage(t)})
	host := startDocker(t, "example.com/team/app:1.0", archive)
	change := func(c *Config) {
		c.NoDaemons, c.DockerHost, c.ContainerdAddress = false, host, filepath.Join(t.TempDir(), "none.sock")
	}
	for _, in := range []string{"docker:example.com/team/app:1.0", "example.com/team/app:1.0"} {
		o := newScanner(t, change).Scan(t.Context(), in, nil)
		mustPass(t, o, wantPackages)
		if o.Scan.Source != "docker" || o.Scan.Image != "example.com/team/app:1.0" || o.Scan.ConfigDigest == "" {
			t.Errorf("scan is %+v", o.Scan)
		}
	}
	o := newScanner(t, change).Scan(t.Context(), registry+"/y:1", nil)
	mustPass(t, o, []string{"lodash 4.17.15"})
	if o.Scan.Source != "registry" {
		t.Errorf("source is %s", o.Scan.Source)
	}
	mustFail(t, newScanner(t, change).Scan(t.Context(), "docker:nginx", nil), "has no image nginx (for the image named docker, write docker.io/library/docker:nginx)")
	mustFail(t, newScanner(t, change, func(c *Config) { c.MaxImageBytes = 500 }).Scan(t.Context(), "example.com/team/app:1.0", nil), "MaxImageBytes")
	mustFail(t, newScanner(t, func(c *Config) { c.DockerHost = "tcp://127.0.0.1:1" }).Scan(t.Context(), "docker:example.com/x:1", nil), "does not answer")
	mustFail(t, newScanner(t, change).Scan(t.Context(), "containerd:example.com/x:1", nil), "containerd does not answer")
	other := newScanner(t, change, func(c *Config) { c.Platform = "linux/arm64" })
	mustFail(t, other.Scan(t.Context(), "docker:example.com/team/app:1.0", nil), "is for linux/amd64, not for linux/arm64")
}

func TestContainerdStore(t *testing.T) {
	dir := t.TempDir()
	store, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	img := debianImage(t)
	layoutDir := ociDir(t, map[string]v1.Image{"": img})
	blobs, err := filepath.Glob(filepath.Join(layoutDir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		raw, err := os.ReadFile(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", filepath.Base(b)), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	record := images.Image{Name: "example.com/app:1", Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: godigest.Digest(digestOf(t, img)), Size: int64(len(raw))}}
	s := newScanner(t)
	f, err := s.fromStore(t.Context(), store, "default", record)
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	made, err := s.catalogImage(t.Context(), f, "example.com/app:1", tmp, nil)
	if err != nil || made.Artifacts.Packages.PackageCount() != len(wantPackages) || f.digest != digestOf(t, img) {
		t.Fatalf("err %v, digest %s", err, f.digest)
	}
	for _, l := range f.layers {
		if err := os.Remove(filepath.Join(dir, "blobs", "sha256", l.digest.Hex)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.catalogImage(t.Context(), f, "example.com/app:1", tmp, nil); err == nil || !strings.Contains(err.Error(), "does not hold all of the image") {
		t.Errorf("missing layers give %v", err)
	}
	if err := s.checkLayers(t.Context(), nil, "default", f); !errors.Is(err, errAbsent) {
		t.Errorf("an image without layers gives %v", err)
	}
}
