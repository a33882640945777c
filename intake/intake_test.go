package intake

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// server answers "ok" to what has come whole.
func server(t *testing.T, limits Limits, h http.HandlerFunc) (c *Connections, address string, cut func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var reasons []string
	limits.Cut = func(reason string) { mu.Lock(); reasons = append(reasons, reason); mu.Unlock() }
	c = Listen(l, limits)
	if h == nil {
		h = func(w http.ResponseWriter, r *http.Request) {
			text, err := c.Read(w, r, 1<<20)
			if err != nil {
				http.Error(w, err.Error(), http.StatusRequestTimeout)
				return
			}
			defer c.Begin(r, r.Header.Get("Known") != "")()
			fmt.Fprintf(w, "%d bytes", len(text.Bytes))
		}
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(c) }()
	t.Cleanup(func() { _ = s.Close() })
	return c, l.Addr().String(), func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(reasons) }
}

func dial(t *testing.T, address, from, text string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

// closed says whether the server ends a connection within a time.
func closed(c net.Conn, within time.Duration) bool {
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := io.Copy(io.Discard, c)
	return !errors.Is(err, os.ErrDeadlineExceeded)
}

const whole = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"

func answered(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	b := make([]byte, 200)
	if n, err := c.Read(b); err != nil || !strings.Contains(string(b[:n]), "200 OK") {
		t.Errorf("%v: %s", err, b[:n])
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: ", what)
		}
	}
}

// A request that does not arrive in time ends its connection, however far it came; one that is
// idle between requests does not.
func TestArrive(t *testing.T) {
	_, address, cut := server(t, Limits{Arrive: 300 * time.Millisecond, Idle: time.Minute}, nil)
	idle := dial(t, address, "127.0.0.1", whole)
	answered(t, idle)
	again := dial(t, address, "127.0.0.1", whole)
	answered(t, again)
	var slow []net.Conn
	for _, text := range []string{"", "POST / HT", whole[:len(whole)-2], whole[:len(whole)-1]} {
		slow = append(slow, dial(t, address, "127.0.0.1", text))
	}
	if _, err := io.WriteString(again, "P"); err != nil { // the first byte of a second request
		t.Fatal(err)
	}
	for i, c := range append(slow, again) {
		if !closed(c, 5*time.Second) {
			t.Errorf("slow connection %d stays", i)
		}
	}
	if _, err := io.WriteString(idle, whole); err != nil {
		t.Fatal(err)
	}
	answered(t, idle)
	if got := cut(); len(got) < 3 || slices.Contains(got, ReasonConnections) {
		t.Errorf("cut for %v", got)
	}
}

// What strangers make the server do before a whole request is done by few of them at a time, each
// until it reads on, was answered or is gone.
func TestWorkInTurn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := Listen(l, Limits{})
	var conns []net.Conn
	read := make(chan int, 100)
	for i := range cap(c.work) + 3 {
		dial(t, l.Addr().String(), "127.0.0.1", "x")
		n, err := c.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, n)
		if i < cap(c.work) {
			if _, err := n.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
		} else {
			go func() { _, _ = n.Read(make([]byte, 10)); read <- i }()
		}
	}
	working := 0 // a connection that has a place
	for step, end := range []func(n net.Conn){
		func(n net.Conn) { go func() { _, _ = n.Read(make([]byte, 10)) }() },
		func(n net.Conn) { c.Begin(&http.Request{RemoteAddr: n.RemoteAddr().String()}, false) },
		func(n net.Conn) { _ = n.Close() },
	} {
		select {
		case i := <-read:
			t.Fatalf("step %d: connection %d is worked on beside %d others", step, i, cap(c.work))
		case <-time.After(100 * time.Millisecond):
		}
		end(conns[working])
		select {
		case working = <-read:
		case <-time.After(time.Minute):
			t.Fatalf("step %d: the place is not given on", step)
		}
	}
	for _, n := range conns {
		_ = n.Close()
	}
	eventually(t, "every place is given back", func() bool { return len(c.work) == 0 })
}

