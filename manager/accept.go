package manager

import (
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/selector"
)

// entrance is a listening socket in the loop: for clients (door) or for hosts.
type entrance struct {
	token    uint64
	listener *listener.Listener
	door     *door // nil: the handoff socket
	link     *link // of the host that brought it
	asked    bool  // a helper accepts on it
	overruns int   // helpers that have blocked in it
}

// ListenerOptions says what a listener is for.
type ListenerOptions struct {
	Name string // how operators see it; empty: its address
	Key  string // by which a successor's listener finds the connections of its predecessor's; empty: it does not
	Pool string // whose hosts serve its connections; empty: DefaultPool
	// Ready is what must have arrived before a host gets a connection. Default: anything.
	Ready Readiness
	// Continue answers "Expect: 100-continue" as soon as the head is there, if its body is waited for: else such a request is handed over with its
	// head, and its host answers.
	Continue bool
	// Proxies are the networks of load balancers that send a PROXY header (version 1 or 2) before the first request. Who connects from
	// elsewhere is taken for the client itself. Default: none.
	Proxies []listener.Subnet
}

// AddListener accepts clients on l, before or while Run. It takes ownership of l, also on failure.
func (m *Manager) AddListener(l *listener.Listener, o ListenerOptions) error {
	return m.tell(func() error {
		if o.Pool == "" {
			o.Pool = DefaultPool
		}
		if o.Name == "" {
			o.Name = l.String()
		}
		to, fault := m.policy.poolNamed(o.Pool, false)
		if fault != nil {
			return errors.Join(fault, l.Close())
		}
		_, err := m.open(l, &door{name: o.Name, key: o.Key, ready: o.Ready, proxies: o.Proxies, continues: o.Continue}, to, nil)
		return err
	})
}

// AddHandoff lets hosts attach on l, before or while Run. It takes ownership of l, also on failure.
func (m *Manager) AddHandoff(l *listener.Listener) error {
	return m.tell(func() error {
		e := &entrance{token: handoffToken | m.nextSerial(), listener: l}
		if err := m.sel.Register(l.FD(), e.token, selector.Read); err != nil {
			return errors.Join(err, l.Close())
		}
		m.handoffs[e.token] = e
		m.log.Info("hosts may attach", "handoff", l.String())
		return nil
	})
}

// open makes a listener part of the loop; d lacks only its number and pool. On failure l is closed.
func (m *Manager) open(l *listener.Listener, d *door, to *pool, from *link) (*entrance, error) {
	serial := m.nextSerial()
	d.id, d.edge, d.shared = ListenerID(serial), l.Addr().Network == listener.Unix, l.Shared()
	if !m.policy.reopenDoor(d, to) {
		if fault := m.policy.addDoor(d, to); fault != nil {
			m.policy.forgetPool(to)
			return nil, errors.Join(fault, m.dropListener(l))
		}
	}
	e := &entrance{token: doorToken | serial, listener: l, door: d, link: from}
	if err := m.sel.Register(l.FD(), e.token, m.acceptInterest()); err != nil {
		m.policy.closeDoor(d)
		return nil, errors.Join(err, m.dropListener(l))
	}
	m.doors[e.token] = e
	m.remember()
	m.log.Info("listening", "listener", l.String(), "pool", to.name)
	return e, nil
}

// dropListener closes a listening socket that is not part of the loop: one that others hold by a helper.
func (m *Manager) dropListener(l *listener.Listener) error {
	if !l.Shared() {
		return l.Close()
	}
	fd, err := l.Release()
	m.closeSocket(fd)
	return err
}

// closeEntrance stops listening. Connections that were accepted go on. closed, unless it is nil, is
// called when the socket is closed.
func (m *Manager) closeEntrance(e *entrance, closed func()) {
	delete(m.doors, e.token)
	delete(m.handoffs, e.token)
	_ = m.sel.Unregister(e.listener.FD())
	fd, err := e.listener.Release()
	if err != nil {
		m.log.Warn("closing a listener", "listener", e.listener.String(), "error", err)
	}
	if closed != nil {
		m.onClosed[int32(fd)] = closed
	}
	m.closeSocket(fd) // with those that wait in its queue
	if e.door != nil {
		m.policy.closeDoor(e.door)
		m.remember()
	}
}

// acceptsPerTurn bounds one listener's share of a turn; what is left is reported again.
const acceptsPerTurn = 256

