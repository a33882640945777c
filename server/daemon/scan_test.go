package daemon_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/assay-dev/assay/scanner/vulndb"
	"github.com/assay-dev/assay/server/daemon"
)

// pushed puts an image with a vulnerable Python package into a registry.
func pushed(t *testing.T, reference string) {
	t.Helper()
	pushedFiles(t, reference, map[string]string{
		"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\n",
		"usr/lib/python3/dist-packages/urllib3-1.26.16.dist-info/METADATA": "Metadata-Version: 2.1\nName: urllib3\nVersion: 1.26.16\n",
	})
}

// pushedFiles puts an image with these files into a registry.
func pushedFiles(t *testing.T, reference string, files map[string]string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs(t, image)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
}

func diffIDs(t *testing.T, image v1.Image) []v1.Hash {
	t.Helper()
	c, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return c.RootFS.DiffIDs
}

// loopback is where the registries of tests are.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// A webhook that meets an image that nobody scanned has the server scan it, of the
// names that the server is for.
func TestScanRequests(t *testing.T) {
	var asked atomic.Int64
	inner := registry.New()
	r := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		inner.ServeHTTP(w, r)
	}))
	defer r.Close()
	host := strings.TrimPrefix(r.URL, "http://")
	image := host + "/shop/web:1"
	pushed(t, image)
	db := filepath.Join(t.TempDir(), "db")
	if _, err := vulndb.Build(t.Context(), []string{"../../examples/quickstart/advisories"}, db, time.Now()); err != nil {
		t.Fatal(err)
	}
	w := start(t, "", func(c *daemon.Config) {
		c.VulnerabilityPath, c.ScanImages = db, []string{host + "/shop"}
		c.InsecureHTTP, c.RegistryNetworks = true, loopback
	})
	answer := w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":[%q,"registry.example.com/other:1","Not An Image"]}`, image))
	if text := fmt.Sprint(answer); !strings.Contains(text, "accepted:["+image+"]") || !strings.Contains(text, "this server does not scan images of registry.example.com/other") || !strings.Contains(text, "/images/2") {
		t.Error(text)
	}
	w.until("the image is scanned", func() bool {
		return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/images?result=Warn", "")), image)
	})
	w.want(422, "POST", "/api/v1/scan-requests", `{"images":[]}`)

	// Without being told, neither loopback nor plain HTTP.
	for want, told := range map[string]func(*daemon.Config){
		"only public addresses are dialled":           func(c *daemon.Config) { c.InsecureHTTP = true },
		"plain HTTP is not spoken without being told": func(c *daemon.Config) { c.RegistryNetworks = loopback },
	} {
		before := asked.Load()
		w := start(t, "", func(c *daemon.Config) {
			c.VulnerabilityPath, c.ScanImages = db, []string{"*"}
			told(c)
		})
		w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":[%q]}`, image))
		w.until(want, func() bool { return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/jobs", "")), want) })
		if asked.Load() != before {
			t.Errorf("%s: the registry was asked", want)
		}
	}
	plain := start(t, "", nil)
	plain.want(409, "POST", "/api/v1/scan-requests", `{"images":["nginx"]}`)
}
