package manager

import (
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// makeReady puts a connection whose request has arrived into its pool's queue, in strict order of readiness. A sticky one waits for its
// own host alone.
func (p *policy) makeReady(r *record, slot uint32) {
	to := p.pools[r.pool]
	if to.queue.len >= p.limits.Queue {
		p.close(r, slot, ReasonQueueFull)
		return
	}
	p.leave(r, slot)
	r.detail = 0
	p.enter(r, slot, Ready, int64(p.limits.QueueTimeout))
	p.heat(to)
	if to.service.State == NoHost && !to.unserved.waiting {
		p.reconsider(to)
	}
}

// heat marks a pool for dispatch: something became ready, or a host has room again.
func (p *policy) heat(to *pool) {
	if !to.hot {
		to.hot = true
		p.hot = append(p.hot, to)
	}
}

// dispatch lends what is ready to the hosts that have room.
func (p *policy) dispatch() {
	if p.stopped {
		return
	}
	for _, to := range p.hot {
		to.hot = false
		p.dispatchSticky(to)
		p.dispatchQueue(to)
	}
	p.hot = p.hot[:0]
}

// undispatched reports whether the next dispatch has something to do.
func (p *policy) undispatched() bool { return len(p.hot) > 0 && !p.stopped }

func (p *policy) dispatchSticky(to *pool) {
	if !to.sticky {
		return
	}
	for _, h := range to.hosts {
		for p.hasRoom(h) {
			r, slot, ok := p.table.oldest(&h.waiting)
			if !ok {
				break
			}
			p.lease(h, r, slot)
		}
	}
}

func (p *policy) dispatchQueue(to *pool) {
	for {
		r, slot, ok := p.table.oldest(&to.queue)
		if !ok {
			return
		}
		h := p.choose(to, r)
		if h == nil {
			return
		}
		p.lease(h, r, slot)
	}
}

// lease lends a ready connection to a host that has room.
func (p *policy) lease(h *host, r *record, slot uint32) {
	id := p.id(r, slot)
	p.moveFrom(r, h, id)
	if r.length == 0 { // the rest of the request, if there is one, is the host's to hear of
		p.hush(r, slot)
	}
	flags := p.leaseFlags(r)
	withFD := r.marks&held == 0
	waited := time.Duration(p.now - r.since)
	p.totals.LeaseWaits.add(waited)
	p.leave(r, slot)
	r.host = h.id
	r.seq++
	p.noteBase(r, slot)
	p.act.lease(h, id, r, withFD, flags, waited) // first: what is said is said, a successor that finds the frame goes on from there
	p.enter(r, slot, Leased, p.leaseReview())
	p.totals.Leases++
	h.total++
	if p.watched {
		p.act.tell(Event{Kind: EventLeased, Conn: id, Host: h.id, Name: h.name, Pool: h.pool.name})
	}
}

// leaseReview is how long a lease needs no look.
func (p *policy) leaseReview() int64 {
	if p.limits.LeaseWarn > 0 {
		return int64(min(p.limits.LeaseWarn, p.limits.LeaseTimeout))
	}
	return int64(p.limits.LeaseTimeout)
}

// moveFrom tells the host that had the connection last, if that is another one, that it is no longer its own.
func (p *policy) moveFrom(r *record, h *host, id ConnID) {
	if r.host == h.id {
		return
	}
	if last := p.hosts[r.host]; last != nil && last.owns(r) {
		p.act.forget(last, id, handoff.ForgetMoved)
		if r.marks&held != 0 {
			p.reassert(r, last)
		}
	}
	r.marks &^= held
}

// leaseFlags also keeps a place for the connection among the kept ones: what is promised to one host cannot be promised to the next.
func (p *policy) leaseFlags(r *record) handoff.Flags {
	var flags handoff.Flags
	if r.marks&fresh != 0 {
		flags |= handoff.FlagFresh
	}
	if r.marks&silent != 0 {
		flags |= handoff.FlagSilent
	}
	room := p.kept < p.keepLimit()
	if r.marks&kept != 0 {
		room = p.kept <= p.keepLimit()
	}
	room = room && !p.wornOut(r)
	p.setKept(r, room)
	if !room {
		flags |= handoff.FlagLast
	}
	return flags
}

// expireQueues ends the wait of what no host has taken in time.
func (p *policy) expireQueues() {
	for to := range p.eachPool {
		p.expireWaiting(&to.queue)
	}
	for h := range p.eachHost {
		p.expireWaiting(&h.waiting)
	}
}

func (p *policy) expireWaiting(l *list) {
	for {
		r, slot, ok := p.table.oldest(l)
		if !ok || !p.overdue(r, int64(p.limits.QueueTimeout)) || !p.mayEnd() {
			return
		}
		p.close(r, slot, ReasonQueueTime)
	}
}
