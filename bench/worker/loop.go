package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// front is where connections come from and what becomes of them: the worker's own listener, or a sidecar.
type front interface {
	// ready says that fd, which is the front's own, or a connection, can go on.
	ready(fd int, events uint32) error
	// flush ends a batch of events.
	flush() error
}

// loop waits for events and hands them to the front.
type loop struct {
	epoll  int
	events [512]unix.EpollEvent
	buf    [64 << 10]byte // what requests are read into
	conns  []*connection  // by descriptor
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &loop{epoll: fd}, nil
}

// run works until the front has an error.
func (l *loop) run(f front) error {
	for {
		n, err := unix.EpollWait(l.epoll, l.events[:], -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("epoll_wait: %w", err)
		}
		for i := range max(n, 0) {
			if err := f.ready(int(l.events[i].Fd), l.events[i].Events); err != nil {
				return err
			}
		}
		if err := f.flush(); err != nil {
			return err
		}
	}
}

// add watches a descriptor of the front's own.
func (l *loop) add(fd int, events uint32) error {
	err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// keep remembers a connection by its descriptor.
func (l *loop) keep(c *connection) {
	for len(l.conns) <= c.fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[c.fd] = c
}

// arm watches a connection for events from now on; 0 stops watching it.
func (l *loop) arm(c *connection, events uint32) error {
	if c.armed == events {
		return nil
	}
	op := unix.EPOLL_CTL_MOD
	switch {
	case c.armed == 0:
		op = unix.EPOLL_CTL_ADD
	case events == 0:
		op = unix.EPOLL_CTL_DEL
	}
	if err := unix.EpollCtl(l.epoll, op, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	c.armed = events
	return nil
}

// drop forgets a connection and closes its descriptor. Disarmed first: elsewhere a duplicate may keep the socket open, and then epoll
// would go on reporting it.
func (l *loop) drop(c *connection) error {
	if err := l.arm(c, 0); err != nil {
		return err
	}
	l.conns[c.fd] = nil
	return unix.Close(c.fd)
}
