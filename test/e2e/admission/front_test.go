package admission_test

import (
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// front gives each connection to one of the replicas that joined, as a Service does.
type front struct {
	address string

	mu       sync.Mutex
	replicas []*hook
	next     int
}

func newFront(t *testing.T, replicas ...*hook) *front {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: listener.Addr().String(), replicas: replicas}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go f.serve(c)
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return f
}

func (f *front) serve(c net.Conn) {
	defer c.Close()
	f.mu.Lock()
	if len(f.replicas) == 0 {
		f.mu.Unlock()
		return
	}
	f.next++
	h := f.replicas[f.next%len(f.replicas)]
	f.mu.Unlock()
	to, err := net.Dial("tcp", h.address)
	if err != nil {
		return
	}
	defer to.Close()
	var both sync.WaitGroup
	copyTo := func(a, b net.Conn) {
		_, _ = io.Copy(a, b)
		_ = a.Close()
		_ = b.Close()
	}
	both.Go(func() { copyTo(to, c) })
	both.Go(func() { copyTo(c, to) })
	both.Wait()
}

// leave gives a replica no new connections.
func (f *front) leave(h *hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = slices.DeleteFunc(f.replicas, func(r *hook) bool { return r == h })
}

func (f *front) join(h *hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = append(f.replicas, h)
}
