package freeport

import (
	"net"
	"net/netip"
	"testing"
)

func reserve(t *testing.T) *Port {
	t.Helper()
	p, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestAServerListensOnAReservedPort(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		p := reserve(t)
		l, err := net.ListenTCP(network, &net.TCPAddr{Port: p.Number()})
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		l.Close()
		if again, err := net.ListenTCP(network, &net.TCPAddr{Port: p.Number()}); err != nil {
			t.Errorf("%s, after a restart: %v", network, err)
		} else {
			again.Close()
		}
	}
}

// The kernel chooses a port at random among some 28,000: were reserved ports among them, 3,000 choices
// would miss all 200 with a probability of about exp(-21).
func TestTheKernelDoesNotGiveAwayAReservedPort(t *testing.T) {
	const reserved, others = 200, 3000
	held := map[uint16]bool{}
	for range reserved {
		held[uint16(reserve(t).Number())] = true
	}
	for range others {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if port := netip.MustParseAddrPort(l.Addr().String()).Port(); held[port] {
			t.Fatalf("port %d was reserved and given to another socket", port)
		}
	}
}
