package manager

import "github.com/anteroom-io/anteroom/handoff"

// What is done for a host with `cache` that is out of descriptors (NACK 1). It holds those of idle
// connections, which may be all that it has; it is told to let go of some, so that it has room for
// the lease when it comes again.

const (
	unholdMost = 16   // connections that a host is told to let go of at once
	unholdLook = 1024 // idle connections that are looked at for that
)

// unhold tells a host to let go of the idle connections that it has held for longest, a few of
// them, and returns how many.
func (p *policy) unhold(h *host) (n int) {
	if !h.cache {
		return 0
	}
	left := unholdLook
	for i := range p.idle.classes {
		if p.idle.classes[i].kind != waitRequest {
			continue
		}
		for link := p.idle.classes[i].list.first; link != 0 && left > 0 && n < unholdMost; left-- {
			r, slot := p.table.at(link-1), link-1
			if link = r.next; r.host == h.id && r.marks&held != 0 && r.marks&sticky == 0 {
				p.letGo(h, r, slot)
				n++
			}
		}
	}
	return n
}

// letGo takes the descriptor of an idle connection away from a host: the next lease of it comes
// with one, to whichever host.
func (p *policy) letGo(h *host, r *record, slot uint32) {
	p.act.forget(h, p.id(r, slot), handoff.ForgetMoved)
	r.marks &^= held
	p.reassert(r, h)
}
