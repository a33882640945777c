package nodetest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	descriptor "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Containerd has the image and content services of a containerd, over a real content
// store, in one namespace. It is safe for concurrent use.
type Containerd struct {
	imagesapi.UnimplementedImagesServer
	Socket string

	store content.Store
	mu    sync.Mutex
	names map[string]*imagesapi.Image
}

// StartContainerd starts one that ends with the test.
func StartContainerd(tb testing.TB) *Containerd {
	tb.Helper()
	store, err := local.NewStore(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	c := &Containerd{Socket: filepath.Join(shortDir(tb), "containerd.sock"), store: store, names: map[string]*imagesapi.Image{}}
	serve(tb, c.Socket, func(s *grpc.Server) {
		imagesapi.RegisterImagesServer(s, c)
		contentapi.RegisterContentServer(s, contentserver.New(store))
	})
	return c
}

// shortDir is a folder with a name short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "assay")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (c *Containerd) put(tb testing.TB, digest v1.Hash, body []byte) {
	tb.Helper()
	d := ocispec.Descriptor{Digest: godigest.Digest(digest.String()), Size: int64(len(body))}
	if err := content.WriteBlob(context.Background(), c.store, digest.String(), bytes.NewReader(body), d); err != nil {
		tb.Fatal(err)
	}
}

// Add puts an image under names, as a pull would, and gives its digest and that of its
// configuration, by which CRI knows it.
func (c *Containerd) Add(tb testing.TB, image v1.Image, names ...string) (digest, id string) {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	layers, err := image.Layers()
	must(err)
	for _, l := range layers {
		h, err := l.Digest()
		must(err)
		rc, err := l.Compressed()
		must(err)
		var body bytes.Buffer
		_, err = body.ReadFrom(rc)
		must(err)
		c.put(tb, h, body.Bytes())
	}
	config, err := image.RawConfigFile()
	must(err)
	configDigest, err := image.ConfigName()
	must(err)
	c.put(tb, configDigest, config)
	manifest, err := image.RawManifest()
	must(err)
	h, err := image.Digest()
	must(err)
	c.put(tb, h, manifest)
	c.Name(h.String(), int64(len(manifest)), names...)
	c.Name(h.String(), int64(len(manifest)), configDigest.String())
	return h.String(), configDigest.String()
}

// Name gives a manifest further names.
func (c *Containerd) Name(digest string, size int64, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		c.names[n] = &imagesapi.Image{Name: n, Target: &descriptor.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest, Size: size}}
	}
}

// Forget takes names away.
func (c *Containerd) Forget(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		delete(c.names, n)
	}
}

// Discard takes a blob away, as containerd does with layers once they are unpacked.
func (c *Containerd) Discard(tb testing.TB, digest v1.Hash) {
	tb.Helper()
	if err := c.store.Delete(context.Background(), godigest.Digest(digest.String())); err != nil {
		tb.Fatal(err)
	}
}

// Get implements containerd's image service.
func (c *Containerd) Get(_ context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := c.names[r.Name]; ok {
		return &imagesapi.GetImageResponse{Image: i}, nil
	}
	return nil, status.Errorf(codes.NotFound, "image %q: not found", r.Name)
}

// List implements containerd's image service.
func (c *Containerd) List(context.Context, *imagesapi.ListImagesRequest) (*imagesapi.ListImagesResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all imagesapi.ListImagesResponse
	for _, i := range c.names {
		all.Images = append(all.Images, i)
	}
	return &all, nil
}
