// Package intake bounds what comes in over HTTP before anything is made of it: connections,
// the time that a request takes to arrive, the memory and disk that bodies take, and what a
// body may unfold to.
//
// Nobody is kept out by who came first. Where there are too many connections, or too many bytes
// of bodies, the slowest of who has the most of them goes, so that a request that arrives
// whole is answered.
package intake

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"time"
)

// Limits bound connections; zero members have the values named at each.
type Limits struct {
	Total     int           // connections at a time; 1024
	PerClient int           // of one address, of IPv6 of one /64; 512
	Arrive    time.Duration // from a connection, or the first byte of a further request, to the whole of what Begin waits for; 10 s
	Idle      time.Duration // between requests; 2 min
	Body      time.Duration // in which a body arrives that Handler lets through; 2 min
	Memory    int64         // bytes of bodies that Read holds at a time; 64 MiB
	// Cut, where given, is called with why whenever a connection is closed, ReasonSlow and its like.
	Cut func(reason string)
}

// Why connections are closed.
const (
	ReasonSlow        = "slow"        // its request did not arrive in time
	ReasonConnections = "connections" // there were too many
	ReasonMemory      = "memory"      // bodies that arrive took too much memory
	ReasonBusy        = "busy"        // all slots were taken
)

// Connections is a listener whose connections are bounded in number and time. It is safe for
// concurrent use. A server's handler tells it by Begin which of them have sent a whole request.
type Connections struct {
	net.Listener
	limits Limits
	work   chan struct{} // a place for each connection without a whole request that is worked on

	mu      sync.Mutex
	open    map[string]*conn // by the client's address and port
	clients map[netip.Addr]int
	known   int // connections of clients that are known, which are counted apart
	memory  int64
}

// Listen bounds the connections of a listener.
func Listen(l net.Listener, limits Limits) *Connections {
	limits.Total = cmp.Or(limits.Total, 1024)
	limits.PerClient = cmp.Or(limits.PerClient, 512)
	limits.Arrive = cmp.Or(limits.Arrive, 10*time.Second)
	limits.Idle = cmp.Or(limits.Idle, 2*time.Minute)
	limits.Body = cmp.Or(limits.Body, 2*time.Minute)
	limits.Memory = cmp.Or(limits.Memory, 64<<20)
	if limits.Cut == nil {
		limits.Cut = func(string) {}
	}
	return &Connections{Listener: l, limits: limits, work: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), open: map[string]*conn{}, clients: map[netip.Addr]int{}}
}

// Open is how many connections there are.
func (c *Connections) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// conn is a connection. Its members are guarded by the mutex of Connections.
type conn struct {
	net.Conn
	of      *Connections
	key     string
	client  netip.Addr
	since   time.Time // of its being opened, or of its last answer
	heard   bool      // there are bytes of a request that is not whole
	streams bool      // requests share it, so that bytes are not always of a request
	served  bool      // it had a whole request
	known   bool      // its client is known
	placed  bool      // it has a place of work
	working int       // whole requests that are being answered
	held    int64     // bytes of a body that arrives
	closed  bool
	due     time.Time // when the clock closes it
	clock   *time.Timer
}

// Accept implements net.Listener.
func (c *Connections) Accept() (net.Conn, error) {
	for {
		nc, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		n := &conn{Conn: nc, of: c, key: nc.RemoteAddr().String(), client: clientOf(nc.RemoteAddr()), since: time.Now()}
		if c.admit(n) {
			return n, nil
		}
		c.limits.Cut(ReasonConnections)
		_ = nc.Close()
	}
}

// admit takes a connection, in the place of a slower one where there are too many.
func (c *Connections) admit(n *conn) bool {
	c.mu.Lock()
	var gone []*conn
	defer func() {
		c.mu.Unlock()
		c.end(gone, ReasonConnections)
	}()
	if c.clients[n.client] >= c.limits.PerClient {
		slow := c.slowest(func(o *conn) bool { return o.client == n.client })
		if slow == nil {
			return false
		}
		gone = append(gone, slow)
	} else if len(c.open)-c.known >= c.limits.Total {
		slow := c.slowest(func(*conn) bool { return true })
		if slow == nil {
			return false
		}
		gone = append(gone, slow)
	}
	for _, o := range gone {
		c.forget(o)
	}
	c.open[n.key] = n
	c.clients[n.client]++
	n.due = n.since.Add(c.limits.Arrive)
	n.clock = time.AfterFunc(c.limits.Arrive, n.late)
	return true
}

