package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// Why a descriptor that came from elsewhere is refused; test with errors.Is.
var (
	ErrNotSocket    = errors.New("the descriptor is not a socket")
	ErrNotStream    = errors.New("the socket is not a TCP or Unix stream")
	ErrFamily       = errors.New("the socket is neither IPv4, IPv6 nor Unix")
	ErrNotListening = errors.New("the socket does not listen")
	ErrListening    = errors.New("the socket listens, where a connection is due")
	ErrNotConnected = errors.New("the socket is not connected")
	ErrNotUnix      = errors.New("the socket is not a Unix socket")
)

// kind is what a socket is.
type kind struct {
	family    int
	listening bool
}

// inspect accepts stream sockets of TCP and Unix.
func inspect(fd int) (kind, error) {
	family, err := socketOption(fd, unix.SO_DOMAIN, "SO_DOMAIN")
	if err != nil {
		return kind{}, err
	}
	if family != unix.AF_INET && family != unix.AF_INET6 && family != unix.AF_UNIX {
		return kind{}, fmt.Errorf("%w (family %d)", ErrFamily, family)
	}
	if err := checkStream(fd, family); err != nil {
		return kind{}, err
	}
	listening, err := socketOption(fd, unix.SO_ACCEPTCONN, "SO_ACCEPTCONN")
	return kind{family: family, listening: listening != 0}, err
}

// checkStream looks at the protocol too: SCTP and others have stream sockets that do not behave like TCP's.
func checkStream(fd, family int) error {
	style, err := socketOption(fd, unix.SO_TYPE, "SO_TYPE")
	if err != nil {
		return err
	}
	protocol, err := socketOption(fd, unix.SO_PROTOCOL, "SO_PROTOCOL")
	if err != nil {
		return err
	}
	ours := family == unix.AF_UNIX || protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP
	if style != unix.SOCK_STREAM || !ours {
		return fmt.Errorf("%w (type %d, protocol %d)", ErrNotStream, style, protocol)
	}
	return nil
}

func socketOption(fd, option int, name string) (int, error) {
	value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
	if errors.Is(err, unix.ENOTSOCK) {
		return 0, ErrNotSocket
	}
	if err != nil {
		return 0, fmt.Errorf("getsockopt(%s): %w", name, err)
	}
	return value, nil
}

// CheckConnection says whether fd, which came from elsewhere, is what a connection has to be: a connected stream socket of TCP or
// Unix. It neither closes nor changes it. Errors: ErrNotSocket, ErrNotStream, ErrFamily, ErrListening, ErrNotConnected.
func CheckConnection(fd int) error {
	kind, err := inspect(fd)
	if err != nil {
		return err
	}
	if kind.listening {
		return ErrListening
	}
	_, err = unix.Getpeername(fd)
	if errors.Is(err, unix.ENOTCONN) {
		return ErrNotConnected
	}
	if err != nil {
		return fmt.Errorf("getpeername: %w", err)
	}
	return nil
}

// localAddress asks the kernel where a listening socket is bound.
func localAddress(fd int) (Address, error) {
	where, err := unix.Getsockname(fd)
	if err != nil {
		return Address{}, fmt.Errorf("getsockname: %w", err)
	}
	if where, ok := where.(*unix.SockaddrUnix); ok {
		return Address{Network: Unix, Path: where.Name}, nil
	}
	at := addrPort(fd, where)
	a := Address{Network: TCP, Host: at.Addr(), Port: at.Port()}
	if a.Host == netip.IPv6Unspecified() {
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return Address{}, fmt.Errorf("getsockopt(IPV6_V6ONLY): %w", err)
		}
		if only == 0 {
			a.Host = netip.Addr{}
		}
	}
	return a, nil
}

// addrPort translates an Internet address of the socket fd; the zero AddrPort for any other. An
// IPv4 peer of a socket for both families comes out as IPv4.
func addrPort(fd int, where unix.Sockaddr) netip.AddrPort {
	switch where := where.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(where.Addr), uint16(where.Port))
	case *unix.SockaddrInet6:
		host := netip.AddrFrom16(where.Addr).Unmap()
		return netip.AddrPortFrom(host.WithZone(zone(fd, where.ZoneId)), uint16(where.Port))
	}
	return netip.AddrPort{}
}

// zone is the name of a network interface, or its number if it has gone. The socket is asked
// (SIOCGIFNAME, netdevice(7)), which takes no other descriptor and knows the names of its own
// network namespace.
func zone(fd int, index uint32) string {
	if index == 0 {
		return ""
	}
	var device unix.Ifreq
	device.SetUint32(index)
	if unix.IoctlIfreq(fd, unix.SIOCGIFNAME, &device) != nil {
		return strconv.FormatUint(uint64(index), 10)
	}
	return device.Name()
}
