package manager

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/scan"
)

// firstPeek is how much of a request is looked at first: enough for nearly every head, little enough to cost next to nothing.
const firstPeek = 4 << 10

// look peeks at the receive queue (MSG_PEEK, recv(2)).
func (a *acts) look(fd int32, limits scan.Limits, s *scan.Scanner) (seen scan.Seen, unread int, over Reason) {
	b := a.peekBuf[:min(s.Position()+firstPeek, cap(a.peekBuf))]
	for {
		n, err := a.peekAt(fd, b)
		if err != nil || n == 0 {
			return scan.Seen{}, 0, overFor(err)
		}
		unread = n
		if n == len(b) {
			unread = max(n, a.unread(fd))
		}
		seen = s.Look(b[:n], unread, limits)
		switch {
		case seen.Verdict != scan.More:
			return seen, unread, ReasonNone
		case n < len(b):
			seen, unread = a.lookBehind(fd, limits, s, n, seen)
			return seen, unread, ReasonNone
		case seen.Need > unread:
			return seen, unread, ReasonNone
		case len(b) == cap(a.peekBuf):
			return scan.Seen{Verdict: scan.Opaque, Bodiless: seen.Bodiless}, unread, ReasonNone
		}
		b = a.peekBuf[:min(len(b)*4, cap(a.peekBuf))]
	}
}

// lookBehind is for a part of a request of which peeking has shown n bytes. If the kernel has more,
// it came meanwhile, or it is behind an urgent byte (MSG_OOB), where peeking stops. HTTP knows no
// such bytes: where one hides the rest of a head or of chunks, the request is malformed.
func (a *acts) lookBehind(fd int32, limits scan.Limits, s *scan.Scanner, n int, seen scan.Seen) (scan.Seen, int) {
	there := a.unread(fd)
	if there <= n {
		return seen, n
	}
	again, err := a.peekAt(fd, a.peekBuf[:min(there, cap(a.peekBuf))])
	if err != nil {
		return seen, n
	}
	seen = s.Look(a.peekBuf[:again], max(there, again), limits)
	if again < there && seen.Verdict == scan.More && seen.Need <= there {
		seen = scan.Seen{Verdict: scan.Malformed, Bodiless: seen.Bodiless}
	}
	return seen, max(there, again)
}

// some peeks at one byte: what the kernel says about the length of the queue may be untrue
// (SIOCINQ, of a socket whose urgent data is not in line).
func (a *acts) some(fd int32) (is bool, over Reason) {
	n, err := a.peekAt(fd, a.peekBuf[:1])
	if err != nil || n == 0 {
		return false, overFor(err)
	}
	return true, ReasonNone
}

// overFor is why a connection has ended whose input cannot be read; ReasonNone if it has not.
func overFor(err error) Reason {
	switch {
	case errors.Is(err, unix.EAGAIN):
		return ReasonNone
	case errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.EINVAL):
		return ReasonFailed // a host has made something else of it, such as a listening socket
	}
	return ReasonHungUp
}

// peekAt counts what is copied, which tests bound.
func (a *acts) peekAt(fd int32, p []byte) (int, error) {
	n, err := peek(int(fd), p)
	a.peeked += max(n, 0)
	return n, err
}

func peek(fd int, p []byte) (int, error) { return recv(fd, p, unix.MSG_PEEK) }

// recv is recv(2) that never blocks, whatever the descriptor's flags; so the Go scheduler need not hear of it.
func recv(fd int, p []byte, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			flags|unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// await asks the kernel to report the socket as readable only when need bytes are there (SO_RCVLOWAT, socket(7); for TCP, poll obeys it
// since Linux 2.6.28, and it makes room for them since 4.18).
func (a *acts) await(fd int32, id ConnID, need int) error {
	if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, need); err != nil {
		return fmt.Errorf("setsockopt(SO_RCVLOWAT): %w", err)
	}
	return a.arm(fd, id, false)
}

// settle: hosts share the option, so it must not be left behind.
func (a *acts) settle(fd int32) {
	_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1)
}

// goOn sends an interim response (RFC 9110, 15.2.1). If the socket does not take it, the client goes on by itself after a while.
func (a *acts) goOn(fd int32) {
	_ = unix.Sendto(int(fd), []byte("HTTP/1.1 100 Continue\r\n\r\n"), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// answer sends an error response. If the socket does not take it at once there is nothing more to
// do: the connection ends anyway.
func (a *acts) answer(fd int32, status int, bodiless bool) {
	response := a.config.Answers.response(status, bodiless, time.Now())
	_ = unix.Sendto(int(fd), response, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}
