package outgoing

import (
	"net/netip"
	"slices"
	"strings"
)

// What the help of the flags says.
const (
	RealmUsage    = "REGISTRY=HOST: a registry may have its credentials sent to this host, which makes its tokens; may be repeated"
	NetworksUsage = "networks, such as 10.0.0.0/8, in which registries are asked for images that others name; without it, only at public addresses; may be repeated"
)

// RealmsFlag is a flag of [Realms].
type RealmsFlag struct {
	Realms
	list []string
}

// String is what was set.
func (f *RealmsFlag) String() string { return strings.Join(f.list, ",") }

// Type is that of a list of texts.
func (f *RealmsFlag) Type() string { return "strings" }

// Set adds to the list.
func (f *RealmsFlag) Set(text string) (err error) {
	f.list = append(f.list, strings.Split(text, ",")...)
	f.Realms, err = ParseRealms(f.list)
	return err
}

// NetworksFlag is a flag of networks.
type NetworksFlag []netip.Prefix

// String is what was set.
func (f *NetworksFlag) String() string {
	var list []string
	for _, p := range *f {
		list = append(list, p.String())
	}
	return strings.Join(list, ",")
}

// Type is that of a list of texts.
func (f *NetworksFlag) Type() string { return "strings" }

// Set adds to the list.
func (f *NetworksFlag) Set(text string) error {
	list, err := ParseNetworks(strings.Split(text, ","))
	*f = slices.Concat(*f, list)
	return err
}
