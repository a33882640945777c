package scanner

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func TestArchives(t *testing.T) {
	img := debianImage(t)
	config, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	docker := dockerArchive(t, map[string]v1.Image{"example.com/team/app:1.0": img})
	dir := ociDir(t, map[string]v1.Image{"": img})
	named := ociArchive(t, map[string]v1.Image{"example.com/team/app:1.0": img})
	tagged := ociArchive(t, map[string]v1.Image{"1.27": img})
	for _, c := range []struct{ input, image, source, digest string }{
		{"docker-archive:" + docker, "example.com/team/app:1.0", "docker-archive", ""},
		{"oci-dir:" + dir, "oci-dir:" + dir, "oci-dir", digestOf(t, img)},
		{"oci-archive:" + named, "example.com/team/app:1.0", "oci-archive", digestOf(t, img)},
		{"oci-archive:" + tagged, "oci-archive:" + tagged, "oci-archive", digestOf(t, img)},
		{"oci-archive:" + tagged + ":1.27", "oci-archive:" + tagged + ":1.27", "oci-archive", digestOf(t, img)},
	} {
		o := newScanner(t).Scan(t.Context(), c.input, nil)
		mustPass(t, o, wantPackages)
		if o.Scan.Image != c.image || o.Scan.Source != c.source || o.Scan.Digest != c.digest ||
			o.Scan.Platform != "linux/amd64" || o.Scan.Distro != "debian 12" || o.Scan.ConfigDigest != config.String() {
			t.Errorf("%s: scan is %+v", c.input, o.Scan)
		}
	}
}

func TestCompressedArchive(t *testing.T) {
	plain, err := os.ReadFile(dockerArchive(t, map[string]v1.Image{"example.com/app:1": debianImage(t)}))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(plain)
	w.Close()
	path := filepath.Join(t.TempDir(), "image.tar.gz")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	mustPass(t, newScanner(t).Scan(t.Context(), "docker-archive:"+path, nil), wantPackages)
	small := newScanner(t, func(c *Config) { c.MaxImageBytes = 4000 })
	mustFail(t, small.Scan(t.Context(), "docker-archive:"+path, nil), "MaxImageBytes")
}

func TestWrongKindOfArchive(t *testing.T) {
	img := debianImage(t)
	docker, oci := dockerArchive(t, map[string]v1.Image{"example.com/app:1": img}), ociArchive(t, map[string]v1.Image{"": img})
	s := newScanner(t)
	mustFail(t, s.Scan(t.Context(), "oci-archive:"+docker, nil), "write docker-archive:"+docker)
	mustFail(t, s.Scan(t.Context(), "docker-archive:"+oci, nil), "write oci-archive:"+oci)
	mustFail(t, s.Scan(t.Context(), "docker-archive:"+filepath.Dir(docker), nil), "no regular file")
	mustFail(t, s.Scan(t.Context(), "oci-dir:"+docker, nil), "")
	mustFail(t, s.Scan(t.Context(), "oci-dir:"+t.TempDir(), nil), "index.json")
	mustFail(t, s.Scan(t.Context(), "docker-archive:no/such/file.tar", nil), "there is no no/such/file.tar")
	mustFail(t, s.Scan(t.Context(), "sbom:"+docker, nil), "no SBOM")
	mustFail(t, s.Scan(t.Context(), "dir:"+docker, nil), "no directory")
	// A path without scheme is never guessed at.
	mustFail(t, s.Scan(t.Context(), docker, nil), "write docker-archive:"+docker)
	mustFail(t, s.Scan(t.Context(), oci, nil), "write oci-archive:"+oci)
	mustFail(t, s.Scan(t.Context(), filepath.Dir(docker), nil), "write dir:")
}

