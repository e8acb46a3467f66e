package manager

import (
	"math"
	"net/netip"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/proxied"
	"github.com/anteroom-io/anteroom/scan"
)

// actor is what the policy needs done in the world. The loop does it with system calls (act.go), tests with a model.
//
// No method calls back into the policy. A descriptor given to drop or release is gone when the call returns; until then it is open.
type actor interface {
	// watch tells what happens on the connection: every arrival, or, with once, that there is something, and then nothing more until arm. It is the
	// first call for this connection.
	watch(fd int32, id ConnID, once bool) error
	// watchQuietly tells nothing until arm. It is the first call for this connection in a successor.
	watchQuietly(fd int32, id ConnID) error
	// arm does it again, after something was told once, or disarm, await or watchRoom was called; what is there already is told too.
	arm(fd int32, id ConnID, once bool) error
	// disarm: nothing more is told until arm.
	disarm(fd int32, id ConnID)
	// unread is how many bytes wait in the receive queue.
	unread(fd int32) int
	// some reports whether there is anything in the receive queue. If there never will be, over says why.
	some(fd int32) (is bool, over Reason)
	// look looks at the request in the receive queue, without taking it, and says how many bytes
	// there are. If there are none and never will be, over says why.
	look(fd int32, limits scan.Limits, s *scan.Scanner) (seen scan.Seen, unread int, over Reason)
	// room asks whether the client has room to send more, if need bytes are waited for and are not there.
	room(fd int32, need int) room
	// introduce looks for a PROXY header from one of the proxies, and says how many bytes there are.
	introduce(fd int32, proxies []listener.Subnet) (seen proxied.Seen, unread int)
	// takeAway removes bytes from the front of the receive queue.
	takeAway(fd int32, n int)
	// peer is the address of the socket's other end; invalid if it has none, or is reset.
	peer(fd int32) netip.Addr
	// await is arm for when there are at least need bytes.
	await(fd int32, id ConnID, need int) error
	// settle ends the effect of await on the descriptor, before somebody else gets it.
	settle(fd int32)
	// watchRoom tells whenever the socket has room again, until arm.
	watchRoom(fd int32, id ConnID) error
	// maySend reports whether files can be sent at all now.
	maySend() bool
	// send has a part of a remainder sent, keeps its account, and then calls policy.sent: later, not within.
	send(fd int32, id ConnID, rest *remainder)
	// resume finds out what a predecessor's helper has sent of a remainder; false if it may still send more.
	resume(id ConnID, rest *remainder) bool
	// closeFile closes the file of a remainder, which the host has given.
	closeFile(file int32, from HostID)
	// base notes the kernel's counters at the outset of a lease.
	base(fd int32) base
	// fate finds out what a host has done to a request.
	fate(fd int32, o outset) fate
	// flow asks how far the client has come with what was sent to it; known is false where that
	// cannot be seen.
	flow(fd int32) (f flow, known bool)
	// breakOff lets the connection end in a reset.
	breakOff(fd int32)
	// goOn tells the client that its body is waited for (100 Continue).
	goOn(fd int32)
	// answer sends an error response to the request that waits, without a body if it is a HEAD.
	answer(fd int32, status int, bodiless bool)
	// nonblock sets O_NONBLOCK where it is missing, and reports that it was.
	nonblock(fd int32) bool
	// lease sends LEASE for the connection, with the descriptor if withFD.
	lease(h *host, id ConnID, r *record, withFD bool, flags handoff.Flags, waited time.Duration)
	// forget sends FORGET.
	forget(h *host, id ConnID, why uint64)
	// hangUp ends the link to a drained host, once what is queued for it is sent.
	hangUp(h *host)
	// shut begins a proper close: our FIN goes out behind what is queued, and what still arrives is told (and must be read away). It
	// returns false if the client's FIN is there already, or the connection is broken, so that there is nothing to wait for.
	shut(fd int32, id ConnID) bool
	// drop closes our descriptor. shared: others may have, or have had, the socket.
	drop(fd int32, id ConnID, shared bool)
	// ping asks a host for a sign of life.
	ping(h *host)
	// giveUp ends the link to a host that gives none, after the turn.
	giveUp(h *host)
	// tell passes an event on to watchers, and to the log.
	tell(Event)
}