// acceptClients takes the clients that wait, unless accepting has stopped since they were reported.
func (m *Manager) acceptClients(e *entrance) {
	if e.listener.Shared() {
		m.askAccept(e)
		return
	}
	for i := range acceptsPerTurn {
		if !m.accepting() || i > 0 && !m.policy.roomLeft() {
			return // at the limit, only the first is known to wait: nobody is to go for one who is not there
		}
		if !m.policy.mayAccept() {
			m.pauseFull()
			return
		}
		if !m.roomForOne() {
			m.pauseAccepting(m.policy.now+int64(acceptPause), m.noRoom())
			return
		}
		fd, err := e.listener.Accept()
		if err != nil {
			m.acceptFailed(e, err)
			return
		}
		m.accepted(e, fd)
	}
}

func (m *Manager) accepted(e *entrance, fd int) {
	m.endPause()
	id, err := m.policy.accepted(int32(fd), e.door.index)
	if err != nil {
		m.log.Error("a new connection was dropped", "listener", e.listener.String(), "error", err)
		return
	}
	if m.policy.watched && id != 0 {
		m.policy.act.tell(Event{Kind: EventAccepted, Conn: id, Pool: e.door.pool.name, Peer: peerOf(fd)})
	}
}

// acceptFailed: nothing waits, or not now, or never again.
func (m *Manager) acceptFailed(e *entrance, err error) {
	switch {
	case errors.Is(err, listener.ErrAgain):
	case errors.Is(err, listener.ErrTryLater):
		m.pauseAccepting(m.policy.now+int64(acceptPause), err.Error())
	default:
		m.log.Warn("a listener ended", "listener", e.listener.String(), "error", err)
		m.closeListener(e)
	}
}

// acceptPause is how long accepting pauses when the process or the machine is out of descriptors, unless a connection goes first.
const acceptPause = 250 * time.Millisecond

// pauseWarning is how often pauses are warned about: at a limit there may be one for each connection that comes.
const pauseWarning = time.Minute

// pause is accepting that has stopped for a while: clients wait in the kernel's backlog. It begins when one cannot be accepted and lasts, however
// often it is tried in between, until one is.
type pause struct {
	on     bool
	trying bool  // the listeners are watched: the next client shows whether the pause is over
	time   int64 // when to try again, never if only room in the table helps
	live   int   // connections when it began
	since  int64
	warned bool
}

func (p *pause) until() int64 {
	if !p.on || p.trying {
		return never
	}
	return p.time
}

// pauseAccepting stops watching the listeners until there is room, or it is time to try.
func (m *Manager) pauseAccepting(until int64, why string) {
	p := &m.paused
	if !p.on {
		*p = pause{on: true, since: m.policy.now, warned: m.policy.now >= m.warnNext}
		m.policy.totals.AcceptPauses++
		m.warnPause(why)
	}
	p.trying, p.time, p.live = false, until, m.policy.table.live
	m.setAccepting()
}

// pauseFull: there is no room for one more connection.
func (m *Manager) pauseFull() {
	m.pauseAccepting(never, fmt.Sprintf("%d connections, the limit, and none of them is idle", m.policy.table.live))
}

func (m *Manager) warnPause(why string) {
	if m.paused.warned {
		m.warnNext = m.policy.now + int64(pauseWarning)
		m.log.Warn("accepting pauses; clients wait in the backlog", "reason", why, "connections", m.policy.table.live)
	}
}

// reviewPause tries again when there is room, or it is time to.
func (m *Manager) reviewPause() {
	p := &m.paused
	if !p.on || p.trying || !m.policy.roomInSight() {
		return
	}
	if p.time == never || m.policy.now >= p.time || m.policy.table.live < p.live {
		p.trying = true
		m.setAccepting()
	}
}

// endPause: a client was accepted.
func (m *Manager) endPause() {
	if !m.paused.on {
		return
	}
	if m.paused.warned {
		m.log.Info("accepting goes on", "paused", time.Duration(m.policy.now-m.paused.since).Round(time.Millisecond))
	}
	m.paused = pause{}
}

// setAccepting makes the selector watch the listeners, or not: a pause, or a Stop, may be on.
func (m *Manager) setAccepting() {
	for _, e := range m.doors {
		m.setInterest(e, m.acceptInterest())
	}
	for _, e := range m.handoffs {
		m.setInterest(e, m.hostInterest())
	}
}

