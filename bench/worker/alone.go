package main

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// alone serves the connections of a listening socket of its own.
type alone struct {
	loop     *loop
	listener int
}

func serveAlone(l *loop, address string) error {
	fd, err := listenOn(address)
	if err != nil {
		return err
	}
	if err := l.add(fd, unix.EPOLLIN); err != nil {
		return err
	}
	fmt.Println("ready")
	return l.run(&alone{loop: l, listener: fd})
}

func listenOn(address string) (int, error) {
	where, err := netip.ParseAddrPort(address)
	if err != nil || !where.Addr().Is4() {
		return -1, fmt.Errorf("-listen %s must be an IPv4 address and a port, such as 127.0.0.1:8081", address)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, fmt.Errorf("setsockopt: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(where.Port()), Addr: where.Addr().As4()}); err != nil {
		return -1, fmt.Errorf("bind %s: %w", address, err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return -1, fmt.Errorf("listen: %w", err)
	}
	return fd, nil
}

func (a *alone) flush() error { return nil }

func (a *alone) ready(fd int, _ uint32) error {
	if fd == a.listener {
		return a.accept()
	}
	if c := a.loop.conns[fd]; c != nil { // nil: dropped earlier in this batch
		return a.serve(c)
	}
	return nil
}

func (a *alone) accept() error {
	for {
		fd, _, err := unix.Accept4(a.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("accept4: %w", err)
		}
		if err := a.start(fd); err != nil {
			return err
		}
	}
}

func (a *alone) start(fd int) error {
	// A client that has gone already makes this fail; its connection then tells as much.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	c := &connection{fd: fd}
	a.loop.keep(c)
	return a.loop.arm(c, unix.EPOLLIN)
}

func (a *alone) serve(c *connection) error {
	switch c.serve(a.loop.buf[:]) {
	case wantWrite:
		return a.loop.arm(c, unix.EPOLLOUT)
	case gone:
		return a.loop.drop(c)
	case served:
		if c.last {
			return a.loop.drop(c)
		}
	case wantRead:
	}
	return a.loop.arm(c, unix.EPOLLIN)
}
