package conformance

import (
	"errors"
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// connection is one that the kit has accepted: the sidecar's end of it. The client's end is in client. All but the first fields are guarded by the
// sidecar's mutex.
type connection struct {
	*client
	id    uint64
	fd    int
	inode string // as /proc names the socket

	sending sync.WaitGroup // rests that FINISH has left to us

	seq    uint32
	holder *link  // keeps a descriptor of it since it was put
	lease  *lease // the present one, or the last
	over   bool   // closed by us
}

// lease is one of a connection, and how it ended.
type lease struct {
	c         *connection
	link      *link
	seq       uint32
	takenBack bool
	answer    *handoff.Frame // nil until there is one
	written   uint64         // bytes of responses that the kernel had then
	rest      uint64         // bytes left to us by FINISH
	restDone  bool           // they are sent
}

// open reports whether the host still owes an answer.
func (l *lease) open() bool { return l.answer == nil && !l.takenBack && !l.link.gone }

// begin makes a lease of the connection, and the frame that says so.
func (c *connection) begin(k *link, flags handoff.Flags) (*lease, handoff.Frame) {
	k.sidecar.mu.Lock()
	defer k.sidecar.mu.Unlock()
	return c.beginLocked(k, flags)
}

func (c *connection) beginLocked(k *link, flags handoff.Flags) (*lease, handoff.Frame) {
	c.seq++
	l := &lease{c: c, link: k, seq: c.seq}
	if c.seq == 1 {
		flags |= handoff.FlagFresh
	}
	c.lease, c.holder = l, nil
	k.leases++
	return l, handoff.Frame{Type: handoff.TypeLease, Flags: flags, Seq: c.seq, Conn: c.id}
}

// answerLocked judges the answer to a lease as far as any answer can be judged.
func (s *sidecar) answerLocked(k *link, f *handoff.Frame, file *os.File) {
	c := s.conns[f.Conn]
	var l *lease
	if c != nil {
		l = c.lease
	}
	switch {
	case l != nil && l.seq == f.Seq && l.takenBack && l.answer == nil:
		l.answer = f // it crossed with the FORGET, as it may
	case l == nil || l.link != k:
		s.faultLocked("%s of connection %d, which this host has no lease of", f.Type, f.Conn)
	case l.seq != f.Seq:
		s.faultLocked("%s of connection %d with seq %d; its lease has seq %d", f.Type, f.Conn, f.Seq, l.seq)
	case l.answer != nil:
		s.faultLocked("%s of connection %d, seq %d, after %s had answered that lease", f.Type, f.Conn, f.Seq, l.answer.Type)
	default:
		s.endLeaseLocked(l, f, file)
		return
	}
	if file != nil {
		_ = file.Close()
	}
}

func (s *sidecar) endLeaseLocked(l *lease, f *handoff.Frame, file *os.File) {
	c, k := l.c, l.link
	l.answer, l.written = f, written(c.fd)
	k.leases--
	s.judgeSocketLocked(c, f)
	switch f.Type {
	case handoff.TypePut:
		s.holdLocked(c, k)
	case handoff.TypeFinish:
		s.finishLocked(l, f, file)
	case handoff.TypeClose:
		c.endLocked()
	case handoff.TypeDetach:
		c.dropLocked()
	default: // NACK: leased again by the case
	}
}

// holdLocked: with the feature cache a host keeps the descriptor of what it has put.
func (s *sidecar) holdLocked(c *connection, k *link) {
	if k.agreed(handoff.FeatureCache) {
		c.holder = k
	}
}

// judgeSocketLocked looks at what all processes that have the connection share.
func (s *sidecar) judgeSocketLocked(c *connection, f *handoff.Frame) {
	flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_NONBLOCK == 0 && f.Type != handoff.TypeClose && !c.blocking {
		s.faultLocked("connection %d came back (%s) without O_NONBLOCK: the open file description is shared, its flags are not to be cleared", c.id, f.Type)
	}
	if shutDown(c.fd) && f.Type != handoff.TypeDetach && !c.reset.Load() {
		s.faultLocked("connection %d was shut down by the host before its %s: to end a connection, send CLOSE and close the descriptor without shutdown", c.id, f.Type)
	}
}

// finishLocked takes over the rest of a response.
func (s *sidecar) finishLocked(l *lease, f *handoff.Frame, file *os.File) {
	switch {
	case !l.link.agreed(handoff.FeatureFinish):
		s.faultLocked("FINISH, which needs a feature that was not agreed")
	case file == nil:
		s.faultLocked("FINISH came without a descriptor")
	case f.B == 0:
		s.faultLocked("FINISH with a length of 0")
	}
	if _, fault := handoff.FinishOf(f); fault != nil {
		s.faultLocked("%v", fault)
	}
	if file == nil {
		return
	}
	l.rest = f.B
	if f.Flags&handoff.FlagClose == 0 {
		s.holdLocked(l.c, l.link)
	}
	from := io.Reader(file)
	if st, err := file.Stat(); err == nil && st.Mode().IsRegular() {
		from = io.NewSectionReader(file, int64(f.A), int64(f.B))
	}
	l.c.sending.Add(1)
	go s.sendRest(l, file, io.LimitReader(from, int64(f.B)), f.Flags&handoff.FlagClose != 0)
}

// sendRest sends what a FINISH has left to us.
func (s *sidecar) sendRest(l *lease, file *os.File, rest io.Reader, last bool) {
	defer l.c.sending.Done()
	defer func() { _ = file.Close() }()
	n, err := io.Copy(l.c, rest)
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.tellLocked()
	if err == nil && uint64(n) < l.rest {
		s.faultLocked("FINISH announced %d bytes, the file holds %d of them", l.rest, n)
	}
	l.restDone = true
	if last {
		l.c.endLocked()
	}
}

// Write sends to the client as the sidecar does, and waits while it takes nothing. It ends when the connection is closed here.
func (c *connection) Write(p []byte) (sent int, err error) {
	for sent < len(p) {
		if c.ended.Load() {
			return sent, os.ErrClosed
		}
		n, err := unix.SendmsgN(c.fd, p[sent:], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			sent += n
		case errors.Is(err, unix.EAGAIN):
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}, 20)
		default:
			return sent, err
		}
	}
	return sent, nil
}

