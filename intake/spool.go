package intake

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// ErrFull says that bodies that wait take all the disk that they may, and ErrDisk that the disk has no more.
var (
	ErrFull = errors.New("bodies that wait take all the room that there is")
	ErrDisk = errors.New("the disk for bodies is full")
)

// Spool keeps bodies until there is room to make something of them: small ones in memory,
// others in files without a name, which are gone with the process however it ends. It is safe
// for concurrent use; its zero value works.
type Spool struct {
	Dir string // a folder of its own; "" is that of the system for temporary files
	Max int64  // bytes of all bodies; 1 GiB. One client has at most half of it.

	mu   sync.Mutex
	used int64
	by   map[string]int64 // by the client
}

const (
	prefix = "body-"
	// inMemory is how large a body may be to need no file.
	inMemory = 32 << 10
)

// Clean makes the folder, and removes what another process may have left in it.
func (s *Spool) Clean() error {
	if s.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("making the folder for bodies: %w", err)
	}
	files, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("reading the folder for bodies: %w", err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), prefix) {
			if err := os.Remove(filepath.Join(s.Dir, f.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cleaning the folder for bodies: %w", err)
			}
		}
	}
	return nil
}

// Used is how many bytes all bodies take.
func (s *Spool) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Body is a body that is kept until it is closed.
type Body struct {
	spool  *Spool
	client string
	size   int64
	small  []byte
	file   *os.File
}

// Receive reads a body to its end. Errors of in are given as they are; ErrFull and ErrDisk say
// that there is no room for it now. The caller bounds in, and closes the body.
func (s *Spool) Receive(in io.Reader, client string) (body *Body, err error) {
	b := &Body{spool: s, client: client}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	buffer := make([]byte, 4<<10)
	for {
		n, err := in.Read(buffer)
		if n > 0 {
			if err := b.add(buffer[:n]); err != nil {
				return nil, err
			}
		}
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if b.file != nil && len(buffer) < 32<<10 {
			buffer = make([]byte, 32<<10)
		}
	}
}

func (b *Body) add(p []byte) error {
	if !b.spool.take(b.client, int64(len(p))) {
		return ErrFull
	}
	b.size += int64(len(p))
	if b.file == nil && b.size <= inMemory {
		b.small = append(b.small, p...)
		return nil
	}
	if b.file == nil {
		f, err := os.CreateTemp(b.spool.Dir, prefix)
		if err != nil {
			return notKept(err)
		}
		b.file = f
		if err := os.Remove(f.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return notKept(err)
		}
		if _, err := f.Write(b.small); err != nil {
			return notKept(err)
		}
		b.small = nil
	}
	if _, err := b.file.Write(p); err != nil {
		return notKept(err)
	}
	return nil
}

func notKept(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return fmt.Errorf("keeping a body: %w", err)
}

func (s *Spool) take(client string, n int64) bool {
	most := cmp.Or(s.Max, 1<<30)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > most || s.by[client]+n > most/2 {
		return false
	}
	if s.by == nil {
		s.by = map[string]int64{}
	}
	s.used += n
	s.by[client] += n
	return true
}

// Size is how many bytes have come.
func (b *Body) Size() int64 { return b.size }

// Open reads the body from its beginning.
func (b *Body) Open() io.ReadSeeker {
	if b.file != nil {
		return io.NewSectionReader(b.file, 0, b.size)
	}
	return bytes.NewReader(b.small)
}

// Close gives back what the body takes.
func (b *Body) Close() {
	if b.file != nil {
		_ = b.file.Close()
	}
	b.spool.mu.Lock()
	defer b.spool.mu.Unlock()
	b.spool.used -= b.size
	if left := b.spool.by[b.client] - b.size; left > 0 {
		b.spool.by[b.client] = left
	} else {
		delete(b.spool.by, b.client)
	}
	b.size, b.small, b.file = 0, nil, nil
}

// Whole gives requests to h once their bodies have come, at most limit bytes each. Those of more
// than a MiB are given one at a time, for what a handler makes of a form takes some times its size.
func (s *Spool) Whole(limit func(*http.Request) int64, h http.Handler) http.Handler {
	large := make(chan struct{}, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			h.ServeHTTP(w, r)
			return
		}
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		most := limit(r)
		body, err := s.Receive(http.MaxBytesReader(w, r.Body, most), host)
		var disk *os.PathError
		switch tooLarge := new(http.MaxBytesError); {
		case errors.As(err, &tooLarge):
			http.Error(w, fmt.Sprintf("what was sent has more than %d bytes", most), http.StatusRequestEntityTooLarge)
			return
		case errors.Is(err, ErrFull):
			http.Error(w, "too much waits: try again", http.StatusServiceUnavailable)
			return
		case errors.Is(err, ErrDisk):
			http.Error(w, "the disk of the server is full: try again", http.StatusServiceUnavailable)
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			http.Error(w, "it did not arrive in time", http.StatusRequestTimeout)
			return
		case errors.As(err, &disk):
			http.Error(w, "the server could not keep it", http.StatusInternalServerError)
			return
		case err != nil:
			http.Error(w, "it could not be read", http.StatusBadRequest)
			return
		}
		defer body.Close()
		if body.Size() > 1<<20 {
			select {
			case large <- struct{}{}:
				defer func() { <-large }()
			case <-r.Context().Done():
				return
			}
		}
		r.Body = io.NopCloser(body.Open())
		h.ServeHTTP(w, r)
	})
}
