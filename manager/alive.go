package manager

import (
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/handoff"
)

// Whether hosts live. Any frame is a sign of life. A host that has been silent for Limits.PingInterval is asked for one (PING); if none comes within
// Limits.PingTimeout it is hung: it gets no leases until one does, and after Limits.HangTimeout it is hung up on.

// orphanInterval takes the place of Limits.PingInterval, if that is off, for hosts whose process has ended.
const orphanInterval = 15 * time.Second

// alive: a frame of a host is here.
func (p *policy) alive(h *host) {
	h.heard = p.now
	if h.asked != 0 && !h.orphaned {
		p.revive(h)
	}
}

// revive: a host has given a sign of life that it was asked for.
func (p *policy) revive(h *host) {
	h.asked = 0
	if h.hung {
		h.hung = false
		p.heat(h.pool)
		p.reconsider(h.pool)
		p.act.tell(Event{Kind: EventHostAlive, Host: h.id, Name: h.name, Pool: h.pool.name})
	}
	p.wake = min(p.wake, p.aliveDue(h))
}

// askHosts does what is due about silent hosts.
func (p *policy) askHosts() {
	for h := range p.eachHost {
		if !h.gone && p.now >= p.aliveDue(h) {
			p.doubt(h)
		}
	}
}

func (p *policy) doubt(h *host) {
	switch {
	case h.asked == 0:
		p.ask(h)
	case !h.hung:
		p.hangs(h, "")
	default:
		h.gone = true
		p.act.giveUp(h)
	}
}

// hangs: a host gets no leases until it gives a sign of life.
func (p *policy) hangs(h *host, why string) {
	h.hung = true
	p.totals.HostsHung++
	p.reconsider(h.pool)
	p.act.tell(Event{Kind: EventHostHung, Host: h.id, Name: h.name, Pool: h.pool.name, Detail: why})
}

// aliveDue is when something is to be done about a host if it stays silent.
func (p *policy) aliveDue(h *host) int64 {
	switch {
	case h.gone:
	case h.asked == 0 && p.limits.PingInterval > 0:
		return h.heard + int64(p.limits.PingInterval)
	case h.asked == 0 && h.orphaned:
		return h.heard + int64(orphanInterval)
	case h.asked != 0 && (!h.hung || h.orphaned):
		return h.asked + int64(p.limits.PingTimeout)
	case h.hung && p.limits.HangTimeout > 0:
		return h.asked + int64(p.limits.PingTimeout) + int64(p.limits.HangTimeout)
	}
	return never
}

func (a *acts) giveUp(h *host) { a.hopeless = append(a.hopeless, h.link) }

// reviewHopeless hangs up on hosts that have been hung for too long: their leases come back as those of the dead.
func (m *Manager) reviewHopeless() {
	for _, l := range m.hopeless {
		if !l.gone && l.host.fault != nil {
			m.fail(l, l.host.fault)
		}
		if !l.gone {
			m.fail(l, handoff.Faultf(handoff.CodeNotAnswering, "no frame has come for %v, though one was asked for by PING",
				time.Duration(m.policy.now-l.host.heard).Round(time.Millisecond)))
		}
	}
	m.hopeless = m.hopeless[:0]
}

// logEvent tells the log what an operator should know without watching.
func (m *Manager) logEvent(e *Event) {
	switch e.Kind {
	case EventLeaseOverdue:
		m.log.Warn("a lease is out for long", "conn", uint64(e.Conn), "host", e.Host, "name", e.Name, "after", m.policy.limits.LeaseWarn)
	case EventHostHung:
		m.log.Warn("a host is hung: it gives no sign of life, and gets no leases until it does", "host", e.Host, "name", e.Name)
	case EventHostAlive:
		m.log.Info("a host that was hung gives signs of life again", "host", e.Host, "name", e.Name)
	case EventClosed:
		m.logClosed(e)
	}
}

// logClosed tells the log of connections that did not end well, with what is known of the request:
// at Warn what is not the client's doing, at Info what the sidecar has answered with an error, or
// ended for what the client did. Of each reason the first few in a while; the others are for Debug,
// as is all the rest.
func (m *Manager) logClosed(e *Event) {
	level := hclog.Debug
	switch e.Reason {
	case ReasonHostGone, ReasonRefused, ReasonLeaseTime:
		level = hclog.Warn
	case ReasonHost, ReasonExpired, ReasonHungUp, ReasonSilent, ReasonEvicted, ReasonOperator, ReasonStopped:
		return
	default:
		if e.Reason.blames() || statusFor(e.Reason) != 0 {
			level = hclog.Info
		}
	}
	left := uint64(0)
	if level > hclog.Debug {
		var ok bool
		if left, ok = m.samples[e.Reason].pass(m.policy.now); !ok {
			level = hclog.Debug
		}
	}
	if m.log.GetLevel() <= level {
		m.logEnd(e, level, left)
	}
}

// logEnd is the line about a connection that ends. left is how many lines about the same reason
// were left out before it.
func (m *Manager) logEnd(e *Event, level hclog.Level, left uint64) {
	r := m.policy.table.find(e.Conn)
	if r == nil {
		return
	}
	if e.Peer == "" {
		e.Peer = m.policy.peerOf(r, e.Conn.slot())
	}
	facts := []any{
		"conn", uint64(e.Conn), "peer", e.Peer, "pool", e.Pool, "host", e.Host, "reason", e.Reason,
		"state", r.state, "reset", r.marks&broken != 0, "answered", r.marks&replied != 0, "request", r.length,
	}
	if status := statusFor(e.Reason); status != 0 && r.marks&replied != 0 {
		facts = append(facts, "status", status)
	}
	if r.state == Ready || r.state == Leased {
		facts = append(facts, "deliveries", r.detail)
	}
	if left > 0 {
		facts = append(facts, "left_out", left)
	}
	m.log.Log(level, "a connection is closed", facts...)
}