// policy is every decision about connections. It knows no clock and no system call: now is set by the caller before each event, in ns of a clock that
// never goes back. It is not safe for concurrent use.
//
// Its parts: hear.go (what the selector tells), introduce.go (who the client is), partial.go (what
// has arrived of a request), room.go (whether more can come), idle.go (expiry and eviction),
// queue.go (what waits for a host), choose.go (which host), lease.go (the hosts' answers), flow.go
// (whether responses flow), alive.go (whether hosts live), clients.go (what each client has),
// finish.go (what is left of a response), host.go (hosts and pools coming and going), stop.go
// (operators).
type policy struct {
	now    int64
	wake   int64 // when expire is due; never later than the first deadline
	limits Limits
	exempt []listener.Subnet // client addresses that are not limited
	act    actor
	memory *Memory

	table     table
	idle      idleOrder
	partials  map[uint32]begun // by slot
	scanner   scan.Scanner     // of the present look
	finishing list
	closing   list
	clients   clients // can be made anew of the connections
	uncounted uint32  // the slots below were there before clients were limited, and are still to be counted
	pools     []*pool // by record.pool; nil where one has gone
	poolNames map[string]*pool
	hosts     map[HostID]*host
	listeners []*door // by record.listener; the first stands for adopted connections
	hot       []*pool // with something to dispatch
	stop      *stopping
	stopped   bool
	draining  bool // the sidecar ends

	unsure []*pool       // their states are to be reviewed
	fed    serviceCounts // pools that listeners feed, by state
	unfed  serviceCounts // the others

	states   stateCounts
	kept     int  // connections marked kept
	watched  bool // somebody wants the events of every request
	endings  int  // how many more connections may be ended before the next turn because their time is over
	lastHost HostID
	totals   *Totals
}

// stateCounts counts connections by State.
type stateCounts [stateCount]int

func (c *stateCounts) sum() (n int) {
	for _, count := range c {
		n += count
	}
	return n
}

func (c *stateCounts) public() StateCounts {
	return StateCounts{Idle: c[Idle], Ready: c[Ready], Leased: c[Leased], Finishing: c[Finishing], Closing: c[Closing]}
}

// never is a deadline that does not come.
const never = int64(math.MaxInt64)

func newPolicy(limits Limits, act actor, memory *Memory) *policy {
	p := &policy{
		limits: limits, act: act, wake: never, memory: memory, table: table{memory: memory}, idle: idleOrder{memory: memory}, totals: &memory.head.totals,
		poolNames: map[string]*pool{}, hosts: map[HostID]*host{}, partials: map[uint32]begun{},
		listeners: []*door{{}},
	}
	p.countClients()
	return p
}

func (p *policy) id(r *record, slot uint32) ConnID { return makeID(r.generation, slot) }

// mayAccept reports whether there is room for one more connection, making it if a kept one can go.
func (p *policy) mayAccept() bool { return p.roomLeft() || p.makeRoom() }

func (p *policy) roomLeft() bool { return p.table.live < p.limits.Connections }

// roomInSight reports whether mayAccept is worth asking again.
func (p *policy) roomInSight() bool {
	_, _, kept := p.idle.leastRecentlyUsed(&p.table)
	return kept || p.roomLeft()
}

// makeRoom drops the least recently used kept connection at once, without lingering: nothing of it is unread, and the kernel sends what is
// unsent after close(2).
func (p *policy) makeRoom() bool {
	r, slot, ok := p.evict(true)
	if ok && r.state == Closing {
		p.gone(r, slot)
	}
	return p.roomLeft()
}

// accepted takes over a new connection of a listener. It fails only if the selector cannot watch it; the descriptor is then closed. The id is 0 if
// the connection has been turned away.
func (p *policy) accepted(fd int32, door uint16) (ConnID, error) {
	d := p.listeners[door]
	p.totals.Accepted++
	d.accepted++
	id, err := p.admit(fd, d.pool, door, waitFirstByte, int64(d.firstByteTimeout(p.limits)))
	if err != nil {
		return 0, err
	}
	if r := p.table.find(id); p.turnedAway(r, id.slot(), d) {
		p.turnAway(r, id.slot())
		return 0, nil
	}
	return id, nil
}

