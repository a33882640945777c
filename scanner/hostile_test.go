package scanner

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// TestDamagedArchives holds the promise that damage never reads as a clean
// image: a scan fails, or its packages are those of the intact archive.
func TestDamagedArchives(t *testing.T) {
	img := debianImage(t)
	for kind, path := range map[string]string{
		"docker-archive": dockerArchive(t, map[string]v1.Image{"example.com/app:1": img}),
		"oci-archive":    ociArchive(t, map[string]v1.Image{"": img}),
	} {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damaged := filepath.Join(t.TempDir(), "damaged.tar")
		s := newScanner(t)
		failed, same := 0, 0
		check := func(what string, b []byte) {
			t.Helper()
			if err := os.WriteFile(damaged, b, 0o600); err != nil {
				t.Fatal(err)
			}
			o := s.Scan(t.Context(), kind+":"+damaged, nil)
			switch {
			case o.Err != nil:
				mustFail(t, o, "")
				failed++
			case slices.Equal(packagesOf(o), wantPackages) && o.Scan.Distro == "debian 12":
				same++
			default:
				t.Errorf("%s, %s: packages are %v", kind, what, packagesOf(o))
			}
		}
		steps := 60
		if testing.Short() {
			steps = 15
		}
		for i := range steps {
			n := len(whole) * i / steps
			check(fmt.Sprintf("cut at %d", n), whole[:n])
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 3 * steps {
			at := r.IntN(len(whole))
			b := bytes.Clone(whole)
			b[at] ^= 1 << r.IntN(8)
			check(fmt.Sprintf("bit flipped at %d", at), b)
		}
		for i := range steps {
			at := len(whole) * i / steps / 512 * 512
			b := bytes.Clone(whole)
			clear(b[at : at+512])
			check(fmt.Sprintf("block at %d zeroed", at), b)
		}
		t.Logf("%s: %d damaged archives failed, %d had all packages", kind, failed, same)
		if failed == 0 {
			t.Error("no damage was noticed")
		}
	}
}

// zeros gives n zero bytes.
func zeros(n int64) io.Reader {
	return io.LimitReader(readerFunc(func(p []byte) (int, error) { clear(p); return len(p), nil }), n)
}

// bomb writes a Docker archive whose single layer holds one file of n zero
// bytes, without ever having it in memory.
func bomb(t testing.TB, n int64) string {
	t.Helper()
	var layer bytes.Buffer
	z, _ := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: "etc/os-release", Typeflag: tar.TypeReg, Size: int64(len(osRelease))}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, osRelease)
	if err := w.WriteHeader(&tar.Header{Name: "big", Typeflag: tar.TypeReg, Size: n}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, zeros(n)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	z.Close()
	// The digest is never reached: the budget ends first.
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("0", 64) + `"]}}`
	raw := tarOf(t, map[string]string{
		"manifest.json": `[{"Config":"config.json","RepoTags":["example.com/bomb:1"],"Layers":["layer.tar.gz"]}]`,
		"config.json":   config, "layer.tar.gz": layer.String()})
	path := filepath.Join(t.TempDir(), "bomb.tar")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("the archive has %s and unpacks to %s", bytesText(int64(len(raw))), bytesText(n))
	return path
}