// slowest is the one to close of those that work on nothing: one that never sent a whole
// request before one that did, then of the client that has the most, then what waits longest.
func (c *Connections) slowest(of func(*conn) bool) (found *conn) {
	for _, o := range c.open {
		if o.known || o.working > 0 || !of(o) {
			continue
		}
		if found == nil || c.slower(o, found) {
			found = o
		}
	}
	return found
}

func (c *Connections) slower(a, b *conn) bool {
	if a.served != b.served {
		return !a.served
	}
	if x, y := c.clients[a.client], c.clients[b.client]; x != y {
		return x > y
	}
	return a.since.Before(b.since)
}

// forget drops a connection that ends. The caller holds mu.
func (c *Connections) forget(n *conn) {
	if n.closed {
		return
	}
	n.closed = true
	n.leave()
	n.clock.Stop()
	c.memory -= n.held
	n.held = 0
	if c.open[n.key] == n {
		delete(c.open, n.key)
	}
	if n.known {
		c.known--
	} else if c.clients[n.client]--; c.clients[n.client] <= 0 {
		delete(c.clients, n.client)
	}
}

func (c *Connections) end(gone []*conn, reason string) {
	for _, o := range gone {
		c.limits.Cut(reason)
		_ = o.Conn.Close()
	}
}

// late closes a connection whose request did not arrive in time.
func (n *conn) late() {
	n.of.mu.Lock()
	late := n.working == 0 && !n.closed && !time.Now().Before(n.due)
	idle := n.served && !n.heard
	if late {
		n.of.forget(n)
	}
	n.of.mu.Unlock()
	if late {
		if !idle {
			n.of.limits.Cut(ReasonSlow)
		}
		_ = n.Conn.Close()
	}
}

// wait sets when the connection is closed. The caller holds mu.
func (n *conn) wait(d time.Duration) {
	n.due = time.Now().Add(d)
	n.clock.Reset(d)
}

// leave gives back the place of work. The caller holds mu.
func (n *conn) leave() {
	if n.placed {
		n.placed = false
		<-n.of.work
	}
}

// Read implements net.Conn. What a connection sends before its first whole request is mostly a
// TLS handshake, which costs as much as a small review: half of the cores do nothing but that at
// most, from one read to the next, so that no burst of strangers stands before the reviews of
// connections that are open.
func (n *conn) Read(p []byte) (int, error) {
	n.of.mu.Lock()
	n.leave()
	n.of.mu.Unlock()
	got, err := n.Conn.Read(p)
	if got > 0 {
		n.of.mu.Lock()
		if !n.served && !n.closed {
			n.of.mu.Unlock()
			n.of.work <- struct{}{}
			n.of.mu.Lock()
			n.leave() // where two read at a time
			n.placed = true
			if n.served || n.closed {
				n.leave()
			}
		}
		if n.served && !n.heard && !n.streams && n.working == 0 && !n.closed {
			n.heard = true
			n.wait(n.of.limits.Arrive)
		}
		n.of.mu.Unlock()
	}
	return got, err
}

// Close implements net.Conn.
func (n *conn) Close() error {
	n.of.mu.Lock()
	n.of.forget(n)
	n.of.mu.Unlock()
	return n.Conn.Close()
}

// Begin says that a whole request has come, which is answered until end is called: its
// connection is not closed meanwhile. That of a client that is known, as by its certificate,
// is never closed for others, and counts apart from theirs.
func (c *Connections) Begin(r *http.Request, known bool) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.open[r.RemoteAddr]
	if n == nil {
		return func() {}
	}
	n.working++
	n.served, n.heard = true, false
	n.leave()
	n.streams = n.streams || r.ProtoMajor > 1
	n.clock.Stop()
	if known && !n.known && c.known < c.limits.Total {
		n.known = true
		c.known++
		if c.clients[n.client]--; c.clients[n.client] <= 0 {
			delete(c.clients, n.client)
		}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.working--
		c.memory -= n.held
		n.held = 0
		if n.working == 0 && !n.closed {
			n.since = time.Now()
			n.wait(c.limits.Idle)
		}
	}
}

// Handler is for servers whose handlers read bodies within bounds of their own: a request is
// whole to it once its headers are.
func (c *Connections) Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer c.Begin(r, false)()
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(c.limits.Body)) // not every writer has one
		}
		h.ServeHTTP(w, r)
	})
}

// clientOf is the address that counts: of IPv6 the /64, which is one site.
func clientOf(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{} // what is no address is one client
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is6() {
		site, _ := address.Prefix(64)
		address = site.Addr()
	}
	return address
}
