package registries

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"github.com/assay-dev/assay/api"
)

// SchemaState is the version of the format of a state file.
const SchemaState = "assay.dev/registry-state/v1"

// maxRecord bounds one line of a state file, and maxScan a scan in it, unpacked.
const (
	maxRecord = 64 << 20
	maxScan   = 512 << 20
)

// ErrState is wrapped by errors about a state file that cannot be used.
var ErrState = errors.New("the state file cannot be used")

// State is what is known of a registry: where each name leads to, and the scan of
// each image. It lives in one file, which is only ever appended to, line by line:
// a process that is killed leaves at most half a line, which the next one takes away.
// Anything else that is wrong with the file is an error. It is safe for concurrent use.
//
// In memory are the names and digests; scans are read from the file when asked for.
type State struct {
	path string
	lock *os.File

	mu      sync.Mutex
	file    *os.File
	size    int64
	failed  error // why nothing more can be written
	names   map[string]named
	indexes map[string]place
	scans   map[string]scanned
	dead    int // lines that later ones replace

	unpacked map[string]api.Scan // some scans that were read last, by image
}

// maxUnpacked bounds the scans that are kept in memory.
const maxUnpacked = 32

type named struct {
	digest string
	seen   bool
}

// place is where in the file the record of something is.
type place struct {
	offset int64
	length int
	image  string // of an index: the digest of its image
}

type scanned struct {
	place
	Made
}

// Made says what a scan was made with: where any of it is another today, the image is
// scanned again.
type Made struct {
	// By is the version of the scanner and its settings.
	By string `json:"by"`
	// Database is the checksum of the vulnerability database. It counts for nothing
	// where Server is set, which matches the SBOM again itself.
	Database string `json:"database,omitempty"`
	// Server is where the scan and its SBOM were sent to, or "".
	Server string `json:"server,omitempty"`
}

func (m Made) current(now Made) bool {
	return m.By == now.By && m.Server == now.Server && (now.Server != "" || m.Database == now.Database)
}

// record is one line of the file: exactly one member is set.
type record struct {
	Schema   string `json:"schema,omitempty"`
	Registry string `json:"registry,omitempty"` // beside Schema
	Name     string `json:"name,omitempty"`
	Digest   string `json:"digest,omitempty"` // beside Name: where it leads to; "" is nowhere
	Index    *index `json:"index,omitempty"`
	Scan     *kept  `json:"scan,omitempty"`
}

// index is a multi-platform image, and the image that was taken of it.
type index struct {
	api.Index
	Image string `json:"image"`
	By    string `json:"by"`
}

