package scanner

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

// found is an image that was found, its manifest and configuration verified,
// its layers not yet read.
type found struct {
	source Kind
	// name is the full reference that the source itself gives, or empty.
	name     string
	digest   string
	index    *api.Index
	rawIndex []byte // of index, where it is known
	platform string

	mediaType   types.MediaType
	rawManifest []byte
	rawConfig   []byte
	// configID is the digest of the configuration where the configuration itself is not there.
	configID string
	config   *v1.ConfigFile
	layers   []layer

	tags, repoDigests []string
	warnings          []string
	// repository is where in its registry the image was found; nil for other sources.
	repository *name.Repository
	// close releases what the layers are read from; nil when there is nothing.
	close func() error
}

// release closes what f holds open. It may be called of nil.
func (f *found) release() {
	if f != nil && f.close != nil {
		_ = f.close()
	}
}

func (f *found) configDigest() v1.Hash { return sumBytes(f.rawConfig) }

// packed is the size of the layers as stored, or 0 when it is not known.
func (f *found) packed() int64 {
	var n int64
	for _, l := range f.layers {
		if l.size < 0 {
			return 0
		}
		n += l.size
	}
	return n
}

// guardedImage is found as a v1.Image for stereoscope. Its layers are read
// within a budget and verified.
type guardedImage struct {
	*found
	guarded []v1.Layer
}

func guard(ctx context.Context, f *found, b *budget, r *reporter) *guardedImage {
	img := &guardedImage{found: f}
	for i, l := range f.layers {
		img.guarded = append(img.guarded, &guardedLayer{layer: l, ctx: ctx, index: i, budget: b, report: r})
	}
	return img
}

func (i *guardedImage) Layers() ([]v1.Layer, error)         { return i.guarded, nil }
func (i *guardedImage) MediaType() (types.MediaType, error) { return i.mediaType, nil }
func (i *guardedImage) Size() (int64, error)                { return int64(len(i.rawManifest)), nil }
func (i *guardedImage) ConfigName() (v1.Hash, error)        { return i.configDigest(), nil }
func (i *guardedImage) ConfigFile() (*v1.ConfigFile, error) { return i.config, nil }
func (i *guardedImage) RawConfigFile() ([]byte, error)      { return i.rawConfig, nil }
func (i *guardedImage) Digest() (v1.Hash, error)            { return sumBytes(i.rawManifest), nil }
func (i *guardedImage) Manifest() (*v1.Manifest, error)     { return partial.Manifest(i) }
func (i *guardedImage) RawManifest() ([]byte, error)        { return i.rawManifest, nil }

// LayerByDigest finds a layer by the digest of its blob.
func (i *guardedImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	for _, l := range i.guarded {
		if d, err := l.Digest(); err == nil && d == h {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no layer has the digest %s", h)
}

// LayerByDiffID finds a layer by the digest of its tar.
func (i *guardedImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	for n, l := range i.layers {
		if l.diffID == h {
			return i.guarded[n], nil
		}
	}
	return nil, fmt.Errorf("no layer has the diff id %s", h)
}

// readAtMost reads all of r, and refuses more than n bytes.
func readAtMost(r io.Reader, n int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, n+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if int64(len(b)) > n {
		return nil, fmt.Errorf("%s is larger than %s", what, bytesText(n))
	}
	return b, nil
}