// admit gives a connection its record, and waits for its first event.
func (p *policy) admit(fd int32, to *pool, door uint16, kind wait, timeout int64) (ConnID, error) {
	r, slot, ok := p.table.add()
	if !ok { // cannot be: Limits.Connections is below the number of slots, but for used-up generations
		p.act.drop(fd, 0, true)
		return 0, errTableFull
	}
	id := p.id(r, slot)
	r.fd, r.pool, r.listener, r.created = fd, to.index, door, uint32(p.now/int64(time.Second))
	if kind == waitFirstByte {
		r.marks |= fresh
	}
	p.enterIdle(r, slot, kind, timeout)
	if err := p.act.watch(fd, id, p.listeners[door].once()); err != nil {
		p.totals.Closed[ReasonFailed]++
		p.gone(r, slot)
		return 0, err
	}
	return id, nil
}

// enter moves a connection to a state: out of its list and its counts, into the new ones.
func (p *policy) enter(r *record, slot uint32, s State, timeout int64) {
	p.leave(r, slot)
	r.since = p.now
	r.state = s
	p.table.push(p.listOf(r), slot)
	p.count(r, +1)
	r.marks &^= moving
	p.wake = min(p.wake, p.now+timeout)
}

// leave takes a connection out of its state. Between leave and enter it is in no list and may change its host. A successor that finds it so takes it
// to be where it was: what moved it comes again, or has to be done again.
func (p *policy) leave(r *record, slot uint32) {
	if r.state == Free || r.marks&moving != 0 {
		return
	}
	if r.marks&warned != 0 {
		p.noLongerWarned(r, slot)
	}
	p.table.unlink(p.listOf(r), slot)
	p.count(r, -1)
	r.marks |= moving
	if r.state == Leased {
		p.returned(p.hosts[r.host])
	}
}

func (p *policy) count(r *record, by int) {
	p.states[r.state] += by
	p.pools[r.pool].states[r.state] += by
	p.listeners[r.listener].states[r.state] += by
}

// listOf is the one list that a connection is in: its state says which.
func (p *policy) listOf(r *record) *list {
	switch r.state {
	case Idle:
		return &p.idle.classes[r.detail].list
	case Ready:
		if r.marks&sticky != 0 {
			return &p.hosts[r.host].waiting
		}
		return &p.pools[r.pool].queue
	case Leased:
		return &p.hosts[r.host].leases
	case Finishing:
		return &p.finishing
	default:
		return &p.closing
	}
}

// enterIdle: idle connections are sorted by how long they may be.
func (p *policy) enterIdle(r *record, slot uint32, kind wait, timeout int64) {
	p.leave(r, slot)
	r.detail = p.idle.classFor(timeout, kind)
	p.enter(r, slot, Idle, p.idle.classes[r.detail].timeout)
}

// close begins the end of a connection in any state but closing, whoever wants it: its host forgets it, our FIN goes out, and it lingers.
func (p *policy) close(r *record, slot uint32, why Reason) {
	id := p.id(r, slot)
	if its := p.concerned(r, why); its != nil {
		p.act.forget(its, id, why.forget()) // first: a successor that finds the frame knows that the lease is over
	}
	p.answerFor(r, why)
	p.settle(r, slot)
	p.dropRest(r, slot)
	p.setKept(r, false)
	p.totals.Closed[why]++
	p.act.tell(Event{Kind: why.event(), Conn: id, Host: r.host, Pool: p.pools[r.pool].name, Reason: why})
	r.marks &^= held
	p.enter(r, slot, Closing, int64(p.limits.LingerTimeout))
	if why == ReasonHungUp || why == ReasonFailed || r.marks&broken != 0 || !p.act.shut(r.fd, id) {
		p.gone(r, slot)
	}
}

// gone is the last thing that happens to a connection: its descriptor is closed and its slot is free.
func (p *policy) gone(r *record, slot uint32) {
	p.setKept(r, false)
	delete(p.partials, slot)
	p.clients.leave(slot)
	p.uncount(r, slot)
	p.dropRest(r, slot)
	fd := r.fd
	r.fd = toBeClosed(fd)
	p.act.drop(fd, p.id(r, slot), p.shared(r))
	p.leave(r, slot)
	to, door := p.pools[r.pool], p.listeners[r.listener]
	p.table.remove(slot)
	p.forgetDoor(door)
	p.forgetPool(to)
}

