package listener

import (
	"net/netip"
	"testing"
)

func TestParseSubnet(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8":        "10.0.0.0/8",
		"10.1.2.3/8":        "10.0.0.0/8",
		"192.0.2.1":         "192.0.2.1/32",
		"::ffff:192.0.2.1":  "192.0.2.1/32",
		"2001:db8::1":       "2001:db8::1/128",
		"fe80::/10":         "fe80::/10",
		"fe80::1%eth0":      "fe80::1%eth0/128",
		"fe80::1%eth0/64":   "fe80::%eth0/64",
		"fe80::1%eth0/128":  "fe80::1%eth0/128",
		"fe80::%vlan.10/64": "fe80::%vlan.10/64",
	} {
		s := must(ParseSubnet(text))(t)
		if s.String() != want {
			t.Errorf("%s is %s, want %s", text, s, want)
		}
		var again Subnet
		ok(t, again.UnmarshalText(must(s.MarshalText())(t)))
		if again != s {
			t.Errorf("%s comes back as %s", s, again)
		}
	}
}

func TestParseSubnetRefuses(t *testing.T) {
	for _, text := range []string{
		"", "eth0", "10.0.0.0/33", "192.0.2.1:80", "2001:db8::1%eth0", "192.0.2.1%eth0", "169.254.0.1%eth0", "fe80::1%", "fe80::1%/64", "fe80::1/64%eth0", "/8",
	} {
		if s, err := ParseSubnet(text); err == nil {
			t.Errorf("%q was accepted as %s", text, s)
		}
	}
}

// Without a zone a Subnet is about every interface, with one about that interface alone.
func TestSubnetContains(t *testing.T) {
	for _, test := range []struct {
		subnet, address string
		want            bool
	}{
		{"fe80::/10", "fe80::1%eth0", true},
		{"fe80::/10", "fe80::1", true},
		{"fe80::1", "fe80::1%eth0", true},
		{"fe80::1", "fe80::2%eth0", false},
		{"fe80::1%eth0", "fe80::1%eth0", true},
		{"fe80::1%eth0", "fe80::1%eth1", false},
		{"fe80::1%eth0", "fe80::1", false},
		{"fe80::%eth0/64", "fe80::2%eth0", true},
		{"2001:db8::/32", "fe80::1%eth0", false},
		{"192.0.2.0/24", "192.0.2.9", true},
	} {
		if got := must(ParseSubnet(test.subnet))(t).Contains(netip.MustParseAddr(test.address)); got != test.want {
			t.Errorf("%s contains %s: %v", test.subnet, test.address, got)
		}
	}
	if (Subnet{}).Contains(netip.IPv6Loopback()) || (Subnet{}).IsValid() {
		t.Error("the zero Subnet contains something")
	}
}
