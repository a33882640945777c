package scanner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

const (
	maxManifestBytes = 8 << 20
	maxConfigBytes   = 16 << 20
	maxIndexDepth    = 3
	maxIndexEntries  = 1000
)

// content is where manifests and blobs are read from by digest. What it gives
// is not verified yet.
type content interface {
	manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
}

// resolver finds one image below a manifest or an index.
type resolver struct {
	content content
	// platform is the one asked for, or empty.
	platform  string
	maxBytes  int64
	maxLayers int
}

// resolve finds the image at root and verifies its manifest and configuration.
func (r *resolver) resolve(ctx context.Context, root v1.Descriptor) (*found, error) {
	raw, mediaType, err := r.read(ctx, root)
	if err != nil {
		return nil, err
	}
	if !mediaType.IsIndex() {
		f, err := r.image(ctx, root, raw, mediaType)
		if err != nil {
			return nil, err
		}
		return f, r.checkPlatform(f)
	}
	var children []child
	if err := r.children(ctx, raw, 1, &children); err != nil {
		return nil, err
	}
	c, err := r.choose(children)
	if err != nil {
		return nil, err
	}
	rawIndex := raw
	raw, mediaType, err = r.read(ctx, c.desc)
	if err != nil {
		return nil, err
	}
	f, err := r.image(ctx, c.desc, raw, mediaType)
	if err != nil {
		return nil, err
	}
	f.index, f.rawIndex = &api.Index{Digest: root.Digest.String(), Platforms: platformsOf(children)}, rawIndex
	if f.platform == "" {
		f.platform = c.platform
	}
	return f, r.checkPlatform(f)
}

// read gives a manifest whose digest and size are verified.
func (r *resolver) read(ctx context.Context, d v1.Descriptor) ([]byte, types.MediaType, error) {
	rc, err := r.content.manifest(ctx, d)
	if err != nil {
		return nil, "", err
	}
	defer rc.Close()
	raw, err := readAtMost(rc, maxManifestBytes, "the manifest")
	if err != nil {
		return nil, "", err
	}
	if err := verifyBytes(raw, d, "the manifest"); err != nil {
		return nil, "", err
	}
	var m struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Config        json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, "", fmt.Errorf("%w: the manifest is no JSON: %w", ErrCorrupt, err)
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = d.MediaType
	}
	switch {
	case m.SchemaVersion == 1 || m.FSLayers != nil:
		return nil, "", errors.New("the image has a manifest of Docker's schema 1, which container engines no longer take; push it again")
	case mediaType.IsIndex() || mediaType.IsImage():
	case m.Manifests != nil:
		mediaType = types.OCIImageIndex
	case m.Config != nil:
		mediaType = types.OCIManifestSchema1
	default:
		return nil, "", &textError{fmt.Sprintf("%.100q is no container image", mediaType), ErrNoImage}
	}
	return raw, mediaType, nil
}

func verifyBytes(b []byte, d v1.Descriptor, what string) error {
	if d.Size > 0 && int64(len(b)) != d.Size {
		return fmt.Errorf("%w: %s has %d bytes instead of %d", ErrCorrupt, what, len(b), d.Size)
	}
	if got := sumBytes(b); got != d.Digest {
		return fmt.Errorf("%w: %s has the digest %s instead of %s", ErrCorrupt, what, got, d.Digest)
	}
	return nil
}

// child is one image of an index.
type child struct {
	desc     v1.Descriptor
	platform string
}

// children lists the images of an index and of indexes in it, without attestations.
func (r *resolver) children(ctx context.Context, raw []byte, depth int, out *[]child) error {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%w: reading the index: %w", ErrCorrupt, err)
	}
	if len(index.Manifests) > maxIndexEntries {
		return fmt.Errorf("the index has more than %d entries", maxIndexEntries)
	}
	for _, d := range index.Manifests {
		switch {
		case isAttestation(d):
		case d.MediaType.IsIndex():
			if depth == maxIndexDepth {
				return errors.New("the index is nested too deep")
			}
			raw, mediaType, err := r.read(ctx, d)
			if err != nil {
				return err
			}
			if !mediaType.IsIndex() {
				return fmt.Errorf("%w: %s is no index, as the index around it says", ErrCorrupt, d.Digest)
			}
			if err := r.children(ctx, raw, depth+1, out); err != nil {
				return err
			}
		case d.MediaType.IsImage():
			c := child{desc: d, platform: platformText(d.Platform)}
			if c.platform == "" {
				c.platform = r.platformOf(ctx, d)
			}
			*out = append(*out, c)
		}
	}
	return nil
}

func isAttestation(d v1.Descriptor) bool {
	return d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" ||
		d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}

