package scanner

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// snapshotters are those whose folders are understood.
var snapshotters = []string{"overlayfs", "native"}

// viewAge is how long containerd keeps a view whose scan was killed.
const viewAge = 2 * time.Hour

// useSnapshots lets an image's layers be read from the snapshots that containerd
// unpacked them into. It asks containerd for a view, which says where they are, and never
// mounts it: reading the folders needs no privilege but to read them.
func (s *Scanner) useSnapshots(ctx context.Context, c *client.Client, f *found) error {
	var ids []godigest.Digest
	for _, id := range f.config.RootFS.DiffIDs {
		ids = append(ids, godigest.Digest(id.String()))
	}
	chain := identity.ChainID(ids).String()
	for _, name := range snapshotters {
		from := c.SnapshotService(name)
		if _, err := from.Stat(ctx, chain); err != nil {
			continue // a snapshotter that is not there says so here too
		}
		leased, done, err := c.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(viewAge))
		if err != nil {
			return fmt.Errorf("keeping the snapshot: %w", err)
		}
		key := fmt.Sprintf("assay-%d-%d", os.Getpid(), time.Now().UnixNano())
		end := context.WithoutCancel(leased)
		mounts, err := from.View(leased, key, chain)
		if err == nil {
			err = s.layersIn(f, mounts)
		}
		closeClient := f.close
		release := func() error {
			gone := from.Remove(end, key)
			if errdefs.IsNotFound(gone) {
				gone = nil
			}
			return errors.Join(gone, done(end))
		}
		if err != nil {
			return errors.Join(err, release())
		}
		f.close = func() error { return errors.Join(release(), closeClient()) }
		return nil
	}
	return fmt.Errorf("they are in none of the snapshotters %s", strings.Join(snapshotters, " and "))
}

// layersIn finds the folder of each layer in the mounts of a view.
func (s *Scanner) layersIn(f *found, mounts []mount.Mount) error {
	if len(mounts) != 1 {
		return fmt.Errorf("the snapshot has %d mounts, and one is understood", len(mounts))
	}
	var folders []string // the topmost first
	switch m := mounts[0]; m.Type {
	case "bind", "rbind":
		folders = []string{m.Source}
	case "overlay":
		for _, o := range m.Options {
			if lower, ok := strings.CutPrefix(o, "lowerdir="); ok {
				folders = strings.Split(lower, ":")
			}
		}
	default:
		return fmt.Errorf("mounts of type %.40q are not understood", m.Type)
	}
	for i, folder := range folders {
		// containerd names its own paths; here its root may be somewhere else.
		const mark = "/io.containerd.snapshotter."
		at := strings.LastIndex(folder, mark)
		if at < 0 {
			return fmt.Errorf("the snapshot is at %s, which is not below containerd's root", folder)
		}
		folders[i] = filepath.Join(s.cfg.ContainerdRoot, filepath.FromSlash(path.Clean(folder[at:])))
		if _, err := os.Lstat(folders[i]); err != nil {
			return fmt.Errorf("reading the snapshot: %w", err)
		}
	}
	n := len(f.layers)
	if len(folders) != n && len(folders) != 1 || n == 0 {
		return fmt.Errorf("the snapshot has %d folders for %d layers", len(folders), n)
	}
	overlay := len(folders) > 1
	if overlay && !seesOpaque() {
		f.warnings = append(f.warnings, "the layers were read unpacked and without the right to see which folders replace those below: packages that an upper layer removed with their whole folder may be listed")
	}
	for i := range f.layers {
		folder := "" // of native's layers only the topmost, which has the files of all
		if overlay {
			folder = folders[n-1-i]
		} else if i == n-1 {
			folder = folders[0]
		}
		f.layers[i].unpacked, f.layers[i].size = true, -1
		f.layers[i].open = func(ctx context.Context) (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(packFolder(ctx, w, folder)) }()
			return r, nil
		}
	}
	return nil
}

// packFolder writes a folder as a layer's tar: overlayfs' marks of what is removed become
// those of layers. An empty folder name gives an empty tar. Links are never followed.
func packFolder(ctx context.Context, w io.Writer, folder string) error {
	t := tar.NewWriter(w)
	if folder == "" {
		return t.Close()
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("reading the snapshot: %w", err)
	}
	defer root.Close()
	err = filepath.WalkDir(folder, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(folder, at)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(at); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name, h.Format = filepath.ToSlash(name), tar.FormatPAX
		h.Uname, h.Gname = "", ""
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return t.WriteHeader(&tar.Header{Name: path.Join(path.Dir(h.Name), ".wh."+path.Base(h.Name)), Typeflag: tar.TypeReg, Mode: 0o600})
		}
		if d.IsDir() {
			h.Name += "/"
		}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if d.IsDir() && isOpaque(at) {
			return t.WriteHeader(&tar.Header{Name: path.Join(h.Name, ".wh..wh..opq"), Typeflag: tar.TypeReg, Mode: 0o600})
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("reading the snapshot: %w", err)
	}
	return t.Close()
}