func TestBomb(t *testing.T) {
	n := int64(4 << 30)
	if testing.Short() {
		n = 512 << 20
	}
	s := newScanner(t, func(c *Config) { c.MaxImageBytes = 256 << 20 })
	path := bomb(t, n)
	begin := time.Now()
	o := s.Scan(t.Context(), "docker-archive:"+path, nil)
	mustFail(t, o, "unpacks to more than 256 MiB (the limit MaxImageBytes)")
	var limit *LimitError
	if !errors.As(o.Err, &limit) || limit.Field != "MaxImageBytes" {
		t.Errorf("%v is no LimitError", o.Err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	if DefaultMaxImageBytes >= 4<<30 {
		t.Error("the default lets a bomb of 4 GiB pass")
	}
}

func TestSparseFileCountsWhole(t *testing.T) {
	// A GNU sparse header that says 1 TiB and holds nothing.
	b := &budget{maxBytes: 1 << 30, maxFiles: 10}
	if err := b.entry(1 << 40); err == nil {
		t.Error("a file of 1 TiB was taken")
	}
}

func TestLimits(t *testing.T) {
	img := debianImage(t)
	path := "oci-archive:" + ociArchive(t, map[string]v1.Image{"": img})
	for field, change := range map[string]func(*Config){
		"MaxFiles":      func(c *Config) { c.MaxFiles = 2 },
		"MaxLayers":     func(c *Config) { c.MaxLayers = 1 },
		"MaxImageBytes": func(c *Config) { c.MaxImageBytes = 5000 },
		"Timeout":       func(c *Config) { c.Timeout = time.Nanosecond },
	} {
		o := newScanner(t, change).Scan(t.Context(), path, nil)
		mustFail(t, o, "(the limit "+field+")")
	}
	many := map[string]string{"etc/os-release": osRelease}
	for i := range 300 {
		many[fmt.Sprintf("f/%d", i)] = "x"
	}
	img = imageOf(t, "linux/amd64", tarOf(t, many))
	o := newScanner(t, func(c *Config) { c.MaxFiles = 200 }).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil)
	mustFail(t, o, "more than 200 files")
	dir := t.TempDir()
	for i := range 30 {
		os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600)
	}
	mustFail(t, newScanner(t, func(c *Config) { c.MaxFiles = 20 }).Scan(t.Context(), "dir:"+dir, nil), "more than 20 files")
	if _, err := New(Config{MaxLayers: -1}); !errors.Is(err, ErrInput) {
		t.Errorf("a negative limit gives %v", err)
	}
}

func TestCancel(t *testing.T) {
	path := "oci-archive:" + ociArchive(t, map[string]v1.Image{"": debianImage(t)})
	for _, stage := range []Stage{Resolving, Pulling, Cataloging, Matching} {
		ctx, cancel := context.WithCancel(t.Context())
		o := newScanner(t).Scan(ctx, path, ProgressFunc(func(e Event) {
			if e.Stage == stage {
				cancel()
			}
		}))
		mustFail(t, o, "cancelled")
		if !errors.Is(o.Err, context.Canceled) {
			t.Errorf("%s: %v", stage, o.Err)
		}
		cancel()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, o := range newScanner(t).ScanAll(ctx, []string{path, path}, 2, nil) {
		mustFail(t, o, "cancelled")
	}
}

func TestMatcherFails(t *testing.T) {
	path := "oci-archive:" + ociArchive(t, map[string]v1.Image{"": debianImage(t)})
	o := newScanner(t, func(c *Config) { c.Matcher = &fakeMatcher{err: errors.New("no database")} }).Scan(t.Context(), path, nil)
	mustFail(t, o, "matching the packages: no database")
	if o.SBOM == nil {
		t.Error("the SBOM is lost")
	}
	mustFail(t, newScanner(t, func(c *Config) { c.Matcher = &fakeMatcher{panic: true} }).Scan(t.Context(), path, nil), "the matcher broke")
	o = newScanner(t, func(c *Config) { c.Matcher = nil }).Scan(t.Context(), path, nil)
	mustFail(t, o, "not matched")
	if !errors.Is(o.Err, ErrNotMatched) || !slices.Equal(packagesOf(o), wantPackages) || o.Scan.Packages != 3 {
		t.Errorf("err %v, packages %v", o.Err, packagesOf(o))
	}
}

// layoutOf writes an OCI layout by hand: blobs, and manifest as its only entry.
func layoutOf(t testing.TB, manifest []byte, mediaType types.MediaType, blobs ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(path string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, path), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range append(blobs, manifest) {
		put("blobs/sha256/"+sumBytes(b).Hex, b)
	}
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, Manifests: []v1.Descriptor{{MediaType: mediaType, Size: int64(len(manifest)), Digest: sumBytes(manifest)}}})
	if err != nil {
		t.Fatal(err)
	}
	put("index.json", index)
	return "oci-dir:" + dir
}

