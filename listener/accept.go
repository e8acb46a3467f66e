package listener

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Accept's caller acts on; test with errors.Is. Any other error is final: this socket will accept nothing any more.
var (
	// ErrAgain: no connection waits.
	ErrAgain = errors.New("no connection waits to be accepted")
	// ErrTryLater: connections wait, but none can be accepted for now. A level-triggered selector reports the listener all the while, so
	// the caller has to stop watching it and come back after a pause.
	ErrTryLater = errors.New("no connection can be accepted for now")
	// ErrOutOfDescriptors is the usual kind of ErrTryLater: the process (EMFILE) or the machine (ENFILE) has no descriptor left, or the
	// kernel no memory for sockets (ENOBUFS, ENOMEM).
	ErrOutOfDescriptors = fmt.Errorf("out of descriptors: %w", ErrTryLater)
)

// maxBroken is how many connections in a row may fail before Accept gives up with ErrTryLater: more than a burst of aborted ones, few enough
// that a rule which forbids every connection (a firewall's EPERM) cannot keep the caller here.
const maxBroken = 64

// Accept accepts one connection and returns its descriptor, non-blocking and close-on-exec, with
// urgent data in line (SO_OOBINLINE), over TCP with TCP_NODELAY; it is the caller's. It does not
// block unless somebody has cleared O_NONBLOCK of the socket (Shared). Connections that were
// aborted while they waited, and other errors that accept(2) says to treat alike, are skipped.
func (l *Listener) Accept() (fd int, err error) {
	for range maxBroken {
		fd, errno := accept4(l.fd)
		if errno == 0 {
			l.Finish(fd)
			return fd, nil
		}
		if err = l.Judge(errno); err != nil {
			return -1, err
		}
	}
	return -1, fmt.Errorf("%w: accept4 failed for %d connections in a row", ErrTryLater, maxBroken)
}

// Finish sets what a connection of a Unix socket does not inherit. It is for one that was accepted
// in the place of Accept. It cannot fail on a socket.
func (l *Listener) Finish(fd int) {
	if l.addr.Network == Unix {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	}
}

// accept4 is accept4(2) without the peer's address, and without the Go scheduler: a non-blocking accept has nothing to wait for.
func accept4(fd int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

// Judge is the one place that classifies what accept4(2) says. Nil: this connection only, go on
// with the next.
func (l *Listener) Judge(errno unix.Errno) error {
	switch errno {
	case unix.EAGAIN:
		return l.judgeEmpty()
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		return fmt.Errorf("%w: accept4: %w", ErrOutOfDescriptors, errno)
	case unix.EINTR, unix.ECONNABORTED, unix.EPROTO, unix.EPERM,
		// Network errors already pending on the new socket, which Linux reports here (accept(2), "Error handling").
		unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.EOPNOTSUPP, unix.ENETUNREACH:
		return nil
	default:
		return l.final(errno)
	}
}

// judgeEmpty tells an empty queue from one that will stay empty: a Unix socket that has been shut down says EAGAIN too, while selectors
// report it without end. A TCP socket says EINVAL, so it is not asked.
func (l *Listener) judgeEmpty() error {
	if l.addr.Network == Unix && shutDown(l.fd) {
		return l.final(unix.EINVAL)
	}
	return ErrAgain
}

// shutDown asks poll(2), without waiting, whether the reading side is shut down.
func shutDown(fd int) bool {
	watched := unix.PollFd{Fd: int32(fd), Events: unix.POLLRDHUP}
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&watched)), 1, uintptr(unsafe.Pointer(&unix.Timespec{})), 0, 0, 0)
	return errno == 0 && n == 1 && watched.Revents&unix.POLLRDHUP != 0
}

func (l *Listener) final(errno unix.Errno) error {
	switch {
	case l.fd < 0:
		return ErrClosed
	case errno == unix.EINVAL:
		return fmt.Errorf("accept at %s: another process that holds this socket has shut it down: accept4: %w", l.addr, errno)
	}
	return fmt.Errorf("accept at %s: accept4: %w", l.addr, errno)
}
