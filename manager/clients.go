package manager

import (
	"hash/fnv"
	"net/netip"
	"time"
)

// clients counts what each client address has, if that is limited. It is made of the connections (countClients), and can be made of them again: what is
// lost then is only how many requests have come of late.
type clients struct {
	known map[clientKey]uint32 // index in all
	all   []account
	of    []uint32 // by slot: the index of its client plus one, 0: not counted
	// Those without connections, in the order in which their last one went: indices plus one. They are kept for the requests that they have sent.
	first, last uint32
}

// clientKey is an address: IPv4 as IPv6, and of IPv6 the first 64 bits, which is what one customer
// has at least (RFC 6177). A link-local address is one machine's: all of it counts, and its zone,
// in the bits that are 0 in every such address (RFC 4291, section 2.5.6).
type clientKey [16]byte

// account is what is known of an address.
type account struct {
	key         clientKey
	connections int32
	prev, next  uint32 // among those without connections
	due         int64  // when all its requests have had their time: a token bucket as one number, that it is full by then
}

func keyOf(address netip.Addr) clientKey {
	key := clientKey(address.As16())
	switch {
	case address.Is4() || address.Is4In6():
	case address.IsLinkLocalUnicast():
		key.addZone(address.Zone())
	default:
		clear(key[8:])
	}
	return key
}

func (k *clientKey) addZone(zone string) {
	if zone == "" {
		return
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(zone)) // never fails (hash.Hash)
	copy(k[2:8], h.Sum(nil))
}

// limitsClients reports whether what each client has is to be counted.
func (p *policy) limitsClients() bool {
	return p.limits.ClientConnections > 0 || p.limits.ClientRate > 0
}

// limitsAddress reports whether a client of that address may be limited.
func (p *policy) limitsAddress(address netip.Addr) bool {
	return address.IsValid() && !trusts(p.exempt, address.Unmap())
}

// addressOf is the address that a connection counts for: the one that a load balancer has told, else the socket's own; invalid if it is
// neither known yet, nor to be counted. A load balancer that tells nobody's address asks for itself.
func (p *policy) addressOf(r *record, slot uint32) netip.Addr {
	if peer, told := p.toldPeer(r, slot); told {
		return peer.Addr()
	}
	d := p.listeners[r.listener]
	if d.index == 0 || len(d.proxies) > 0 && r.marks&introduced == 0 {
		return netip.Addr{}
	}
	if address := p.act.peer(r.fd); !trusts(d.proxies, address) {
		return address
	}
	return netip.Addr{}
}

// countClients begins to count again, or ends it if clients are not limited. The connections that
// are here already are counted by countMore, since the kernel is asked for each address; those that
// come from now on are counted as they come.
func (p *policy) countClients() {
	p.clients, p.uncounted = clients{}, 0
	if p.limitsClients() {
		p.clients.known = map[clientKey]uint32{}
		p.uncounted = p.table.fresh
	}
}

// countMore counts connections that were here when their clients came to be limited, until it has
// spent the budget. It returns what it has spent.
func (p *policy) countMore(budget int) (spent int) {
	for ; p.uncounted > 0 && spent < budget; spent += costLook {
		p.uncounted--
		slot := p.uncounted
		if r := p.table.at(slot); r.state != Free && p.clients.at(slot) == nil {
			p.countClient(slot, p.addressOf(r, slot))
			spent += costPeer
		}
	}
	return spent
}

// countClient counts a connection for its client; nil if that is not limited.
func (p *policy) countClient(slot uint32, address netip.Addr) *account {
	if !p.limitsAddress(address) {
		return nil
	}
	p.clients.leave(slot)
	c := p.clients.join(slot, keyOf(address), p.limits.Clients, p.now)
	if c == nil {
		p.totals.ClientsUnlimited++
	}
	return c
}

// turnedAway reports whether a connection that has just come is one too many, and must go at once. One that is too many where there may be a 429 is
// marked instead, until its request is there: by then others may have gone.
func (p *policy) turnedAway(r *record, slot uint32, d *door) bool {
	if !p.limitsClients() {
		return false
	}
	c := p.countClient(slot, p.addressOf(r, slot))
	limit := p.limits.ClientConnections
	if c == nil || limit <= 0 || int(c.connections) <= limit {
		return false
	}
	if d.once() || int(c.connections) > 2*limit {
		return true
	}
	r.marks |= excess
	return false
}

