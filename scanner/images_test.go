package scanner

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anchore/syft/syft/sbom"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/assay-dev/assay/api"
)

const dpkgStatus = `Package: libc6
Status: install ok installed
Priority: optional
Section: libs
Installed-Size: 12345
Maintainer: Example <example@example.com>
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u4
Description: GNU C Library

Package: openssl
Status: install ok installed
Priority: optional
Section: utils
Maintainer: Example <example@example.com>
Architecture: amd64
Version: 3.0.11-1~deb12u2
Description: Secure Sockets Layer toolkit

`

const osRelease = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"

func debianFiles() map[string]string {
	return map[string]string{
		"etc/os-release":       osRelease,
		"var/lib/dpkg/status":  dpkgStatus,
		"usr/share/doc/readme": strings.Repeat("padding ", 200),
	}
}

func nodeFiles() map[string]string {
	return map[string]string{"app/node_modules/lodash/package.json": `{"name":"lodash","version":"4.17.15","license":"MIT"}`}
}

// wantPackages are those of debianFiles and nodeFiles.
var wantPackages = []string{"libc6 2.36-9+deb12u4", "lodash 4.17.15", "openssl 3.0.11-1~deb12u2"}

type entry struct {
	tar.Header
	body string
}

func tarOf(t testing.TB, files map[string]string, more ...entry) []byte {
	t.Helper()
	var names []string
	for n := range files {
		names = append(names, n)
	}
	sort.Strings(names)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, body string) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, body); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range names {
		put(tar.Header{Name: n, Mode: 0o644, Typeflag: tar.TypeReg}, files[n])
	}
	for _, e := range more {
		put(e.Header, e.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func layerOf(t testing.TB, b []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// imageOf makes an image for a platform such as linux/amd64, a layer for each tar.
func imageOf(t testing.TB, platform string, tars ...[]byte) v1.Image {
	t.Helper()
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		RootFS: v1.RootFS{Type: "layers"}, Config: v1.Config{Labels: map[string]string{"made": "by the tests"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range tars {
		if img, err = mutate.AppendLayers(img, layerOf(t, b)); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func debianImage(t testing.TB) v1.Image {
	return imageOf(t, "linux/amd64", tarOf(t, debianFiles()), tarOf(t, nodeFiles()))
}

func digestOf(t testing.TB, i interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := i.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func dockerArchive(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	refs := map[name.Tag]v1.Image{}
	for n, img := range images {
		tag, err := name.NewTag(n)
		if err != nil {
			t.Fatal(err)
		}
		refs[tag] = img
	}
	path := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.MultiWriteToFile(path, refs); err != nil {
		t.Fatal(err)
	}
	return path
}

// ociDir writes an OCI layout; a key of images that has content is annotated as the image's name.
func ociDir(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for n, img := range images {
		var o []layout.Option
		if n != "" {
			o = append(o, layout.WithAnnotations(map[string]string{refNameAnnotation: n}))
		}
		if err := p.AppendImage(img, o...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tarDir packs a directory, as `skopeo copy … oci-archive:` does.
func tarDir(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "oci.tar")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func ociArchive(t testing.TB, images map[string]v1.Image) string { return tarDir(t, ociDir(t, images)) }

// fakeMatcher finds one vulnerability in each package.
type fakeMatcher struct {
	calls atomic.Int64
	err   error
	panic bool
	// unplaced is said of each SBOM.
	unplaced []api.Unplaced
}

func (m *fakeMatcher) Match(_ context.Context, s sbom.SBOM) ([]api.Vulnerability, []api.Unplaced, error) {
	m.calls.Add(1)
	if m.panic {
		panic("the matcher broke")
	}
	var out []api.Vulnerability
	for p := range s.Artifacts.Packages.Enumerate() {
		out = append(out, api.Vulnerability{ID: "CVE-2026-1", Package: p.Name, Version: p.Version})
	}
	return out, m.unplaced, m.err
}

var testTime = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// sharedLicenses saves the tests half a second for each scanner.
var sharedLicenses = sync.OnceValue(func() *licenseReader { return &licenseReader{done: make(chan struct{})} })

// newScanner makes a scanner for registries without TLS, whose temporary directory must be empty when the test ends.
func newScanner(t testing.TB, change ...func(*Config)) *Scanner {
	t.Helper()
	c := Config{Matcher: &fakeMatcher{}, NoDaemons: true, InsecureHTTP: true, TempDir: t.TempDir(), Now: func() time.Time { return testTime },
		Database: &api.ScanDatabase{Built: testTime, Schema: "v6"}}
	for _, f := range change {
		f(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	s.licenses = sharedLicenses()
	t.Cleanup(func() { emptyDir(t, c.TempDir) })
	return s
}

func emptyDir(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, e := range left {
		t.Errorf("left behind: %s", e.Name())
	}
}

func packagesOf(o Outcome) []string {
	var out []string
	if o.SBOM != nil {
		for p := range o.SBOM.Artifacts.Packages.Enumerate() {
			out = append(out, p.Name+" "+p.Version)
		}
	}
	sort.Strings(out)
	return out
}

// mustFail checks that an outcome cannot be taken for a clean image.
func mustFail(t testing.TB, o Outcome, want string) {
	t.Helper()
	if o.Err == nil || o.Scan.Error != o.Err.Error() || o.Scan.Result != api.Unknown || len(o.Scan.Vulnerabilities) != 0 || o.Scan.Vulnerabilities == nil {
		t.Fatalf("no proper failure: err %v, scan %+v", o.Err, o.Scan)
	}
	if !strings.Contains(o.Scan.Error, want) {
		t.Errorf("error is %q, want one with %q", o.Scan.Error, want)
	}
}

func mustPass(t testing.TB, o Outcome, packages []string) {
	t.Helper()
	if o.Err != nil || o.Scan.Error != "" {
		t.Fatalf("scan failed: %v", o.Err)
	}
	got := packagesOf(o)
	if strings.Join(got, "; ") != strings.Join(packages, "; ") {
		t.Fatalf("packages are %v, want %v", got, packages)
	}
	if o.Scan.Packages != len(packages) || len(o.Scan.Vulnerabilities) != len(packages) || o.Scan.Result != api.Unknown || o.Scan.MaxCVSS != nil {
		t.Fatalf("scan is %+v", o.Scan)
	}
	if !o.Scan.ScannedAt.Equal(testTime) || o.Scan.Database == nil || o.Scan.Database.Schema != "v6" {
		t.Fatalf("time or database are missing: %+v", o.Scan)
	}
}