// One connection too many takes the place of the slowest of who has the most; who was answered,
// is being answered, or is known, stays.
func TestTooManyConnections(t *testing.T) {
	work := make(chan struct{})
	var c *Connections
	c, address, cut := server(t, Limits{Total: 8, PerClient: 6, Arrive: time.Minute}, func(w http.ResponseWriter, r *http.Request) {
		defer c.Begin(r, r.Header.Get("Known") != "")()
		if r.URL.Path == "/work" {
			<-work
		}
		_, _ = io.WriteString(w, "ok")
	})
	defer close(work)
	known := dial(t, address, "127.0.0.1", "GET / HTTP/1.1\r\nHost: x\r\nKnown: yes\r\n\r\n")
	answered(t, known)
	served := dial(t, address, "127.0.0.2", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	answered(t, served)
	busy := dial(t, address, "127.0.0.3", "GET /work HTTP/1.1\r\nHost: x\r\n\r\n")
	eventually(t, "three connections", func() bool { return c.Open() == 3 })
	var slow []net.Conn
	for range 30 { // of one address, and then of a new one each
		slow = append(slow, dial(t, address, "127.0.0.3", ""))
	}
	for i := range 30 {
		slow = append(slow, dial(t, address, fmt.Sprintf("127.0.1.%d", i+1), ""))
	}
	eventually(t, "the bound", func() bool { return len(cut()) == len(slow)-6 })
	if n := c.Open(); n != 8+1 { // the known one counts apart
		t.Errorf("%d connections are open", n)
	}
	fresh := dial(t, address, "127.0.0.9", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	answered(t, fresh)
	for _, one := range []net.Conn{known, served} {
		if _, err := io.WriteString(one, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answered(t, one)
	}
	if closed(busy, 50*time.Millisecond) {
		t.Error("one that is being answered was closed")
	}
	if closed(slow[len(slow)-1], 50*time.Millisecond) {
		t.Error("the youngest was closed")
	}
}

// Bodies that arrive take a bounded memory; the largest of who has the most goes.
func TestMemoryOfBodies(t *testing.T) {
	c, address, cut := server(t, Limits{Arrive: time.Minute, Memory: 1 << 20}, nil)
	half := fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", 1<<20, strings.Repeat("x", 300<<10))
	for range 8 {
		dial(t, address, "127.0.0.2", half)
	}
	eventually(t, "some are closed", func() bool { return slices.Contains(cut(), ReasonMemory) })
	for range 20 {
		answered(t, dial(t, address, "127.0.0.1", whole))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.memory > c.limits.Memory {
		t.Errorf("%d bytes", c.memory)
	}
	var held int64
	for _, o := range c.open {
		held += o.held
	}
	if held != c.memory {
		t.Errorf("%d bytes are counted, %d are held", c.memory, held)
	}
}

// The shape of JSON is that of the values that encoding/json finds.
func TestShape(t *testing.T) {
	for _, text := range []string{`{}`, `[]`, ` {"a":[1,-2.5e3,true,null,"x\"y\\",{"b":{}}]}`, "\ufeff" + `[ "a" , "b",1 ]`, `{"a\\":"b"}`} {
		var want, objects int64
		d := json.NewDecoder(strings.NewReader(strings.TrimPrefix(text, "\ufeff")))
		for {
			token, err := d.Token()
			if err != nil {
				break
			}
			if token == json.Delim('}') || token == json.Delim(']') {
				continue
			}
			want++
			if _, ok := token.(json.Delim); ok {
				objects++
			}
		}
		for size := 1; size <= len(text); size++ {
			var s Shape
			for part := range slices.Chunk([]byte(text), size) {
				if _, err := s.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			if s.Elements != want || s.Objects != objects || s.Bytes != int64(len(text)) {
				t.Errorf("%s in pieces of %d: %+v, want %d values and %d objects", text, size, s, want, objects)
			}
		}
	}
	var s Shape
	if _, err := s.Write([]byte("a,b\n1,2\n3,4\n")); err != nil || s.Elements != 3 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := s.Write(bytes.Repeat([]byte("["), 10_000)); err != nil {
		t.Error("brackets in a text that is no JSON are nested: ", err)
	}
	var deep Shape
	if _, err := deep.Write(bytes.Repeat([]byte(`{"a":[`), MaxDepth)); !errors.As(err, new(*TooMany)) {
		t.Errorf("%v", err)
	}
}

// FuzzShape holds the count to what encoding/json finds, and never lets it count fewer.
func FuzzShape(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}]}`, `[[[]]]`, `"x"`, `{"a":"\u0041\\"}`, "[1 2]", "{", `["`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s Shape
		_, err := s.Write([]byte(text))
		if !json.Valid([]byte(text)) || err != nil || !s.json {
			return
		}
		var want int64
		for d := json.NewDecoder(strings.NewReader(text)); ; {
			token, err := d.Token()
			if err != nil {
				break
			}
			if token != json.Delim('}') && token != json.Delim(']') {
				want++
			}
		}
		if s.Elements != want {
			t.Fatalf("%q: %d values, want %d", text, s.Elements, want)
		}
	})
}

func TestSpool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bodies")
	s := &Spool{Dir: dir, Max: 1 << 20}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, prefix+"left"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Clean(); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("%v, %v", files, err)
	}
	for _, n := range []int{0, 1, inMemory, inMemory + 1, 400_000} {
		text := bytes.Repeat([]byte("abc"), n/3+1)[:n]
		b, err := s.Receive(bytes.NewReader(text), "a")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // as often as wanted
			if got, err := io.ReadAll(b.Open()); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d bytes: %d come back, %v", n, len(got), err)
			}
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Errorf("a body has a name: %v, %v", files, err)
		}
		b.Close()
	}
	// One client has half of the room at the most, all together no more than it.
	first, err := s.Receive(bytes.NewReader(make([]byte, 500_000)), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(bytes.NewReader(make([]byte, 100_000)), "a"); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	second, err := s.Receive(bytes.NewReader(make([]byte, 500_000)), "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Receive(bytes.NewReader(make([]byte, 100_000)), "c"); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	broken := errors.New("broken")
	first.Close()
	if _, err := s.Receive(io.MultiReader(bytes.NewReader(make([]byte, 100_000)), failing{broken}), "c"); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	second.Close()
	if s.Used() != 0 || len(s.by) != 0 {
		t.Errorf("%d bytes are left, of %v", s.Used(), s.by)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
