package vulndb

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxEntries bounds the entries of an archive; Grype's have one or two.
const maxEntries = 100

// maxWindow bounds the memory that unpacking takes.
const maxWindow = 512 << 20

// unpack writes the database of an archive, and its checksum where the archive
// has one, into dir.
func unpack(ctx context.Context, archive, dir string, maxArchive, maxBytes int64) error {
	f, err := os.Open(archive)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s", archive)
	} else if err != nil {
		return fmt.Errorf("opening the archive: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("opening the archive: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", archive)
	}
	if info.Size() > maxArchive {
		return fmt.Errorf("%w: the archive has %d bytes, the bound is %d", ErrTooLarge, info.Size(), maxArchive)
	}
	in, done, err := decompress(&contextReader{ctx, f})
	if err != nil {
		return archiveError(ctx, err)
	}
	defer done()
	limited := &boundedReader{r: in, left: maxBytes, max: maxBytes}
	if err := untar(limited, dir); err != nil {
		return archiveError(ctx, err)
	}
	// Checksums of the compression come last: read on to the end.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return archiveError(ctx, err)
	}
	return nil
}

func archiveError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%w: unpacking it takes too much memory", ErrTooLarge)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("unpacking the archive: %w", err)
	}
	return corrupt("unpacking the archive", err)
}

func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 1<<20)
	magic, err := br.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		return z, func() {}, err
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		z, err := xz.ReaderConfig{DictCap: 1 << 20, SingleStream: false}.NewReader(br)
		return z, func() {}, err
	case len(magic) >= 262 && string(magic[257:262]) == "ustar":
		return br, func() {}, nil
	}
	return nil, nil, errors.New("it is no .tar.zst, .tar.gz or .tar.xz archive")
}

func untar(r io.Reader, dir string) error {
	tr := tar.NewReader(r)
	seen := map[string]bool{}
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if n >= maxEntries {
			return fmt.Errorf("%w: the archive has more than %d entries", ErrTooLarge, maxEntries)
		}
		name := path.Clean(strings.ReplaceAll(h.Name, `\`, "/"))
		if !filepath.IsLocal(name) {
			return fmt.Errorf("the archive leads out of its directory: %q", h.Name)
		}
		switch h.Typeflag {
		case tar.TypeReg:
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		default:
			return fmt.Errorf("the archive holds what is no file: %q", h.Name)
		}
		if name != v6.VulnerabilityDBFileName && name != v6.ImportMetadataFileName {
			continue
		}
		if seen[name] {
			return fmt.Errorf("the archive holds %s twice", name)
		}
		seen[name] = true
		if err := writeFile(filepath.Join(dir, name), tr); err != nil {
			return err
		}
	}
	if !seen[v6.VulnerabilityDBFileName] {
		return fmt.Errorf("the archive holds no %s", v6.VulnerabilityDBFileName)
	}
	return nil
}

func writeFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// boundedReader fails, rather than ends, over its bound.
type boundedReader struct {
	r         io.Reader
	left, max int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTooLarge, b.max)
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTooLarge, b.max)
	}
	return n, err
}
