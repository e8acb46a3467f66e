package manager

// choose picks the host for a ready connection, nil if none has room: the one that had the connection last, since it may hold its descriptor and
// its buffers are warm, else the one with the most room. The search begins at another host each time, so that equals take turns.
//
// A host that has just refused the connection (NACK) is chosen again only if nobody else has room.
func (p *policy) choose(to *pool, r *record) *host {
	last := p.hosts[r.host]
	if last != nil && last.pool == to && r.marks&spurned == 0 && p.hasRoom(last) {
		return last
	}
	var best *host
	most := 0
	for i := range to.hosts {
		h := to.hosts[(to.turn+i)%len(to.hosts)]
		if room := p.room(h); room > most && (h != last || r.marks&spurned == 0) {
			best, most = h, room
		}
	}
	if len(to.hosts) > 0 {
		to.turn = (to.turn + 1) % len(to.hosts)
	}
	if best == nil && last != nil && last.pool == to && p.hasRoom(last) {
		return last
	}
	return best
}

// room is how many more leases a host takes now.
func (p *policy) room(h *host) int {
	if h.draining || h.hung || h.resume > 0 {
		return 0
	}
	return h.capacity - h.leases.len
}

func (p *policy) hasRoom(h *host) bool { return p.room(h) > 0 }