func TestArchivesOfSeveralImages(t *testing.T) {
	a, b := debianImage(t), imageOf(t, "linux/amd64", tarOf(t, nodeFiles()))
	images := map[string]v1.Image{"example.com/a:1": a, "example.com/b:1": b}
	for kind, path := range map[string]string{"docker-archive": dockerArchive(t, images), "oci-archive": ociArchive(t, images), "oci-dir": ociDir(t, images)} {
		in := kind + ":" + path
		mustFail(t, newScanner(t).Scan(t.Context(), in, nil), "several images")
		mustFail(t, newScanner(t).Scan(t.Context(), in, nil), "example.com/b:1")
		mustFail(t, newScanner(t).Scan(t.Context(), in+":example.com/c:1", nil), "no image named example.com/c:1")
		o := newScanner(t).Scan(t.Context(), in+":example.com/b:1", nil)
		mustPass(t, o, []string{"lodash 4.17.15"})
		if o.Scan.Image != "example.com/b:1" {
			t.Errorf("%s: named %s", kind, o.Scan.Image)
		}
		o = newScanner(t, func(c *Config) { c.As = "example.com/a:1" }).Scan(t.Context(), in, nil)
		mustPass(t, o, wantPackages)
	}
}

func TestDockerArchiveOfSeveralNames(t *testing.T) {
	img := debianImage(t)
	o := newScanner(t).Scan(t.Context(), "docker-archive:"+dockerArchive(t, map[string]v1.Image{"example.com/a:1": img, "example.com/a:2": img}), nil)
	mustPass(t, o, wantPackages)
	if o.Scan.Image != "example.com/a:1" && o.Scan.Image != "example.com/a:2" || len(o.Scan.Warnings) != 1 {
		t.Errorf("scan is %+v", o.Scan)
	}
}

func TestDockerArchiveWithPushedManifest(t *testing.T) {
	// As Docker writes it from containerd's store: one tar that is both.
	img := debianImage(t)
	dir := ociDir(t, map[string]v1.Image{"": img})
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	saved := savedImage{Config: "blobs/sha256/" + m.Config.Digest.Hex, RepoTags: []string{"example.com/app:1"}}
	for _, l := range m.Layers {
		saved.Layers = append(saved.Layers, "blobs/sha256/"+l.Digest.Hex)
	}
	raw, err := json.Marshal([]savedImage{saved})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	o := newScanner(t).Scan(t.Context(), "docker-archive:"+tarDir(t, dir), nil)
	mustPass(t, o, wantPackages)
	if o.Scan.Digest != digestOf(t, img) || o.Scan.Image != "example.com/app:1" {
		t.Errorf("scan is %+v", o.Scan)
	}
}

func TestAs(t *testing.T) {
	img := debianImage(t)
	path := "oci-archive:" + ociArchive(t, map[string]v1.Image{"": img})
	with := func(as string) Outcome {
		return newScanner(t, func(c *Config) { c.As = as }).Scan(t.Context(), path, nil)
	}
	o := with("example.com/app:2")
	mustPass(t, o, wantPackages)
	if o.Scan.Image != "example.com/app:2" || o.SBOM.Source.Name != "example.com/app" {
		t.Errorf("named %s, SBOM %s", o.Scan.Image, o.SBOM.Source.Name)
	}
	mustPass(t, with("example.com/app@"+digestOf(t, img)), wantPackages)
	mustFail(t, with("example.com/app@sha256:"+strings.Repeat("a", 64)), "not that of")
	if _, err := New(Config{As: "Not A Name"}); err == nil {
		t.Error("a name that is none was taken")
	}
	for _, o := range newScanner(t, func(c *Config) { c.As = "app:1" }).ScanAll(t.Context(), []string{path, path}, 2, nil) {
		mustFail(t, o, "cannot name 2 images")
	}
}

func TestOCILayoutOfPlatforms(t *testing.T) {
	amd, arm := debianImage(t), imageOf(t, "linux/arm64/v8", tarOf(t, nodeFiles()))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm}, // its platform is told by its configuration alone
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	o := newScanner(t).Scan(t.Context(), "oci-dir:"+dir, nil)
	mustPass(t, o, wantPackages)
	if x := o.Scan.Index; x == nil || x.Digest != digestOf(t, index) || len(x.Platforms) != 2 || x.Platforms["linux/arm64"] != digestOf(t, arm) {
		t.Errorf("index is %+v", x)
	}
	o = newScanner(t, func(c *Config) { c.Platform = "linux/arm64" }).Scan(t.Context(), "oci-dir:"+dir, nil)
	mustPass(t, o, []string{"lodash 4.17.15"})
	o = newScanner(t, func(c *Config) { c.Platform = "linux/s390x" }).Scan(t.Context(), "oci-dir:"+dir, nil)
	mustFail(t, o, "no platform linux/s390x; it has linux/amd64, linux/arm64")
	single := "oci-dir:" + ociDir(t, map[string]v1.Image{"": arm})
	mustPass(t, newScanner(t).Scan(t.Context(), single, nil), []string{"lodash 4.17.15"})
	mustFail(t, newScanner(t, func(c *Config) { c.Platform = "linux/amd64" }).Scan(t.Context(), single, nil), "is for linux/arm64, not for linux/amd64")
}

