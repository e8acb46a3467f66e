package manager

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/selector"
)

// link is the loop's end of a handoff connection: a peer that has yet to say HELLO, then an attached host.
type link struct {
	token    uint64
	fd       int
	note     *linkNote
	peer     listener.Credentials
	in       handoff.Inbox
	out      handoff.Outbox
	host     *host       // nil before HELLO
	doors    []*entrance // that it brought
	deadline int64       // of HELLO, or of hanging up
	frameBy  int64       // when a frame that has begun must be here; 0: none has
	dirty    bool        // in Manager.dirty
	blocked  bool        // the selector tells when there is room to write
	held     bool        // its last frame is not obeyed yet, nor what came behind it
	stalled  bool        // in Manager.stalled
	leaving  bool        // to be hung up once all is sent
	gone     bool
}

// hostID is the attached host's; 0 before HELLO, and without a link.
func (l *link) hostID() HostID {
	if l == nil || l.host == nil {
		return 0
	}
	return l.host.id
}

// Times that hosts have.
const (
	helloTimeout  = 2 * time.Second      // to say HELLO
	hangUpTimeout = 5 * time.Second      // to read what is queued before the link ends
	frameTimeout  = 10 * time.Second     // to send the rest of a frame
	stallPause    = 5 * time.Millisecond // until sending is tried again when too many descriptors are in flight
)

func (m *Manager) markDirty(l *link) {
	if !l.dirty {
		l.dirty = true
		m.dirty = append(m.dirty, l)
	}
}

// linkReady acts on a host's socket.
func (m *Manager) linkReady(l *link, ready selector.Ready) {
	if ready&selector.Writable != 0 {
		m.markDirty(l)
	}
	if ready&^selector.Writable != 0 && !l.held {
		m.receive(l)
	}
}

// receivesPerTurn bounds one host's share of a turn; what is left is reported again.
const receivesPerTurn = 8

// receive obeys the frames a host has sent, until there are no more now.
func (m *Manager) receive(l *link) {
	for range receivesPerTurn {
		err := l.in.Recv(l.fd)
		if err == nil {
			err = m.obeyFrames(l)
		}
		switch {
		case l.gone, err == nil && l.held:
			return
		case err == nil:
			if !l.in.Full() {
				return // it took all there was
			}
		case errors.Is(err, handoff.ErrAgain):
			return
		case errors.Is(err, io.EOF):
			m.hangUp(l, "the host hung up")
			return
		default:
			m.fail(l, err)
			return
		}
	}
}

// obeyFrames takes the complete frames out of the inbox.
func (m *Manager) obeyFrames(l *link) error {
	for !l.gone && !l.held {
		var f handoff.Frame
		fd, ok, err := l.in.Next(&f)
		if !ok {
			if err == nil {
				err = l.in.Settled()
			}
			return errors.Join(err, m.checkHalf(l))
		}
		l.frameBy = 0
		if fault := m.obeyFrame(l, &f, fd, err); fault != nil {
			return fault
		}
	}
	return nil
}

// checkHalf looks at a frame that has begun: its time begins, and a descriptor that has come with
// it must not be a link's end.
func (m *Manager) checkHalf(l *link) error {
	if len(l.in.Pending()) == 0 {
		l.frameBy = 0
		return nil
	}
	if l.frameBy == 0 {
		l.frameBy = m.policy.now + int64(frameTimeout)
		if !slices.Contains(m.halves, l) {
			m.halves = append(m.halves, l)
		}
	}
	if slices.ContainsFunc(l.in.Descriptors(), func(fd int) bool { return listener.ConnectedWhere(l.fd, fd) }) {
		return errLinkSent
	}
	return nil
}

// errLinkSent: while the sidecar itself has the host's end of a link, that link does not end.
var errLinkSent = handoff.Faultf(handoff.CodeBadDescriptor, "this is a host's end of a handoff socket, which must stay with its process")

// reviewHalves hangs up on hosts that have not sent the rest of a frame in time. A descriptor may
// have come with its beginning, which would be kept for as long as the link lives.
func (m *Manager) reviewHalves() {
	if len(m.halves) == 0 {
		return
	}
	late := []*link{}
	m.halves = slices.DeleteFunc(m.halves, func(l *link) bool {
		if !l.gone && l.frameBy != 0 && l.frameBy <= m.policy.now {
			late = append(late, l)
		}
		return l.gone || l.frameBy <= m.policy.now
	})
	for _, l := range late {
		if !l.gone {
			m.fail(l, handoff.Faultf(handoff.CodeTooSlow, "the rest of a frame has not come within %v", frameTimeout))
		}
	}
}

// fail tells a peer what it did wrong and hangs up.
func (m *Manager) fail(l *link, err error) {
	var fault *handoff.Fault
	if !errors.As(err, &fault) {
		fault = handoff.Faultf(handoff.CodeBadFrame, "%v", err)
	}
	answer := handoff.TypeError
	if l.host == nil {
		answer = handoff.TypeRefuse
		m.policy.totals.HostsRefused++
		m.log.Warn("a host was refused", "uid", l.peer.UID, "pid", l.peer.PID, "error", fault)
	} else {
		m.policy.totals.HostsFailed++
	}
	f := fault.Frame(answer, 0)
	l.out.Add(&f)
	_ = l.out.Flush(l.fd) // a peer that does not read does not learn why
	if l.host != nil {
		l.host.lives = true
	}
	m.hangUp(l, fault.Error())
}

