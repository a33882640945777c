// Package shop builds the two container images of the quickstart without any
// container runtime: a Go service each, with the package records of Debian, npm
// and PyPI that a scanner reads. The same sources and Go release give the same
// digests.
package shop

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is one of the images of the shop.
type Image struct {
	Name string // of its folder
	Tag  string
}

// Images are those of the shop.
func Images() []Image { return []Image{{"frontend", "1.4.2"}, {"backend", "2.0.0"}} }

// Reference names the image as a cluster pulls it.
func (i Image) Reference() string { return "registry.example.com/shop/" + i.Name + ":" + i.Tag }

// File is the name of the image's archive.
func (i Image) File() string { return i.Name + ".oci.tar" }

// built is the time that everything in an image carries.
var built = time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC)

type file struct {
	name string
	data []byte
	mode int64 // 0: 0644
}

// Build builds the image from dir, the folder that holds a folder for each
// image. It runs the go command, which may download modules.
func (i Image) Build(ctx context.Context, dir string) (v1.Image, error) {
	dir = filepath.Join(dir, i.Name)
	f, err := os.Open(filepath.Join(dir, "packages.txt"))
	if err != nil {
		return nil, fmt.Errorf("reading packages: %w", err)
	}
	defer f.Close()
	packages, err := ReadPackages(f)
	if err != nil {
		return nil, fmt.Errorf("reading packages: %s: %w", f.Name(), err)
	}
	binary, err := compile(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("building the service %s: %w", i.Name, err)
	}
	config, err := empty.Image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS = "amd64", "linux"
	config.Created = v1.Time{Time: built}
	config.Config.Entrypoint = []string{"/usr/local/bin/" + i.Name}
	config.Config.User = "65532"
	img, err := mutate.ConfigFile(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), config)
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		what  string
		files []file
	}{
		{"the packages of Debian", base(packages)},
		{"the packages of npm", npm(packages)},
		{"the packages of PyPI", python(packages)},
		{"the service", []file{{name: "usr/local/bin/" + i.Name, data: binary, mode: 0o755}}},
	} {
		if len(l.files) == 0 {
			continue
		}
		text, err := archive(l.files)
		if err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil },
			tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
			Created: v1.Time{Time: built}, CreatedBy: "add " + l.what, Author: "examples/quickstart/mkimage",
		}})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}

// compile builds the service in dir so that the same sources give the same bytes.
func compile(ctx context.Context, dir string) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "shop")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "service")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-buildid=", "-o", out, ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=-mod=readonly", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go build: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return os.ReadFile(out)
}

// archive is a tar of the files, sorted, with the folders that they need.
func archive(files []file) ([]byte, error) {
	files = slices.Clone(files)
	folders := map[string]bool{}
	for _, f := range files {
		for dir := filepath.Dir(f.name); dir != "."; dir = filepath.Dir(dir) {
			folders[dir+"/"] = true
		}
	}
	for dir := range folders {
		files = append(files, file{name: dir, mode: 0o755})
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: cmp.Or(f.mode, 0o644), ModTime: built, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

// Write writes img as an OCI archive: a tar of an OCI layout whose only image
// bears the name reference.
func Write(w io.Writer, img v1.Image, reference string) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	index, err := json.MarshalIndent(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Size: int64(len(manifest)), Digest: digest,
			Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
			Annotations: map[string]string{
				"io.containerd.image.name":          reference,
				"org.opencontainers.image.ref.name": reference,
			},
		}},
	}, "", "  ")
	if err != nil {
		return err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	files := []file{
		{name: "index.json", data: index},
		{name: "oci-layout", data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: blob(digest), data: manifest},
		{name: blob(configName), data: config},
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		h, err := l.Digest()
		if err != nil {
			return err
		}
		data, err := read(l)
		if err != nil {
			return fmt.Errorf("reading layer %s: %w", h, err)
		}
		files = append(files, file{name: blob(h), data: data})
	}
	text, err := archive(files)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

func read(l v1.Layer) (_ []byte, err error) {
	r, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	return io.ReadAll(r)
}
