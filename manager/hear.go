package manager

// What the selector tells of connections, and when it is to tell nothing.
//
// Where requests are looked at (Readiness head or request), every arrival is told, and a connection stays watched while it is leased: a request that has
// arrived whole brings no more of itself, so there is nothing to silence and nothing to arm again, two system calls less. What is told of a leased
// connection is only remembered, and looked at when it is put. Elsewhere, and while a host is reading a request whose end is unknown, the connection is hushed.

// news is what the selector says of a connection.
type news uint8

const (
	newsBytes  news = iota // bytes are there
	newsLast               // the client will send no more; bytes may be there
	newsHungUp             // the connection has ended, both ways
	newsRoom               // there is room to send
)

// once reports whether a door's connections are told of once, and then are hushed.
func (d *door) once() bool { return d.ready == ReadyBytes }

// toldOnce reports whether a connection is told of once, and then is hushed.
func (p *policy) toldOnce(r *record) bool { return p.listeners[r.listener].once() && r.marks&vain == 0 }

// readable takes news of a connection.
func (p *policy) readable(id ConnID, n news) {
	r := p.table.find(id)
	if r == nil {
		return
	}
	if n == newsLast || n == newsHungUp {
		r.marks |= ended
	}
	if p.toldOnce(r) {
		r.marks |= hushed
	}
	slot := id.slot()
	switch r.state {
	case Idle:
		if n == newsHungUp {
			p.close(r, slot, ReasonHungUp)
		} else {
			p.examine(r, slot)
		}
	case Ready:
		if n == newsHungUp { // nobody is left to be answered
			p.close(r, slot, ReasonHungUp)
		}
		r.marks |= stirred
	case Leased:
		r.marks |= stirred
	case Finishing:
		if n == newsHungUp {
			p.close(r, slot, ReasonHungUp)
		} else {
			p.sendRest(r, slot)
		}
	case Closing:
		if n == newsHungUp {
			p.gone(r, slot)
		}
	}
}

// hear listens to an idle connection again, or looks at what was told of it meanwhile.
func (p *policy) hear(r *record, slot uint32) {
	switch {
	case r.marks&hushed != 0:
		r.marks &^= hushed | stirred
		if p.act.arm(r.fd, p.id(r, slot), p.toldOnce(r)) != nil {
			p.close(r, slot, ReasonFailed)
		}
	case r.marks&(stirred|ended) != 0: // what the client said before it was put is told no more
		r.marks &^= stirred
		p.examine(r, slot)
	}
}

// hush lets the selector tell nothing of a connection.
func (p *policy) hush(r *record, slot uint32) {
	if r.marks&hushed == 0 {
		r.marks |= hushed
		p.act.disarm(r.fd, p.id(r, slot))
	}
}

// hushOnce is hush for a connection that would be told of once, and is looked at before that.
func (p *policy) hushOnce(r *record, slot uint32) {
	if p.listeners[r.listener].once() {
		p.hush(r, slot)
	}
}