func (m *Manager) setInterest(e *entrance, in selector.Interest) {
	if e.asked {
		in = quiet // what waits is reported as long as it does
	}
	if err := m.sel.Modify(e.listener.FD(), e.token, in); err != nil {
		m.log.Error("a listener cannot be watched", "listener", e.listener.String(), "error", err)
	}
}

func (m *Manager) acceptInterest() selector.Interest {
	if m.accepting() {
		return selector.Read
	}
	return quiet
}

// hostInterest: hosts are few, and put connections back. Only a lack of descriptors keeps them waiting.
func (m *Manager) hostInterest() selector.Interest {
	if m.paused.until() == never {
		return selector.Read
	}
	return quiet
}

func (m *Manager) accepting() bool { return (!m.paused.on || m.paused.trying) && !m.policy.stopped }

// acceptHosts lets peers of the handoff socket in whose user may attach.
func (m *Manager) acceptHosts(e *entrance) {
	if !m.roomForOne() {
		m.pauseAccepting(m.policy.now+int64(acceptPause), m.noRoom())
		return
	}
	if e.listener.Shared() {
		m.askAccept(e)
		return
	}
	fd, err := e.listener.Accept()
	if err == nil {
		m.admitHost(fd)
		return
	}
	m.acceptHostsFailed(e, err)
}

func (m *Manager) acceptHostsFailed(e *entrance, err error) {
	switch {
	case errors.Is(err, listener.ErrAgain):
	case errors.Is(err, listener.ErrTryLater):
		m.pauseAccepting(m.policy.now+int64(acceptPause), err.Error())
	default:
		m.log.Error("the handoff socket failed, no more hosts can attach", "handoff", e.listener.String(), "error", err)
		m.closeEntrance(e, nil)
	}
}

// admitHost judges the peer before a byte is read from it.
func (m *Manager) admitHost(fd int) {
	peer, err := listener.PeerCredentials(fd)
	if err == nil {
		err = m.config.Allow(peer)
	}
	if err != nil {
		m.refuse(fd, peer, handoff.Faultf(handoff.CodeNotAllowed, "%v", err))
		return
	}
	if newcomers := len(m.links) - len(m.policy.hosts); newcomers >= m.policy.limits.Newcomers {
		m.refuse(fd, peer, handoff.Faultf(handoff.CodeAtLimit, "%d peers are here already that have yet to say HELLO, which is the limit", newcomers))
		return
	}
	note := m.policy.memory.unusedLink()
	if note == nil {
		m.refuse(fd, peer, handoff.Faultf(handoff.CodeAtLimit, "too many peers are attached or about to"))
		return
	}
	l := m.newLink(note, fd, peer)
	if err := m.sel.Register(fd, l.token, selector.Read); err != nil {
		m.log.Error("a host cannot be watched", "error", err)
		m.closeSocket(fd)
		return
	}
	note.state = linkYoung
	m.links[l.token] = l
	m.young = append(m.young, l)
}

// newLink begins a link in a part of the memory that is unused.
func (m *Manager) newLink(note *linkNote, fd int, peer listener.Credentials) *link {
	token := linkToken | m.nextSerial()
	note.token, note.fd, note.pid, note.uid, note.gid = token, int32(fd), peer.PID, peer.UID, peer.GID
	l := &link{token: token, fd: fd, note: note, peer: peer, deadline: m.policy.now + int64(helloTimeout)}
	l.in, _ = handoff.InboxAt(bytesOf(note.in[:])) // an empty one has no message that could be wrong
	l.out = handoff.OutboxAt(bytesOf(note.out[:]), m.closeSocket)
	l.in.Drop = func(fd int) { m.closeForeign(fd, l.hostID()) }
	return l
}

// nextSerial numbers entrances and links.
func (m *Manager) nextSerial() uint64 {
	m.policy.memory.head.serial++
	return m.policy.memory.head.serial
}

func (m *Manager) refuse(fd int, peer listener.Credentials, why *handoff.Fault) {
	m.policy.totals.HostsRefused++
	m.log.Warn("a host was refused", "uid", peer.UID, "gid", peer.GID, "pid", peer.PID, "error", why)
	var out handoff.Outbox
	f := why.Frame(handoff.TypeRefuse, 0)
	out.Add(&f)
	_ = out.Flush(fd) // a peer that cannot hear it is refused all the same
	m.closeSocket(fd)
}
