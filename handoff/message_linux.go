package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrRightsLimit means that too many descriptors of this user are in flight (ETOOMANYREFS, unix(7)). It passes when hosts read; epoll does not tell.
var ErrRightsLimit = errors.New("handoff: too many descriptors in flight")

// message is the argument of recvmsg(2) and sendmsg(2), kept so that a call allocates nothing. The calls are raw: with MSG_DONTWAIT they
// never block, so the Go scheduler need not hear of them.
type message struct {
	header  unix.Msghdr
	iovec   unix.Iovec
	control [rightsSpace]byte
}

// rightsSpace is CMSG_SPACE for one descriptor: a 16-byte header, 4 bytes, padding (cmsg(3), 64-bit).
const rightsSpace = 24

func (m *message) recv(sock int, p, oob []byte) (n, oobn, flags int, err error) {
	m.point(p)
	m.header.Control = &oob[0]
	m.header.SetControllen(len(oob))
	n, err = m.call(unix.SYS_RECVMSG, sock, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, 0, 0, err
	}
	return n, int(m.header.Controllen), int(m.header.Flags), nil
}

// send sends p, and the descriptor with it unless it is negative.
func (m *message) send(sock int, p []byte, fd int) (n int, err error) {
	m.point(p)
	if fd >= 0 {
		m.setRights(fd)
	}
	return m.call(unix.SYS_SENDMSG, sock, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

func (m *message) point(p []byte) {
	m.header = unix.Msghdr{Iov: &m.iovec, Iovlen: 1}
	m.iovec.Base = unsafe.SliceData(p)
	m.iovec.SetLen(len(p))
}

// setRights writes one SCM_RIGHTS message: struct cmsghdr {length, level, type} and the descriptor (cmsg(3)).
func (m *message) setRights(fd int) {
	binary.NativeEndian.PutUint64(m.control[0:], uint64(unix.SizeofCmsghdr+4))
	binary.NativeEndian.PutUint32(m.control[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(m.control[12:], unix.SCM_RIGHTS)
	binary.NativeEndian.PutUint32(m.control[16:], uint32(fd))
	m.header.Control = &m.control[0]
	m.header.SetControllen(rightsSpace)
}

// call classifies what went wrong: again, hung up, or final.
func (m *message) call(trap uintptr, sock int, flags uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(trap, uintptr(sock), uintptr(unsafe.Pointer(&m.header)), flags)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			return 0, ErrAgain
		case unix.ETOOMANYREFS:
			return 0, ErrRightsLimit
		case unix.EPIPE, unix.ECONNRESET:
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("%s: %w", map[uintptr]string{unix.SYS_RECVMSG: "recvmsg", unix.SYS_SENDMSG: "sendmsg"}[trap], errno)
		}
	}
}
