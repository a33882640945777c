package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-dev/assay/api"
)

// schemaItem marks the first line of a file of the queue.
const schemaItem = "assay.dev/node-item/v1"

// item is what waits to be sent: an SBOM, or a scan that failed. Its file is a line of
// JSON, and then for an SBOM Syft JSON packed with zstd.
type item struct {
	Schema  string    `json:"schema"`
	Digest  string    `json:"digest"`
	Names   []string  `json:"names"` // at least one
	Running bool      `json:"running"`
	Made    time.Time `json:"made"`
	Failed  *api.Scan `json:"failed,omitempty"`

	file string
	size int64
}

const (
	itemSuffix  = ".item"
	maxItemLine = 1 << 20
)

// queue keeps items in a folder, each in a file that is there whole or not at all. It is
// safe for concurrent use.
type queue struct {
	dir string
	max int64
	log *slog.Logger

	mu      sync.Mutex
	items   []item
	bytes   int64
	dropped int64
}

// openQueue takes up what is in the folder. Files that cannot be read are removed: their images are scanned again.
func openQueue(dir string, size int64, log *slog.Logger) (*queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	q := &queue{dir: dir, max: size, log: log}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasSuffix(e.Name(), itemSuffix) { // of a process that was killed
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		i, _, err := readItem(path, false)
		if err != nil {
			log.Error("a file of the queue is damaged; its image is scanned again", "file", path, "error", err)
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		q.items, q.bytes = append(q.items, i), q.bytes+i.size
	}
	q.sort()
	return q, nil
}

// sort puts what runs first, and then the oldest.
func (q *queue) sort() {
	slices.SortStableFunc(q.items, func(a, b item) int {
		if a.Running != b.Running {
			if a.Running {
				return -1
			}
			return 1
		}
		return a.Made.Compare(b.Made)
	})
}

// readItem reads the first line of a file, and on demand what follows.
func readItem(path string, whole bool) (item, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return item{}, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return item{}, nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(f, maxItemLine)).ReadBytes('\n')
	if err != nil {
		return item{}, nil, fmt.Errorf("it ends early: %w", err)
	}
	var i item
	if err := json.Unmarshal(line, &i); err != nil {
		return item{}, nil, err
	}
	if i.Schema != schemaItem || i.Digest == "" || len(i.Names) == 0 {
		return item{}, nil, fmt.Errorf("its schema is %.60q, or it names no image", i.Schema)
	}
	i.file, i.size = path, info.Size()
	if i.Failed == nil && info.Size() == int64(len(line)) {
		return item{}, nil, errors.New("it has no SBOM")
	}
	if !whole {
		return i, nil, nil
	}
	if _, err := f.Seek(int64(len(line)), io.SeekStart); err != nil {
		return item{}, nil, err
	}
	body, err := io.ReadAll(f)
	return i, body, err
}

// add keeps an item, with the SBOM in the file sbom, which is "" for a scan that failed.
// An earlier item of the image goes. Where there is no room, the oldest of images that
// rest are dropped, and then the oldest; their digests are given.
func (q *queue) add(i item, sbom string) (dropped []string, err error) {
	i.Schema = schemaItem
	line, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	part, err := os.CreateTemp(q.dir, "part-")
	if err != nil {
		return nil, fmt.Errorf("keeping what is to be sent: %w", err)
	}
	defer os.Remove(part.Name())
	defer part.Close()
	_, err = part.Write(append(line, '\n'))
	if err == nil && sbom != "" {
		err = appendFile(part, sbom)
	}
	if err == nil {
		err = part.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("keeping what is to be sent: %w", err)
	}
	info, err := part.Stat()
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	i.size = info.Size()
	i.file = filepath.Join(q.dir, fmt.Sprintf("%020d-%.16s%s", i.Made.UnixNano(), strings.TrimPrefix(i.Digest, "sha256:"), itemSuffix))
	if i.size > q.max {
		return nil, fmt.Errorf("the SBOM has %d bytes, which the queue of %d cannot hold: --queue-size", i.size, q.max)
	}
	for n := len(q.items) - 1; n >= 0; n-- {
		if q.items[n].Digest == i.Digest {
			if err := q.removeAt(n); err != nil {
				return dropped, err
			}
		}
	}
	for q.bytes+i.size > q.max {
		victim := slices.IndexFunc(q.items, func(o item) bool { return !o.Running })
		if victim < 0 {
			if !i.Running {
				return dropped, errFull
			}
			victim = 0
		}
		gone := q.items[victim]
		if err := q.removeAt(victim); err != nil {
			return dropped, err
		}
		q.dropped++
		dropped = append(dropped, gone.Digest)
		q.log.Warn("the queue is full: what waited longest is dropped, and scanned again later", "image", gone.Names[0], "digest", gone.Digest, "running", gone.Running)
	}
	if err := os.Rename(part.Name(), i.file); err != nil {
		return dropped, fmt.Errorf("keeping what is to be sent: %w", err)
	}
	if err := syncDir(q.dir); err != nil {
		return dropped, err
	}
	q.items, q.bytes = append(q.items, i), q.bytes+i.size
	q.sort()
	return dropped, nil
}

