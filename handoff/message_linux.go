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

// message is the argument of recvmmsg(2) and sendmmsg(2) for one message, struct mmsghdr and what it points to, kept so that a call allocates
// nothing. The calls are raw: with MSG_DONTWAIT they never block, so the Go scheduler need not hear of them.
//
// Of these two system calls the kernel writes the outcome to memory before they return. So if the process is killed in one, which takes effect at
// its end, whoever has the memory afterwards sees whether it was done (moved), and from which position on (at).
//
// Addresses are numbers here, which mean nothing to the collector: a successor finds those of another process. What they point to is held by the Inbox
// or Outbox and never moves.
type message struct {
	header  msghdr
	moved   uint32 // bytes that the call has moved; 0: none, or none since settled
	_       uint32
	iovec   [2]iovec
	at      uint64 // position in the stream at which the call began
	control [rightsSpace]byte
}

// msghdr is struct msghdr of recvmsg(2), 64-bit.
type msghdr struct {
	name       uintptr
	nameLen    uint32
	_          uint32
	iov        uintptr
	iovLen     uint64
	control    uintptr
	controlLen uint64
	flags      int32
	_          int32
}

// iovec is struct iovec of readv(2).
type iovec struct {
	base uintptr
	len  uint64
}

func iovecOf(p []byte) iovec {
	return iovec{base: uintptr(unsafe.Pointer(unsafe.SliceData(p))), len: uint64(len(p))}
}

func (m *message) setControl(p []byte) {
	m.header.control, m.header.controlLen = uintptr(unsafe.Pointer(unsafe.SliceData(p))), uint64(len(p))
}

// rightsSpace is CMSG_SPACE for one descriptor: a 16-byte header, 4 bytes, padding (cmsg(3), 64-bit).
const rightsSpace = 24

// recv receives to p; at is noted. Until settled, the outcome stays.
func (m *message) recv(sock int, p, oob []byte, at uint64) (n, oobn int, err error) {
	m.point(at, p, nil)
	m.setControl(oob)
	err = m.call(unix.SYS_RECVMMSG, sock, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if errors.Is(err, io.EOF) {
		// Unlike recvmsg(2) it reports, once, that the peer closed with something unread (ECONNRESET) before what the peer had sent.
		err = m.call(unix.SYS_RECVMMSG, sock, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return 0, 0, err
	}
	return int(m.moved), int(m.header.controlLen), nil
}

// truncated: a descriptor was lost.
func (m *message) truncated() bool { return m.header.flags&unix.MSG_CTRUNC != 0 }

// send sends p and then q, and a descriptor with them unless it is negative; at is noted. Until settled, the outcome stays.
func (m *message) send(sock int, p, q []byte, fd int, at uint64) (n int, err error) {
	m.point(at, p, q)
	if fd >= 0 {
		m.setRights(fd)
	}
	if err := m.call(unix.SYS_SENDMMSG, sock, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL); err != nil {
		return 0, err
	}
	return int(m.moved), nil
}

// settled: what the call has done is known elsewhere now.
func (m *message) settled() { m.moved = 0 }

func (m *message) point(at uint64, p, q []byte) {
	m.moved, m.at = 0, at
	m.header = msghdr{iov: uintptr(unsafe.Pointer(&m.iovec)), iovLen: 1}
	m.iovec[0] = iovecOf(p)
	if len(q) > 0 {
		m.iovec[1], m.header.iovLen = iovecOf(q), 2
	}
}

// setRights writes one SCM_RIGHTS message: struct cmsghdr {length, level, type} and the descriptor (cmsg(3)).
func (m *message) setRights(fd int) {
	binary.NativeEndian.PutUint64(m.control[0:], uint64(unix.SizeofCmsghdr+4))
	binary.NativeEndian.PutUint32(m.control[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(m.control[12:], unix.SCM_RIGHTS)
	binary.NativeEndian.PutUint32(m.control[16:], uint32(fd))
	m.setControl(m.control[:])
}

// call classifies what went wrong: again, hung up, or final.
func (m *message) call(trap uintptr, sock int, flags uintptr) error {
	for {
		_, _, errno := unix.RawSyscall6(trap, uintptr(sock), uintptr(unsafe.Pointer(m)), 1, flags, 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
			return ErrAgain
		case unix.ETOOMANYREFS:
			return ErrRightsLimit
		case unix.EPIPE, unix.ECONNRESET:
			return io.EOF
		default:
			return fmt.Errorf("%s: %w", map[uintptr]string{unix.SYS_RECVMMSG: "recvmmsg", unix.SYS_SENDMMSG: "sendmmsg"}[trap], errno)
		}
	}
}
