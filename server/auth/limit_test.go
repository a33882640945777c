package auth

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func TestFailuresAreLimited(t *testing.T) {
	clock := &fakeClock{t: time.Now()}
	store, seen := &memory{}, &counts{}
	a := newAuth(t, Config{Routes: routes, Tokens: store, Now: clock.now, Observe: seen.observe, FailuresPerMinute: 6})
	h := a.Handler(whoami(t))
	known := store.add(StoredToken{Name: "a", Role: Viewer})
	fresh := store.add(StoredToken{Name: "b", Role: Viewer})
	status := func(remote, token string) (int, string) {
		r := httptest.NewRequest("GET", "/view", nil)
		r.RemoteAddr = remote
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code, w.Header().Get("Retry-After")
	}
	expect := func(remote, token string, want int) {
		t.Helper()
		if got, _ := status(remote, token); got != want {
			t.Errorf("%s: %d, want %d", remote, got, want)
		}
	}
	const one, same = "192.0.2.1:1", "192.0.2.1:2"
	expect(one, known, 200)
	for range 6 {
		expect(one, NewToken(), 401)
	}
	asked := store.lookups()
	if got, retry := status(same, NewToken()); got != 429 || retry != "10" {
		t.Errorf("the seventh: %d, Retry-After %s", got, retry)
	}
	expect(same, fresh, 429)          // unknown here, so it might be a guess
	expect(same, known, 200)          // a neighbour that was good before
	expect(same, "", 401)             // no credential is no attempt
	expect("192.0.2.2:1", fresh, 200) // elsewhere
	if n := store.lookups() - asked; n != 2 {
		t.Errorf("the store was asked %d times for the good ones", n)
	}
	clock.advance(10 * time.Second)
	expect(same, NewToken(), 401)
	expect(same, NewToken(), 429)
	clock.advance(time.Minute)
	for range 6 {
		expect(same, NewToken(), 401)
	}
	expect(same, NewToken(), 429)
	clock.advance(time.Hour)
	expect(same, known, 200)

	// An IPv6 site is one address.
	for i := range 6 {
		expect(fmt.Sprintf("[2001:db8::%d]:1", i), NewToken(), 401)
	}
	expect("[2001:db8::ffff]:1", NewToken(), 429)
	expect("[2001:db8:0:1::1]:1", NewToken(), 401)
	if seen.get("bearer limited") != 5 {
		t.Errorf("observed %d", seen.get("bearer limited"))
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l := newLimiter(0, time.Now)
	a := netip.MustParseAddr("2001:db8::")
	for range maxAddresses + 100 {
		l.failed(a)
		l.succeeded(Hash(a.String()))
		a = a.Next()
	}
	if n := len(l.until.Keys()); n > maxAddresses {
		t.Errorf("%d addresses", n)
	}
	if n := len(l.good.Keys()); n > maxGood {
		t.Errorf("%d tokens", n)
	}
}

func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:80", "", "192.0.2.1"},
		{"192.0.2.1:80", "198.51.100.1", "192.0.2.1"}, // not a proxy of ours
		{"10.0.0.1:80", "198.51.100.1", "198.51.100.1"},
		{"10.0.0.1:80", "203.0.113.9, 198.51.100.1", "198.51.100.1"}, // what the client claims does not count
		{"10.0.0.1:80", "198.51.100.1, 10.0.0.2", "198.51.100.1"},
		{"10.0.0.1:80", "nonsense", "10.0.0.1"},
		{"10.0.0.1:80", "", "10.0.0.1"},
		{"[::ffff:10.0.0.1]:80", "2001:db8::1", "2001:db8::1"},
		{"[fd00::1%eth0]:80", "198.51.100.1", "198.51.100.1"},
		{"[2001:db8::1]:80", "", "2001:db8::1"},
		{"@", "", "invalid IP"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := clientAddress(r, proxies).String(); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
