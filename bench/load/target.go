package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"

	"golang.org/x/sys/unix"
)

// target is what is asked, and where.
type target struct {
	address unix.SockaddrInet4
	host    string
	path    string
}

func parseTarget(text string) (target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" {
		return target{}, fmt.Errorf("the target %q must be a URL such as http://127.0.0.1:8080/100", text)
	}
	where, err := netip.ParseAddrPort(u.Host)
	if err != nil || !where.Addr().Is4() {
		return target{}, fmt.Errorf("the target %q must name an IPv4 address and a port", text)
	}
	return target{
		address: unix.SockaddrInet4{Port: int(where.Port()), Addr: where.Addr().As4()},
		host:    u.Host,
		path:    u.RequestURI(),
	}, nil
}

// request is what is sent each time.
func (t *target) request(connection string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n", t.path, t.host, connection)
}

// sources is how many loopback addresses the connections come from, so that ports do not run out: each has the kernel's range of them.
const sources = 16

// dial opens a socket to the target. Its address is chosen by n, its port by the kernel at connect(2). A non-blocking one is not yet
// connected when it is returned.
func (t *target) dial(n int, flags int, more ...socketOption) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := t.connect(fd, n, more); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// socketOption is an integer option of setsockopt(2).
type socketOption struct{ level, name, value int }

// always is what every connection asks for.
var always = []socketOption{{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}, {unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1}}

func (t *target) connect(fd, n int, more []socketOption) error {
	for _, o := range slices.Concat(always, more) {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("setsockopt: %w", err)
		}
	}
	source := unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(2 + n%sources)}}
	if err := unix.Bind(fd, &source); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return unix.Connect(fd, &t.address)
}