// endLocked is what the sidecar does at CLOSE: what is written still reaches the client, then the end.
func (c *connection) endLocked() {
	if !c.over {
		c.over = true
		_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	}
}

// dropLocked is what the sidecar does at DETACH: its copy goes, without shutdown.
func (c *connection) dropLocked() {
	c.over = true
	c.ended.Store(true)
	delete(c.sidecar.conns, c.id)
	closeFD(c.fd)
	c.fd = -1
}

// written is how many bytes have been written to the socket since it was made: those the client's kernel has, and those that wait here.
func written(fd int) uint64 {
	for {
		before, acked, after := outQueue(fd), acknowledged(fd), outQueue(fd)
		if before == after {
			return acked + uint64(after)
		}
	}
}

func outQueue(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	return n
}

func acknowledged(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}

// unreadHere is how many bytes of the client nobody has read.
func unreadHere(fd int) int {
	n, _ := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return n
}

// The states of a TCP socket that has sent its FIN or had its end (tcp_states.h).
const (
	tcpFinWait1 = 4
	tcpFinWait2 = 5
	tcpTimeWait = 6
	tcpLastAck  = 9
	tcpClosing  = 11
)

// shutDown reports whether someone has shut the socket down for writing.
func shutDown(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false
	}
	switch info.State {
	case tcpFinWait1, tcpFinWait2, tcpTimeWait, tcpLastAck, tcpClosing:
		return true
	}
	return false
}

func epochName(n int) string { return "epoch-" + strconv.Itoa(n) }
