package intake

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// ErrSlow is what a body that did not arrive in time is.
var ErrSlow = errors.New("the body did not arrive in time")

// Text is a body that has arrived.
type Text struct {
	Bytes []byte
	at    int
}

// Read implements io.Reader.
func (t *Text) Read(p []byte) (int, error) {
	if t.at == len(t.Bytes) {
		return 0, io.EOF
	}
	n := copy(p, t.Bytes[t.at:])
	t.at += n
	return n, nil
}

// Close implements io.Closer.
func (t *Text) Close() error { return nil }

const firstBuffer = 16 << 10

// Read reads the body of a request to its end, at most limit bytes, within Arrive and the
// memory for all bodies. What it takes is given back by the end of Begin, or with the connection. A body that is too
// large is an *http.MaxBytesError, one that is too slow ErrSlow.
func (c *Connections) Read(w http.ResponseWriter, r *http.Request, limit int64) (*Text, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(c.limits.Arrive)) // not every writer has one
	in := http.MaxBytesReader(w, r.Body, limit)
	// A byte more than there is shows the end without growing.
	first := min(firstBuffer, limit+1)
	if r.ContentLength >= 0 {
		first = min(first, r.ContentLength+1)
	}
	if err := c.grow(r, first); err != nil {
		return nil, err
	}
	text := make([]byte, 0, first)
	for {
		if len(text) == cap(text) {
			more := min(int64(cap(text))*2, limit+1)
			if r.ContentLength >= 0 {
				more = min(more, r.ContentLength+1)
			}
			if err := c.grow(r, more); err != nil {
				return nil, err
			}
			larger := make([]byte, len(text), more)
			copy(larger, text)
			text = larger
		}
		n, err := in.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case errors.Is(err, io.EOF):
			_ = control.SetReadDeadline(time.Time{})
			return &Text{Bytes: text}, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, ErrSlow
		case err != nil:
			return nil, fmt.Errorf("reading the body: %w", err)
		}
	}
}

// grow lets the body of a request take so many bytes in all. Where bodies take too much, what
// has the most of whom has the most goes.
func (c *Connections) grow(r *http.Request, to int64) error {
	c.mu.Lock()
	n := c.open[r.RemoteAddr]
	if n == nil || n.closed {
		c.mu.Unlock()
		return nil // closed meanwhile, which reading shows
	}
	c.memory += to - n.held
	n.held = to
	var gone []*conn
	for c.memory > c.limits.Memory {
		o := c.heaviest()
		if o == nil {
			o = n
		}
		gone = append(gone, o)
		c.forget(o)
		if o == n {
			break
		}
	}
	closed := n.closed
	c.mu.Unlock()
	c.end(gone, ReasonMemory)
	if closed {
		return errors.New("bodies that arrive take too much memory")
	}
	return nil
}

// heaviest is what to give up where bodies take too much memory.
func (c *Connections) heaviest() (found *conn) {
	held := map[netip.Addr]int64{}
	for _, o := range c.open {
		held[o.client] += o.held
	}
	for _, o := range c.open {
		if o.known || o.working > 0 || o.held == 0 {
			continue
		}
		if found == nil || held[o.client] > held[found.client] || held[o.client] == held[found.client] && o.held > found.held {
			found = o
		}
	}
	return found
}
