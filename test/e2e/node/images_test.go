package node_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/assay-dev/assay/test/e2e/built"
)

// files are those of a layer, by path; a name that begins with .wh. removes what is below.
type files map[string]string

// sample is an image of the tests.
type sample struct {
	name    string // a reference
	archive string // of OCI
	digest  string
}

// ecosystems gives the layers of at least 20 images: distributions, languages, and several of them together.
func ecosystems(tb testing.TB) map[string][]files {
	tb.Helper()
	program := goProgram(tb)
	all := map[string][]files{}
	for i := range 4 {
		v := fmt.Sprintf("1.%d.0", i)
		all[fmt.Sprintf("debian:%d", i)] = []files{debian(i)}
		all[fmt.Sprintf("alpine:%d", i)] = []files{alpine(i)}
		all[fmt.Sprintf("npm:%d", i)] = []files{npm("lodash", v)}
		all[fmt.Sprintf("python:%d", i)] = []files{python("requests", v)}
		all[fmt.Sprintf("java:%d", i)] = []files{{"opt/app.jar": jar(tb, "log4j-core", "2."+v)}}
	}
	all["go:1"] = []files{{"usr/local/bin/program": program}}
	all["go:2"] = []files{debian(7), {"app": program}}
	// What an upper layer removes or replaces is not there.
	all["mixed:1"] = []files{debian(5), npm("left-pad", "1.0.0"), {"app/node_modules/left-pad/.wh.package.json": ""}, npm("kept", "3.0.0"), python("flask", "2.0.0")}
	all["mixed:2"] = []files{alpine(5), npm("gone", "1.0.0"), merged(files{"app/.wh..wh..opq": ""}, npm("stays", "1.0.0"))}
	return all
}

func merged(a, b files) files {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func debian(n int) files {
	status := ""
	for i := range 5 {
		status += fmt.Sprintf("Package: lib%d\nStatus: install ok installed\nSource: src%d\nArchitecture: amd64\nVersion: %d.%d-1\nMaintainer: x <x@example.com>\nDescription: a library\n\n", i, i, n, i)
	}
	return files{"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n", "var/lib/dpkg/status": status,
		"var/lib/dpkg/info/lib0.list": "/usr/lib/lib0.so\n", "usr/share/doc/lib0/copyright": "License: MIT\n"}
}

func alpine(n int) files {
	installed := ""
	for i := range 5 {
		installed += fmt.Sprintf("C:Q1abcdefghijklmnopqrstuvwxyz0=\nP:apk%d\nV:%d.%d-r0\nA:x86_64\nS:100\nI:200\nT:a package\nU:https://example.com\nL:MIT\no:apk%d\n\n", i, n, i, i)
	}
	return files{"etc/os-release": "ID=alpine\nVERSION_ID=3.20.1\nNAME=\"Alpine Linux\"\n", "lib/apk/db/installed": installed}
}

func npm(name, version string) files {
	return files{"app/node_modules/" + name + "/package.json": fmt.Sprintf(`{"name": %q, "version": %q, "license": "MIT"}`, name, version)}
}

func python(name, version string) files {
	dir := fmt.Sprintf("usr/lib/python3/site-packages/%s-%s.dist-info/", name, version)
	return files{dir + "METADATA": fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\nLicense: MIT\n\nText\n", name, version), dir + "RECORD": name + "/__init__.py,sha256=x,0\n"}
}

func jar(tb testing.TB, name, version string) string {
	tb.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for path, text := range (files{
		"META-INF/MANIFEST.MF": fmt.Sprintf("Manifest-Version: 1.0\nImplementation-Title: %s\nImplementation-Version: %s\n", name, version),
		"META-INF/maven/org.example/" + name + "/pom.properties": fmt.Sprintf("groupId=org.example\nartifactId=%s\nversion=%s\n", name, version),
	}) {
		w, err := z.Create(path)
		if err == nil {
			_, err = io.WriteString(w, text)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func goProgram(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "program")
	if err := built.Go(".", nil, "build", "-trimpath", "-o", path, "./testdata/program"); err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// samples writes the images as OCI archives.
func samples(tb testing.TB) []sample {
	tb.Helper()
	all := ecosystems(tb)
	dir := tb.TempDir()
	var list []sample
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, write(tb, filepath.Join(dir, fmt.Sprintf("%d.tar", len(list))), "registry.example.com/e2e/"+name, all[name]))
	}
	if len(list) < 20 {
		tb.Fatalf("only %d images", len(list))
	}
	return list
}

// write writes one image.
func write(tb testing.TB, archive, name string, layers []files) sample {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	image := empty.Image
	for _, l := range layers {
		var text bytes.Buffer
		w := tar.NewWriter(&text)
		for _, path := range slices.Sorted(maps.Keys(l)) {
			must(w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(l[path]))}))
			_, err := io.WriteString(w, l[path])
			must(err)
		}
		must(w.Close())
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text.Bytes())), nil })
		must(err)
		image, err = mutate.AppendLayers(image, layer)
		must(err)
	}
	config, err := image.ConfigFile()
	must(err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Labels = map[string]string{"name": name} // no two are the same
	image, err = mutate.ConfigFile(image, config)
	must(err)
	dir, err := os.MkdirTemp(filepath.Dir(archive), "layout")
	must(err)
	folder, err := layout.Write(dir, empty.Index)
	must(err)
	must(folder.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "1"})))
	f, err := os.Create(archive)
	must(err)
	w := tar.NewWriter(f)
	must(w.AddFS(os.DirFS(dir)))
	must(w.Close())
	must(f.Close())
	must(os.RemoveAll(dir))
	digest, err := image.Digest()
	must(err)
	return sample{name, archive, digest.String()}
}
