package scanner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

// savedImage is one entry of a Docker archive's manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Names that savers give after the digest of what they hold.
var (
	configDigestName = regexp.MustCompile(`^(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?$`)
	blobDigestName   = regexp.MustCompile(`^(?:blobs/sha256/([0-9a-f]{64})|(?:sha256:)?([0-9a-f]{64})\.tar\.gz)$`)
)

// openDockerArchive finds an image in what `docker save` wrote.
func (s *Scanner) openDockerArchive(ctx context.Context, value, dir string) (*found, error) {
	path, ref := splitArchive(value)
	t, err := openTar(ctx, path, dir, s.cfg.MaxImageBytes, s.cfg.MaxFiles)
	if err != nil {
		return nil, err
	}
	if !t.has("manifest.json") && t.has("index.json") {
		t.Close()
		return nil, fmt.Errorf("it is no Docker archive but an OCI one: write oci-archive:%s", value)
	}
	f, err := s.savedImage(ctx, t, ref)
	if err != nil {
		t.Close()
		return nil, err
	}
	f.source, f.close = DockerArchive, t.Close
	return f, nil
}

// savedImage finds the image named ref, or the only one.
func (s *Scanner) savedImage(ctx context.Context, t *tarFile, ref string) (*found, error) {
	raw, err := t.read("manifest.json", maxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the Docker archive: %w", err)
	}
	var all []savedImage
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("%w: reading manifest.json: %w", ErrCorrupt, err)
	}
	m, err := s.chooseSaved(t, all, ref)
	if err != nil {
		return nil, err
	}
	f, err := s.savedConfig(t, m)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) > s.cfg.MaxLayers {
		return nil, tooManyLayers(len(m.Layers), s.cfg.MaxLayers)
	}
	if n := len(f.config.RootFS.DiffIDs); n != len(m.Layers) {
		return nil, fmt.Errorf("%w: the image's configuration names %d layers, manifest.json has %d", ErrCorrupt, n, len(m.Layers))
	}
	var total int64
	for i, name := range m.Layers {
		member, ok := t.find(name)
		if !ok {
			return nil, fmt.Errorf("%w: the archive holds no layer %s", ErrCorrupt, name)
		}
		if total += member.size; total > s.cfg.MaxImageBytes {
			return nil, byteLimit("MaxImageBytes", "the layers, still packed, have", s.cfg.MaxImageBytes)
		}
		l := layer{size: member.size, diffID: f.config.RootFS.DiffIDs[i], mediaType: types.DockerLayer}
		if g := blobDigestName.FindStringSubmatch(name); g != nil {
			l.digest = v1.Hash{Algorithm: "sha256", Hex: g[1] + g[2]}
		}
		l.open = func(context.Context) (io.ReadCloser, error) {
			rc, _, err := t.open(name)
			return rc, err
		}
		f.layers = append(f.layers, l)
	}
	f.mediaType = types.DockerManifestSchema2
	f.tags = m.RepoTags
	f.name = savedName(m, ref)
	if f.name != "" && len(m.RepoTags) > 1 && ref == "" && s.cfg.As == "" {
		f.warnings = append(f.warnings, fmt.Sprintf("the image has several names: %s; it is reported as %s", strings.Join(m.RepoTags, ", "), f.name))
	}
	s.pushedManifest(ctx, t, f)
	return f, s.resolver(nil).checkPlatform(f)
}

func savedName(m savedImage, ref string) string {
	for _, tag := range m.RepoTags {
		if isFull(tag) && (ref == "" || namesMatch(ref, tag)) {
			return tag
		}
	}
	return ""
}

// savedConfig reads the configuration; one that is named by its digest is verified.
func (s *Scanner) savedConfig(t *tarFile, m savedImage) (*found, error) {
	raw, err := t.read(m.Config, maxConfigBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	if g := configDigestName.FindStringSubmatch(m.Config); g != nil {
		if err := verifyBytes(raw, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: g[1]}}, "the image's configuration"); err != nil {
			return nil, err
		}
	}
	f := &found{}
	return f, f.setConfig(raw)
}

// chooseSaved picks the entry asked for. Entries of one name are the platforms
// of one image.
func (s *Scanner) chooseSaved(t *tarFile, all []savedImage, ref string) (savedImage, error) {
	if len(all) == 0 {
		return savedImage{}, errors.New("it holds no image")
	}
	want := ref
	if want == "" {
		want = s.cfg.As
	}
	var names []string
	var named []savedImage
	for _, m := range all {
		name := strings.Join(m.RepoTags, ", ")
		if name == "" {
			name = "one without name"
		}
		names = append(names, name)
		if want != "" && namesMatch(want, m.RepoTags...) {
			named = append(named, m)
		}
	}
	if len(named) == 0 && ref != "" {
		return savedImage{}, fmt.Errorf("it holds no image named %s; it holds %s", ref, strings.Join(names, "; "))
	}
	if len(named) == 0 {
		named = all
	}
	if len(named) == 1 {
		return named[0], nil
	}
	platform := s.cfg.Platform
	if platform == "" {
		platform = api.DefaultPlatform
	}
	for _, m := range named {
		if strings.Join(m.RepoTags, " ") != strings.Join(named[0].RepoTags, " ") || len(m.RepoTags) == 0 {
			return savedImage{}, fmt.Errorf("it holds several images: %s; choose one by writing :NAME after the path", strings.Join(names, "; "))
		}
	}
	for _, m := range named {
		if f, err := s.savedConfig(t, m); err == nil && f.platform == platform {
			return m, nil
		}
	}
	return savedImage{}, fmt.Errorf("it holds several platforms of %s, but not %s", strings.Join(named[0].RepoTags, ", "), platform)
}

// pushedManifest takes the image's digest from the OCI layout that newer
// savers write beside manifest.json. A manifest with an uncompressed layer was
// made up by the saver: no registry knows its digest.
func (s *Scanner) pushedManifest(ctx context.Context, t *tarFile, f *found) {
	raw, err := t.read("index.json", maxManifestBytes)
	if err != nil {
		return
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return
	}
	r := s.resolver(layoutContent{t})
	for _, root := range index.Manifests {
		raw, mediaType, err := r.read(ctx, root)
		if err != nil {
			continue
		}
		children := []child{{desc: root}}
		if mediaType.IsIndex() {
			children = nil
			if r.children(ctx, raw, 1, &children) != nil {
				continue
			}
		}
		for _, c := range children {
			manifest, mt, err := r.read(ctx, c.desc)
			if err != nil || !mt.IsImage() || !describes(manifest, f) {
				continue
			}
			f.digest, f.rawManifest, f.mediaType = c.desc.Digest.String(), manifest, mt
			if mediaType.IsIndex() {
				f.rawIndex, f.index = raw, &api.Index{Digest: root.Digest.String(), Platforms: platformsOf(children)}
			}
			return
		}
	}
}

// describes says whether a manifest is that of f, as a registry has it.
func describes(raw []byte, f *found) bool {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil || m.Config.Digest != f.configDigest() || len(m.Layers) != len(f.layers) {
		return false
	}
	for i, l := range m.Layers {
		if l.MediaType == types.OCIUncompressedLayer || l.MediaType == types.DockerUncompressedLayer || l.Digest == f.layers[i].diffID {
			return false
		}
	}
	return true
}

func platformsOf(children []child) map[string]string {
	out := map[string]string{}
	for _, c := range children {
		if _, taken := out[c.platform]; c.platform != "" && !taken {
			out[c.platform] = c.desc.Digest.String()
		}
	}
	return out
}
