package manager

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/selector"
)

// acts is the Manager as the policy's actor: system calls and frames.
type acts Manager

const quiet = selector.OneShot

func (a *acts) watch(fd int32, id ConnID, once bool) error {
	return a.sel.Register(int(fd), uint64(id), watching(once))
}

func (a *acts) watchQuietly(fd int32, id ConnID) error {
	return a.sel.Register(int(fd), uint64(id), quiet)
}

func (a *acts) arm(fd int32, id ConnID, once bool) error {
	return a.sel.Modify(int(fd), uint64(id), watching(once))
}

func watching(once bool) selector.Interest {
	if once {
		return selector.Read | selector.OneShot
	}
	return selector.Read | selector.EdgeTriggered
}

// disarm leaves one report of a hang-up possible: epoll tells of those whatever it is asked, and with no one-shot it would tell them
// again and again. Such an event finds the connection in a state that ignores it. The call cannot fail on a registered descriptor.
func (a *acts) disarm(fd int32, id ConnID) { _ = a.sel.Modify(int(fd), uint64(id), quiet) }

// unread asks for the length of the receive queue (SIOCINQ, tcp(7), unix(7)). An error means that there is nothing to read.
func (a *acts) unread(fd int32) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func (a *acts) lease(h *host, id ConnID, r *record, withFD bool, flags handoff.Flags, waited time.Duration) {
	m := (*Manager)(a)
	l := h.link
	f := handoff.Frame{
		Type: handoff.TypeLease, Flags: flags, Seq: r.seq, Conn: uint64(id),
		A: uint64(r.head) | uint64(r.length)<<32, B: uint64(waited / time.Microsecond),
	}
	if peer, told := m.policy.toldPeer(r, id.slot()); told && h.address {
		f.Payload = fmt.Appendf(nil, `{"peer":%q}`, peer)
	}
	if withFD {
		l.out.AddFD(&f, int(r.fd))
	} else {
		l.out.Add(&f)
	}
	m.markDirty(l)
}

func (a *acts) nonblock(fd int32) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK != 0 {
		return false
	}
	return unix.SetNonblock(int(fd), true) == nil
}

func (a *acts) forget(h *host, id ConnID, why uint64) {
	l := h.link
	f := handoff.Frame{Type: handoff.TypeForget, Conn: uint64(id), A: why}
	if l.out.Len() > handoff.MaxQueued/2 {
		_ = l.out.Flush(l.fd) // many connections end at once; what goes wrong now goes wrong again at the end of the turn
	}
	l.out.Add(&f)
	(*Manager)(a).markDirty(l)
}

func (a *acts) hangUp(h *host) { (*Manager)(a).hangUpLater(h.link) }

// shut sends our FIN behind what is queued, then reads on until the client's: a close(2) now could make the kernel reset the
// connection and destroy what the client has not read yet (RFC 9112, section 9.6).
func (a *acts) shut(fd int32, id ConnID) bool {
	if err := unix.Shutdown(int(fd), unix.SHUT_WR); err != nil {
		return false // ENOTCONN: already reset
	}
	if ended := (*Manager)(a).discard(fd); ended {
		return false
	}
	return a.sel.Modify(int(fd), uint64(id), lingering) == nil
}

// lingering is level-triggered: what discard leaves is reported again.
const lingering = selector.Read

// linger reads away what a client still sends to a connection that is closing.
func (m *Manager) linger(r *record, id ConnID) {
	if m.discard(r.fd) {
		m.policy.readable(id, newsHungUp)
	}
}

// discardsPerTurn bounds one closing connection's share of a turn: 16 buffers, 1 MiB. How long it may go on is bounded by Limits.LingerTimeout.
const discardsPerTurn = 16

// discard reads away what is in the receive queue and reports whether the connection has ended.
func (m *Manager) discard(fd int32) (ended bool) {
	for range discardsPerTurn {
		n, err := recv(int(fd), m.readBuf, 0)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err != nil || n == 0 {
			return true
		}
	}
	return false
}

func (a *acts) drop(fd int32, _ ConnID, shared bool) {
	_ = a.sel.Unregister(int(fd)) // before close(2): a duplicate in a host would keep the registration alive
	if shared || a.inUse[fd] > 0 {
		(*Manager)(a).closeSocket(int(fd))
		return
	}
	closeFD(int(fd))
}

func (a *acts) tell(e Event) {
	m := (*Manager)(a)
	m.addPeer(&e)
	m.logEvent(&e)
	a.watchers.tell(e)
}

// addPeer says in the event of an end whose connection it was, if somebody is to learn it: it costs
// a system call.
func (m *Manager) addPeer(e *Event) {
	if e.Kind != EventClosed && e.Kind != EventExpired && e.Kind != EventDetached {
		return
	}
	if blames := e.Reason.blames(); blames || m.watchers.want(e.Kind) {
		r, slot := m.policy.table.find(e.Conn), e.Conn.slot() // it goes only after it was told
		e.Peer = m.policy.peerOf(r, slot)
		if blames {
			m.refusals.add(m.policy.clientOf(r, slot), e.Reason, m.policy.now)
		}
	}
}

// closeFD closes a descriptor that is ours. An error would mean that it was not: a bug that must not go on (EBADF), or a late error of
// writing, which sockets do not have (close(2)).
func closeFD(fd int) {
	if err := unix.Close(fd); err == unix.EBADF {
		panic(fmt.Sprintf("descriptor %d was closed twice", fd))
	}
}
