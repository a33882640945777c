package outgoing

import "net/netip"

// kinds are addresses that not everybody reaches, or that reach another place than they
// say (IANA's special-purpose registries, RFC 6890).
var kinds = func() (list []kind) {
	for _, k := range []struct{ prefix, what string }{
		{"0.0.0.0/8", "of this host"},
		{"10.0.0.0/8", "private"},
		{"100.64.0.0/10", "shared by a carrier or a cloud"},
		{"127.0.0.0/8", "loopback"},
		{"168.63.129.16/32", "of a cloud's host"},
		{"169.254.0.0/16", "link-local"},
		{"172.16.0.0/12", "private"},
		{"192.0.0.0/24", "reserved"},
		{"192.0.2.0/24", "for documentation"},
		{"192.88.99.0/24", "a relay's"},
		{"192.168.0.0/16", "private"},
		{"198.18.0.0/15", "for measurements"},
		{"198.51.100.0/24", "for documentation"},
		{"203.0.113.0/24", "for documentation"},
		{"224.0.0.0/4", "multicast"},
		{"240.0.0.0/4", "reserved"},

		{"::/128", "of this host"},
		{"::1/128", "loopback"},
		{"fc00::/7", "private"},
		{"fe80::/10", "link-local"},
		{"fec0::/10", "private"},
		{"ff00::/8", "multicast"},
		{"2001::/23", "reserved, or a tunnel's"},
		{"2001:db8::/32", "for documentation"},
		{"2002::/16", "a tunnel's"},
		{"3fff::/20", "for documentation"},
	} {
		list = append(list, kind{netip.MustParsePrefix(k.prefix), k.what})
	}
	return list
}()

type kind struct {
	prefix netip.Prefix
	what   string
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	global = netip.MustParsePrefix("2000::/3")
)

// special says what an address is that is not everybody's; "" for all others. It has no
// zone, and is not IPv4 in IPv6.
func special(a netip.Addr) string {
	for _, k := range kinds {
		if k.prefix.Contains(a) {
			return k.what
		}
	}
	switch {
	case a.Is4():
		return ""
	case nat64.Contains(a):
		b := a.As16()
		return special(netip.AddrFrom4([4]byte(b[12:])))
	case !global.Contains(a):
		return "reserved"
	}
	return ""
}
