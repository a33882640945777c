package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/semaphore"

	"github.com/assay-dev/assay/intake"
)

// cost is the memory that the making of something of a body takes at the most, in bytes, by
// its shape. TestCosts measures it for what tools write and for what is the worst of each kind.
type cost struct {
	base, perByte, perElement, perObject, perSlight int64
	names                                           map[string]bool // see intake.Measure: known ones cost nothing by themselves
}

var (
	documentCost = cost{base: 64 << 10, perByte: 3, perElement: 64, perObject: 1500}
	scanCost     = cost{base: 64 << 10, perByte: 3, perElement: 64, perObject: 2500, perSlight: 300, names: map[string]bool{"fix": true, "versions": true, "aliases": true}}
	// The decoder keeps the whole text while it reads it, and each package of Syft's has maps and sets of
	// its own. What packages have many of is less: of it there is most.
	sbomCost = cost{base: 1 << 20, perByte: 5, perElement: 64, perObject: 2000, perSlight: 350, names: map[string]bool{
		"properties": true, "externalReferences": true, "hashes": true, "licenses": true, "license": true, "urls": true, "externalRefs": true, "checksums": true,
		"name": false, "value": false, "type": false, "version": false, "purl": false, "cpe": false, "bom-ref": false, "url": false, "id": false, "alg": false, "content": false, "path": false,
		"layerID": false, "language": false, "foundBy": false, "description": false, "author": false, "publisher": false, "group": false, "SPDXID": false, "versionInfo": false,
		"referenceCategory": false, "referenceType": false, "referenceLocator": false, "algorithm": false, "checksumValue": false}}
)

func (c cost) of(s *intake.Shape) int64 {
	return c.base + c.perByte*s.Bytes + c.perElement*(s.Elements-s.Known) + c.perObject*s.Objects + c.perSlight*s.Slight
}

const (
	// smallCost is up to which a body does not wait for large ones.
	smallCost = 1 << 20
	// smallMemory is for small ones at a time.
	smallMemory = 64 << 20
	// maxWindow bounds what a zstd body looks back at, in bytes.
	maxWindow = 16 << 20
)

// memory is what the making of bodies may take at a time.
type memory struct {
	small, large *semaphore.Weighted
	thrift       *thrift
}

// thrift has the collector of garbage come more often while large bodies are made something of: else what they left
// would take as much again as what they take.
type thrift struct {
	mu     sync.Mutex
	bodies int
	usual  int
}

// thrifty is how much garbage there may be then, in per cent of what is used.
const thrifty = 20

func (t *thrift) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bodies++; t.bodies == 1 {
		t.usual = debug.SetGCPercent(thrifty)
	}
}

func (t *thrift) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bodies--; t.bodies == 0 {
		debug.SetGCPercent(t.usual)
	}
}

// collector is that of this process, whatever servers it has.
var collector thrift

func newMemory(all int64) memory {
	return memory{small: semaphore.NewWeighted(smallMemory), large: semaphore.NewWeighted(all), thrift: &collector}
}

func (m memory) take(ctx context.Context, n int64) (release func(), err error) {
	of := m.large
	if n <= smallCost {
		of = m.small
	}
	if err := of.Acquire(ctx, n); err != nil {
		return nil, err
	}
	if of == m.small {
		return func() { of.Release(n) }, nil
	}
	m.thrift.begin()
	return func() { m.thrift.end(); of.Release(n) }, nil
}

// holds are what a request has taken, until it is answered.
type holds struct {
	mu      sync.Mutex
	release []func()
}

type holdsKey struct{}

func withHolds(r *http.Request) (*http.Request, *holds) {
	h := &holds{}
	return r.WithContext(context.WithValue(r.Context(), holdsKey{}, h)), h
}

func hold(r *http.Request, release func()) {
	h, ok := r.Context().Value(holdsKey{}).(*holds)
	if !ok {
		return // a handler outside of the table, as in a test
	}
	h.mu.Lock()
	h.release = append(h.release, release)
	h.mu.Unlock()
}

func (h *holds) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.release) - 1; i >= 0; i-- {
		h.release[i]()
	}
	h.release = nil
}

// received is a body that has come whole and fits, to be read from its beginning.
type received struct {
	io.Reader
	size  int64 // unpacked
	close func()
}

func (r *received) Close() error {
	r.close()
	return nil
}

