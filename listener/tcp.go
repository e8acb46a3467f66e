package listener

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

func openTCP(a Address, o Options) (*Listener, error) {
	l, err := openFamily(a, o, familyOf(a.Host))
	if !a.Host.IsValid() && errors.Is(err, unix.EAFNOSUPPORT) {
		// This kernel has no IPv6: every address of both families is then every IPv4 address.
		a.Host = netip.IPv4Unspecified()
		return openFamily(a, o, unix.AF_INET)
	}
	return l, err
}

// familyOf: a socket for both families is an IPv6 socket.
func familyOf(host netip.Addr) int {
	if host.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func openFamily(a Address, o Options, family int) (*Listener, error) {
	fd, err := streamSocket(family)
	if err != nil {
		return nil, err
	}
	l, err := bindTCP(fd, a, o, family)
	if err != nil {
		_ = unix.Close(fd)
		return nil, explainTCP(a, err)
	}
	return l, nil
}

func streamSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	return fd, nil
}

func bindTCP(fd int, a Address, o Options, family int) (*Listener, error) {
	if err := setTCPOptions(fd, a, o, family); err != nil {
		return nil, err
	}
	where, err := sockaddr(a)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, where); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	if err := listen(fd, o.Backlog); err != nil {
		return nil, err
	}
	return listenerOn(fd, family)
}

func setTCPOptions(fd int, a Address, o Options, family int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("setsockopt(SO_REUSEADDR): %w", err)
	}
	if family == unix.AF_INET6 {
		// Always said, because the default is the administrator's (net.ipv6.bindv6only).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, truth(a.Host.IsValid())); err != nil {
			return fmt.Errorf("setsockopt(IPV6_V6ONLY): %w", err)
		}
	}
	if !o.ReusePort {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return fmt.Errorf("setsockopt(SO_REUSEPORT): %w", err)
	}
	return nil
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func sockaddr(a Address) (unix.Sockaddr, error) {
	if a.Host.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port), Addr: a.Host.As4()}, nil
	}
	if !a.Host.IsValid() {
		return &unix.SockaddrInet6{Port: int(a.Port)}, nil
	}
	where := &unix.SockaddrInet6{Port: int(a.Port), Addr: a.Host.As16()}
	if a.Host.Zone() == "" {
		return where, nil
	}
	device, err := net.InterfaceByName(a.Host.Zone())
	if err != nil {
		return nil, fmt.Errorf("there is no network interface %q: %w", a.Host.Zone(), err)
	}
	where.ZoneId = uint32(device.Index)
	return where, nil
}

// explainTCP adds what to do about the errors that a user can mend.
func explainTCP(a Address, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w: stop the process that listens there (ss -ltnp 'sport = :%d' shows it) or choose another port: %w", ErrInUse, a.Port, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("this machine has no such address (ip address shows those it has): %w", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("this port needs the capability CAP_NET_BIND_SERVICE, a port from 1024 on does not: %w", err)
	case errors.Is(err, unix.EINVAL) && a.Host.IsLinkLocalUnicast() && a.Host.Zone() == "":
		return fmt.Errorf("a link-local address needs its interface, as in tcp://[%s%%eth0]:%d: %w", a.Host, a.Port, err)
	}
	return err
}
