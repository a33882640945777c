package scanner

import (
	"context"
	"errors"
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

// dialContainerd gives a client of containerd. errAbsent tells that it does not answer.
func (s *Scanner) dialContainerd() (*client.Client, error) {
	address := firstOf(s.cfg.ContainerdAddress, os.Getenv("CONTAINERD_ADDRESS"), defaults.DefaultAddress)
	if _, err := os.Stat(address); err != nil {
		return nil, fmt.Errorf("%w: containerd does not answer: %w", errAbsent, err)
	}
	c, err := client.New(address, client.WithTimeout(daemonWait))
	if err != nil {
		return nil, fmt.Errorf("%w: containerd does not answer: %w", errAbsent, err)
	}
	return c, nil
}

// openContainerd finds an image in containerd's content store, without a pull, by
// its name or, where the reference has a digest, by the digest of a manifest that the
// store holds. errAbsent tells that containerd does not answer or lacks the image.
func (s *Scanner) openContainerd(ctx context.Context, value string) (_ *found, err error) {
	c, err := s.dialContainerd()
	if err != nil {
		return nil, err
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
		if errdefs.IsNotFound(err) && ref.Digest != "" {
			var info ccontent.Info
			if info, err = c.ContentStore().Info(in, godigest.Digest(ref.Digest)); err == nil {
				img = images.Image{Name: ref.String(), Target: ocispec.Descriptor{Digest: info.Digest, Size: info.Size}}
			}
		}
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
		f.repoDigests = []string{ref.WrittenName() + "@" + img.Target.Digest.String()}
		f.close = c.Close
		if err := s.checkLayers(ctx, c, space, f); err != nil {
			return nil, err
		}
		return f, nil
	}
	return nil, fmt.Errorf("%w: containerd has no image %s", errAbsent, ref)
}

// fromStore finds the image of a containerd image record.
func (s *Scanner) fromStore(ctx context.Context, store ccontent.Provider, space string, img images.Image) (*found, error) {
	root, err := rootOf(img)
	if err != nil {
		return nil, err
	}
	f, err := s.resolver(storeContent{store, space}).resolve(ctx, root)
	if err != nil {
		return nil, err
	}
	f.source = Containerd
	return f, nil
}

func rootOf(img images.Image) (v1.Descriptor, error) {
	h, err := v1.NewHash(img.Target.Digest.String())
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("reading containerd's record of the image: %w", err)
	}
	return v1.Descriptor{Digest: h, Size: img.Target.Size, MediaType: types.MediaType(img.Target.MediaType)}, nil
}

// checkLayers notices layers that are not in the content store, for Kubernetes' nodes
// often discard them once they are unpacked: then the unpacked ones are read, or
// another source is asked.
func (s *Scanner) checkLayers(ctx context.Context, c *client.Client, space string, f *found) error {
	for _, l := range f.layers {
		rc, err := l.open(ctx)
		if err == nil {
			rc.Close()
			continue
		}
		if !errors.Is(err, errAbsent) || s.cfg.ContainerdRoot == "" {
			return err
		}
		if other := s.useSnapshots(namespaces.WithNamespace(ctx, space), c, f); other != nil {
			return fmt.Errorf("%w; nor can the unpacked layers be read: %w", err, other)
		}
		return nil
	}
	return nil
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
