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

	"github.com/assay-dev/assay/api"
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

// An image that takes too much of something ends its own scan, with the reason in its job and at the image, which is
// Unknown, and the server goes on: it scans the next one. What is known of the image otherwise stays.
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
	// Which of the two that watch the disk comes first is a matter of luck.
	bounds := map[string]string{"disk": "than 128 MiB", "memory": "needs more memory than 384 MiB (--scan-memory)"}
	for image, says := range bounds {
		w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/%s:1"]}`, host, image))
		w.until("the scan of "+image+" fails", func() bool {
			return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/jobs?kind=scan", "")), says)
		})
	}
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/good:1"]}`, host))
	w.until("a good image has its SBOM", func() bool {
		return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/images", "")), host+"/shop/good:1")
	})
	failed := func(image, says, result string) map[string]any {
		t.Helper()
		var row map[string]any
		w.until(image+" is "+result+" and says why", func() bool {
			items := w.want(200, "GET", "/api/v1/images?search="+image, "")["items"].([]any)
			if len(items) != 1 {
				return false
			}
			row = items[0].(map[string]any)
			return row["result"] == result && strings.Contains(fmt.Sprint(row["error"]), says)
		})
		if row["digest"] == "" || row["digest"] == nil {
			t.Errorf("the digest of %s is not told: %v", image, row)
		}
		return row
	}
	for image, says := range bounds {
		failed(host+"/shop/"+image+":1", says, "Unknown")
		if got := w.want(200, "POST", "/api/v1/classify", fmt.Sprintf(`{"image":"%s/shop/%s:1"}`, host, image))["result"]; got != "Unknown" {
			t.Errorf("%s is %v", image, got)
		}
	}
	// Evidence of the same image stays in force, and the scan that failed stands beside it.
	row := failed(host+"/shop/disk:1", bounds["disk"], "Unknown")
	scan := api.Scan{Image: host + "/shop/disk:1", Digest: row["digest"].(string), Source: "registry", ScannedAt: clock, Packages: 3,
		Vulnerabilities: []api.Vulnerability{{ID: "CVE-2026-0001", Package: "a", Version: "1", Type: "deb", CVSS: new(9.8)}}}
	w.want(201, "POST", "/api/v1/scans", mustJSON(upload(scan)))
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/disk:1"]}`, host))
	failed(host+"/shop/disk:1", bounds["disk"], "Fail")
	// A name without an image is no image that failed.
	w.want(202, "POST", "/api/v1/scan-requests", fmt.Sprintf(`{"images":["%s/shop/none:1"]}`, host))
	w.until("the scan of what is not there fails", func() bool {
		return strings.Contains(fmt.Sprint(w.want(200, "GET", "/api/v1/jobs?kind=scan", "")), "there is no such")
	})
	if text := fmt.Sprint(w.want(200, "GET", "/api/v1/images", "")); strings.Contains(text, "/shop/none:1") {
		t.Errorf("what is not there is listed: %s", text)
	}
	w.until("no files of scans are left", func() bool {
		files, err := os.ReadDir(filepath.Join(w.data, "scans"))
		return err == nil && len(files) == 0
	})
}
