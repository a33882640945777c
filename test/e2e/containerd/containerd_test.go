package containerd_test

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/assay-dev/assay/test/e2e/containerd"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/random"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestImport shows that an imported image looks to CRI as a pulled one does, and that its layers can be read.
func TestImport(t *testing.T) {
	c := containerd.Start(t)
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	folder, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "1"})); err != nil {
		t.Fatal(err)
	}
	const reference = "registry.example/team/app:1"
	if got := c.Import(t, pack(t, dir), reference); got.String() != want.String() {
		t.Errorf("digest %s, want %s", got, want)
	}

	listed, err := c.CRI.ListImages(t.Context(), &cri.ListImagesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(listed.Images) != 1 {
		t.Fatalf("CRI lists %v", listed.Images)
	}
	if got := listed.Images[0]; !slices.Equal(got.RepoTags, []string{reference}) ||
		!slices.Equal(got.RepoDigests, []string{"registry.example/team/app@" + want.String()}) {
		t.Errorf("CRI lists %v", got)
	}

	ctx := namespaces.WithNamespace(t.Context(), containerd.Namespace)
	kept, err := c.Client.GetImage(ctx, reference)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := images.Manifest(ctx, c.Client.ContentStore(), kept.Target(), nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range layers {
		compressed, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(compressed)
		if err != nil {
			t.Fatal(err)
		}
		got, err := content.ReadBlob(ctx, c.Client.ContentStore(), manifest.Layers[i])
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("layer %d differs", i)
		}
	}
}

// pack makes an OCI archive of an OCI folder.
func pack(t *testing.T, dir string) string {
	path := filepath.Join(t.TempDir(), "image.tar")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	archive := tar.NewWriter(file)
	if err := archive.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}
