package listener

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// foreign makes a listening socket as another program would: blocking, inheritable, on the kernel's choice of address.
func foreign(t *testing.T, family int) int {
	t.Helper()
	fd := must(unix.Socket(family, unix.SOCK_STREAM, 0))(t)
	switch family {
	case unix.AF_INET:
		ok(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	case unix.AF_INET6:
		ok(t, unix.Bind(fd, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}))
	case unix.AF_UNIX:
		ok(t, unix.Bind(fd, &unix.SockaddrUnix{Name: "@" + t.Name()}))
	}
	ok(t, unix.Listen(fd, 8))
	return fd
}

func TestTake(t *testing.T) {
	families := map[string]int{"IPv4": unix.AF_INET, "IPv6": unix.AF_INET6, "Unix": unix.AF_UNIX}
	for name, family := range families {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			fd := foreign(t, family)
			l := must(Take(fd))(t)
			if l.FD() != fd {
				t.Errorf("descriptor %d became %d", fd, l.FD())
			}
			wantOurs(t, fd)
			connect(t, l)
			conn := accepted(t, l)
			wantOurs(t, conn)
			if option(t, conn, unix.SOL_SOCKET, unix.SO_OOBINLINE) == 0 {
				t.Error("SO_OOBINLINE is not set")
			}
			if family != unix.AF_UNIX && option(t, conn, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
				t.Error("TCP_NODELAY is not set")
			}
			ok(t, l.Close())
		})
	}
}

func TestCloseLeavesTheFileToItsCreator(t *testing.T) {
	leavesNothing(t)
	path := socketPath(t)
	l := opened(t, "unix://"+path, Options{})
	copied := must(Take(must(unix.FcntlInt(uintptr(l.FD()), unix.F_DUPFD_CLOEXEC, 0))(t)))(t)
	if copied.Addr() != l.Addr() {
		t.Errorf("Addr is %s, want %s", copied, l)
	}
	ok(t, copied.Close())
	connect(t, l)
}

// strangers are descriptors that others may send, with what is said to each as a listener and as a connection. Each is made anew.
var strangers = map[string]struct {
	open         func(*testing.T) int
	asListener   error
	asConnection error
}{
	"regular file":    {regularFile, ErrNotSocket, ErrNotSocket},
	"path":            {pathOnly, unix.EBADF, unix.EBADF},
	"epoll":           {epoll, ErrNotSocket, ErrNotSocket},
	"UDP":             {socketOf(unix.AF_INET, unix.SOCK_DGRAM), ErrNotStream, ErrNotStream},
	"Unix datagrams":  {socketOf(unix.AF_UNIX, unix.SOCK_DGRAM), ErrNotStream, ErrNotStream},
	"Unix seqpacket":  {socketOf(unix.AF_UNIX, unix.SOCK_SEQPACKET), ErrNotStream, ErrNotStream},
	"netlink":         {socketOf(unix.AF_NETLINK, unix.SOCK_RAW), ErrFamily, ErrFamily},
	"fresh TCP":       {socketOf(unix.AF_INET, unix.SOCK_STREAM), ErrNotListening, ErrNotConnected},
	"fresh Unix":      {socketOf(unix.AF_UNIX, unix.SOCK_STREAM), ErrNotListening, ErrNotConnected},
	"TCP listener":    {foreignTCP, nil, ErrListening},
	"Unix listener":   {foreignUnix, nil, ErrListening},
	"Unix connection": {connectedUnix, ErrNotListening, nil},
	"not open":        {number(notOpen), unix.EBADF, unix.EBADF},
	"negative":        {number(-1), unix.EBADF, unix.EBADF},
}

// notOpen is far above any number that a test gets from the kernel.
const notOpen = 1 << 20

func socketOf(family, style int) func(*testing.T) int {
	return func(t *testing.T) int {
		t.Helper()
		return must(unix.Socket(family, style|unix.SOCK_CLOEXEC, 0))(t)
	}
}

func number(fd int) func(*testing.T) int {
	return func(t *testing.T) int {
		t.Helper()
		return fd
	}
}

func regularFile(t *testing.T) int {
	t.Helper()
	return must(unix.Open(must(os.Executable())(t), unix.O_RDONLY|unix.O_CLOEXEC, 0))(t)
}

func pathOnly(t *testing.T) int {
	t.Helper()
	return must(unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0))(t)
}

func epoll(t *testing.T) int {
	t.Helper()
	return must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))(t)
}

func foreignTCP(t *testing.T) int {
	t.Helper()
	return foreign(t, unix.AF_INET)
}

func foreignUnix(t *testing.T) int {
	t.Helper()
	return foreign(t, unix.AF_UNIX)
}

func connectedUnix(t *testing.T) int {
	t.Helper()
	fds := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	closing(t, fds[1])
	return fds[0]
}

func TestTakeRefusesAndClosesWhatDoesNotListen(t *testing.T) {
	for name, test := range strangers {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			l, err := Take(test.open(t))
			wantError(t, err, test.asListener)
			if err == nil {
				ok(t, l.Close())
			}
		})
	}
}

func TestCheckConnectionChangesNothing(t *testing.T) {
	for name, test := range strangers {
		t.Run(name, func(t *testing.T) {
			leavesNothing(t)
			fd := test.open(t)
			wantError(t, CheckConnection(fd), test.asConnection)
			if fd >= 0 && fd != notOpen {
				ok(t, unix.Close(fd)) // which shows that it was left open
			}
		})
	}
}

func TestCheckConnectionAcceptsTCP(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://:0", Options{})
	client := connect(t, l)
	fd := accepted(t, l)
	ok(t, CheckConnection(fd))
	ok(t, unix.Shutdown(client, unix.SHUT_WR)) // the peer has nothing more to say, and may still listen
	awaitReadable(t, fd)
	ok(t, CheckConnection(fd))
	_, err := PeerCredentials(fd)
	wantError(t, err, ErrNotUnix)
}
