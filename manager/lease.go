package manager

import (
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// What hosts say about their leases. An answer to a lease that is over is ignored and counted; an answer to another host's lease is a fault.

// leased finds the connection that an answer is about; nil without a fault if the answer is to be ignored.
func (p *policy) leased(h *host, f *handoff.Frame) (*record, uint32, *handoff.Fault) {
	id := ConnID(f.Conn)
	r := p.table.find(id)
	if r == nil || r.state != Leased || r.seq != f.Seq {
		h.stale++
		p.totals.Stale++
		return nil, 0, nil
	}
	if r.host != h.id {
		return nil, 0, handoff.Faultf(handoff.CodeNotYours, "%s: connection %d is leased to another host", f.Type, f.Conn)
	}
	return r, id.slot(), nil
}

// answered counts the requests of a lease that ends; 0 stands for one. The first was charged to its
// client when it arrived, the others, which have come with it, are charged now.
func (p *policy) answered(r *record, slot uint32, requests uint64) {
	n := uint32(min(max(requests, 1), 1<<20))
	r.requests += n
	p.totals.Requests += uint64(n)
	p.charge(r, slot, n-1)
}

// put takes a connection back that a host has finished with, for its next request.
func (p *policy) put(h *host, f *handoff.Frame) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		return fault
	}
	p.answered(r, slot, f.B)
	r.tookRequests(f.B)
	stuck := f.Flags&handoff.FlagSticky != 0
	p.putBack(r, slot, msDuration(f.A), true, stuck)
	return nil
}

// markHeld remembers that a host keeps the descriptor, if it does.
func (p *policy) markHeld(r *record, h *host, stuck bool) {
	if h.cache || stuck {
		r.marks |= held
	}
	if stuck {
		r.marks |= sticky
		h.sticky, h.pool.sticky = true, true
	}
}

// putBack makes a leased connection idle. keeps: its host may hold on to the descriptor.
func (p *policy) putBack(r *record, slot uint32, timeout time.Duration, keeps, stuck bool) {
	p.release(r, p.hosts[r.host], keeps, stuck)
	p.makeIdle(r, slot, timeout)
}

// release: a host has answered a request, and lets go of the connection, or holds on to its descriptor.
func (p *policy) release(r *record, h *host, keeps, stuck bool) {
	r.marks &^= fresh | silent | spurned | held | sticky | bodiless | vain
	r.head, r.length = 0, 0
	if keeps {
		p.markHeld(r, h, stuck)
	}
	if r.marks&held == 0 {
		p.reassert(r, h)
	}
}

// makeIdle watches for the next request of a connection, or ends it: its pool or host may be leaving, and there may be too many.
func (p *policy) makeIdle(r *record, slot uint32, timeout time.Duration) {
	id, h, to := p.id(r, slot), p.hosts[r.host], p.pools[r.pool]
	p.totals.Puts++
	p.enterIdle(r, slot, waitRequest, p.withinAge(r, p.timeoutOf(timeout)))
	if p.watched {
		p.act.tell(Event{Kind: EventPut, Conn: id, Host: r.host, Name: h.label(), Pool: to.name})
	}
	if to.ended || r.marks&sticky != 0 && (h == nil || h.draining) {
		p.close(r, slot, ReasonStopped)
		return
	}
	p.setKept(r, true)
	p.hear(r, slot)
	p.evictSoon()
}

// reassert sets O_NONBLOCK again if a host has cleared it: the flag belongs to the open file description, which all who have the connection share
// (fcntl(2)). It is looked at when a host lets go of a connection; while it holds on, it can only harm itself.
func (p *policy) reassert(r *record, h *host) {
	if p.act.nonblock(r.fd) {
		h.violations++
		p.totals.Violations++
	}
}

// closeLease ends a connection as its host asks.
func (p *policy) closeLease(h *host, f *handoff.Frame) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		return fault
	}
	p.answered(r, slot, f.B)
	r.marks &^= held
	p.close(r, slot, ReasonHost)
	return nil
}

// detach gives a connection away for good.
func (p *policy) detach(h *host, f *handoff.Frame) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		return fault
	}
	p.answered(r, slot, f.B)
	p.totals.Closed[ReasonDetached]++
	p.act.tell(Event{Kind: EventDetached, Conn: p.id(r, slot), Host: h.id, Name: h.name, Pool: h.pool.name, Reason: ReasonDetached})
	p.gone(r, slot)
	return nil
}

// nackPause is how long a host that said it is overloaded, or out of descriptors, gets no lease, unless it gives one back first.
const nackPause = int64(100 * time.Millisecond)

// nack takes back a lease that the host cannot take, at the head of the queue: it was there before.
func (p *policy) nack(h *host, f *handoff.Frame) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		return fault
	}
	h.nacks++
	if f.A == handoff.NackNoDescriptor && h.resume == 0 { // else it has been told just now
		p.unhold(h)
	}
	r.marks &^= held
	r.marks |= spurned
	if r.detail++; int(r.detail) > p.limits.Redeliveries || r.marks&sticky != 0 {
		p.close(r, slot, ReasonRefused)
		return nil
	}
	p.redeliver(r, slot)
	if f.A != handoff.NackUnknown {
		h.resume = p.now + nackPause
		p.wake = min(p.wake, h.resume)
	}
	return nil
}

// returned: a lease has ended, so its host has room, or, draining, may be done.
func (p *policy) returned(h *host) {
	h.resume = 0
	p.heat(h.pool)
	if p.stop != nil && !p.stop.cutting {
		p.stop.finished++
	}
	p.hangUpIfDone(h)
}

// expireLeases warns of what hosts have had for long, and takes back what they have had for too long.
func (p *policy) expireLeases() {
	for h := range p.eachHost {
		p.warnLeases(h)
		for {
			r, slot, ok := p.table.oldest(&h.leases)
			if !ok || !p.overdue(r, int64(p.limits.LeaseTimeout)) || !p.mayEnd() {
				break
			}
			if !p.stillFlows(h, r, slot) {
				p.revokeLease(r, slot, ReasonLeaseTime)
			}
		}
	}
}

// unwarned is the longest lease of a host that was not warned of; nil if there is none. Warned ones are the first of the list.
func (p *policy) unwarned(h *host) (*record, uint32) {
	link := h.leases.first
	if h.warned != 0 {
		link = p.table.at(h.warned - 1).next
	}
	if link == 0 {
		return nil, 0
	}
	return p.table.at(link - 1), link - 1
}

func (p *policy) warnLeases(h *host) {
	for p.now >= p.warnDue(h) {
		r, slot := p.unwarned(h)
		if p.stillFlows(h, r, slot) {
			continue
		}
		r.marks |= warned
		h.warned = slot + 1
		p.totals.Overdue++
		p.act.tell(Event{Kind: EventLeaseOverdue, Conn: p.id(r, slot), Host: h.id, Name: h.name, Pool: h.pool.name})
	}
}

// warnDue is when the next lease of a host is to be warned of.
func (p *policy) warnDue(h *host) int64 {
	if r, _ := p.unwarned(h); r != nil && p.limits.LeaseWarn > 0 {
		return r.since + int64(p.limits.LeaseWarn)
	}
	return never
}

// noLongerWarned: a lease that was warned of ends. It is still in its host's list.
func (p *policy) noLongerWarned(r *record, slot uint32) {
	r.marks &^= warned
	if h := p.hosts[r.host]; h.warned == slot+1 {
		h.warned = r.prev
	}
}
