package scanner

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// budget is what one scan may still unpack. It is safe for concurrent use.
type budget struct {
	maxBytes, maxFiles   int64
	bytes, files, sparse atomic.Int64
}

func (b *budget) unpacked(n int64) error {
	if b.bytes.Add(n) > b.maxBytes {
		return byteLimit("MaxImageBytes", "the image unpacks to", b.maxBytes)
	}
	return nil
}

// entry counts a tar entry with its size as the header tells it, which for a
// sparse file is what reading it would give.
func (b *budget) entry(size int64) error {
	if b.files.Add(1) > b.maxFiles {
		return &LimitError{Field: "MaxFiles", What: fmt.Sprintf("the image holds more than %d files", b.maxFiles)}
	}
	if b.sparse.Add(max(size, 0)) > b.maxBytes {
		return byteLimit("MaxImageBytes", "the image unpacks to", b.maxBytes)
	}
	return nil
}

// layer is one layer of an image, wherever it comes from.
type layer struct {
	// digest and size are those of the blob as stored; without a manifest the
	// digest is the zero Hash and size is -1.
	digest    v1.Hash
	size      int64
	diffID    v1.Hash
	mediaType types.MediaType
	// unpacked says that the blob is made from files of a snapshot, so that there is
	// no digest to verify.
	unpacked bool
	// open gives the blob as stored.
	open func(context.Context) (io.ReadCloser, error)
}

// guardedLayer is a v1.Layer that gives no byte more than the budget allows,
// and no end of file before every digest is verified.
type guardedLayer struct {
	layer
	ctx    context.Context
	index  int
	budget *budget
	report *reporter
}

func (l *guardedLayer) Digest() (v1.Hash, error) {
	if l.digest == (v1.Hash{}) {
		return l.diffID, nil
	}
	return l.digest, nil
}
func (l *guardedLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *guardedLayer) Size() (int64, error)                { return l.size, nil }
func (l *guardedLayer) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *guardedLayer) Compressed() (io.ReadCloser, error)  { return l.open(l.ctx) }
func (l *guardedLayer) fail(err error) error {
	return fmt.Errorf("reading layer %d: %w", l.index+1, err)
}
func (l *guardedLayer) corrupt(format string, a ...any) error {
	return l.fail(fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, a...)))
}

// Uncompressed is the layer's tar, verified as it is read.
func (l *guardedLayer) Uncompressed() (io.ReadCloser, error) {
	blob, err := l.open(l.ctx)
	if err != nil {
		return nil, l.fail(err)
	}
	r := &layerReader{l: l, blob: blob, blobHash: sha256.New(), diffHash: sha256.New()}
	r.raw = bufio.NewReaderSize(readerFunc(r.readBlob), 1<<16)
	if err := r.decompress(); err != nil {
		blob.Close()
		return nil, l.fail(err)
	}
	r.tar = watchTar(l.budget)
	return r, nil
}

// layerReader is the way of a layer's bytes: blob, hash, decompression, hash,
// count, and a look at the tar headers.
type layerReader struct {
	l                  *guardedLayer
	blob               io.ReadCloser
	raw                *bufio.Reader
	plain              io.Reader
	closePlain         func()
	blobHash, diffHash hash.Hash
	blobSize           int64
	tar                *tarWatch
	err                error
}

func (r *layerReader) readBlob(p []byte) (int, error) {
	if err := r.l.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.blob.Read(p)
	r.blobHash.Write(p[:n])
	r.blobSize += int64(n)
	if r.l.size >= 0 && r.blobSize > r.l.size {
		return n, fmt.Errorf("%w: the layer is longer than its manifest says", ErrCorrupt)
	}
	r.l.report.pulled(n)
	return n, err
}

// decompress tells the compression by its first bytes, as container engines do.
func (r *layerReader) decompress() error {
	r.plain, r.closePlain = r.raw, func() {}
	magic, err := r.raw.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	plain, closePlain, err := decompressor(r.raw, magic)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if plain != nil {
		r.plain, r.closePlain = plain, closePlain
	}
	return nil
}

// decompressor gives a reader for gzip or zstd data, or nil for other data.
func decompressor(r io.Reader, magic []byte) (io.Reader, func(), error) {
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(512<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, nil
}

func (r *layerReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if err := r.l.ctx.Err(); err != nil {
		r.err = r.l.fail(err)
		return 0, r.err
	}
	n, err := r.plain.Read(p)
	r.diffHash.Write(p[:n])
	if n > 0 {
		limit := r.l.budget.unpacked(int64(n))
		if limit == nil {
			limit = r.tar.write(p[:n])
		}
		if limit != nil {
			r.err = r.l.fail(limit)
			return 0, r.err
		}
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		r.err = r.verify()
	case isDamage(err):
		r.err = r.l.corrupt("%v", err)
	default:
		r.err = r.l.fail(err)
	}
	return n, r.err
}

// isDamage tells errors of decompression from those of the source.
func isDamage(err error) bool {
	return errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, zstd.ErrMagicMismatch) || errors.Is(err, zstd.ErrCRCMismatch)
}

// verify is reached at the end of the tar. It gives io.EOF when all is well.
func (r *layerReader) verify() error {
	l := r.l
	if _, err := io.Copy(io.Discard, r.raw); err != nil {
		return l.fail(err)
	}
	if l.unpacked {
		if err := r.tar.end(); err != nil {
			return l.fail(err)
		}
		return io.EOF
	}
	if l.size >= 0 && r.blobSize != l.size {
		return l.corrupt("the layer has %d bytes, its manifest says %d", r.blobSize, l.size)
	}
	if got := sum(r.blobHash); l.digest != (v1.Hash{}) && got != l.digest {
		return l.corrupt("its digest is %s, the manifest says %s", got, l.digest)
	}
	if got := sum(r.diffHash); got != l.diffID {
		return l.corrupt("unpacked, its digest is %s, the image's configuration says %s", got, l.diffID)
	}
	if err := r.tar.end(); err != nil {
		return l.fail(err)
	}
	return io.EOF
}

// Close ends the reading, wherever it is.
func (r *layerReader) Close() error {
	r.closePlain()
	r.tar.stop()
	return r.blob.Close()
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}
}

func sumBytes(b []byte) v1.Hash {
	h := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h[:])}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// tarWatch counts the entries of a tar that passes by. Its goroutine ends with
// end or stop.
type tarWatch struct {
	pipe *io.PipeWriter
	done chan error
}

func watchTar(b *budget) *tarWatch {
	pr, pw := io.Pipe()
	w := &tarWatch{pipe: pw, done: make(chan error, 1)}
	go func() {
		err := countEntries(pr, b)
		// What is no tar is the indexer's to refuse; the bytes go on being drained.
		_, _ = io.Copy(io.Discard, pr)
		w.done <- err
	}()
	return w
}

func countEntries(pr *io.PipeReader, b *budget) error {
	tr := tar.NewReader(pr)
	for {
		h, err := tr.Next()
		if err != nil {
			return nil
		}
		if err := b.entry(h.Size); err != nil {
			pr.CloseWithError(err)
			return err
		}
	}
}

func (w *tarWatch) write(p []byte) error {
	_, err := w.pipe.Write(p)
	return err
}

func (w *tarWatch) end() error {
	w.pipe.Close()
	err := <-w.done
	w.done <- nil
	return err
}

func (w *tarWatch) stop() {
	w.pipe.Close()
	<-w.done
	w.done <- nil
}