// body takes the body of a request, at most limit bytes both as it comes and unpacked: first to
// bounded disk, then, one of few at a time, to be measured, and then, once there is the memory
// that it needs, to its reader. Until then nothing is built of it. What it takes is given back
// when the request is answered.
func (s *Server) body(w http.ResponseWriter, r *http.Request, limit int64, needs cost) (*received, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	kept, err := s.spool.Receive(http.MaxBytesReader(w, r.Body, limit), identity(r).Name)
	if err != nil {
		return nil, readFault(err)
	}
	hold(r, kept.Close)
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // it has come

	shape, err := s.measure(r, kept, limit, needs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.Request)
	defer cancel()
	release, err := s.memory.take(ctx, needs.of(&shape))
	if err != nil {
		return nil, err
	}
	hold(r, release)
	in, end, err := unpack(kept.Open(), r.Header.Get("Content-Encoding"))
	if err != nil {
		return nil, err
	}
	return &received{Reader: in, size: shape.Bytes, close: end}, nil
}

// seekable is a body that a reader goes through more than once: what came packed is unpacked to bounded disk, not to memory.
func (s *Server) seekable(r *http.Request, in *received) (io.Reader, error) {
	if _, ok := in.Reader.(io.Seeker); ok {
		return in.Reader, nil
	}
	kept, err := s.spool.Receive(in, identity(r).Name)
	if err != nil {
		return nil, readFault(err)
	}
	hold(r, kept.Close)
	return kept.Open(), nil
}

// measure finds what a body unfolds to, and refuses what is too much.
func (s *Server) measure(r *http.Request, kept *intake.Body, limit int64, needs cost) (intake.Shape, error) {
	release, err := s.upload(r.Context())
	if err != nil {
		return intake.Shape{}, err
	}
	defer release()
	in, end, err := unpack(kept.Open(), r.Header.Get("Content-Encoding"))
	if err != nil {
		return intake.Shape{}, err
	}
	defer end()
	shape, err := intake.Measure(in, limit, needs.names, func(x *intake.Shape) error {
		return errors.Join(r.Context().Err(), s.limits.fits(x, needs))
	})
	if err != nil {
		return shape, readFault(err)
	}
	return shape, nil
}

func (l Limits) fits(x *intake.Shape, needs cost) error {
	if needs.of(x) > l.Memory {
		return &intake.TooMany{What: fmt.Sprintf("more in it than is taken at a time: it would need more than %d MiB of memory to be read", l.Memory>>20)}
	}
	return nil
}

// FitsSBOM says why an SBOM is larger than one that may be uploaded.
func (l Limits) FitsSBOM(in io.Reader) error {
	l = l.withDefaults()
	_, err := intake.Measure(in, l.Upload, sbomCost.names, func(x *intake.Shape) error { return l.fits(x, sbomCost) })
	return err
}

// unpack reads a body by its Content-Encoding.
func unpack(in io.Reader, encoding string) (io.Reader, func(), error) {
	switch encoding {
	case "", "identity":
		return in, func() {}, nil
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, bad("the body is not gzip, as its Content-Encoding says: %v", err)
		}
		return z, func() { _ = z.Close() }, nil
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, bad("the body is not zstd, as its Content-Encoding says: %v", err)
		}
		return z, z.Close, nil
	default:
		return nil, nil, &refused{status: http.StatusUnsupportedMediaType, detail: fmt.Sprintf("Content-Encoding %.40q is not known here; gzip and zstd are", encoding)}
	}
}

// decode reads a small JSON document. Members that it does not have are faults, and so are those
// that it must have: see decodeWhole.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any) error {
	text, err := s.text(w, r)
	if err != nil {
		return err
	}
	return decodeWhole(text, v)
}

func (s *Server) text(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	in, err := s.body(w, r, s.limits.Document, documentCost)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text := bytes.NewBuffer(make([]byte, 0, in.size+bytes.MinRead))
	if _, err := text.ReadFrom(in); err != nil {
		return nil, readFault(err)
	}
	return text.Bytes(), nil
}

// readFault is what the reading of a body met.
func readFault(err error) error {
	var tooLarge *http.MaxBytesError
	var tooMany *intake.TooMany
	var disk *os.PathError
	switch {
	case errors.As(err, &tooLarge), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &tooMany):
		return &refused{status: http.StatusRequestEntityTooLarge, detail: tooMany.Error()}
	case errors.Is(err, intake.ErrFull):
		return &refused{status: http.StatusServiceUnavailable, detail: intake.ErrFull.Error() + ": try again"}
	case errors.Is(err, intake.ErrDisk):
		return &refused{status: http.StatusServiceUnavailable, detail: "the disk of the server is full; nothing was changed: try again"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refused{status: http.StatusRequestTimeout, detail: "the body did not arrive in time"}
	case errors.As(err, &disk):
		return fmt.Errorf("keeping a body: %w", err)
	}
	return bad("the body could not be read: %v", err)
}
