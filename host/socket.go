package host

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a client's socket while this host has a descriptor of it, which it owns. Other processes hold descriptors of the same socket: it
// is never shut down here unless it was detached, its flags are never cleared, and while it is idle it stays out of the runtime's poller, which
// every request that another process serves would wake. So it is read and written directly; a duplicate joins the poller only when a call has to
// wait, and leaves it with unpoll.
//
// One read and one write may run at a time, beside them deadlines, close and more of the kind.
type socket struct {
	fd      int
	users   atomic.Int32 // references to fd, the owner's included; closing is set once the owner has let go
	readBy  deadline
	writeBy deadline

	mu   sync.Mutex // guards file
	file *os.File   // the duplicate in the poller
}

const closing = 1 << 30

// newSocket takes ownership of fd.
func newSocket(fd int) *socket {
	s := &socket{fd: fd}
	s.users.Store(1)
	return s
}

// acquire keeps the descriptor open until release. It fails after close.
func (s *socket) acquire() bool {
	for {
		n := s.users.Load()
		if n&closing != 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (s *socket) release() {
	if s.users.Add(-1) == closing {
		_ = unix.Close(s.fd)
	}
}

// close lets go of the descriptor: calls under way return net.ErrClosed, the last one closes it. It never shuts the socket down.
func (s *socket) close() {
	for {
		n := s.users.Load()
		if n&closing != 0 {
			return
		}
		if s.users.CompareAndSwap(n, n|closing) {
			s.unpoll()
			s.release()
			return
		}
	}
}

// read returns io.EOF when the client has ended the connection, and os.ErrDeadlineExceeded like any net.Conn.
func (s *socket) read(p []byte) (int, error) { return s.recv(p, 0) }

// readNow is read for a caller that has something better to do than wait: it returns errAgain if nothing is there.
func (s *socket) readNow(p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	return recvfrom(s.fd, p, 0)
}

// waitHangUp blocks until the client has ended the connection (io.EOF) or sent something (nil). It takes no byte.
func (s *socket) waitHangUp() error {
	var b [1]byte
	_, err := s.recv(b[:], unix.MSG_PEEK)
	return err
}

func (s *socket) recv(p []byte, flags int) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	if s.readBy.passed() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := recvfrom(s.fd, p, flags)
	if errors.Is(err, errAgain) {
		n, err = s.recvLater(p, flags)
	}
	return n, s.opError("read", err)
}

// recvLater is a function of its own since its closure puts variables on the heap.
func (s *socket) recvLater(p []byte, flags int) (n int, err error) {
	err = s.wait(syscall.RawConn.Read, func(fd uintptr) bool {
		n, err = recvfrom(int(fd), p, flags)
		return !errors.Is(err, errAgain)
	}, &err)
	return n, err
}

// write sends all of p unless it fails.
func (s *socket) write(p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	if s.writeBy.passed() {
		return 0, os.ErrDeadlineExceeded
	}
	sent, err := sendSome(s.fd, p)
	if errors.Is(err, errAgain) {
		var n int
		n, err = s.sendLater(p[sent:])
		sent += n
	}
	return sent, s.opError("write", err)
}

// writeNow is write for a caller that has something better to do than wait: it returns errAgain if something is left.
func (s *socket) writeNow(p []byte) (int, error) {
	if !s.acquire() {
		return 0, net.ErrClosed
	}
	defer s.release()
	if s.writeBy.passed() {
		return 0, os.ErrDeadlineExceeded
	}
	sent, err := sendSome(s.fd, p)
	return sent, s.opError("write", err)
}

func (s *socket) sendLater(p []byte) (sent int, err error) {
	err = s.wait(syscall.RawConn.Write, func(fd uintptr) bool {
		var n int
		n, err = sendSome(int(fd), p[sent:])
		sent += n
		return !errors.Is(err, errAgain)
	}, &err)
	return sent, err
}

// wait runs try whenever the poller says that it may succeed, until it returns true; tried is the error it left then.
func (s *socket) wait(on func(syscall.RawConn, func(uintptr) bool) error, try func(uintptr) bool, tried *error) error {
	raw, err := s.poll()
	if err != nil {
		return err
	}
	if err := on(raw, try); err != nil {
		if errors.Is(err, os.ErrClosed) {
			return net.ErrClosed
		}
		return err
	}
	return *tried
}

// poll puts a duplicate of the descriptor into the runtime's poller, unless there is one.
func (s *socket) poll() (syscall.RawConn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		if s.users.Load()&closing != 0 {
			return nil, net.ErrClosed
		}
		fd, err := duplicateFD(s.fd)
		if err != nil {
			return nil, err
		}
		s.file = os.NewFile(uintptr(fd), "client")
		s.setFileDeadlines()
	}
	return s.file.SyscallConn()
}

