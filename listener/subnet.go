package listener

import (
	"fmt"
	"net/netip"
	"strings"
)

// Subnet is a network that peers' addresses are compared with: a prefix, or one address. The zero
// Subnet contains no address.
//
// A link-local IPv6 address means something only together with its zone, the interface behind which
// it is. A Subnet without a zone contains addresses of every zone, one with a zone those of that
// zone alone.
type Subnet struct {
	Prefix netip.Prefix // masked
	Zone   string       // an interface's name, or its number where it has none
}

// ParseSubnet reads 10.0.0.0/8, 192.0.2.1, 2001:db8::/32, fe80::/10, fe80::1%eth0 or fe80::%eth0/64.
func ParseSubnet(text string) (Subnet, error) {
	address, bits, isPrefix := strings.Cut(text, "/")
	address, zone, zoned := strings.Cut(address, "%")
	if !isPrefix {
		return subnetOf(text, address, zone, zoned)
	}
	prefix, err := netip.ParsePrefix(address + "/" + bits)
	if err != nil || zoned && (zone == "" || !prefix.Addr().IsLinkLocalUnicast()) {
		return Subnet{}, notSubnet(text)
	}
	return Subnet{prefix.Masked(), zone}, nil
}

// subnetOf is a Subnet of one address.
func subnetOf(text, address, zone string, zoned bool) (Subnet, error) {
	one, err := netip.ParseAddr(address)
	if err != nil || zoned && (zone == "" || !one.Is6() || !one.IsLinkLocalUnicast()) {
		return Subnet{}, notSubnet(text)
	}
	one = one.Unmap()
	return Subnet{netip.PrefixFrom(one, one.BitLen()), zone}, nil
}

func notSubnet(text string) error {
	return fmt.Errorf("%q is not a network; give one such as 10.0.0.0/8, 192.0.2.1 or fe80::1%%eth0", text)
}

// IsValid reports whether s is not the zero Subnet.
func (s Subnet) IsValid() bool { return s.Prefix.IsValid() }

// Contains reports whether an address, with its zone if it has one, is in the network.
func (s Subnet) Contains(address netip.Addr) bool {
	return s.Prefix.Contains(address.WithZone("")) && (s.Zone == "" || s.Zone == address.Zone())
}

// String returns the text that ParseSubnet reads, always with a prefix length.
func (s Subnet) String() string {
	if s.Zone == "" {
		return s.Prefix.String()
	}
	return fmt.Sprintf("%s%%%s/%d", s.Prefix.Addr(), s.Zone, s.Prefix.Bits())
}

// MarshalText is String, and nothing for the zero Subnet.
func (s Subnet) MarshalText() ([]byte, error) {
	if !s.IsValid() {
		return nil, nil
	}
	return []byte(s.String()), nil
}

// UnmarshalText is the reverse of MarshalText.
func (s *Subnet) UnmarshalText(text []byte) (err error) {
	*s = Subnet{}
	if len(text) > 0 {
		*s, err = ParseSubnet(string(text))
	}
	return err
}