// shared reports whether others may have a connection's socket, or have had it: a host, or who
// shares its listener. Unix sockets may have been sent descriptors, which close with them.
func (p *policy) shared(r *record) bool {
	d := p.listeners[r.listener]
	return r.seq > 0 || r.listener == 0 || d.edge || d.shared
}

// toBeClosed is what a record says of a descriptor that is not its connection's any more, whether it is closed already or not; and back.
func toBeClosed(fd int32) int32 { return -2 - fd }

// concerned is the host that is to be told if a connection ends, because it has it or holds it; nil if there is none.
func (p *policy) concerned(r *record, why Reason) *host {
	h := p.hosts[r.host]
	if h == nil || h.gone {
		return nil
	}
	if r.state == Leased && why != ReasonHost && why != ReasonRefused || h.owns(r) {
		return h
	}
	return nil
}

// setKept counts a connection among the kept ones, or no longer.
func (p *policy) setKept(r *record, on bool) {
	switch {
	case on && r.marks&kept == 0:
		r.marks |= kept
		p.kept++
	case !on && r.marks&kept != 0:
		r.marks &^= kept
		p.kept--
	}
}

// keepLimit is Limits.KeepAlive as a number of connections.
func (p *policy) keepLimit() int { return max(p.limits.KeepAlive, 0) }

// endingsPerTurn bounds how many connections one turn ends because their time is over, or because
// there are too many: as many as there are may come to their end at once. The rest follows in the
// next turns.
const endingsPerTurn = 64

// mayEnd takes one of the endings of this turn. If there is none left, expire goes on in the next turn.
func (p *policy) mayEnd() bool {
	if p.endings == 0 {
		p.wake = p.now
		return false
	}
	p.endings--
	return true
}

// expire ends what is overdue, as much as a turn may, and finds out when it is due next.
func (p *policy) expire() {
	p.endings = endingsPerTurn
	if p.now < p.wake {
		return
	}
	p.expireIdle()
	p.evictExcess()
	p.expireQueues()
	p.expireLeases()
	p.expireFinishing()
	p.expireClosing()
	p.resumeHosts()
	p.askHosts()
	p.wake = p.nextDeadline()
}

// overdue reports whether a connection has been in its state for a time.
func (p *policy) overdue(r *record, timeout int64) bool { return p.now-r.since >= timeout }

func (p *policy) expireClosing() {
	for {
		r, slot, ok := p.table.oldest(&p.closing)
		if !ok || !p.overdue(r, int64(p.limits.LingerTimeout)) || !p.mayEnd() {
			return
		}
		p.gone(r, slot)
	}
}

// nextDeadline looks at the first of each list: few, however many connections there are.
func (p *policy) nextDeadline() int64 {
	next := never
	first := func(l *list, timeout int64) {
		if r, _, ok := p.table.oldest(l); ok {
			next = min(next, r.since+timeout)
		}
	}
	for i := range p.idle.classes {
		first(&p.idle.classes[i].list, p.idle.classes[i].timeout)
	}
	for to := range p.eachPool {
		first(&to.queue, int64(p.limits.QueueTimeout))
	}
	for h := range p.eachHost {
		first(&h.waiting, int64(p.limits.QueueTimeout))
		first(&h.leases, int64(p.limits.LeaseTimeout))
		next = min(next, p.warnDue(h), p.aliveDue(h))
		if h.resume > 0 {
			next = min(next, h.resume)
		}
	}
	next = min(next, p.evictDue())
	first(&p.finishing, int64(p.limits.SendTimeout))
	first(&p.closing, int64(p.limits.LingerTimeout))
	if p.stop != nil {
		next = min(next, p.stop.deadline)
	}
	return next
}

// event is how watchers see a close.
func (r Reason) event() EventKind {
	switch r {
	case ReasonExpired:
		return EventExpired
	case ReasonDetached:
		return EventDetached
	}
	return EventClosed
}

// forget is how hosts see it.
func (r Reason) forget() uint64 {
	switch r {
	case ReasonExpired, ReasonSilent:
		return handoff.ForgetExpired
	case ReasonHungUp:
		return handoff.ForgetHungUp
	case ReasonEvicted:
		return handoff.ForgetEvicted
	case ReasonOperator:
		return handoff.ForgetOperator
	case ReasonStopped:
		return handoff.ForgetStopped
	}
	return handoff.ForgetFailed
}