// platformOf asks an image's configuration, where the index does not say it.
func (r *resolver) platformOf(ctx context.Context, d v1.Descriptor) string {
	raw, mediaType, err := r.read(ctx, d)
	if err != nil || !mediaType.IsImage() {
		return ""
	}
	f, err := r.image(ctx, d, raw, mediaType)
	if err != nil {
		return ""
	}
	return f.platform
}

// choose picks the image of the platform asked for. Several names of one
// digest are one image.
func (r *resolver) choose(children []child) (child, error) {
	want := r.platform
	if want == "" {
		want = api.DefaultPlatform
	}
	var present []string
	distinct := map[v1.Hash]bool{}
	for _, c := range children {
		if c.platform == want {
			return c, nil
		}
		text := c.platform
		if text == "" {
			text = "an unknown platform"
		}
		if !slices.Contains(present, text) {
			present = append(present, text)
		}
		distinct[c.desc.Digest] = true
	}
	if len(distinct) == 0 {
		return child{}, errors.New("the index holds no image")
	}
	if len(distinct) == 1 && children[0].platform == "" {
		return children[0], nil
	}
	sort.Strings(present)
	return child{}, &platformError{fmt.Sprintf("the image has no platform %s; it has %s", want, strings.Join(present, ", "))}
}

// platformError says that an image is not there for the platform asked for.
type platformError struct{ text string }

func (e *platformError) Error() string { return e.text }

// checkPlatform refuses an image of another platform than the one asked for.
func (r *resolver) checkPlatform(f *found) error {
	if r.platform != "" && f.platform != "" && f.platform != r.platform {
		return &platformError{fmt.Sprintf("the image is for %s, not for %s", f.platform, r.platform)}
	}
	return nil
}

// image reads the configuration of an image manifest.
func (r *resolver) image(ctx context.Context, d v1.Descriptor, raw []byte, mediaType types.MediaType) (*found, error) {
	if mediaType.IsIndex() {
		return nil, fmt.Errorf("%w: %s is an index, where an image was promised", ErrCorrupt, d.Digest)
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: reading the manifest: %w", ErrCorrupt, err)
	}
	if len(m.Layers) > r.maxLayers {
		return nil, tooManyLayers(len(m.Layers), r.maxLayers)
	}
	if m.Config.Size > maxConfigBytes {
		return nil, fmt.Errorf("the image's configuration is larger than %s", bytesText(maxConfigBytes))
	}
	rc, err := r.content.blob(ctx, m.Config)
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	defer rc.Close()
	config, err := readAtMost(rc, maxConfigBytes, "the image's configuration")
	if err != nil {
		return nil, err
	}
	if err := verifyBytes(config, m.Config, "the image's configuration"); err != nil {
		return nil, err
	}
	f := &found{digest: d.Digest.String(), mediaType: mediaType, rawManifest: raw}
	if err := f.setConfig(config); err != nil {
		return nil, noImage(m.Config.MediaType, fmt.Errorf("%w (its type is %.100q)", err, m.Config.MediaType))
	}
	if len(f.config.RootFS.DiffIDs) != len(m.Layers) {
		return nil, noImage(m.Config.MediaType, fmt.Errorf("this is no container image: its configuration (%.100q) names %d layers, its manifest has %d",
			m.Config.MediaType, len(f.config.RootFS.DiffIDs), len(m.Layers)))
	}
	var packed int64
	for i, l := range m.Layers {
		if l.Size < 0 || l.Size > r.maxBytes-packed {
			return nil, byteLimit("MaxImageBytes", "the layers, still packed, have", r.maxBytes)
		}
		packed += l.Size
		f.layers = append(f.layers, layer{
			digest: l.Digest, size: l.Size, diffID: f.config.RootFS.DiffIDs[i], mediaType: l.MediaType,
			open: func(ctx context.Context) (io.ReadCloser, error) { return r.content.blob(ctx, l) },
		})
	}
	return f, nil
}

// noImage tells what never was an image, by the type of its configuration, from an
// image that is damaged.
func noImage(config types.MediaType, err error) error {
	if config.IsConfig() {
		return err
	}
	return &textError{err.Error(), ErrNoImage}
}

// setConfig takes an image's configuration.
func (f *found) setConfig(raw []byte) error {
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%w: reading the image's configuration: %w", ErrCorrupt, err)
	}
	f.rawConfig, f.config = raw, c
	f.platform = platformText(configPlatform(c))
	return nil
}

func tooManyLayers(n, limit int) error {
	return &LimitError{Field: "MaxLayers", What: fmt.Sprintf("the image has %d layers, more than %d", n, limit)}
}