// turnAway ends a connection at once and without a word: there is nothing of it that a proper close could save.
func (p *policy) turnAway(r *record, slot uint32) {
	p.totals.Closed[ReasonClientConnections]++
	p.act.tell(Event{Kind: EventClosed, Conn: p.id(r, slot), Pool: p.pools[r.pool].name, Reason: ReasonClientConnections})
	p.gone(r, slot)
}

// overLimit is why a request that has arrived is refused, if its client is over a limit.
func (p *policy) overLimit(r *record, slot uint32) Reason {
	c := p.clients.at(slot)
	if c == nil {
		return ReasonNone
	}
	if r.marks&excess != 0 {
		if limit := p.limits.ClientConnections; limit > 0 && int(c.connections) > limit {
			return ReasonClientConnections
		}
		r.marks &^= excess
	}
	if p.limits.ClientRate > 0 && !p.listeners[r.listener].once() && !c.takes(p.now, p.limits.ClientRate, p.limits.ClientBurst) {
		return ReasonClientRequests
	}
	return ReasonNone
}

// takes lets a request in if the client's bucket has a token: it holds burst of them and gets rate of them per second.
func (c *account) takes(now int64, rate, burst int) bool {
	each := int64(time.Second) / int64(rate)
	due := max(c.due, now) + each
	if due-now > each*int64(burst) {
		return false
	}
	c.due = due
	return true
}

// charge takes requests from the bucket of a connection's client though they have been answered:
// the next ones pay for them, until the bucket has a token again.
func (p *policy) charge(r *record, slot uint32, requests uint32) {
	c := p.clients.at(slot)
	if c == nil || requests == 0 || p.limits.ClientRate <= 0 || p.listeners[r.listener].once() {
		return
	}
	each := int64(time.Second) / int64(p.limits.ClientRate)
	c.due = max(c.due, p.now) + each*int64(requests)
}

// at is the client of a connection, nil if it is not counted.
func (s *clients) at(slot uint32) *account {
	if int(slot) >= len(s.of) || s.of[slot] == 0 {
		return nil
	}
	return &s.all[s.of[slot]-1]
}

// join counts a connection; nil if there is no room for its client.
func (s *clients) join(slot uint32, key clientKey, most int, now int64) *account {
	i, known := s.known[key]
	if !known {
		var room bool
		if i, room = s.add(most, now); !room {
			return nil
		}
		s.all[i] = account{key: key}
		s.known[key] = i
	} else if s.all[i].connections == 0 {
		s.unlink(i)
	}
	if need := int(slot) + 1 - len(s.of); need > 0 {
		s.of = append(s.of, make([]uint32, need)...)
	}
	s.of[slot] = i + 1
	s.all[i].connections++
	return &s.all[i]
}

// add makes room for one more: in the place of the one without connections for longest if its bucket is full, so that it is not missed, or if
// there are too many.
func (s *clients) add(most int, now int64) (i uint32, ok bool) {
	if s.first != 0 && (s.all[s.first-1].due <= now || len(s.all) >= most) {
		i = s.first - 1
		s.unlink(i)
		delete(s.known, s.all[i].key)
		return i, true
	}
	if len(s.all) >= most {
		return 0, false
	}
	s.all = append(s.all, account{})
	return uint32(len(s.all) - 1), true
}

// leave: a connection has gone.
func (s *clients) leave(slot uint32) {
	c := s.at(slot)
	if c == nil {
		return
	}
	i := s.of[slot] - 1
	s.of[slot] = 0
	if c.connections--; c.connections > 0 {
		return
	}
	c.prev, c.next = s.last, 0
	if s.last != 0 {
		s.all[s.last-1].next = i + 1
	} else {
		s.first = i + 1
	}
	s.last = i + 1
}

func (s *clients) unlink(i uint32) {
	c := &s.all[i]
	if c.prev != 0 {
		s.all[c.prev-1].next = c.next
	} else {
		s.first = c.next
	}
	if c.next != 0 {
		s.all[c.next-1].prev = c.prev
	} else {
		s.last = c.prev
	}
	c.prev, c.next = 0, 0
}
