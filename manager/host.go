package manager

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

var errTableFull = errors.New("every slot of the connection table is in use")

// host is an attached host as the policy sees it.
type host struct {
	*hostState
	name     string
	agent    string
	pool     *pool
	peer     listener.Credentials
	features []string
	address  bool   // wants to know the client's address
	finish   bool   // may leave us the rest of a response
	cache    bool   // holds the descriptors of what it has put
	track    bool   // wants to hear what becomes of what it has put
	gone     bool   // its link has ended
	lives    bool   // its link has ended by our doing: it may go on with what it has been lent
	resume   int64  // no leases until then, after a NACK; 0: now
	leases   list   // longest first
	waiting  list   // sticky connections that are ready for it
	warned   uint32 // slot plus one of the last of leases that is marked so
	denyWarn int64  // no DENIED is warned about before
	nackWarn int64  // nor a NACK for want of descriptors
	heard    int64  // when its last frame came
	asked    int64  // when it was asked for a sign of life and has not given one since; 0: it was not
	hung     bool   // it has not given one in time
	orphaned bool   // the process that has attached it has ended
	number   uint64 // of the last PING
	adopted  int    // connections that it has brought and that are still here

	finishing int            // responses that it has left to the sidecar and that are not sent yet
	fault     *handoff.Fault // why it is about to be hung up on
	overruns  int            // jobs of helpers for it that blocked

	link *link // the loop's side of it
}

// hostState is what changes of a host, and its successor's manager must know.
type hostState struct {
	id       HostID
	inPool   uint16
	draining bool
	sticky   bool // has put sticky connections
	capacity int
	attached int64

	total, nacks, stale, violations uint64
}

// owns reports whether an idle or ready connection is one that this host put last and wants to hear of.
func (h *host) owns(r *record) bool {
	return r.host == h.id && r.state != Leased && (r.marks&held != 0 || h.track)
}

// pool is the hosts that serve one listener, or several, and what waits for them.
type pool struct {
	name    string
	index   uint16
	private bool // ends with its only host
	ended   bool
	hot     bool // in policy.hot
	sticky  bool // some host has put sticky connections
	turn    int  // where choose begins
	hosts   []*host
	doors   int // listeners that feed it
	queue   list
	states  stateCounts

	unsure   bool        // in policy.unsure
	service  PoolService // as of the last review
	unserved episode
	served   bool // it was, in this process's life
	joined   bool // a host has attached, and no review has seen it
	astray   bool // that it has hosts and no listener was warned of
}

// DefaultPool is the pool of listeners and hosts that name none.
const DefaultPool = handoff.DefaultPool

// maxPools is what record.pool can number.
const maxPools = 1 << 15

// poolNamed finds or makes a pool.
func (p *policy) poolNamed(name string, private bool) (*pool, *handoff.Fault) {
	if to := p.poolNames[name]; to != nil {
		return to, nil
	}
	index := slices.Index(p.pools, nil)
	if index < 0 {
		if len(p.pools) >= maxPools {
			return nil, handoff.Faultf(handoff.CodeAtLimit, "there are %d pools already", maxPools)
		}
		index = len(p.pools)
		p.pools = append(p.pools, nil)
	}
	to := &pool{name: name, index: uint16(index), private: private}
	p.pools[index], p.poolNames[name] = to, to
	p.reconsider(to)
	return to, nil
}

// eachPool yields every pool, in an order that depends on nothing but what has happened. The body may let go of pools.
func (p *policy) eachPool(yield func(*pool) bool) {
	for _, to := range p.pools {
		if to != nil && !yield(to) {
			return
		}
	}
}

// eachHost yields every host, pool by pool. The body must not detach one.
func (p *policy) eachHost(yield func(*host) bool) {
	for to := range p.eachPool {
		for _, h := range to.hosts {
			if !yield(h) {
				return
			}
		}
	}
}

// forgetPool lets go of a pool that nobody serves, nothing feeds and nothing is in.
func (p *policy) forgetPool(to *pool) {
	if len(to.hosts) == 0 && to.doors == 0 && to.states == (stateCounts{}) && p.poolNames[to.name] == to {
		p.pools[to.index] = nil
		delete(p.poolNames, to.name)
		p.reconsider(to)
	}
}

