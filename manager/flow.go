package manager

import "time"

// Whether a response flows. A lease is timed from its last sign of that: a download, or a stream of
// events, may take as long as its client goes on to take it. It is looked at only when a lease is
// due to be warned of or taken back, so the time may be up to twice the limit.

// flow is how far a client has come with what was sent to it.
type flow struct {
	acked  uint64        // bytes that it has acknowledged
	silent time.Duration // since something was last sent
}

// flowNote is what the last look at a lease has found.
type flowNote struct {
	lease uint64 // which one; the notes of others in the same slot do not count
	began int64  // when the lease began: record.since is later, once its response was seen to flow
	acked uint64
}

// leasedSince is when the lease of a connection began, or when it entered its state if it is not leased.
func (p *policy) leasedSince(r *record, slot uint32) int64 {
	if r.state != Leased {
		return r.since
	}
	if note := &p.memory.extra(slot).flow; note.lease == r.lease() {
		return note.began
	}
	return r.since
}

// stillFlows reports whether the response of a lease has flowed since the last look, or, at the
// first one, since the lease began. If so, the lease's time begins again.
func (p *policy) stillFlows(h *host, r *record, slot uint32) bool {
	now, known := p.act.flow(r.fd)
	if !known {
		return false
	}
	note := &p.memory.extra(slot).flow
	before := *note
	note.began, note.acked = p.leasedSince(r, slot), now.acked
	note.lease = r.lease() // last: a successor believes the note of this lease
	if before.lease != r.lease() {
		before = flowNote{}
		if int64(now.silent) >= p.now-r.since {
			return false
		}
	}
	if now.acked <= before.acked {
		return false
	}
	if r.marks&warned != 0 {
		p.noLongerWarned(r, slot)
	}
	p.table.unlink(&h.leases, slot)
	r.since = p.now
	p.table.push(&h.leases, slot)
	p.wake = min(p.wake, p.now+p.leaseReview())
	return true
}

// flow asks TCP (TCP_INFO, tcp(7)). Unix sockets do not tell.
func (a *acts) flow(fd int32) (f flow, known bool) {
	info, _, err := tcpInfo(fd)
	if err != nil {
		return flow{}, false
	}
	return flow{acked: info.Bytes_acked, silent: time.Duration(info.Last_data_sent) * time.Millisecond}, true
}
