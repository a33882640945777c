package scanner

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/anchore/syft/syft/sbom"
)

// Syft unpacks archives within archives, and other files, below a folder that it makes in the
// system's folder for temporary files. These two, of a package that it keeps to itself, have it
// use another one; should they go, this does not link.

//go:linkname syftTempDir github.com/anchore/syft/internal/tmpdir.FromPath
func syftTempDir(dir string) unsafe.Pointer

//go:linkname withSyftTempDir github.com/anchore/syft/internal/tmpdir.WithValue
func withSyftTempDir(ctx context.Context, dir unsafe.Pointer) context.Context

// nested is the folder for what one scan unpacks of archives within an image. When there is
// more in it than there is room for, the scan is cancelled, and what is there is cut to nothing
// until it is given up: Syft looks at its context between files only, and a file may be large,
// but what reads a file that was cut, or writes one, soon comes to its end.
type nested struct {
	dir    string
	room   int64 // bytes
	cancel context.CancelCauseFunc
	limit  error
	ended  chan struct{}
	wait   sync.WaitGroup
}

// lookEvery is how often the size of the folder is looked at.
const lookEvery = 20 * time.Millisecond

// watchNested makes the folder below dir, and gives a context that Syft and the bound know. The
// caller calls end when Syft's last task has ended, or was given up.
func watchNested(ctx context.Context, dir string, room, limit int64) (context.Context, *nested, error) {
	own, err := os.MkdirTemp(dir, "nested-")
	if err != nil {
		return nil, nil, fmt.Errorf("making room for nested archives: %w", err)
	}
	n := &nested{dir: own, room: room, ended: make(chan struct{}),
		limit: byteLimit("MaxImageBytes", "with the archives in it, the image unpacks to", limit)}
	ctx, n.cancel = context.WithCancelCause(ctx)
	n.wait.Go(n.watch)
	return withSyftTempDir(ctx, syftTempDir(own)), n, nil
}

func (n *nested) watch() {
	over := false
	for {
		select {
		case <-n.ended:
			return
		case <-time.After(lookEvery):
		}
		if !over && n.size() > n.room {
			over = true
			n.cancel(n.limit)
		}
		if over {
			n.cut()
		}
	}
}

// end stops watching and removes the folder.
func (n *nested) end() {
	close(n.ended)
	n.wait.Wait()
	n.cancel(context.Canceled)
	_ = os.RemoveAll(n.dir)
}

// block is what a file takes at the least.
const block = 4096

func (n *nested) size() (all int64) {
	n.files(func(_ string, d fs.DirEntry) {
		if info, err := d.Info(); err == nil {
			all += (info.Size() + block - 1) / block * block
		}
	})
	return all
}

func (n *nested) cut() {
	n.files(func(path string, _ fs.DirEntry) { _ = os.Truncate(path, 0) })
}

func (n *nested) files(each func(path string, d fs.DirEntry)) {
	_ = filepath.WalkDir(n.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			each(path, d)
		}
		return nil
	})
}

// cutShort says whether Syft itself left a file unread since it unpacks to too much.
func cutShort(s *sbom.SBOM) error {
	for c, reasons := range s.Artifacts.Unknowns {
		for _, r := range reasons {
			if strings.Contains(r, "read limit hit") {
				return &LimitError{Field: "MaxImageBytes", What: fmt.Sprintf("a file within %s unpacks to more than is read", c.RealPath)}
			}
		}
	}
	return nil
}
