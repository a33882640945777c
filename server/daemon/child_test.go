package daemon_test

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/assay-dev/assay/scanner/child"
	"github.com/assay-dev/assay/server/daemon"
)

// TestMain is the child process of scans where the tests start it as one.
func TestMain(m *testing.M) {
	if os.Getenv("ASSAY_SCAN_CHILD") == "" {
		os.Exit(m.Run())
	}
	if err := child.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// scanCommand starts this program as a child.
func scanCommand() []string {
	return []string{"/usr/bin/env", "ASSAY_SCAN_CHILD=1", os.Args[0]}
}

// zipOf has one file of so many zero bytes.
func zipOf(t *testing.T, name string, n int64) string {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	f, err := w.Create(name)
	if err == nil {
		_, err = io.CopyN(f, zeros{}, n)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An image that takes too much of something ends its own scan, with the reason in its job, and the
// server goes on: it scans the next one.
func TestHostileImages(t *testing.T) {
	r := httptest.NewServer(registry.New())
	defer r.Close()
	host := strings.TrimPrefix(r.URL, "http://")
	distro := "ID=debian\nVERSION_ID=\"12\"\n"
	pushedFiles(t, host+"/shop/disk:1", map[string]string{"etc/os-release": distro, "opt/a.jar": zipOf(t, "b.jar", 1<<30)})
	pushedFiles(t, host+"/shop/memory:1", map[string]string{"etc/os-release": distro, "opt/a.jar": zipOf(t, "META-INF/MANIFEST.MF", 1<<30)})
	pushed(t, host+"/shop/good:1")
	w := start(t, "", func(c *daemon.Config) {
		c.ScanImages = []string{host + "/shop"}
		c.InsecureHTTP, c.RegistryNetworks = true, loopback
		c.Scans.Disk, c.Scans.Memory = 128<<20, 384<<20
	})
	for image, says := range map[string]string{"disk": "the image unpacks to more than 128 MiB", "memory": "needs more memory than 384 MiB (--scan-memory)"} {
		w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/%s:1"]}`, host, image))
		w.until("the scan of "+image+" fails", func() bool {
			return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/jobs?kind=scan", "")), says)
		})
	}
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/good:1"]}`, host))
	w.until("a good image has its SBOM", func() bool {
		return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/images", "")), host+"/shop/good:1")
	})
	if text := fmt.Sprint(w.want(200, "GET", "/api/v1/images", "")); strings.Contains(text, "/shop/disk:1") || strings.Contains(text, "/shop/memory:1") {
		t.Errorf("an image that was not read whole is listed: %s", text)
	}
	w.until("no files of scans are left", func() bool {
		files, err := os.ReadDir(filepath.Join(w.data, "scans"))
		return err == nil && len(files) == 0
	})
}
