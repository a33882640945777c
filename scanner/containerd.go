package scanner

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/client"
	ccontent "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/assay-dev/assay/api"
)

// openContainerd finds an image in containerd's content store, without a pull.
// errAbsent tells that containerd does not answer or lacks the image.
func (s *Scanner) openContainerd(ctx context.Context, value string) (_ *found, err error) {
	address := firstOf(s.cfg.ContainerdAddress, os.Getenv("CONTAINERD_ADDRESS"), defaults.DefaultAddress)
	if _, err := os.Stat(address); err != nil {
		return nil, fmt.Errorf("%w: containerd does not answer: %w", errAbsent, err)
	}
	c, err := client.New(address, client.WithTimeout(daemonWait))
	if err != nil {
		return nil, fmt.Errorf("%w: containerd does not answer: %w", errAbsent, err)
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	ref, err := api.ParseReference(value)
	if err != nil {
		return nil, err
	}
	spaces := []string{firstOf(s.cfg.ContainerdNamespace, os.Getenv("CONTAINERD_NAMESPACE"))}
	if spaces[0] == "" {
		spaces = []string{namespaces.Default, "k8s.io"}
	}
	for _, space := range spaces {
		in := namespaces.WithNamespace(ctx, space)
		img, err := c.ImageService().Get(in, ref.String())
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("asking containerd for the image: %w", err)
		}
		f, err := s.fromStore(ctx, c.ContentStore(), space, img)
		if err != nil {
			return nil, err
		}
		f.repoDigests = []string{ref.Name() + "@" + img.Target.Digest.String()}
		f.close = c.Close
		return f, nil
	}
	return nil, fmt.Errorf("%w: containerd has no image %s", errAbsent, ref)
}

// fromStore finds the image of a containerd image record.
func (s *Scanner) fromStore(ctx context.Context, store ccontent.Provider, space string, img images.Image) (*found, error) {
	h, err := v1.NewHash(img.Target.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("reading containerd's record of the image: %w", err)
	}
	root := v1.Descriptor{Digest: h, Size: img.Target.Size, MediaType: types.MediaType(img.Target.MediaType)}
	c := storeContent{store, space}
	f, err := s.resolver(c).resolve(ctx, root)
	if err != nil {
		return nil, err
	}
	// Kubernetes' nodes often discard layers once they are unpacked. Notice it
	// here, while another source can still be asked.
	for _, l := range f.layers {
		rc, err := c.blob(ctx, v1.Descriptor{Digest: l.digest, Size: l.size, MediaType: l.mediaType})
		if err != nil {
			return nil, err
		}
		rc.Close()
	}
	f.source = Containerd
	return f, nil
}

// storeContent reads a containerd content store in one namespace.
type storeContent struct {
	store ccontent.Provider
	space string
}

func (c storeContent) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	ra, err := c.store.ReaderAt(namespaces.WithNamespace(ctx, c.space), ocispec.Descriptor{
		Digest: godigest.Digest(d.Digest.String()), Size: d.Size, MediaType: string(d.MediaType)})
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: containerd does not hold all of the image (%s): it was pulled for another platform, or its layers were discarded",
			errAbsent, d.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("reading from containerd: %w", err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
}

func (c storeContent) manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return c.blob(ctx, d)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
