package scanner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/assay-dev/assay/api"
)

// Annotations that name an image in an OCI layout.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	imageNameAnnotation = "io.containerd.image.name"
)

// files is an OCI layout or a Docker archive, packed or not.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	read(name string, max int64) ([]byte, error)
	io.Closer
}

// layoutContent reads an OCI layout's blobs.
type layoutContent struct{ files }

func (c layoutContent) blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	rc, size, err := c.open("blobs/" + d.Digest.Algorithm + "/" + d.Digest.Hex)
	if err != nil {
		return nil, err
	}
	if d.Size > 0 && size != d.Size {
		rc.Close()
		return nil, fmt.Errorf("%w: blob %s has %d bytes instead of %d", ErrCorrupt, d.Digest, size, d.Size)
	}
	return rc, nil
}

func (c layoutContent) manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return c.blob(ctx, d)
}

// openOCIArchive finds an image in a tar of an OCI layout.
func (s *Scanner) openOCIArchive(ctx context.Context, value, dir string) (*found, error) {
	path, ref := splitArchive(value)
	t, err := openTar(ctx, path, dir, s.cfg.MaxImageBytes, s.cfg.MaxFiles)
	if err != nil {
		return nil, err
	}
	if !t.has("index.json") && t.has("manifest.json") {
		t.Close()
		return nil, fmt.Errorf("it is no OCI archive but a Docker one: write docker-archive:%s", value)
	}
	return s.openLayout(ctx, OCIArchive, t, ref)
}

// openOCIDir finds an image in an OCI layout on disk.
func (s *Scanner) openOCIDir(ctx context.Context, value string) (*found, error) {
	path, ref := splitArchive(value)
	d, err := openDirFiles(path)
	if err != nil {
		return nil, err
	}
	return s.openLayout(ctx, OCIDir, d, ref)
}

// openLayout finds the image named ref, or the only one. It owns fs.
func (s *Scanner) openLayout(ctx context.Context, source Kind, fs files, ref string) (_ *found, err error) {
	defer func() {
		if err != nil {
			fs.Close()
		}
	}()
	raw, err := fs.read("index.json", maxManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the OCI layout: %w", err)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: reading index.json: %w", ErrCorrupt, err)
	}
	roots, err := s.chooseRoots(index.Manifests, ref)
	if err != nil {
		return nil, err
	}
	c := layoutContent{fs}
	var f *found
	if len(roots) == 1 {
		f, err = s.resolver(c).resolve(ctx, roots[0])
	} else {
		f, err = s.resolver(c).resolveAmong(ctx, roots)
	}
	if err != nil {
		return nil, err
	}
	f.source, f.close = source, fs.Close
	f.name = fullName(roots[0])
	return f, nil
}

// chooseRoots picks the entries of index.json that are the image asked for:
// one, or one for each platform of a single name.
func (s *Scanner) chooseRoots(all []v1.Descriptor, ref string) ([]v1.Descriptor, error) {
	var images []v1.Descriptor
	for _, d := range all {
		if !isAttestation(d) && (d.MediaType.IsIndex() || d.MediaType.IsImage() || d.MediaType == "") {
			images = append(images, d)
		}
	}
	if len(images) == 0 {
		return nil, errors.New("it holds no image")
	}
	want := ref
	if want == "" {
		want = s.cfg.As
	}
	var named []v1.Descriptor
	for _, d := range images {
		if want != "" && namesMatch(want, d.Annotations[refNameAnnotation], d.Annotations[imageNameAnnotation]) {
			named = append(named, d)
		}
	}
	if len(named) > 0 {
		images = named
	} else if ref != "" {
		return nil, fmt.Errorf("it holds no image named %s; it holds %s", ref, listNames(images))
	}
	if oneImage(images) {
		return images, nil
	}
	return nil, fmt.Errorf("it holds several images: %s; choose one by writing :NAME after the path", listNames(images))
}

// oneImage says whether entries are the platforms of one image, or the same digest.
func oneImage(images []v1.Descriptor) bool {
	seen := map[string]v1.Hash{}
	for i, d := range images {
		if d.Digest == images[0].Digest && i > 0 {
			continue
		}
		p := platformText(d.Platform)
		if _, taken := seen[p]; taken || entryName(d) != entryName(images[0]) || i > 0 && p == "" {
			return false
		}
		seen[p] = d.Digest
	}
	return true
}

func entryName(d v1.Descriptor) string {
	if n := d.Annotations[imageNameAnnotation]; n != "" {
		return n
	}
	return d.Annotations[refNameAnnotation]
}

func listNames(images []v1.Descriptor) string {
	var names []string
	for _, d := range images {
		n := entryName(d)
		if n == "" {
			n = d.Digest.String()
		}
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	const most = 20
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

// namesMatch compares a name with those of an image, as written and as canonical.
func namesMatch(want string, names ...string) bool {
	w, werr := api.ParseReference(want)
	for _, n := range names {
		if n == "" {
			continue
		}
		if n == want {
			return true
		}
		if r, err := api.ParseReference(n); err == nil && werr == nil && isFull(n) && r.Canonical() == w.Canonical() {
			return true
		}
	}
	return false
}

// isFull tells a reference from a mere tag: "1.27" would parse as a name too.
func isFull(s string) bool {
	_, err := api.ParseReference(s)
	return err == nil && strings.ContainsAny(s, "/:@")
}

// fullName is the reference that an entry's annotations give, or empty.
func fullName(d v1.Descriptor) string {
	for _, n := range []string{d.Annotations[imageNameAnnotation], d.Annotations[refNameAnnotation]} {
		if isFull(n) {
			return n
		}
	}
	return ""
}

// resolveAmong finds the image of the platform asked for among manifests that
// no index of the image's own holds together.
func (r *resolver) resolveAmong(ctx context.Context, roots []v1.Descriptor) (*found, error) {
	var children []child
	for _, d := range roots {
		if d.MediaType == "" {
			d.MediaType = types.OCIManifestSchema1
		}
		c := child{desc: d, platform: platformText(d.Platform)}
		if c.platform == "" && d.MediaType.IsImage() {
			c.platform = r.platformOf(ctx, d)
		}
		children = append(children, c)
	}
	c, err := r.choose(children)
	if err != nil {
		return nil, err
	}
	return r.resolve(ctx, c.desc)
}
