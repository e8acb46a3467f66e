package proxied

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

var cases = []struct {
	name, bytes string
	want        Seen
}{
	{"nothing yet", "", Seen{Verdict: More, Need: 16}},
	{"version 1, IPv4", "PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nGET", Seen{Verdict: Whole, Length: 40, Source: netip.MustParseAddrPort("192.0.2.1:1234")}},
	{"version 1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1234 80\r\n", Seen{Verdict: Whole, Length: 44, Source: netip.MustParseAddrPort("[2001:db8::1]:1234")}},
	{"version 1, unknown", "PROXY UNKNOWN\r\n", Seen{Verdict: Whole, Length: 15}},
	{"version 1, begun", "PROXY TC", Seen{Verdict: More, Need: 9}},
	{"version 1, no address", "PROXY TCP4 here there 1 2\r\n", Seen{Verdict: Invalid}},
	{"version 1, bad port", "PROXY TCP4 192.0.2.1 192.0.2.2 99999 80\r\n", Seen{Verdict: Invalid}},
	{"version 1, never ends", "PROXY " + strings.Repeat("x", 200), Seen{Verdict: Invalid}},
	{"version 2, IPv4", v2(0x21, 0x11, "\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x50") + "GET",
		Seen{Verdict: Whole, Length: 28, Source: netip.MustParseAddrPort("192.0.2.1:1234")}},
	{"version 2, local", v2(0x20, 0x00, ""), Seen{Verdict: Whole, Length: 16}},
	{"version 2, an extension", v2(0x21, 0x11, "\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x50\x04\x00\x01x"),
		Seen{Verdict: Whole, Length: 32, Source: netip.MustParseAddrPort("192.0.2.1:1234")}},
	{"version 2, begun", v2(0x21, 0x11, "\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x50")[:20], Seen{Verdict: More, Need: 28}},
	{"version 2, only the signature", string(signature[:7]), Seen{Verdict: More, Need: 16}},
	{"version 3", v2(0x31, 0x11, "\xc0\x00\x02\x01\xc0\x00\x02\x02\x04\xd2\x00\x50"), Seen{Verdict: Invalid}},
	{"version 2, too short for its family", v2(0x21, 0x11, "\xc0\x00\x02\x01"), Seen{Verdict: Invalid}},
	{"version 2, too long", string(signature) + "\x21\x11\xff\xff", Seen{Verdict: Invalid}},
	{"a request", "GET / HTTP/1.1\r\n", Seen{Verdict: None}},
	{"a request that looks alike at first", "PROPFIND / HTTP/1.1\r\n", Seen{Verdict: None}},
}

func v2(command, family byte, rest string) string {
	return string(signature) + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func TestHeader(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := Header([]byte(c.bytes)); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func FuzzHeader(f *testing.F) {
	for _, c := range cases {
		f.Add([]byte(c.bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := Header(b)
		switch {
		case seen.Verdict == More && (seen.Need <= len(b) || seen.Need > MaxLength):
			t.Fatalf("needs %d of %d bytes", seen.Need, len(b))
		case seen.Verdict == Whole && (seen.Length > len(b) || Header(b[:seen.Length]) != seen):
			t.Fatalf("%+v of %d bytes", seen, len(b))
		case seen.Verdict == Whole && Header(append(bytes.Clone(b), 'x')) != seen:
			t.Fatalf("what follows the header changes it: %+v", seen)
		case seen.Verdict != Whole && seen.Length != 0:
			t.Fatalf("%+v", seen)
		}
	})
}