// send flushes a host's outbox as far as its socket takes it.
func (m *Manager) send(l *link) {
	if l.gone {
		return
	}
	err := l.out.Flush(l.fd) // also if it is stalled: what it cannot send it keeps, while the descriptors are still ours
	switch {
	case err == nil:
		m.watchWritable(l, false)
		if l.leaving {
			m.hangUp(l, "drained")
		}
	case errors.Is(err, handoff.ErrAgain):
		m.watchWritable(l, true)
	case errors.Is(err, handoff.ErrRightsLimit):
		m.stall(l)
	case errors.Is(err, handoff.ErrOutboxFull):
		m.fail(l, handoff.Faultf(handoff.CodeTooSlow, "more than %d bytes of frames wait to be read", handoff.MaxQueued))
	case errors.Is(err, io.EOF):
		m.receive(l) // what it said before it went still counts; the end follows
		m.hangUp(l, "the host hung up")
	default:
		m.fail(l, err)
	}
}

func (m *Manager) stall(l *link) {
	if !l.stalled {
		l.stalled = true
		m.stalled = append(m.stalled, l)
	}
}

func (m *Manager) watchWritable(l *link, on bool) {
	if l.blocked == on {
		return
	}
	l.blocked = on
	m.watch(l)
}

// watch has the selector tell of what the link waits for.
func (m *Manager) watch(l *link) {
	in := selector.Read
	if l.blocked {
		in |= selector.Write
	}
	if l.held {
		in = quiet // its end would be told again and again
	}
	if err := m.sel.Modify(l.fd, l.token, in); err != nil {
		m.fail(l, err)
	}
}

// reviewStalled tries again to send what waited for descriptors in flight to arrive: no event tells when they have.
func (m *Manager) reviewStalled() {
	if len(m.stalled) == 0 {
		return
	}
	again := m.stalled
	m.stalled = nil
	for _, l := range again {
		l.stalled = false
		m.send(l)
	}
}

// reviewYoung ends the patience with peers that have not said HELLO, and with leaving ones that do not read.
func (m *Manager) reviewYoung() {
	if len(m.young) == 0 {
		return
	}
	late := []*link{}
	m.young = slices.DeleteFunc(m.young, func(l *link) bool {
		if !l.gone && l.deadline <= m.policy.now {
			late = append(late, l)
		}
		return l.gone || l.deadline <= m.policy.now || l.deadline == never
	})
	for _, l := range late {
		if l.leaving {
			m.hangUp(l, "drained, but did not read to the end")
		} else {
			m.fail(l, handoff.Faultf(handoff.CodeHelloLate, "no HELLO within %v", helloTimeout))
		}
	}
}

// hangUpLater ends a link when everything queued for it is sent.
func (m *Manager) hangUpLater(l *link) {
	if l.gone || l.leaving {
		return
	}
	l.leaving = true
	l.deadline = m.policy.now + int64(hangUpTimeout)
	m.young = append(m.young, l)
	m.markDirty(l)
}

// hangUp ends a link at once. Its listeners close, its leases come back.
func (m *Manager) hangUp(l *link, why string) {
	if l.gone {
		return
	}
	l.gone = true
	delete(m.links, l.token)
	for _, e := range slices.Clone(l.doors) {
		m.closeListener(e)
	}
	if l.host != nil {
		m.log.Info("host gone", "host", l.host.id, "name", l.host.name, "pool", l.host.pool.name, "reason", why, "leases", l.host.leases.len)
		m.policy.hostGone(l.host, why)
	}
	l.in.Close()
	l.out.Close()
	_ = m.sel.Unregister(l.fd)
	m.unwatchProcess(l)
	m.policy.memory.freeLink(l.note)
	m.closeSocket(l.fd)
}

// closeListener closes a listener that may have been brought by a host, which is told.
func (m *Manager) closeListener(e *entrance) {
	m.unlisten(e, handoff.Frame{Type: handoff.TypeUnlistened, A: uint64(e.door.id)}, func() {})
}

// unlisten closes a listener, then sends the frame to the host that brought it, if one did, and calls then.
func (m *Manager) unlisten(e *entrance, f handoff.Frame, then func()) {
	l := e.link
	if l != nil {
		l.doors = slices.DeleteFunc(l.doors, func(x *entrance) bool { return x == e })
	}
	m.closeEntrance(e, func() {
		if l != nil {
			m.reply(l, f)
		}
		then()
	})
}

// hold lets nothing more of what a host has said be obeyed until goOn: its last frame takes a
// while. That frame counts as not obeyed meanwhile.
func (m *Manager) hold(l *link) {
	l.held = true
	m.watch(l)
}

// goOn is the end of hold.
func (m *Manager) goOn(l *link) {
	if l.gone {
		return
	}
	l.held = false
	m.watch(l)
	if err := m.obeyFrames(l); err != nil && !l.gone {
		m.fail(l, err)
	}
}

// reply queues a frame for a host.
func (m *Manager) reply(l *link, f handoff.Frame) {
	if l.gone {
		return
	}
	l.out.Add(&f)
	m.markDirty(l)
}
