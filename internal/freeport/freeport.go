// Package freeport reserves TCP ports for servers that are started later.
package freeport

import (
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// Port is a reserved TCP port: no other process is given it, in IPv4 or IPv6, before Close.
type Port struct {
	fd     int
	number int
}

// Reserve reserves a port with a socket that is bound and does not listen. The kernel then gives the
// port neither to bind(2) with port 0 nor to connect(2). A server that sets SO_REUSEADDR before
// bind(2), as nearly all do, may still listen on it (socket(7)).
func Reserve() (*Port, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("freeport: socket: %w", err)
	}
	p := &Port{fd: fd}
	if err := p.bind(); err != nil {
		p.Close()
		return nil, fmt.Errorf("freeport: %w", err)
	}
	return p, nil
}

func (p *Port) bind() error {
	if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
		return fmt.Errorf("setsockopt(IPV6_V6ONLY): %w", err)
	}
	if err := unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("setsockopt(SO_REUSEADDR): %w", err)
	}
	if err := unix.Bind(p.fd, &unix.SockaddrInet6{}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	at, err := unix.Getsockname(p.fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	in6, ok := at.(*unix.SockaddrInet6)
	if !ok {
		return fmt.Errorf("getsockname: %T, want an IPv6 address", at)
	}
	p.number = in6.Port
	return nil
}

// Number is the port's number.
func (p *Port) Number() int { return p.number }

// Loopback is the port's address on 127.0.0.1, as "127.0.0.1:PORT".
func (p *Port) Loopback() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number))
}

// Close ends the reservation.
func (p *Port) Close() { _ = unix.Close(p.fd) }