// attach lets a host in. Its HELLO has been checked (handoff.HelloOf); state is zero, and the host's from now on.
func (p *policy) attach(hello *handoff.Hello, peer listener.Credentials, state *hostState) (*host, *handoff.Fault) {
	if len(p.hosts) >= p.limits.Hosts {
		return nil, handoff.Faultf(handoff.CodeAtLimit, "%d hosts are attached already, which is the limit", p.limits.Hosts)
	}
	id := p.lastHost + 1
	name, private := hello.Pool, hello.Pool == ""
	if private {
		name = p.unusedName(id)
	}
	to, fault := p.poolNamed(name, private)
	if fault != nil {
		return nil, fault
	}
	if to.private && !private {
		return nil, handoff.Faultf(handoff.CodeNotYours, "pool %q belongs to one host alone", name)
	}
	p.lastHost, p.memory.head.lastHost = id, id
	state.id, state.inPool, state.capacity, state.attached = id, to.index, hello.Capacity, p.now
	h := newHost(hello, peer, to, state)
	p.hosts[id] = h
	to.hosts = append(to.hosts, h)
	p.totals.HostsAttached++
	p.heat(to)
	p.reconsider(to)
	h.heard = p.now
	p.wake = min(p.wake, p.aliveDue(h))
	to.joined = true
	p.act.tell(Event{Kind: EventHostAttached, Host: id, Name: h.name, Pool: to.name})
	return h, nil
}

func newHost(hello *handoff.Hello, peer listener.Credentials, to *pool, state *hostState) *host {
	return &host{
		hostState: state, name: hello.Name, agent: hello.Agent, pool: to, peer: peer, features: agreed(hello.Features),
		address: hello.Has(handoff.FeatureAddress), finish: hello.Has(handoff.FeatureFinish), cache: hello.Has(handoff.FeatureCache), track: hello.Has(handoff.FeatureTrack),
	}
}

// unusedName names the private pool of a host. Hosts choose names too, so the obvious one may be taken.
func (p *policy) unusedName(id HostID) string {
	name := fmt.Sprintf("private-%d", id)
	for p.poolNames[name] != nil {
		name += "-"
	}
	return name
}

// agreed is what this sidecar can do of what a host asks for.
func agreed(features []string) []string {
	yes := []string{}
	for _, f := range []string{handoff.FeatureCache, handoff.FeatureTrack, handoff.FeatureAddress, handoff.FeatureFinish} {
		if slices.Contains(features, f) {
			yes = append(yes, f)
		}
	}
	return yes
}

// drain lets a host leave: no more leases, and what only it could serve ends.
func (p *policy) drain(h *host) {
	h.draining = true
	p.reconsider(h.pool)
	p.abandon(h)
	p.hangUpIfDone(h)
}

func (p *policy) hangUpIfDone(h *host) {
	if h.draining && h.leases.len == 0 {
		p.act.hangUp(h)
	}
}

// abandon ends the idle and ready connections that no other host can go on with: the sticky ones, and, of a private pool, all.
func (p *policy) abandon(h *host) {
	h.pool.ended = h.pool.private
	if !h.sticky && !h.pool.private {
		return
	}
	p.table.each(func(slot uint32, r *record) {
		waits := r.state == Idle || r.state == Ready
		if waits && (r.marks&sticky != 0 && r.host == h.id || h.pool.private && r.pool == h.pool.index) {
			p.close(r, slot, ReasonStopped)
		}
	})
}

// hostGone: the link to a host has ended, so its leases are over.
func (p *policy) hostGone(h *host, why string) {
	h.draining, h.gone = true, true
	p.abandon(h)
	for h.leases.last != 0 { // newest first, so that the oldest comes to be the head of the queue
		slot := h.leases.last - 1
		p.orphan(p.table.at(slot), slot)
	}
	delete(p.hosts, h.id)
	h.pool.hosts = slices.DeleteFunc(h.pool.hosts, func(x *host) bool { return x == h })
	h.pool.turn = 0
	p.reconsider(h.pool)
	p.act.tell(Event{Kind: EventHostGone, Host: h.id, Name: h.name, Pool: h.pool.name, Detail: why})
	p.forgetPool(h.pool)
}