func TestNothingFoundIsNotAssessed(t *testing.T) {
	for _, img := range []v1.Image{imageOf(t, "linux/amd64", tarOf(t, map[string]string{"hello": "world"})), imageOf(t, "linux/amd64")} {
		mustFail(t, newScanner(t).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil), "neither a package nor")
	}
	mustFail(t, newScanner(t).Scan(t.Context(), "dir:"+t.TempDir(), nil), "neither a package nor")
	distro := imageOf(t, "linux/amd64", tarOf(t, map[string]string{"etc/os-release": osRelease}))
	o := newScanner(t).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": distro}), nil)
	mustFail(t, o, "no package was found in it, though it is debian 12")
}

func TestOddTarEntries(t *testing.T) {
	b := tarOf(t, debianFiles(),
		entry{Header: tar.Header{Name: "../../../escape", Typeflag: tar.TypeReg}, body: "x"},
		entry{Header: tar.Header{Name: "/etc/absolute", Typeflag: tar.TypeReg}, body: "x"},
		entry{Header: tar.Header{Name: "etc/loop", Typeflag: tar.TypeSymlink, Linkname: "loop"}},
		entry{Header: tar.Header{Name: "etc/out", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc/passwd"}},
		entry{Header: tar.Header{Name: "etc/hard", Typeflag: tar.TypeLink, Linkname: "../../../../etc/shadow"}},
		entry{Header: tar.Header{Name: "usr/lib/os-release", Typeflag: tar.TypeLink, Linkname: "etc/os-release"}},
		entry{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar}},
		entry{Header: tar.Header{Name: ".wh.gone", Typeflag: tar.TypeReg}},
		entry{Header: tar.Header{Name: "dir", Typeflag: tar.TypeSymlink, Linkname: "/"}},
		entry{Header: tar.Header{Name: "dir/var/lib/x", Typeflag: tar.TypeReg}, body: "x"},
	)
	img := imageOf(t, "linux/amd64", b, tarOf(t, nodeFiles()))
	mustPass(t, newScanner(t).Scan(t.Context(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil), wantPackages)
}

func TestLayoutLinksDoNotLeaveIt(t *testing.T) {
	dir := ociDir(t, map[string]v1.Image{"": debianImage(t)})
	outside := filepath.Join(t.TempDir(), "index.json")
	index := filepath.Join(dir, "index.json")
	if err := os.Rename(index, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, index); err != nil {
		t.Fatal(err)
	}
	mustFail(t, newScanner(t).Scan(t.Context(), "oci-dir:"+dir, nil), "")
}

func TestGoBinaryAlone(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module example.com/hello\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() { println(\"hello\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", "hello", ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binary, err := os.ReadFile(filepath.Join(dir, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	img := imageOf(t, "linux/amd64", tarOf(t, nil, entry{Header: tar.Header{Name: "hello", Mode: 0o755, Typeflag: tar.TypeReg}, body: string(binary)}))
	o := newScanner(t).Scan(context.Background(), "oci-archive:"+ociArchive(t, map[string]v1.Image{"": img}), nil)
	if o.Err != nil || !strings.Contains(strings.Join(packagesOf(o), ";"), "stdlib go1") || o.Scan.Distro != "" {
		t.Errorf("err %v, packages %v", o.Err, packagesOf(o))
	}
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "node_modules", "lodash")
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "package.json"), []byte(nodeFiles()["app/node_modules/lodash/package.json"]), 0o600); err != nil {
		t.Fatal(err)
	}
	o := newScanner(t, func(c *Config) { c.As = "example.com/app:3" }).Scan(t.Context(), "dir:"+dir, nil)
	if o.Err == nil && o.Scan.Packages == 0 || o.Scan.Source != "dir" || o.Scan.Image != "example.com/app:3" {
		t.Errorf("scan is %+v", o.Scan)
	}
}
