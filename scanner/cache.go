package scanner

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobCache keeps blobs of registries by digest in one directory, which
// several processes may share. A nil cache keeps nothing.
type blobCache struct {
	dir string
	max int64
	log *slog.Logger
	// mu keeps two evictions of one process from counting the same bytes.
	mu sync.Mutex
}

const blobPrefix, partPrefix = "sha256-", "part-"

func newBlobCache(dir string, max int64, log *slog.Logger) (*blobCache, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the cache directory: %w", err)
	}
	return &blobCache{dir: dir, max: max, log: log}, nil
}

// open gives a blob from the cache, or fetches it and keeps it once it was
// read to its end with the right digest. A damaged file in the cache is
// removed and fetched again.
func (c *blobCache) open(ctx context.Context, d v1.Descriptor, fetch func() (io.ReadCloser, error)) (io.ReadCloser, error) {
	if c == nil || d.Digest.Algorithm != "sha256" || d.Size > c.max {
		return fetch()
	}
	path := filepath.Join(c.dir, blobPrefix+d.Digest.Hex)
	if f := c.intact(ctx, path, d.Digest); f != nil {
		return f, nil
	}
	rc, err := fetch()
	if err != nil {
		return nil, err
	}
	part, err := os.CreateTemp(c.dir, partPrefix)
	if err != nil {
		c.log.Warn("keeping a layer in the cache", "error", err)
		return rc, nil
	}
	return &cachingReader{ReadCloser: rc, cache: c, part: part, path: path, digest: d.Digest}, nil
}

// intact opens a cached blob whose digest is right, at its beginning.
func (c *blobCache) intact(ctx context.Context, path string, want v1.Hash) *os.File {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	h := sha256.New()
	_, err = io.Copy(h, readerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.Read(p)
	}))
	if err == nil && sum(h) == want {
		if _, err = f.Seek(0, io.SeekStart); err == nil {
			now := time.Now()
			_ = os.Chtimes(path, now, now)
			return f
		}
	}
	f.Close()
	if ctx.Err() == nil {
		c.log.Warn("removing a damaged layer from the cache", "digest", want.String())
		_ = os.Remove(path)
	}
	return nil
}

// evict removes what was used longest ago until the rest fits, and parts that
// a killed process left.
func (c *blobCache) evict() {
	c.mu.Lock()
	defer c.mu.Unlock()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var infos []os.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		switch {
		case strings.HasPrefix(e.Name(), partPrefix) && time.Since(info.ModTime()) > 24*time.Hour:
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		case strings.HasPrefix(e.Name(), blobPrefix):
			infos, total = append(infos, info), total+info.Size()
		}
	}
	sort.Slice(infos, func(i, j int) bool { return infos[i].ModTime().Before(infos[j].ModTime()) })
	for _, info := range infos {
		if total <= c.max {
			return
		}
		if os.Remove(filepath.Join(c.dir, info.Name())) == nil {
			total -= info.Size()
		}
	}
}

// cachingReader writes what is read through it to a part, which becomes the
// cached blob at the end.
type cachingReader struct {
	io.ReadCloser
	cache  *blobCache
	part   *os.File
	path   string
	digest v1.Hash
	failed bool
	ended  bool
}

func (r *cachingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if n > 0 && !r.failed {
		if _, werr := r.part.Write(p[:n]); werr != nil {
			r.failed = true
		}
	}
	r.ended = r.ended || err == io.EOF
	return n, err
}

func (r *cachingReader) Close() error {
	err := r.ReadCloser.Close()
	keep := r.ended && !r.failed && r.complete()
	if cerr := r.part.Close(); cerr != nil || !keep || os.Rename(r.part.Name(), r.path) != nil {
		_ = os.Remove(r.part.Name())
	} else {
		r.cache.evict()
	}
	return err
}

// complete says whether the part has the digest that it should have.
func (r *cachingReader) complete() bool {
	if _, err := r.part.Seek(0, io.SeekStart); err != nil {
		return false
	}
	h := sha256.New()
	_, err := io.Copy(h, r.part)
	return err == nil && sum(h) == r.digest
}
