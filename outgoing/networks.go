// Package outgoing holds the rules of calls that somebody else's words lead to: which
// addresses are dialled, and what a registry may have sent where.
package outgoing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Networks says which addresses are dialled. Its zero value is any of them.
type Networks struct {
	// Public refuses what is not reachable by everybody: loopback, private, link-local,
	// shared and reserved addresses, however they are written or translated.
	Public bool
	// Allowed are dialled all the same.
	Allowed []netip.Prefix
}

// ParseNetworks reads networks such as 10.0.0.0/8, and addresses.
func ParseNetworks(list []string) (all []netip.Prefix, err error) {
	var errs []error
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if a, e := netip.ParseAddr(text); e == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%q is no network, such as 10.0.0.0/8", text))
		case p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("%s: write the network as IPv4", text))
		case p != p.Masked():
			errs = append(errs, fmt.Errorf("%s: the network of this address is %s", text, p.Masked()))
		default:
			all = append(all, p)
		}
	}
	return all, errors.Join(errs...)
}

// Check refuses an address that is not to be dialled.
func (n Networks) Check(a netip.Addr) error {
	if !n.Public {
		return nil
	}
	a = a.WithZone("").Unmap()
	for _, p := range n.Allowed {
		if p.Contains(a) {
			return nil
		}
	}
	if what := special(a); what != "" {
		return refused(ErrAddress, "%s is %s; --registry-networks allows networks", a, what)
	}
	return nil
}

// Transport is http.DefaultTransport, which dials these networks alone.
//
// An address is looked at when it is dialled, after names are resolved, so that
// redirects, names that change and odd spellings of numbers lead nowhere else. Where
// the environment names a proxy (HTTPS_PROXY), that resolves names: what is resolved
// here is checked here, and the rest is the proxy's to refuse.
func (n Networks) Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	if !n.Public {
		return t
	}
	guarded := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: n.control}
	proxies := t.Proxy
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		proxy, err := proxies(r)
		if proxy == nil || err != nil {
			return proxy, err
		}
		return proxy, n.checkHost(r.Context(), r.URL.Hostname())
	}
	toProxy := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if isProxy(proxies, address) {
			return toProxy(ctx, network, address)
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if err := n.checkLiteral(host); err != nil {
			return nil, err
		}
		return guarded.DialContext(ctx, network, address)
	}
	return t
}

// control is called with each address before it is connected to.
func (n Networks) control(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return refused(ErrAddress, "%q is none", address)
	}
	return n.Check(a.Addr())
}

// checkHost refuses a host of which an address is refused.
func (n Networks) checkHost(ctx context.Context, host string) error {
	if err := n.checkLiteral(host); err != nil {
		return err
	}
	list, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // where names are the proxy's to resolve, they often are not resolved here
	}
	for _, a := range list {
		if err := n.Check(a); err != nil {
			return err
		}
	}
	return nil
}

// checkLiteral refuses addresses that are not to be dialled, and numbers that some resolvers
// take for an address and others for a name: 2130706433, 0x7f.1, 127.1, 0177.0.0.1.
func (n Networks) checkLiteral(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return n.Check(a)
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return n.Check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if last == "" || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return refused(ErrAddress, "%q is neither a name nor an address in its usual form", host)
	}
	return nil
}

// isProxy says whether an address is that of the environment's proxies.
func isProxy(proxies func(*http.Request) (*url.URL, error), address string) bool {
	for _, scheme := range []string{"https", "http"} {
		// A name that no NO_PROXY has.
		proxy, err := proxies(&http.Request{URL: &url.URL{Scheme: scheme, Host: "proxy-of-the-environment.invalid"}})
		if err != nil || proxy == nil {
			continue
		}
		port := proxy.Port()
		if port == "" {
			port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[proxy.Scheme]
		}
		if port == "" {
			port = "80"
		}
		if address == net.JoinHostPort(proxy.Hostname(), port) {
			return true
		}
	}
	return false
}
