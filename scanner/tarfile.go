package scanner

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// tarFile gives the members of a tar file in place: nothing is extracted, so
// that names in it can reach no path on disk.
type tarFile struct {
	file    *os.File
	members map[string]tarMember
}

type tarMember struct {
	offset, size int64
	// link is the name that a link leads to.
	link string
}

// openTar opens an archive and reads its table. One that is compressed as a
// whole is unpacked into dir first, up to maxBytes. The caller closes it.
func openTar(ctx context.Context, name, dir string, maxBytes, maxFiles int64) (*tarFile, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is no regular file", name))
	}
	f, err = unpackWhole(ctx, f, dir, maxBytes)
	if err != nil {
		return nil, err
	}
	t, err := indexTar(f, maxFiles)
	if err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

// unpackWhole gives f back, or in its place an unpacked copy when f is compressed.
func unpackWhole(ctx context.Context, f *os.File, dir string, maxBytes int64) (*os.File, error) {
	fail := func(err error) (*os.File, error) { f.Close(); return nil, err }
	magic := make([]byte, 4)
	n, err := io.ReadFull(f, magic)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fail(err)
	}
	plain, closePlain, err := decompressor(f, magic[:n])
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	if plain == nil {
		return f, nil
	}
	defer f.Close()
	defer closePlain()
	return spool(ctx, plain, dir, maxBytes, byteLimit("MaxImageBytes", "the archive unpacks to", maxBytes))
}

// spool copies r into a new file in dir, and fails with limit beyond max bytes.
func spool(ctx context.Context, r io.Reader, dir string, max int64, limit error) (*os.File, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(f, io.LimitReader(readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(p)
	}), max+1))
	if err == nil && n > max {
		err = limit
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

// indexTar reads the headers of f. A later member of the same name wins.
func indexTar(f *os.File, maxFiles int64) (*tarFile, error) {
	t := &tarFile{file: f, members: map[string]tarMember{}}
	r := tar.NewReader(f)
	for n := int64(0); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			if n == 0 {
				return nil, fmt.Errorf("%w: the archive is empty", ErrCorrupt)
			}
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is no complete tar archive: %w", ErrCorrupt, err)
		}
		if n >= maxFiles {
			return nil, &LimitError{Field: "MaxFiles", What: fmt.Sprintf("the archive holds more than %d files", maxFiles)}
		}
		name := memberName(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			offset, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			t.members[name] = tarMember{offset: offset, size: h.Size}
		case tar.TypeLink:
			t.members[name] = tarMember{link: memberName(h.Linkname)}
		case tar.TypeSymlink:
			t.members[name] = tarMember{link: memberName(path.Join(path.Dir(name), h.Linkname))}
		}
	}
}

func memberName(s string) string { return strings.TrimPrefix(path.Clean("/"+s), "/") }

func (t *tarFile) has(name string) bool { _, ok := t.find(name); return ok }

func (t *tarFile) find(name string) (tarMember, bool) {
	name = memberName(name)
	for range 10 {
		m, ok := t.members[name]
		if !ok || m.link == "" {
			return m, ok
		}
		name = m.link
	}
	return tarMember{}, false
}

// open reads a member. Members may be read side by side; closing one leaves
// the archive open.
func (t *tarFile) open(name string) (io.ReadCloser, int64, error) {
	m, ok := t.find(name)
	if !ok {
		return nil, 0, fmt.Errorf("%w: the archive holds no %s", ErrCorrupt, name)
	}
	return io.NopCloser(io.NewSectionReader(t.file, m.offset, m.size)), m.size, nil
}

// read gives a whole member, as long as it is small.
func (t *tarFile) read(name string, max int64) ([]byte, error) {
	rc, size, err := t.open(name)
	if err != nil {
		return nil, err
	}
	b, err := readAtMost(rc, max, name)
	if err == nil && int64(len(b)) != size {
		err = fmt.Errorf("%w: the archive ends within %s", ErrCorrupt, name)
	}
	return b, err
}

func (t *tarFile) Close() error { return t.file.Close() }

// dirFiles gives the files of a directory as tarFile gives members. No link
// leads out of it.
type dirFiles struct{ root *os.Root }

func openDirFiles(dir string) (*dirFiles, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &dirFiles{root}, nil
}

func (d *dirFiles) open(name string) (io.ReadCloser, int64, error) {
	f, err := d.root.Open(filepath.FromSlash(name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("%w: the directory holds no %s", ErrCorrupt, name)
	}
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", ErrCorrupt, name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

func (d *dirFiles) read(name string, max int64) ([]byte, error) {
	rc, _, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return readAtMost(rc, max, name)
}

func (d *dirFiles) Close() error { return d.root.Close() }
