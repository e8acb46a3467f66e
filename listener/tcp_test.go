package listener

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/freeport"
)

func TestOpenTCP(t *testing.T) {
	for _, address := range []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://:0", "tcp://0.0.0.0:0", "tcp://[::]:0"} {
		t.Run(address, func(t *testing.T) {
			leavesNothing(t)
			l := opened(t, address, Options{})
			wantOurs(t, l.FD())
			if l.Addr().Port == 0 {
				t.Error("the port that the kernel picked is not told")
			}
			if want := must(ParseAddress(address))(t).Host; l.Addr().Host != want {
				t.Errorf("Addr is %s", l)
			}
			client := connect(t, l)
			fd := accepted(t, l)
			wantOurs(t, fd)
			if option(t, fd, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
				t.Error("TCP_NODELAY is not inherited from the listener")
			}
			checkPeer(t, fd, client)
			_, err := l.Accept()
			wantError(t, err, ErrAgain)
		})
	}
}

// checkPeer: the peer's address is the client's own.
func checkPeer(t *testing.T, fd, client int) {
	t.Helper()
	peer := must(Peer(fd))(t)
	if own := addrPort(client, must(unix.Getsockname(client))(t)); peer.Network != TCP || peer.AddrPort != own || peer.String() != own.String() {
		t.Errorf("the peer is %+v, the client %s", peer, own)
	}
}

func TestOneSocketForBothFamilies(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://:0", Options{})
	for _, host := range []string{"127.0.0.1", "::1"} {
		client := closing(t, must(streamSocket(familyOf(netip.MustParseAddr(host))))(t))
		ok(t, connectTo(t, client, Address{Network: TCP, Host: netip.MustParseAddr(host), Port: l.Addr().Port}))
		fd := accepted(t, l)
		if peer := must(Peer(fd))(t); peer.AddrPort.Addr().String() != host {
			t.Errorf("a client from %s is told as %s", host, peer)
		}
	}
}

func TestEachFamilyHasItsOwnEveryAddress(t *testing.T) {
	leavesNothing(t)
	reserved := must(freeport.Reserve())(t)
	defer reserved.Close()
	port := reserved.Number()
	six := opened(t, fmt.Sprintf("tcp://[::]:%d", port), Options{})
	four := opened(t, fmt.Sprintf("tcp://0.0.0.0:%d", port), Options{})
	connect(t, four)
	accepted(t, four)
	_, err := six.Accept()
	wantError(t, err, ErrAgain)
}

func TestTCPInUse(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	_, err := Open(l.Addr(), Options{})
	wantError(t, err, ErrInUse)
	wantError(t, err, unix.EADDRINUSE)
	if want := fmt.Sprintf("ss -ltnp 'sport = :%d'", l.Addr().Port); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say how to find the other", err)
	}
}

func TestReusePortSharesAnAddress(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{ReusePort: true})
	opened(t, l.String(), Options{ReusePort: true})
}

// A restart finds the old connections in TIME_WAIT.
func TestRestartNeedNotWaitForOldConnections(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	client := connect(t, l)
	awaitReadable(t, l.FD())
	fd := must(l.Accept())(t)
	ok(t, unix.Close(fd)) // first to close: the server's side stays behind
	awaitReadable(t, client)
	ok(t, unix.Shutdown(client, unix.SHUT_WR))
	ok(t, l.Close())
	opened(t, l.String(), Options{})
}

func TestTCPErrorsSayWhatToDo(t *testing.T) {
	leavesNothing(t)
	tests := map[string]string{
		"tcp://192.0.2.1:8080":                "this machine has no such address",
		"tcp://[fe80::1]:8080":                "%eth0]:8080",
		"tcp://[fe80::1%no-such-device]:8080": `no network interface "no-such-device"`,
	}
	for address, want := range tests {
		_, err := Open(must(ParseAddress(address))(t), Options{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: the error is %v, it should say %q", address, err, want)
		}
	}
}

func TestBacklog(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{Backlog: 7})
	if got := backlog(t, l); got != 7 {
		t.Errorf("the backlog is %d, want 7", got)
	}
	connect(t, l)
	ok(t, l.Relisten(9))
	if got := backlog(t, l); got != 9 {
		t.Errorf("the backlog is %d, want 9", got)
	}
	accepted(t, l) // what waited is still there
	ok(t, l.Relisten(0))
	if got := backlog(t, l); got <= 9 || got > DefaultBacklog {
		t.Errorf("the default backlog is %d", got)
	}
}

// backlog: of a listening socket, tcpi_sacked is the backlog (tcp_get_info in the kernel, ss(8) shows it as Send-Q).
func backlog(t *testing.T, l *Listener) int {
	t.Helper()
	return int(must(unix.GetsockoptTCPInfo(l.FD(), unix.IPPROTO_TCP, unix.TCP_INFO))(t).Sacked)
}
