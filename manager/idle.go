package manager

import "time"

// idleOrder keeps the idle connections in the order in which they will expire, one list for each length of time. Within a list the first
// is both the next to expire and the least recently used, so neither question ever scans connections.
type idleOrder struct {
	memory  *Memory
	classes []idleClass
}

// idleClass is the idle connections that may stay idle equally long.
type idleClass struct {
	timeout int64 // ns
	kind    wait
	list    list
}

// wait is what an idle connection waits for.
type wait uint8

const (
	waitRequest   wait = iota // the next one, of a kept connection: only these are ever evicted
	waitFirstByte             // of a new connection
	waitRest                  // of a request that has begun to arrive
)

// maxClasses bounds how many different timeouts may be in use at once, for each kind of wait.
const maxClasses = 64

// classFor returns the class for a timeout. When all classes are taken, an unfamiliar timeout is shortened to the next one in use, or, below
// all of them, lengthened to the shortest.
func (o *idleOrder) classFor(timeout int64, kind wait) uint8 {
	unused, alike := -1, 0
	for i := range o.classes {
		c := &o.classes[i]
		switch {
		case c.timeout == timeout && c.kind == kind:
			return uint8(i)
		case c.list.len == 0:
			unused = i
		case c.kind == kind:
			alike++
		}
	}
	switch {
	case unused >= 0:
		return o.set(unused, timeout, kind)
	case alike < maxClasses:
		o.classes = append(o.classes, idleClass{})
		return o.set(len(o.classes)-1, timeout, kind)
	}
	return o.nearest(timeout, kind)
}

func (o *idleOrder) set(class int, timeout int64, kind wait) uint8 {
	o.classes[class] = idleClass{timeout: timeout, kind: kind}
	o.memory.head.classes[class] = classNote{timeout, kind}
	return uint8(class)
}

// nearest is for when there are classes of this kind, all in use.
func (o *idleOrder) nearest(timeout int64, kind wait) uint8 {
	longest, shortest := -1, -1 // the longest that is not longer than timeout; the shortest of all
	for i := range o.classes {
		c := &o.classes[i]
		if c.kind != kind {
			continue
		}
		if c.timeout <= timeout && (longest < 0 || c.timeout > o.classes[longest].timeout) {
			longest = i
		}
		if shortest < 0 || c.timeout < o.classes[shortest].timeout {
			shortest = i
		}
	}
	if longest >= 0 {
		return uint8(longest)
	}
	return uint8(shortest)
}

// leastRecentlyUsed returns the kept connection that has been idle longest.
func (o *idleOrder) leastRecentlyUsed(t *table) (lru *record, at uint32, ok bool) {
	for i := range o.classes {
		if o.classes[i].kind != waitRequest {
			continue
		}
		if r, slot, some := t.oldest(&o.classes[i].list); some && (!ok || r.since < lru.since) {
			lru, at, ok = r, slot, true
		}
	}
	return lru, at, ok
}

// expireIdle ends what has been idle for its time. A request that has just arrived wins: closing then would lose it.
func (p *policy) expireIdle() {
	for i := range p.idle.classes {
		for {
			c := &p.idle.classes[i]
			r, slot, ok := p.table.oldest(&c.list)
			if !ok || !p.overdue(r, c.timeout) || !p.mayEnd() {
				break
			}
			p.expireOne(r, slot, c.kind)
		}
	}
}

func (p *policy) expireOne(r *record, slot uint32, kind wait) {
	switch {
	case kind == waitRest:
		p.reviewPartial(r, slot)
	case p.comes(r):
		p.crossed(r, slot)
	case kind == waitRequest:
		p.close(r, slot, ReasonExpired)
	case p.listeners[r.listener].silentLease:
		r.marks |= silent
		p.hushOnce(r, slot)
		p.makeReady(r, slot)
	default:
		p.close(r, slot, ReasonSilent)
	}
}

// evict closes the least recently used kept connection, if there is one: to make room for a new one, or, if it has been idle for Limits.MinIdle, because
// too many are kept. Those whose next request has just arrived are handed on instead; a few of them at most, the rest are found on a later turn.
func (p *policy) evict(forRoom bool) (*record, uint32, bool) {
	for range 8 {
		r, slot, ok := p.idle.leastRecentlyUsed(&p.table)
		if !ok || !forRoom && !p.overdue(r, int64(p.minIdle())) {
			return nil, 0, false
		}
		if !p.comes(r) {
			p.close(r, slot, ReasonEvicted)
			return r, slot, true
		}
		p.crossed(r, slot)
		if forRoom && p.roomLeft() || !forRoom && p.kept <= p.keepLimit() { // it has come to an end
			return nil, 0, false
		}
	}
	return nil, 0, false
}

// minIdle is Limits.MinIdle as a time.
func (p *policy) minIdle() time.Duration { return max(p.limits.MinIdle, 0) }

// evictExcess evicts what is kept beyond the limit and has been idle for the least time, as much as
// a turn may.
func (p *policy) evictExcess() {
	for p.kept > p.keepLimit() && p.mayEnd() {
		if _, _, ok := p.evict(false); !ok {
			return
		}
	}
}

// evictDue is when evictExcess has something to do.
func (p *policy) evictDue() int64 {
	if p.kept <= p.keepLimit() {
		return never
	}
	r, _, ok := p.idle.leastRecentlyUsed(&p.table)
	if !ok {
		return never
	}
	return r.since + int64(p.minIdle())
}

// evictSoon is for when one more is kept: it evicts two at most, so that there are soon no more
// than the limit. expire sees to the rest.
func (p *policy) evictSoon() {
	for range 2 {
		if p.kept > p.keepLimit() {
			p.evict(false)
		}
	}
	p.wake = min(p.wake, p.evictDue())
}

// crossed hands on an idle connection that was about to be closed when its next request arrived.
func (p *policy) crossed(r *record, slot uint32) {
	p.totals.Crossed++
	p.hushOnce(r, slot)
	p.examine(r, slot)
}

// timeoutOf is how long a put connection stays idle: what the host asks for, else the default, within the bounds of Limits.
func (p *policy) timeoutOf(asked time.Duration) int64 {
	if asked <= 0 {
		return int64(p.limits.KeepAliveTimeout)
	}
	return int64(min(max(asked, MinTimeout), MaxTimeout))
}

// ageSteps is into how many parts a keep-alive timeout is divided for connections that will be too old before it is over. They end at the end
// of such a part: connections with any age share few classes.
const ageSteps = 8

// withinAge shortens a keep-alive timeout for a connection that may not become older than Limits.Age.
func (p *policy) withinAge(r *record, timeout int64) int64 {
	if p.limits.Age <= 0 {
		return timeout
	}
	left := max(int64(p.limits.Age)-p.ageOf(r), 1)
	if left >= timeout || timeout < ageSteps {
		return timeout
	}
	step := timeout / ageSteps
	return min((left+step-1)/step*step, timeout)
}

func (p *policy) ageOf(r *record) int64 { return p.now - int64(r.created)*int64(time.Second) }

// wornOut reports whether the request that is about to be lent is to be the connection's last.
func (p *policy) wornOut(r *record) bool {
	return p.limits.Age > 0 && p.ageOf(r) >= int64(p.limits.Age) || p.limits.Requests > 0 && int64(r.requests)+1 >= int64(p.limits.Requests)
}