// kept is the scan of one image.
type kept struct {
	Digest string `json:"digest"`
	Made
	// Scan is an api.Scan as JSON, zstd. Absent for what is no image.
	Scan []byte `json:"scan,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// line is a record as the file has it: a checksum, a space, JSON, a line feed.
func line(r record) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the state: %w", err)
	}
	if len(text) > maxRecord-16 {
		return nil, fmt.Errorf("writing the state: a record has %d bytes, more than %d", len(text), maxRecord-16)
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(text, castagnoli), text), nil
}

// parseLine reads a line without its line feed.
func parseLine(text []byte) (r record, err error) {
	sum, rest, found := bytes.Cut(text, []byte(" "))
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if !found || err != nil || len(sum) != 8 || uint32(want) != crc32.Checksum(rest, castagnoli) {
		return r, errors.New("is damaged")
	}
	if err := json.Unmarshal(rest, &r); err != nil {
		return r, fmt.Errorf("is damaged: %w", err)
	}
	members := 0
	for _, set := range []bool{r.Schema != "", r.Name != "", r.Index != nil, r.Scan != nil} {
		if set {
			members++
		}
	}
	if members != 1 {
		return r, errors.New("is of a kind that is not known")
	}
	return r, nil
}

// OpenState opens the state of a registry in a file, which is made where it is
// missing. Only one process has it open.
func OpenState(path, registry string) (s *State, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the state file: %w", err)
	}
	s = &State{path: path}
	if s.lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("locking the state file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = s.Close()
			s = nil
		}
	}()
	if err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return s, fmt.Errorf("%w: another scan of this registry runs with it: %s", ErrState, path)
	}
	if s.file, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return s, fmt.Errorf("opening the state file: %w", err)
	}
	if err := s.read(s.file, registry); err != nil {
		return s, fmt.Errorf("%w: %s: %w\nMove it away, or name another one with --state, to scan everything anew", ErrState, path, err)
	}
	if err := s.file.Truncate(s.size); err != nil {
		return s, fmt.Errorf("opening the state file: %w", err)
	}
	if s.size == 0 {
		return s, s.append(true, record{Schema: SchemaState, Registry: registry})
	}
	if live := len(s.names) + len(s.indexes) + len(s.scans); s.dead > live+1000 {
		return s, s.compact(registry)
	}
	return s, nil
}

// read takes in a file. size is then the end of the last whole line.
func (s *State) read(in io.Reader, registry string) error {
	s.names, s.indexes, s.scans = map[string]named{}, map[string]place{}, map[string]scanned{}
	header, err := line(record{Schema: SchemaState, Registry: registry})
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(in, 1<<16)
	for n := 1; ; n++ {
		text, err := readLine(r)
		torn := errors.Is(err, io.EOF)
		if err != nil && !torn {
			return fmt.Errorf("line %d %w", n, err)
		}
		if torn {
			if n == 1 && !bytes.HasPrefix(header, text) {
				return errors.New("it is no state of this registry")
			}
			return nil
		}
		at := place{offset: s.size, length: len(text) + 1}
		s.size += int64(at.length)
		rec, err := parseLine(text)
		switch {
		case err != nil && n == 1:
			return errors.New("it is no state file")
		case err != nil:
			return fmt.Errorf("line %d %w", n, err)
		case n == 1 && rec.Schema != SchemaState:
			return fmt.Errorf("its format is %.60q, not %s", rec.Schema, SchemaState)
		case n == 1 && rec.Registry != registry:
			return fmt.Errorf("it is of the registry %.200q, not of %s", rec.Registry, registry)
		case n > 1 && rec.Schema != "":
			return fmt.Errorf("line %d is a second header", n)
		case n > 1:
			s.take(rec, at)
		}
	}
}

// readLine gives a line without its line feed; io.EOF comes with what follows the last one.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(text)+len(part) > maxRecord {
			return nil, errors.New("is too long")
		}
		text = append(text, part...)
		switch {
		case err == nil:
			return text[:len(text)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return text, err
		}
	}
}

// take notes what a record says.
func (s *State) take(r record, at place) {
	switch {
	case r.Name != "":
		if _, known := s.names[r.Name]; known || r.Digest == "" {
			s.dead++
		}
		if r.Digest == "" {
			delete(s.names, r.Name)
			return
		}
		s.names[r.Name] = named{digest: r.Digest, seen: s.names[r.Name].seen}
	case r.Index != nil:
		if _, known := s.indexes[r.Index.Digest]; known {
			s.dead++
		}
		at.image = r.Index.Image
		s.indexes[r.Index.Digest] = at
	case r.Scan != nil:
		if _, known := s.scans[r.Scan.Digest]; known {
			s.dead++
		}
		if r.Scan.Scan == nil {
			at.length = 0
		}
		s.scans[r.Scan.Digest] = scanned{place: at, Made: r.Scan.Made}
		delete(s.unpacked, r.Scan.Digest)
	}
}

// append writes records at the end of the file, all of them with one write.
func (s *State) append(sync bool, records ...record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	var text []byte
	places := make([]place, len(records))
	for i, r := range records {
		l, err := line(r)
		if err != nil {
			return err
		}
		places[i] = place{offset: s.size + int64(len(text)), length: len(l)}
		text = append(text, l...)
	}
	_, err := s.file.WriteAt(text, s.size)
	if err == nil && sync {
		err = s.file.Sync()
	}
	if err != nil {
		// Half a line must stay the last one.
		s.failed = fmt.Errorf("writing the state file: %w", err)
		return s.failed
	}
	s.size += int64(len(text))
	for i, r := range records {
		if r.Schema == "" {
			s.take(r, places[i])
		}
	}
	return nil
}

// compact writes the file anew without what later lines replace, and puts it in the
// place of the old one.
func (s *State) compact(registry string) (err error) {
	next, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".new-")
	if err != nil {
		return fmt.Errorf("writing the state file anew: %w", err)
	}
	defer func() {
		if err != nil {
			_ = next.Close()
			_ = os.Remove(next.Name())
			err = fmt.Errorf("writing the state file anew: %w", err)
		}
	}()
	w := bufio.NewWriterSize(next, 1<<16)
	put := func(r record) error {
		l, err := line(r)
		if err == nil {
			_, err = w.Write(l)
		}
		return err
	}
	if err := put(record{Schema: SchemaState, Registry: registry}); err != nil {
		return err
	}
	// Scans come first: a name never stands before what it leads to.
	used := map[string]bool{}
	for _, n := range s.names {
		used[n.digest] = true
		if at, ok := s.indexes[n.digest]; ok {
			used[at.image] = true
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(s.scans)) {
		if !used[digest] {
			continue
		}
		known := s.scans[digest]
		r := record{Scan: &kept{Digest: digest, Made: known.Made}}
		if known.length > 0 {
			if r, err = s.recordAt(known.place); err != nil {
				return err
			}
		}
		if err := put(r); err != nil {
			return err
		}
	}
	for _, digest := range slices.Sorted(maps.Keys(s.indexes)) {
		if !used[digest] {
			continue
		}
		r, err := s.recordAt(s.indexes[digest])
		if err == nil {
			err = put(r)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		if err := put(record{Name: name, Digest: s.names[name].digest}); err != nil {
			return err
		}
	}
	if err := cmp.Or(w.Flush(), next.Sync()); err != nil {
		return err
	}
	if err := os.Rename(next.Name(), s.path); err != nil {
		return err
	}
	_ = s.file.Close()
	s.file, s.size, s.dead = next, 0, 0
	return s.read(io.NewSectionReader(next, 0, 1<<62), registry)
}

// recordAt reads a record again, and holds it against its checksum.
func (s *State) recordAt(at place) (r record, err error) {
	text := make([]byte, at.length)
	if _, err := s.file.ReadAt(text, at.offset); err != nil {
		return r, fmt.Errorf("reading the state file: %w", err)
	}
	if r, err = parseLine(bytes.TrimSuffix(text, []byte("\n"))); err != nil {
		return r, fmt.Errorf("%w: %s: a record at byte %d %w", ErrState, s.path, at.offset, err)
	}
	return r, nil
}

// Close closes the file. What was written stays.
func (s *State) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.New("the state file is closed")
	var err error
	if s.file != nil {
		err = errors.Join(s.file.Sync(), s.file.Close())
		s.file = nil
	}
	return errors.Join(err, s.lock.Close())
}

// leads gives the digest that a name led to when it was written last, and notes that
// the name is there still.
func (s *State) leads(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.names[name]
	if ok {
		n.seen = true
		s.names[name] = n
	}
	return n.digest
}

// image is the digest of the image that a digest leads to, by what is known of indexes.
func (s *State) image(digest string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.indexes[digest]; ok {
		return at.image
	}
	return digest
}

// index says whether the image of an index is known, as now's scanner chooses it.
func (s *State) index(digest, by string) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.indexes[digest]
	if !ok {
		return "", false, nil
	}
	r, err := s.recordAt(at)
	if err != nil || r.Index.By != by {
		return "", false, err
	}
	return at.image, true, nil
}

// known says whether an image has a scan that needs not be made again, and whether it
// is no image at all.
func (s *State) known(image string, now Made) (known, nothing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, ok := s.scans[image]
	if !ok {
		return false, false
	}
	if was.length == 0 {
		return was.By == now.By, true
	}
	return was.current(now), false
}

// putScan keeps the scan of an image; nil says that it is none.
func (s *State) putScan(image string, scan *api.Scan, made Made) error {
	k := &kept{Digest: image, Made: made}
	if scan != nil {
		text, err := json.Marshal(scan)
		if err != nil {
			return fmt.Errorf("writing the state: %w", err)
		}
		k.Scan = pack(text)
	}
	return s.append(true, record{Scan: k})
}

// putIndex keeps which image an index leads to.
func (s *State) putIndex(x api.Index, image, by string) error {
	return s.append(false, record{Index: &index{Index: x, Image: image, By: by}})
}

// putNames keeps where names lead to.
func (s *State) putNames(names []string, digests []string) error {
	records := make([]record, len(names))
	for i, n := range names {
		records[i] = record{Name: n, Digest: digests[i]}
	}
	if err := s.append(false, records...); err != nil {
		return err
	}
	for _, n := range names {
		s.leads(n)
	}
	return nil
}

// Scan is that of a name of [Summary.Names], without a classification.
func (s *State) Scan(name string) (*api.Scan, error) {
	s.mu.Lock()
	digest := s.names[name].digest
	s.mu.Unlock()
	return s.scanOf(name, digest)
}

// scanOf is the scan of what a digest leads to, under a name.
func (s *State) scanOf(name, digest string) (*api.Scan, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	image, x := digest, (*api.Index)(nil)
	if at, ok := s.indexes[digest]; ok {
		r, err := s.recordAt(at)
		if err != nil {
			return nil, err
		}
		image, x = at.image, &r.Index.Index
	}
	at, ok := s.scans[image]
	if !ok {
		return nil, fmt.Errorf("%w: %s: it has no scan of %s, which %s leads to", ErrState, s.path, image, name)
	}
	if at.length == 0 {
		return nil, fmt.Errorf("%w: %s: %s is no image", ErrState, s.path, name)
	}
	if scan, ok := s.unpacked[image]; ok {
		return under(scan, name, x), nil
	}
	r, err := s.recordAt(at.place)
	if err != nil {
		return nil, err
	}
	var scan api.Scan
	text, err := unpack(r.Scan.Scan)
	if err == nil {
		err = json.Unmarshal(text, &scan)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: the scan of %s: %w", ErrState, s.path, image, err)
	}
	if len(s.unpacked) >= maxUnpacked || s.unpacked == nil {
		s.unpacked = map[string]api.Scan{}
	}
	s.unpacked[image] = scan
	return under(scan, name, x), nil
}

// under is a scan by another name, which a caller may classify.
func under(scan api.Scan, name string, x *api.Index) *api.Scan {
	scan.Image, scan.Index = name, x
	scan.Vulnerabilities = slices.Clone(scan.Vulnerabilities)
	return &scan
}

// forget drops the names that were not seen and of which of says so.
func (s *State) forget(of func(name string) bool) error {
	s.mu.Lock()
	var gone []string
	for name, n := range s.names {
		if !n.seen && of(name) {
			gone = append(gone, name)
		}
	}
	s.mu.Unlock()
	if len(gone) == 0 {
		return nil
	}
	slices.Sort(gone)
	return s.putNames(gone, make([]string, len(gone)))
}

// seen are the names that were met since the file was opened, sorted.
func (s *State) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, n := range s.names {
		if n.seen {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// DefaultState is the file of a registry's state where no other is named.
func DefaultState(host string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the place of the state file: %w; name one with --state", err)
	}
	return filepath.Join(cache, "assay", "registries", strings.NewReplacer(":", "_", "[", "", "]", "").Replace(host)+".state"), nil
}

var (
	packer   = sync.OnceValue(func() *zstd.Encoder { e, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); return e })
	unpacker = sync.OnceValue(func() *zstd.Decoder {
		d, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxScan))
		return d
	})
)

func pack(text []byte) []byte { return packer().EncodeAll(text, nil) }

func unpack(text []byte) ([]byte, error) { return unpacker().DecodeAll(text, nil) }
