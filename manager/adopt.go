package manager

import (
	"github.com/anteroom-io/anteroom/handoff"
)

// Connections that hosts bring (ADOPT). They take the room that is left and never make any: none is
// evicted for them, least of all another pool's. How many there may be is limited, for all hosts
// together and for each.

// adopt takes over a connection that a host brings: it becomes idle, in the host's pool. If it is
// denied, the descriptor stays the caller's, unless the fault is CodeOutOfDescriptors.
func (p *policy) adopt(h *host, fd int32, f *handoff.Frame) (ConnID, *handoff.Fault) {
	if denied := p.mayAdopt(h); denied != nil {
		return 0, denied
	}
	id, err := p.admit(fd, h.pool, 0, waitRequest, p.timeoutOf(msDuration(f.A)))
	if err != nil {
		return 0, handoff.Faultf(handoff.CodeOutOfDescriptors, "%v", err)
	}
	p.totals.Adopted++
	p.adopted(h, id, f)
	return id, nil
}

// mayAdopt is why a host may not bring one more connection now, nil if it may.
func (p *policy) mayAdopt(h *host) *handoff.Fault {
	switch {
	case h.draining || p.stopped:
		return handoff.Faultf(handoff.CodeStopping, "no new connections while stopping")
	case !p.roomLeft():
		return handoff.Faultf(handoff.CodeAtLimit, "%d connections are here already, which is the limit (max-connections)", p.limits.Connections)
	case p.kept >= p.keepLimit():
		return handoff.Faultf(handoff.CodeAtLimit, "%d connections are kept already, which is the limit (keep-alive-limit)", p.kept)
	case p.listeners[0].states.sum() >= p.limits.Adopted:
		return handoff.Faultf(handoff.CodeAtLimit, "hosts have brought %d connections already, which is the limit (max-adopted)", p.limits.Adopted)
	case h.adopted >= p.limits.HostAdopted:
		return handoff.Faultf(handoff.CodeAtLimit, "this host has brought %d connections already, which is the limit (max-host-adopted)", h.adopted)
	}
	return nil
}

// adopted makes an adopted connection its host's.
func (p *policy) adopted(h *host, id ConnID, f *handoff.Frame) {
	r := p.table.find(id)
	r.host, r.taken = h.id, takenUnknown
	if f.Flags&handoff.FlagSticky != 0 {
		p.markHeld(r, h, true)
	}
	p.setKept(r, true)
	if bringer := &p.memory.extra(id.slot()).bringer; *bringer == 0 {
		*bringer = h.id
		h.adopted++
	}
}

// recount counts a connection for the host that has brought it, in a successor.
func (p *policy) recount(r *record, slot uint32) {
	if r.listener != 0 {
		return
	}
	if h := p.hosts[p.memory.extra(slot).bringer]; h != nil {
		h.adopted++
	}
}

// uncount: a connection is about to go. Its slot's next one may be nobody's.
func (p *policy) uncount(r *record, slot uint32) {
	if r.listener != 0 {
		return
	}
	bringer := &p.memory.extra(slot).bringer
	if h := p.hosts[*bringer]; h != nil {
		h.adopted--
	}
	*bringer = 0
}