// duplicate is a descriptor for a poller of its own, which the caller closes before the lease is answered.
func (s *socket) duplicate() (int, error) {
	if !s.acquire() {
		return -1, net.ErrClosed
	}
	defer s.release()
	return duplicateFD(s.fd)
}

func duplicateFD(from int) (int, error) {
	fd, err := unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl", err)
	}
	_ = unix.SetNonblock(fd, true) // another process may have cleared it, and NewFile polls only what has it
	return fd, nil
}

// unpoll takes the socket out of the poller; a call that waits there returns. The duplicate is removed before it is closed, as epoll(7) asks.
func (s *socket) unpoll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()
		s.file = nil
	}
}

func (s *socket) setReadDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy.set(t)
	if s.file != nil {
		s.setFileDeadlines()
	}
}

func (s *socket) setWriteDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy.set(t)
	if s.file != nil {
		s.setFileDeadlines()
	}
}

func (s *socket) setFileDeadlines() {
	_ = s.file.SetReadDeadline(s.readBy.time())
	_ = s.file.SetWriteDeadline(s.writeBy.time())
}

// shutdownWrite is for a connection that is only ours.
func (s *socket) shutdownWrite() error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	return os.NewSyscallError("shutdown", unix.Shutdown(s.fd, unix.SHUT_WR))
}

// opError makes what net/http expects of a network connection's errors; EOF, deadlines and closing stay as they are.
func (s *socket) opError(op string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) { // errAgain too
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

func (s *socket) remote() net.Addr { return s.address(unix.Getpeername) }
func (s *socket) local() net.Addr  { return s.address(unix.Getsockname) }

func (s *socket) address(ask func(int) (unix.Sockaddr, error)) net.Addr {
	if !s.acquire() {
		return unknownAddr
	}
	defer s.release()
	sa, err := ask(s.fd)
	if err != nil {
		return unknownAddr
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)))
	case *unix.SockaddrInet6:
		return &net.TCPAddr{IP: sa.Addr[:], Port: sa.Port, Zone: zone(sa.ZoneId)}
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: sa.Name, Net: "unix"}
	}
	return unknownAddr
}

func zone(index uint32) string {
	if index == 0 {
		return ""
	}
	if nic, err := net.InterfaceByIndex(int(index)); err == nil {
		return nic.Name
	}
	return ""
}

// unknownAddr is the address of a socket that is closed or was never connected.
var unknownAddr net.Addr = &net.TCPAddr{}

// errAgain: the call would have to wait.
var errAgain = errors.New("host: nothing to do now")

// rawLimit is how many bytes a call may move without the Go scheduler knowing of it: it must not hold up the others for long.
const rawLimit = 64 << 10

func recvfrom(fd int, p []byte, flags int) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := transfer(unix.SYS_RECVFROM, fd, p, flags)
	if n == 0 && err == nil {
		return 0, io.EOF
	}
	return n, err
}

// sendSome sends p until the socket takes no more. It returns errAgain if something is left.
func sendSome(fd int, p []byte) (sent int, err error) {
	for sent < len(p) {
		n, err := transfer(unix.SYS_SENDTO, fd, p[sent:], unix.MSG_NOSIGNAL)
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return sent, nil
}

// transfer is recvfrom(2) or sendto(2) without an address. It never blocks, whatever the socket's flags.
func transfer(trap uintptr, fd int, p []byte, flags int) (int, error) {
	for {
		n, errno := call(trap, fd, p, uintptr(flags)|unix.MSG_DONTWAIT)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, errAgain
		default:
			return 0, os.NewSyscallError(map[uintptr]string{unix.SYS_RECVFROM: "recvfrom", unix.SYS_SENDTO: "sendto"}[trap], errno)
		}
	}
}

func call(trap uintptr, fd int, p []byte, flags uintptr) (uintptr, syscall.Errno) {
	if len(p) > rawLimit {
		n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		return n, errno
	}
	n, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	return n, errno
}

// deadline is a moment on the monotonic clock, or none.
type deadline struct{ at atomic.Int64 } // nanoseconds since start; 0: none

var start = time.Now()

func (d *deadline) set(t time.Time) {
	if t.IsZero() {
		d.at.Store(0)
		return
	}
	at := int64(t.Sub(start))
	if at == 0 {
		at = 1
	}
	d.at.Store(at)
}

func (d *deadline) passed() bool {
	at := d.at.Load()
	return at != 0 && at <= int64(time.Since(start))
}

// left is the time until the deadline, and whether there is one.
func (d *deadline) left() (time.Duration, bool) {
	at := d.at.Load()
	if at == 0 {
		return 0, false
	}
	return time.Duration(at) - time.Since(start), true
}

func (d *deadline) time() time.Time {
	if at := d.at.Load(); at != 0 {
		return start.Add(time.Duration(at))
	}
	return time.Time{}
}