func TestHostileManifests(t *testing.T) {
	desc := func(b []byte, mt string) string {
		return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mt, sumBytes(b), len(b))
	}
	const configType, layerType = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
	layer := tarOf(t, debianFiles())
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, sumBytes(layer))
	manifest := func(config, layers string) []byte {
		return []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":` + config + `,"layers":[` + layers + `]}`)
	}
	good := manifest(desc(config, configType), desc(layer, layerType))
	mustPass(t, newScanner(t).Scan(t.Context(), layoutOf(t, good, types.OCIManifestSchema1, config, layer), nil), []string{"libc6 2.36-9+deb12u4", "openssl 3.0.11-1~deb12u2"})

	chart := []byte(`{"name":"chart"}`)
	other := []byte("not a tar at all, though its digest is right")
	otherConfig := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]}}`, sumBytes(other))
	for name, c := range map[string]struct {
		input, want string
	}{
		"helm chart":    {layoutOf(t, manifest(desc(chart, "application/vnd.cncf.helm.config.v1+json"), desc(layer, layerType)), types.OCIManifestSchema1, chart, layer), "no container image"},
		"schema 1":      {layoutOf(t, []byte(`{"schemaVersion":1,"fsLayers":[]}`), types.OCIManifestSchema1), "schema 1"},
		"no layer":      {layoutOf(t, good, types.OCIManifestSchema1, config), "holds no blobs/"},
		"no config":     {layoutOf(t, good, types.OCIManifestSchema1, layer), "configuration"},
		"no tar":        {layoutOf(t, manifest(desc(otherConfig, configType), desc(other, layerType)), types.OCIManifestSchema1, otherConfig, other), ""},
		"layer type":    {layoutOf(t, manifest(desc(config, configType), desc(layer, "application/x-secret")), types.OCIManifestSchema1, config, layer), "unsupported layer"},
		"negative size": {layoutOf(t, manifest(desc(config, configType), fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":-5}`, layerType, sumBytes(layer))), types.OCIManifestSchema1, config, layer), ""},
		"huge size":     {layoutOf(t, manifest(desc(config, configType), fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":9223372036854775807}`, layerType, sumBytes(layer))), types.OCIManifestSchema1, config, layer), "MaxImageBytes"},
		"wrong size":    {layoutOf(t, manifest(desc(config, configType), fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7}`, layerType, sumBytes(layer))), types.OCIManifestSchema1, config, layer), "instead of 7"},
		"other digest":  {layoutOf(t, manifest(desc(config, configType), fmt.Sprintf(`{"mediaType":%q,"digest":"md5:abc","size":7}`, layerType)), types.OCIManifestSchema1, config, layer), ""},
		"path digest":   {layoutOf(t, manifest(desc(config, configType), fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:../../../../etc/passwd","size":7}`, layerType)), types.OCIManifestSchema1, config, layer), ""},
		"swapped layer": {layoutOf(t, manifest(desc(otherConfig, configType), desc(layer, layerType)), types.OCIManifestSchema1, otherConfig, layer), "corrupt"},
		"an index":      {layoutOf(t, []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`), types.OCIImageIndex), "holds no image"},
		"garbage":       {layoutOf(t, []byte(`]`), types.OCIManifestSchema1), "no JSON"},
	} {
		t.Run(name, func(t *testing.T) { mustFail(t, newScanner(t).Scan(t.Context(), c.input, nil), c.want) })
	}
}

func TestUnreadablePackageDatabase(t *testing.T) {
	files := map[string]string{"etc/os-release": "NAME=Fedora\nID=fedora\nVERSION_ID=40\n", "usr/lib/sysimage/rpm/rpmdb.sqlite": "SQLite format 3\x00 but damaged from here on" + strings.Repeat("x", 4096)}
	img := imageOf(t, "linux/amd64", tarOf(t, files))
	o := newScanner(t).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil)
	mustFail(t, o, "package database")
}
