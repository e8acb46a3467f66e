package manager

import (
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// obeyFrame does what one frame of a host says. fd is its descriptor, which is ours to keep or close, -1 without one; lost is set if one
// was due and this process had no room for it. A fault ends the link.
func (m *Manager) obeyFrame(l *link, f *handoff.Frame, fd int, lost error) *handoff.Fault {
	if fd >= m.descriptors.Shared { // one of the reserve
		m.closeForeign(fd, l.hostID())
		fd, lost = -1, handoff.ErrDescriptorLost
	}
	if l.host == nil {
		return m.welcome(l, f, fd)
	}
	m.policy.alive(l.host)
	switch f.Type {
	case handoff.TypeAdopt:
		return m.obeyAdopt(l, f, fd, lost)
	case handoff.TypeListen:
		return m.obeyListen(l, f, fd, lost)
	case handoff.TypeFinish:
		return m.obeyFinish(l, f, fd, lost)
	}
	if fd >= 0 {
		m.closeForeign(fd, l.hostID())
		if f.Type.Known() {
			return handoff.Faultf(handoff.CodeStrayDescriptor, "%s takes no descriptor", f.Type)
		}
	}
	return m.obeyPlain(l, f)
}

// obeyPlain: frames without a descriptor. Those about leases come first, they are what a request costs.
func (m *Manager) obeyPlain(l *link, f *handoff.Frame) *handoff.Fault {
	p, h := m.policy, l.host
	switch f.Type {
	case handoff.TypePut:
		return p.put(h, f)
	case handoff.TypeClose:
		return p.closeLease(h, f)
	case handoff.TypeDetach:
		return p.detach(h, f)
	case handoff.TypeNack:
		m.logNack(l, f)
		return p.nack(h, f)
	case handoff.TypeCapacity:
		p.setCapacity(h, f.A)
	case handoff.TypeDropped:
		p.dropped(h, ConnID(f.Conn))
	case handoff.TypeDrain:
		m.obeyDrain(l)
	case handoff.TypeUnlisten:
		return m.obeyUnlisten(l, f)
	case handoff.TypePong:
		p.pong(h, f.A)
	case handoff.TypeHello:
		return handoff.Faultf(handoff.CodeHelloTwice, "HELLO was said before")
	default:
		if f.Type.Known() {
			return handoff.Faultf(handoff.CodeBadFrame, "%s is for the sidecar to send", f.Type)
		}
	}
	return nil
}

// welcome lets a host in that says a proper HELLO.
func (m *Manager) welcome(l *link, f *handoff.Frame, fd int) *handoff.Fault {
	if fd >= 0 {
		m.closeForeign(fd, l.hostID())
		return handoff.Faultf(handoff.CodeStrayDescriptor, "%s takes no descriptor", f.Type)
	}
	hello, fault := handoff.HelloOf(f)
	if fault != nil {
		return fault
	}
	if fault := m.watchProcess(l); fault != nil {
		return fault
	}
	h, fault := m.policy.attach(hello, l.peer, &l.note.host)
	if fault != nil {
		return fault
	}
	h.link, l.host, l.deadline = l, h, never
	l.note.helloLen = uint32(copy(l.note.hello[:], f.Payload))
	m.remember()
	l.note.state = linkAttached
	m.greet(l)
	m.log.Info("host attached", "host", h.id, "name", h.name, "pool", h.pool.name, "capacity", h.capacity, "agent", h.agent,
		"uid", l.peer.UID, "pid", l.peer.PID)
	return nil
}

// promised is how much of a keep-alive timeout hosts may tell clients (Keep-Alive: timeout=): less than we wait, so that a request sent within that
// time finds its connection open though it takes a while to arrive.
func promised(timeout time.Duration) time.Duration { return timeout - min(timeout/5, time.Second) }

// greet sends WELCOME.
func (m *Manager) greet(l *link) {
	h := l.host
	m.reply(l, handoff.Welcome{
		Host: uint64(h.id), Pool: h.pool.name, Capacity: h.capacity, Features: h.features, Listeners: m.listenersOf(h.pool),
		KeepAliveTimeoutMS: promised(m.policy.limits.KeepAliveTimeout).Milliseconds(), Epoch: m.config.Epoch,
	}.Frame())
}

func (m *Manager) listenersOf(to *pool) []string {
	addresses := []string{}
	for _, e := range m.doors {
		if e.door.pool == to {
			addresses = append(addresses, e.listener.String())
		}
	}
	slices.Sort(addresses)
	return addresses
}

// denyWarning is how often one host's denials are warned about; the others are for Debug.
const denyWarning = time.Minute

// deny answers a request that cannot be met; the link goes on.
func (m *Manager) deny(l *link, f *handoff.Frame, fault *handoff.Fault) {
	level := hclog.Debug
	if m.policy.now >= l.host.denyWarn {
		level, l.host.denyWarn = hclog.Warn, m.policy.now+int64(denyWarning)
	}
	m.log.Log(level, "a host was denied", "host", l.host.id, "name", l.host.name, "frame", f.Type.String(), "error", fault)
	m.reply(l, fault.Frame(handoff.TypeDenied, f.Seq))
}

// descriptorDue: the frame must carry a descriptor, and does, unless we had no room for it.
func descriptorDue(f *handoff.Frame, fd int, lost error) (denied, fault *handoff.Fault) {
	switch {
	case lost != nil:
		return handoff.Faultf(handoff.CodeOutOfDescriptors, "the sidecar has no room for the descriptor"), nil
	case fd < 0:
		return nil, handoff.Faultf(handoff.CodeNoDescriptor, "%s needs a descriptor", f.Type)
	}
	return nil, nil
}

func (m *Manager) obeyAdopt(l *link, f *handoff.Frame, fd int, lost error) *handoff.Fault {
	denied, fault := descriptorDue(f, fd, lost)
	if fault != nil {
		return fault
	}
	if denied != nil {
		m.deny(l, f, denied)
		return nil
	}
	if listener.ConnectedWhere(l.fd, fd) {
		m.closeForeign(fd, l.hostID())
		return errLinkSent
	}
	if err := prepareConnection(fd); err != nil {
		m.closeForeign(fd, l.hostID())
		fault := handoff.Faultf(handoff.CodeBadDescriptor, "ADOPT: %v", err)
		if !errors.Is(err, listener.ErrNotConnected) {
			return fault
		}
		m.deny(l, f, fault) // the client has reset it meanwhile, which is not the host's fault
		return nil
	}
	id, denied := m.policy.adopt(l.host, int32(fd), f)
	if denied != nil {
		if denied.Code != handoff.CodeOutOfDescriptors {
			m.closeForeign(fd, l.hostID()) // else the policy has dropped it
		}
		m.deny(l, f, denied)
		return nil
	}
	m.reply(l, handoff.Frame{Type: handoff.TypeAdopted, Seq: f.Seq, Conn: uint64(id)})
	return nil
}

// prepareConnection checks a descriptor that a host brings and gives it what accept gives ours.
func prepareConnection(fd int) error {
	if err := listener.CheckConnection(fd); err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // ENOPROTOOPT on a Unix socket
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // EOPNOTSUPP with Multipath TCP, which has no urgent data
	return unix.SetNonblock(fd, true)
}

func (m *Manager) obeyListen(l *link, f *handoff.Frame, fd int, lost error) *handoff.Fault {
	denied, fault := descriptorDue(f, fd, lost)
	if fault != nil {
		return fault
	}
	if denied != nil {
		m.deny(l, f, denied)
		return nil
	}
	how, fault := handoff.ListenOf(f)
	if fault != nil {
		m.closeForeign(fd, l.hostID())
		return fault
	}
	if l.host.draining {
		m.closeForeign(fd, l.hostID())
		m.deny(l, f, handoff.Faultf(handoff.CodeStopping, "no new listeners while draining"))
		return nil
	}
	socket, err := listener.Adopt(fd)
	if err != nil {
		m.closeForeign(fd, l.hostID())
		return handoff.Faultf(handoff.CodeBadDescriptor, "LISTEN: %v", err)
	}
	m.listenFor(l, f, socket, how)
	return nil
}

// listenFor accepts on a host's own listening socket.
func (m *Manager) listenFor(l *link, f *handoff.Frame, socket *listener.Listener, how *handoff.Listen) {
	if how.Backlog > 0 {
		if err := socket.Relisten(how.Backlog); err != nil {
			m.log.Warn("the backlog stays as it was", "listener", socket.String(), "error", err)
		}
	}
	d := &door{
		name: how.Name, host: l.host, silentLease: how.Silent == handoff.SilentLease, firstByte: msDuration(uint64(how.FirstByteTimeoutMS)),
	}
	if d.name == "" {
		d.name = socket.String()
	}
	if how.Ready != "" {
		d.ready, _ = ParseReadiness(how.Ready) // handoff.ListenOf has checked it
	}
	e, err := m.open(socket, d, l.host.pool, l)
	if err != nil {
		fault := handoff.Faultf(handoff.CodeOutOfDescriptors, "%v", err)
		errors.As(err, &fault)
		m.deny(l, f, fault)
		return
	}
	l.doors = append(l.doors, e)
	m.reply(l, handoff.Frame{Type: handoff.TypeListening, Seq: f.Seq, A: uint64(d.id)})
}

// obeyFinish takes over the rest of a response. If its descriptor was lost, so is the rest: the client learns it from the connection's end.
func (m *Manager) obeyFinish(l *link, f *handoff.Frame, fd int, lost error) *handoff.Fault {
	denied, fault := descriptorDue(f, fd, lost)
	switch {
	case fault != nil:
		return fault
	case denied != nil:
		m.deny(l, f, denied)
		return m.policy.cutShort(l.host, f)
	case !l.host.finish:
		m.closeForeign(fd, l.hostID())
		return handoff.Faultf(handoff.CodeNotAgreed, "FINISH needs the feature %q", handoff.FeatureFinish)
	}
	rest, fault := remainderOf(f, fd)
	if fault != nil {
		m.closeForeign(fd, l.hostID())
		return fault
	}
	if denied := m.policy.mayFinish(l.host); denied != nil {
		m.closeForeign(fd, l.hostID())
		m.deny(l, f, denied)
		return m.policy.cutShort(l.host, f)
	}
	m.policy.totals.Finished++
	return m.policy.finish(l.host, f, rest)
}

func (m *Manager) obeyUnlisten(l *link, f *handoff.Frame) *handoff.Fault {
	for _, e := range l.doors {
		if uint64(e.door.id) == f.A {
			m.hold(l)
			m.unlisten(e, handoff.Frame{Type: handoff.TypeUnlistened, Seq: f.Seq, A: f.A}, func() { m.goOn(l) })
			return nil
		}
	}
	m.deny(l, f, handoff.Faultf(handoff.CodeNotYours, "listener %d is not open, or not this host's", f.A))
	return nil
}

// logNack tells the log, once in a while, of a host that is out of descriptors: its clients wait,
// and may be refused.
func (m *Manager) logNack(l *link, f *handoff.Frame) {
	if f.A != handoff.NackNoDescriptor || m.policy.now < l.host.nackWarn {
		return
	}
	l.host.nackWarn = m.policy.now + int64(denyWarning)
	m.log.Warn("a host is out of descriptors and cannot take a lease; raise its limit of open files (ulimit -n), or lower its capacity",
		"host", l.host.id, "name", l.host.name, "conn", f.Conn)
}

// obeyDrain: the host leaves. What only it could serve ends, and it is hung up on when its last lease is back.
func (m *Manager) obeyDrain(l *link) {
	left := len(l.doors)
	if left == 0 {
		m.drain(l)
		return
	}
	m.hold(l)
	for _, e := range slices.Clone(l.doors) {
		m.unlisten(e, handoff.Frame{Type: handoff.TypeUnlistened, A: uint64(e.door.id)}, func() {
			if left--; left == 0 && !l.gone {
				m.drain(l)
				m.goOn(l)
			}
		})
	}
}

func (m *Manager) drain(l *link) {
	m.reply(l, handoff.Frame{Type: handoff.TypeDraining, A: uint64(l.host.leases.len)})
	m.policy.drain(l.host)
}
