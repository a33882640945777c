package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// nobody is the user that programs run as: no one's on any distribution.
const nobody = 65532

// content is what an image has.
type content struct {
	name                 string // of the program
	program, authorities []byte
	version, revision    string
	when                 time.Time // of the revision
}

// file is one of a layer; a folder's name ends in a slash.
type file struct {
	name  string
	mode  int64
	owner int
	text  []byte
}

// base is the same in all images, so that they share its layer.
func (c content) base() []file {
	return []file{
		{name: "etc/", mode: 0o755},
		{name: "etc/group", mode: 0o644, text: []byte("root:x:0:\nassay:x:65532:\n")},
		{name: "etc/passwd", mode: 0o644, text: []byte("root:x:0:0:root:/root:/sbin/nologin\nassay:x:65532:65532:Assay:/home/assay:/sbin/nologin\n")},
		{name: "etc/ssl/", mode: 0o755},
		{name: "etc/ssl/certs/", mode: 0o755},
		{name: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, text: c.authorities},
		{name: "home/", mode: 0o755},
		{name: "home/assay/", mode: 0o700, owner: nobody},
		{name: "tmp/", mode: 0o1777},
		{name: "usr/", mode: 0o755},
		{name: "usr/bin/", mode: 0o755},
	}
}

func (c content) labels() map[string]string {
	l := map[string]string{
		"org.opencontainers.image.title":    c.name,
		"org.opencontainers.image.source":   "https://github.com/assay-dev/assay",
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.version":  c.version,
		"org.opencontainers.image.created":  c.when.UTC().Format(time.RFC3339),
	}
	if c.revision != "" {
		l["org.opencontainers.image.revision"] = c.revision
	}
	return l
}

func (c content) image(p v1.Platform) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	path := "usr/bin/" + c.name
	for _, l := range []struct {
		files []file
		what  string
	}{
		{c.base(), "users, authorities, /home/assay and /tmp"},
		{[]file{{name: path, mode: 0o755, text: c.program}}, "/" + path},
	} {
		made, err := layer(l.files)
		if err != nil {
			return nil, err
		}
		addendum := mutate.Addendum{Layer: made, History: v1.History{Created: v1.Time{Time: c.when.UTC()}, CreatedBy: l.what}}
		if img, err = mutate.Append(img, addendum); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	config.Created = v1.Time{Time: c.when.UTC()}
	config.Config = v1.Config{
		User:       "65532:65532",
		Env:        []string{"PATH=/usr/bin", "HOME=/home/assay"},
		Entrypoint: []string{"/" + path},
		WorkingDir: "/home/assay",
		Labels:     c.labels(),
	}
	return mutate.ConfigFile(img, config)
}

// layer has the files in their order, all of the same moment.
func layer(files []file) (v1.Layer, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.text)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if f.name[len(f.name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
}

// index joins the images of one program for all platforms.
func index(images []v1.Image) (v1.ImageIndex, error) {
	x := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		x = mutate.AppendManifests(x, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
		labels := config.Config.Labels
		x = mutate.Annotations(x, labels).(v1.ImageIndex)
	}
	return x, nil
}

// writeArchive writes a tar of an OCI layout with the index as its only image.
func writeArchive(name string, x v1.ImageIndex, tag string) error {
	dir, err := os.MkdirTemp("", "assay-layout-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	made, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	if err := made.AppendIndex(x, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(archive(out, os.DirFS(dir)), out.Close())
}

// archive is a tar of the files, in the order of their names.
func archive(out io.Writer, files fs.FS) error {
	w := tar.NewWriter(out)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := files.Open(name)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil {
			err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(name), Mode: 0o644, Size: info.Size(), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
		}
		if err == nil {
			_, err = io.Copy(w, f)
		}
		return errors.Join(err, f.Close())
	})
	return errors.Join(err, w.Close())
}
