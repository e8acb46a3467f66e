package manager

import (
	"errors"
	"math/rand/v2"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/selector"
)

// A host ends with its process. The end of its link tells so, unless somebody else has the host's
// end of it: a child that has inherited it, or a queue of descriptors in flight that only this
// process could empty. So the process itself is watched, too. If it ends and the link does not, the
// host gets no leases until it answers a PING whose number cannot be known before, which only a
// process that holds the link can; without an answer in time it is hung up on.

// left: the process that has attached a host has ended.
func (p *policy) left(h *host) {
	if h.gone || h.orphaned {
		return
	}
	h.orphaned = true
	if !h.hung {
		p.hangs(h, "its process has ended")
	}
	p.ask(h)
	p.wake = min(p.wake, p.aliveDue(h))
}

// ask asks a host for a sign of life.
func (p *policy) ask(h *host) {
	h.asked = max(p.now, 1)
	p.act.ping(h)
}

// pong: a host has answered a PING. A host whose process has ended lives only if it has read that
// PING: what else comes may have been written before.
func (p *policy) pong(h *host, number uint64) {
	if h.orphaned && h.asked != 0 && number == h.number {
		p.revive(h)
	}
}

func (a *acts) ping(h *host) {
	h.number = rand.Uint64() >> 11 // below 2^53, which every language can count to
	(*Manager)(a).reply(h.link, handoff.Frame{Type: handoff.TypePing, A: h.number})
}

// watchProcess has the selector tell when the process of a host that attaches ends. It fails only
// if there is no descriptor left.
func (m *Manager) watchProcess(l *link) *handoff.Fault {
	fd, err := listener.PeerProcess(l.fd)
	switch {
	case errors.Is(err, listener.ErrProcessEnded):
		m.bereaved = append(m.bereaved, l)
		return nil
	case errors.Is(err, listener.ErrOutOfDescriptors):
		return handoff.Faultf(handoff.CodeOutOfDescriptors, "the sidecar has no room for a descriptor of this host's process")
	case err != nil:
		m.log.Debug("a host's process cannot be watched, only its link", "error", err)
		return nil
	}
	m.registerProcess(l, fd)
	return nil
}

func (m *Manager) registerProcess(l *link, fd int) {
	if err := m.sel.Register(fd, l.token^linkToken|processToken, selector.Read); err != nil {
		m.log.Error("a host's process cannot be watched, only its link", "error", err)
		closeFD(fd)
		return
	}
	l.note.process = int32(fd)
}

// rewatchProcess goes on watching in a successor.
func (m *Manager) rewatchProcess(l *link, estate Estate) {
	fd := int(l.note.process)
	l.note.process = 0
	if fd > maxStdio && estate.claim(fd) {
		m.registerProcess(l, fd)
	} else if fault := m.watchProcess(l); fault != nil {
		m.log.Error("a host's process cannot be watched, only its link", "error", fault)
	}
}

// unwatchProcess closes the descriptor of a link's process, if it has one.
func (m *Manager) unwatchProcess(l *link) {
	fd := int(l.note.process)
	if fd <= maxStdio {
		return
	}
	l.note.process = 0 // first: the number may soon be another's
	_ = m.sel.Unregister(fd)
	closeFD(fd)
}

// processEnded: the process of a link has ended.
func (m *Manager) processEnded(l *link) {
	m.unwatchProcess(l)
	m.bereaved = append(m.bereaved, l)
}

// reviewBereaved comes after the events of a turn: the end of a link mostly comes with that of its
// process, and says all there is to say.
func (m *Manager) reviewBereaved() {
	for _, l := range m.bereaved {
		if m.receive(l); !l.gone {
			m.log.Warn("a host's process has ended and its link has not; it gets no leases until it answers",
				"host", l.host.id, "name", l.host.name, "pid", l.peer.PID)
			m.policy.left(l.host)
		}
	}
	m.bereaved = m.bereaved[:0]
}