// errFull says that only what runs waits, and no room is made for what rests.
var errFull = errors.New("the queue is full of images that run")

func appendFile(to *os.File, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (q *queue) removeAt(n int) error {
	i := q.items[n]
	if err := os.Remove(i.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing what was sent: %w", err)
	}
	q.items, q.bytes = slices.Delete(q.items, n, n+1), q.bytes-i.size
	return nil
}

// remove takes an item away that was sent.
func (q *queue) remove(i item) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for n := range q.items {
		if q.items[n].file == i.file {
			return q.removeAt(n)
		}
	}
	return nil
}

// list gives the items in the order in which they are sent.
func (q *queue) list() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.items)
}

// state gives the items, their bytes, and how many were dropped.
func (q *queue) state() (items int, bytes, dropped int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items), q.bytes, q.dropped
}

// roomy says whether the queue has room for more without dropping anything soon.
func (q *queue) roomy() bool {
	_, bytes, _ := q.state()
	return bytes < q.max*3/4
}

// How often one version of the agent scans an image that fails, and one whose scans never
// come to an end, for the agent itself was killed.
const (
	maxTries = 4
	maxBegun = 10
)

// tries remembers on disk how often scans of an image failed, so that an image which
// kills the agent is not scanned for ever. It is safe for concurrent use.
type tries struct {
	path string

	mu   sync.Mutex
	kept keptTries
}

type keptTries struct {
	Version string         `json:"version"`
	Images  map[string]try `json:"images"`
}

type try struct {
	Count int       `json:"count"`           // scans that failed
	Begun int       `json:"begun,omitempty"` // scans since the last that came to an end
	Next  time.Time `json:"next"`
	Error string    `json:"error,omitempty"`
}

func openTries(path, version string) (*tries, error) {
	t := &tries{path: path, kept: keptTries{Version: version, Images: map[string]try{}}}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	var kept keptTries
	if json.Unmarshal(text, &kept) == nil && kept.Version == version && kept.Images != nil {
		t.kept = kept // else of another version, which may do better
	}
	return t, nil
}

func (t *tries) get(digest string) try {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept.Images[digest]
}

// forget drops the tries of an image that was scanned.
func (t *tries) forget(digest string) error { return t.set(digest, try{}) }

// set keeps the tries of an image.
func (t *tries) set(digest string, to try) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if to == (try{}) {
		if _, ok := t.kept.Images[digest]; !ok {
			return nil
		}
		delete(t.kept.Images, digest)
	} else {
		t.kept.Images[digest] = to
	}
	text, err := json.Marshal(t.kept)
	if err == nil {
		err = os.WriteFile(t.path+".part", text, 0o600)
	}
	if err == nil {
		err = os.Rename(t.path+".part", t.path)
	}
	if err != nil {
		return fmt.Errorf("keeping count of scans: %w", err)
	}
	return nil
}

// only forgets images that are not on the node any more.
func (t *tries) only(here func(digest string) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for d := range t.kept.Images {
		if !here(d) {
			delete(t.kept.Images, d)
		}
	}
}
