package auth

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
)

const (
	maxAddresses = 16 << 10
	maxGood      = 16 << 10
	goodFor      = 10 * time.Minute
)

// limiter bounds the failures of each address. The least recently seen
// address is forgotten first when there are too many.
type limiter struct {
	interval time.Duration // one failure is forgiven in this time
	burst    time.Duration // so many failures, times interval, are free
	now      func() time.Time
	good     *cache.LRUExpireCache // TokenHash → nothing

	mu sync.Mutex
	// until is when all failures of an address are forgiven.
	until *cache.LRUExpireCache // netip.Addr → time.Time
}

// clock adapts a function to the caches.
type clock func() time.Time

func (c clock) Now() time.Time { return c() }

func newLimiter(perMinute int, now func() time.Time) *limiter {
	if perMinute <= 0 {
		perMinute = 20
	}
	interval := time.Minute / time.Duration(perMinute)
	return &limiter{
		interval: interval, burst: interval * time.Duration(perMinute), now: now,
		good:  cache.NewLRUExpireCacheWithClock(maxGood, clock(now)),
		until: cache.NewLRUExpireCacheWithClock(maxAddresses, clock(now)),
	}
}

// wait is how long an address must wait before a token of it is tried.
func (l *limiter) wait(address netip.Addr, hash TokenHash) time.Duration {
	if _, ok := l.good.Get(hash); ok {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(0, l.owed(address)+l.interval-l.burst)
}

func (l *limiter) failed(address netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	owed := l.owed(address) + l.interval
	l.until.Add(address, l.now().Add(owed), owed)
}

// owed is how long it takes until all failures of an address are forgiven.
func (l *limiter) owed(address netip.Addr) time.Duration {
	until, ok := l.until.Get(address)
	if !ok {
		return 0
	}
	return max(0, until.(time.Time).Sub(l.now()))
}

func (l *limiter) succeeded(hash TokenHash) { l.good.Add(hash, nil, goodFor) }

// clientAddress is the address that a request comes from, as far as the
// proxies on its way are trusted.
func clientAddress(r *http.Request, proxies []netip.Prefix) netip.Addr {
	trusted := func(a netip.Addr) bool {
		for _, p := range proxies {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	address, _ := netip.ParseAddr(host)
	address = address.Unmap().WithZone("")
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && trusted(address); i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		address = hop.Unmap().WithZone("")
	}
	return address
}

// siteOf is an address as failures are counted: of IPv6 the /64, which is one site.
func siteOf(address netip.Addr) netip.Addr {
	if address.Is6() {
		site, _ := address.Prefix(64)
		return site.Addr()
	}
	return address
}
