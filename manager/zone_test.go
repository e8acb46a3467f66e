package manager

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// Clients with link-local IPv6 addresses, which have a zone.

// subnet reads a network that a test is sure of.
func subnet(text string) listener.Subnet {
	s, err := listener.ParseSubnet(text)
	if err != nil {
		panic(err)
	}
	return s
}

// inNetwork is set in a test process that has a network namespace of its own.
const inNetwork = "ANTEROOM_TEST_IN_NETWORK"

// apart runs the test that calls it once more in a network namespace of its own, where linkLocal is
// the address of its only interface. It returns true there.
func apart(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNetwork) != "" {
		haveLinkLocal(t)
		return true
	}
	cmd := exec.CommandContext(t.Context(), must(os.Executable())(t), "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), inNetwork+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET}
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	out, err := cmd.CombinedOutput()
	switch exit := new(exec.ExitError); {
	case errors.As(err, &exit):
		t.Errorf("in a network of its own: %v\n%s", err, out)
	case err != nil:
		t.Skipf("this machine allows no network namespace: %v", err)
	}
	return false
}

const linkLocal = "fe80::1234"

// haveLinkLocal switches the loopback interface on and gives it the address (netdevice(7), ipv6(7)).
func haveLinkLocal(t *testing.T) {
	t.Helper()
	sock := aSocket(t, unix.AF_INET6, unix.SOCK_DGRAM)
	lo := must(unix.NewIfreq("lo"))(t)
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
	request := struct {
		address [16]byte
		bits    uint32
		device  int32
	}{netip.MustParseAddr(linkLocal).As16(), 64, 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&request))); errno != 0 {
		t.Fatal(errno)
	}
	awaitUsable(t, sock, &unix.SockaddrInet6{Addr: request.address, ZoneId: uint32(request.device)})
}

// awaitUsable waits until the kernel has ended duplicate address detection for a new address, which it
// does in the background even on loopback (RFC 4862, section 5.4): until then bind(2) fails.
func awaitUsable(t *testing.T, sock int, address unix.Sockaddr) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := unix.Bind(sock, address)
		if err == nil {
			return
		}
		if err != unix.EADDRNOTAVAIL || time.Now().After(deadline) {
			t.Fatalf("bind to the new link-local address: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestLinkLocalClientsAreExempt(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newRig(t, Config{Limits: Limits{ClientConnections: 1}, Exempt: []listener.Subnet{subnet("fe80::%lo/64")}})
	at := r.listen("tcp://["+linkLocal+"%lo]:0", ListenerOptions{Ready: ReadyRequest})
	h := r.attach(handoff.Hello{Capacity: 3})
	for range 3 {
		h.exchange(r.dialAt(at), get, "y")
	}
}

func TestLinkLocalLoadBalancerIsBelieved(t *testing.T) {
	if !apart(t) {
		return
	}
	for _, proxies := range []string{"fe80::/10", linkLocal + "%lo"} {
		r := newRig(t, Config{})
		at := r.listen("tcp://["+linkLocal+"%lo]:0", ListenerOptions{Ready: ReadyRequest, Proxies: []listener.Subnet{subnet(proxies)}})
		h := r.attach(handoff.Hello{Features: []string{handoff.FeatureAddress}})
		c := r.dialAt(at)
		c.send("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n" + get)
		lease, fd := h.want(handoff.TypeLease)
		if string(lease.Payload) != `{"peer":"192.0.2.7:1"}` {
			t.Errorf("%s: the payload is %s", proxies, lease.Payload)
		}
		h.answer(lease, fd, get, "y")
	}
}

func TestLinkLocalClientsAreFound(t *testing.T) {
	if !apart(t) {
		return
	}
	r := newRig(t, Config{})
	r.dialAt(r.listen("tcp://["+linkLocal+"%lo]:0", ListenerOptions{}))
	r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 1 })
	for peer, want := range map[string]int{"fe80::/10": 1, linkLocal: 1, linkLocal + "%lo": 1, linkLocal + "%eth0": 0, "fe80::1": 0} {
		page := must(r.Connections(context.Background(), Query{Selection: Selection{Peer: peer}}))(t)
		if len(page.Connections) != want {
			t.Errorf("%s: %d connections, want %d", peer, len(page.Connections), want)
		}
		if want == 1 && netip.MustParseAddrPort(page.Connections[0].Peer).Addr() != netip.MustParseAddr(linkLocal+"%lo") {
			t.Errorf("the peer is shown as %s", page.Connections[0].Peer)
		}
	}
}

// Two machines on one link are two clients, and so are two with the same address on two links.
func TestLinkLocalClientsAreCountedEach(t *testing.T) {
	keys := map[clientKey]string{}
	for _, address := range []string{"fe80::1%eth0", "fe80::2%eth0", "fe80::1%eth1", "fe80::1", "2001:db8::1", "192.0.2.1"} {
		key := keyOf(netip.MustParseAddr(address))
		if other, taken := keys[key]; taken {
			t.Errorf("%s and %s are one client", address, other)
		}
		keys[key] = address
	}
	if keyOf(netip.MustParseAddr("2001:db8::1")) != keyOf(netip.MustParseAddr("2001:db8::2")) {
		t.Error("two addresses of one /64 are two clients")
	}
}
