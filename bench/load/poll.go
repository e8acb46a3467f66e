package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// poll is an epoll instance of one thread's.
type poll struct {
	fd     int
	events [256]unix.EpollEvent
	buf    [256 << 10]byte // what responses are read into
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	return &poll{fd: fd}, nil
}

// watch has fd's events come with the given number.
func (p *poll) watch(op, fd int, events uint32, number int) error {
	if err := unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(number)}); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// wait returns the events there are, within the given milliseconds.
func (p *poll) wait(milliseconds int) ([]unix.EpollEvent, error) {
	n, err := unix.EpollWait(p.fd, p.events[:], milliseconds)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return nil, fmt.Errorf("epoll_wait: %w", err)
	}
	return p.events[:max(n, 0)], nil
}

// read returns what has come on fd: ok is false if nothing has, and an empty p with ok means that the server has ended.
func (p *poll) read(fd int) (b []byte, ok bool, err error) {
	n, err := unix.Read(fd, p.buf[:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("read: %w", err)
	}
	return p.buf[:n], true, nil
}
