package manager

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Whether a client has room to send more, as its kernel and ours know it. A request that does not
// fit where it waits will never be whole: its host gets what is there.

// smallWindow is a TCP window that senders wait to grow rather than fill with a small segment,
// unless rcv_mss says that their segments are smaller still.
const smallWindow = 1460

// room asks TCP for the window that was last advertised to the client (TCP_INFO, tcp(7)); what came
// out of order and has a gap before it leaves that open. Linux tells of it since 6.2. Before that
// poll(2) is asked, which reports a socket below its low-water mark when the window is small, or
// memory is.
func (a *acts) room(fd int32, need int) room {
	info, size, err := tcpInfo(fd)
	switch {
	case err != nil && a.diagnoses:
		return unixRoom(fd)
	case err != nil:
		return roomUnknown
	case size < unsafe.Offsetof(info.Rcv_wnd)+unsafe.Sizeof(info.Rcv_wnd):
		return a.roomBelow(fd, need)
	case info.Rcv_wnd < min(info.Rcv_mss, smallWindow):
		return roomNone
	}
	return roomMore
}

// tcpInfo is TCP_INFO, and how much of it this kernel knows.
func tcpInfo(fd int32) (info unix.TCPInfo, size uintptr, err error) {
	n := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return info, 0, errno
	}
	return info, uintptr(n), nil
}

// roomBelow asks poll(2), without waiting, with a low-water mark that the queue is below.
func (a *acts) roomBelow(fd int32, need int) room {
	if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, need) != nil {
		return roomUnknown
	}
	watched := unix.PollFd{Fd: fd, Events: unix.POLLIN}
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&watched)), 1,
		uintptr(unsafe.Pointer(&unix.Timespec{})), 0, 0, 0)
	switch {
	case errno != 0:
		return roomUnknown
	case n == 1:
		return roomNone
	}
	return roomMore
}

// unixRoom asks for the memory of the client's end of a Unix socket (sock_diag(7)): what waits for
// us is still charged to the client. One whose send buffer is full has no room. One that uses more
// than a quarter of it may go on writing, but poll(2) no longer tells it that it may: roomUnknown.
// So is an end in another network namespace, which is not found.
func unixRoom(fd int32) room {
	var own unix.Stat_t
	if unix.Fstat(int(fd), &own) != nil {
		return roomUnknown
	}
	peer := unixDiag(uint32(own.Ino), showPeer, attributePeer)
	if len(peer) < 4 {
		return roomUnknown
	}
	memory := unixDiag(binary.NativeEndian.Uint32(peer), showMemory, attributeMemory)
	if len(memory) < 16 {
		return roomUnknown
	}
	used, limit := binary.NativeEndian.Uint32(memory[8:]), binary.NativeEndian.Uint32(memory[12:])
	switch {
	case used >= limit:
		return roomNone
	case uint64(used)*4 > uint64(limit):
		return roomUnknown
	}
	return roomMore
}

// diagnosesUnix reports whether unixRoom finds anything. It is asked once, before the loop runs:
// where the kernel has its diagnosis as a module that is not loaded yet, the first question waits
// for that.
func diagnosesUnix() bool {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) }()
	return unixRoom(int32(pair[0])) != roomUnknown
}

// What can be asked about a Unix socket (linux/unix_diag.h).
const (
	showPeer        = 0x04
	attributePeer   = 2 // inode of the other end
	showMemory      = 0x20
	attributeMemory = 5 // u32 each: rmem_alloc, rcvbuf, wmem_alloc, sndbuf, ...
)

// diagRequest is a nlmsghdr and a unix_diag_req.
type diagRequest struct {
	header   unix.NlMsghdr
	family   uint8
	protocol uint8
	_        uint16
	states   uint32
	inode    uint32
	show     uint32
	cookie   [2]uint32
}

// unixDiag asks for an attribute of a Unix socket of this network namespace; nil if there is none.
// The kernel answers within sendto(2), so that there is nothing to wait for.
func unixDiag(inode, show uint32, attribute uint16) []byte {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Close(fd) }()
	request := diagRequest{
		header: unix.NlMsghdr{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST},
		family: unix.AF_UNIX, states: ^uint32(0), inode: inode, show: show, cookie: [2]uint32{^uint32(0), ^uint32(0)},
	}
	request.header.Len = uint32(unsafe.Sizeof(request))
	message := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if unix.Sendto(fd, message, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return nil
	}
	answer := make([]byte, 1024)
	n, err := recv(fd, answer, 0)
	if err != nil {
		return nil
	}
	return diagAttribute(answer[:n], attribute)
}

const (
	diagHeaderSize  = unix.SizeofNlMsghdr + 16 // unix_diag_msg
	attributeHeader = unix.SizeofRtAttr
)

// diagAttribute finds an attribute in an answer; nil if it is not there, or the answer is an error.
func diagAttribute(b []byte, attribute uint16) []byte {
	if len(b) < diagHeaderSize || binary.NativeEndian.Uint16(b[4:]) != unix.SOCK_DIAG_BY_FAMILY {
		return nil
	}
	for b = b[diagHeaderSize:]; len(b) >= attributeHeader; {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attributeHeader || size > len(b) {
			return nil
		}
		if binary.NativeEndian.Uint16(b[2:]) == attribute {
			return b[attributeHeader:size]
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}