// setCapacity changes how many leases a host takes at once; what it has beyond that it keeps until it is done.
func (p *policy) setCapacity(h *host, n uint64) {
	h.capacity = int(min(n, handoff.MaxCapacity))
	h.resume = 0
	p.heat(h.pool)
	p.reconsider(h.pool)
}

// dropped: a host no longer holds a connection's descriptor.
func (p *policy) dropped(h *host, id ConnID) {
	if r := p.table.find(id); r != nil && r.host == h.id && r.state != Leased {
		r.marks &^= held
	}
}

// resumeHosts ends the pause of hosts that said NACK.
func (p *policy) resumeHosts() {
	for h := range p.eachHost {
		if h.resume > 0 && h.resume <= p.now {
			h.resume = 0
			p.heat(h.pool)
		}
	}
}

// msDuration reads a time in milliseconds that a peer has sent; what is too long is the longest allowed.
func msDuration(ms uint64) time.Duration {
	return time.Duration(min(ms, uint64(MaxTimeout/time.Millisecond))) * time.Millisecond
}

// door is a listener as the policy sees it.
type door struct {
	id          ListenerID
	index       uint16
	name        string
	key         string // by which a successor's listener finds its connections
	pool        *pool
	host        *host // that brought it; nil: the sidecar's own
	silentLease bool
	ready       Readiness
	continues   bool              // answers "Expect: 100-continue"
	proxies     []listener.Subnet // load balancers whose PROXY headers are believed
	shared      bool              // others hold its socket, too
	edge        bool              // its sockets cannot be told to count what they hold (SO_RCVLOWAT): Unix sockets
	firstByte   time.Duration     // 0: the limit's
	accepted    uint64
	states      stateCounts
	closed      bool
}

func (d *door) firstByteTimeout(l Limits) time.Duration {
	if d.firstByte > 0 {
		return d.firstByte
	}
	return l.FirstByteTimeout
}

// addDoor makes room for a listener.
func (p *policy) addDoor(d *door, to *pool) *handoff.Fault {
	open := 0
	for _, other := range p.listeners[1:] {
		if other != nil && !other.closed {
			open++
		}
	}
	if open >= p.limits.Listeners {
		return handoff.Faultf(handoff.CodeAtLimit, "there are %d listeners already, which is the limit", p.limits.Listeners)
	}
	index := slices.Index(p.listeners, nil)
	if index < 0 {
		if len(p.listeners) > 1<<16-1 {
			return handoff.Faultf(handoff.CodeAtLimit, "too many closed listeners still have connections")
		}
		index = len(p.listeners)
		p.listeners = append(p.listeners, nil)
	}
	d.index, d.pool = uint16(index), to
	p.listeners[index] = d
	to.doors++
	p.reconsider(to)
	return nil
}

// reopenDoor gives a listener the connections that it had in a predecessor, if there are any left; false if not.
func (p *policy) reopenDoor(d *door, to *pool) bool {
	for _, old := range p.listeners[1:] {
		if old != nil && old.closed && old.key != "" && old.key == d.key && old.pool == to {
			d.id, d.index, d.pool, d.accepted, d.states = old.id, old.index, to, old.accepted, old.states
			p.listeners[d.index] = d
			to.doors++
			p.reconsider(to)
			return true
		}
	}
	return false
}

// closeDoor: the listener is closed; its connections go on.
func (p *policy) closeDoor(d *door) {
	d.closed = true
	d.pool.doors--
	p.reconsider(d.pool)
	p.forgetDoor(d)
	p.forgetPool(d.pool)
}

// forgetDoor lets go of a closed listener when its last connection has gone.
func (p *policy) forgetDoor(d *door) {
	if d.closed && d.states == (stateCounts{}) && p.listeners[d.index] == d {
		p.listeners[d.index] = nil
	}
}

// label is the host's name; empty if it has gone.
func (h *host) label() string {
	if h == nil {
		return ""
	}
	return h.name
}
