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
func (a *acts) look(fd int32, limits scan.Limits) (seen scan.Seen, unread int, ended bool) {
	b := a.peekBuf[:firstPeek]
	for {
		n, err := peek(int(fd), b)
		if err != nil || n == 0 {
			return scan.Seen{}, 0, !errors.Is(err, unix.EAGAIN)
		}
		unread = n
		if n == len(b) {
			unread = max(n, a.unread(fd))
		}
		seen = scan.Request(b[:n], unread, limits)
		switch {
		case seen.Verdict != scan.More || seen.Need > unread || n < len(b):
			return seen, unread, false
		case len(b) == cap(a.peekBuf):
			return scan.Seen{Verdict: scan.Opaque}, unread, false
		}
		b = a.peekBuf[:min(len(b)*4, cap(a.peekBuf))]
	}
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

// answer sends an error response. If the socket does not take it at once there is nothing more to do: the connection ends anyway.
func (a *acts) answer(fd int32, status int) {
	n, err := peek(int(fd), a.readBuf[:len("HEAD ")])
	bodiless := err != nil || string(a.readBuf[:n]) == "HEAD " // a request that a host has read may have been a HEAD
	_ = unix.Sendto(int(fd), a.config.Answers.response(status, bodiless, time.Now()), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}
