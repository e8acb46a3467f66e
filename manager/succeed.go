package manager

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/proxied"
	"github.com/anteroom-io/anteroom/selector"
)

// How a manager goes on with the connections of one that is no more.
//
// The predecessor may have been killed between any two instructions, so what the memory says is taken apart and put together again: a connection is
// where its state says, lists and counts are made anew, and every frame that was not wholly obeyed is obeyed again, which changes nothing where
// it had been (an answer to a lease that is over is ignored). Descriptors that nothing speaks of were accepted in the last moment.

// Estate is the descriptors that a process has inherited and nobody has claimed yet.
type Estate map[int]bool

// claim takes a descriptor out; false if it is not there.
func (e Estate) claim(fd int) bool {
	had := e[fd]
	delete(e, fd)
	return had
}

// How many successors in a row may end before another is no use: what ends them would end the next one,
// too.
const (
	maxUnsettled = 20 // that die before the first turn of their loop; some may have been killed from outside
	maxFailures  = 5  // that give up before they serve (CountFailure)
)

// ErrHopeless means that too many successors have died at once.
var ErrHopeless = fmt.Errorf("%d successors in a row died before they served anything", maxUnsettled)

// Succeed makes a Manager that goes on with everything in config.Memory: connections, hosts, and the listeners that hosts have brought. The sidecar's own
// listeners are added as ever, and find their connections by ListenerOptions.Key. Epoch is the predecessor's, not config's, and so are the limits, which
// operators may have changed, unless they are configured otherwise now. What is claimed leaves the estate; the rest is for Manager.TakeStrays, once nobody else claims
// anything.
func Succeed(config Config, estate Estate) (*Manager, error) {
	memory := config.Memory
	if memory.head.unsettled >= maxUnsettled {
		return nil, ErrHopeless
	}
	memory.head.unsettled++
	memory.head.successions++
	was := memory.notes
	config.Epoch = was.Epoch
	m, err := newManager(config)
	if err != nil {
		return nil, err
	}
	m.set = was.Limits.unchanged(was.Config, config.Limits)
	m.policy.limits = m.policy.limits.merge(m.set)
	estate.claim(memory.fd)
	m.helpers.Inherit(estate.claim, helpersPatience)
	m.resumeClosing(estate)
	p := m.policy
	p.now = m.clock()
	p.stopped = was.Stopped
	p.lastHost = memory.head.lastHost
	m.restorePools(&was)
	said := m.restoreLinks(estate)
	p.restoreEnds()
	m.restoreDoors(&was, estate)
	p.restoreTable(estate, said)
	for _, l := range m.links {
		m.resumed = append(m.resumed, l)
		for _, fd := range append(l.in.Descriptors(), l.out.Descriptors()...) {
			estate.claim(fd) // after the table: a frame that was obeyed, but for its last step, may have given its descriptor to a connection
		}
	}
	slices.SortFunc(m.resumed, func(a, b *link) int { return cmp.Compare(a.token, b.token) })
	m.remember()
	m.log.Info("going on where another process has ended", "connections", p.table.live, "hosts", len(p.hosts), "succession", memory.head.successions)
	return m, nil
}

// remember notes for a successor what changes seldom.
func (m *Manager) remember() {
	p := m.policy
	err := m.config.Memory.update(func(n *notes) {
		n.Epoch, n.Limits, n.Config, n.Stopped = m.config.Epoch, m.set, m.config.Limits, p.stopped
		n.Pools, n.Doors = n.Pools[:0], n.Doors[:0]
		for to := range p.eachPool {
			n.Pools = append(n.Pools, poolNote{Index: to.index, Name: to.name, Private: to.private})
		}
		for _, d := range p.listeners[1:] {
			if d != nil {
				n.Doors = append(n.Doors, m.noteDoor(d))
			}
		}
	})
	if err != nil {
		m.log.Error("a successor would not know all", "error", err)
	}
}

func (m *Manager) noteDoor(d *door) doorNote {
	note := doorNote{
		ID: d.id, Index: d.index, FD: -1, Name: d.name, Key: d.key, Pool: d.pool.index, Ready: d.ready, SilentLease: d.silentLease, Edge: d.edge, Shared: d.shared,
		FirstByte: d.firstByte, Proxies: d.proxies, Accepted: d.accepted,
	}
	for _, e := range m.doors {
		if e.door == d {
			note.FD = e.listener.FD()
			if e.link != nil {
				note.Link = e.link.token
			}
		}
	}
	return note
}

func (m *Manager) restorePools(was *notes) {
	p := m.policy
	for _, n := range was.Pools {
		for int(n.Index) >= len(p.pools) {
			p.pools = append(p.pools, nil)
		}
		p.restorePool(n)
	}
}

// restorePool makes a pool as it was noted. p.pools has room for it.
func (p *policy) restorePool(n poolNote) {
	to := &pool{name: n.Name, index: n.Index, private: n.Private}
	p.pools[n.Index], p.poolNames[n.Name] = to, to
	p.heat(to)
	p.reconsider(to)
}

// restoreLinks makes links of what is noted, and hosts of those that had said HELLO. It returns what hosts are being told, by connection.
func (m *Manager) restoreLinks(estate Estate) map[ConnID]saying {
	said := map[ConnID]saying{}
	for n := range m.config.Memory.head.topLink {
		note := m.config.Memory.link(int(n))
		if note.state == linkFree || !estate.claim(int(note.fd)) {
			m.config.Memory.freeLink(note) // a free one, too: it may not have been cleared any more
			continue
		}
		l, err := m.restoreLink(note, estate)
		if err != nil {
			m.log.Error("a host is lost", "error", err)
			m.hangUp(l, err.Error())
			continue
		}
		var last handoff.Frame
		if l.host != nil && l.out.Last(&last) {
			said[ConnID(last.Conn)] = saying{last.Type, l.host.id, last.Seq}
		}
	}
	return said
}

// saying is a frame about a connection that was ready to go when the process died. What it says holds, though what belongs to it may not have been done.
type saying struct {
	what handoff.Type
	host HostID
	seq  uint32
}

func (m *Manager) restoreLink(note *linkNote, estate Estate) (l *link, err error) {
	l = &link{
		token: note.token, fd: int(note.fd), note: note, deadline: m.policy.now + int64(helloTimeout),
		peer: listener.Credentials{PID: note.pid, UID: note.uid, GID: note.gid},
	}
	m.links[l.token] = l
	l.out = handoff.OutboxAt(bytesOf(note.out[:]), m.closeSocket)
	if l.in, err = handoff.InboxAt(bytesOf(note.in[:])); err != nil {
		return l, err
	}
	l.in.Drop = func(fd int) { m.closeForeign(fd, l.hostID()) }
	if err := m.sel.Register(l.fd, l.token, selector.Read); err != nil {
		return l, err
	}
	if note.state == linkYoung {
		note.host = hostState{}
		m.young = append(m.young, l)
		return l, nil
	}
	said := (&handoff.Hello{}).Frame()
	said.Payload = note.hello[:note.helloLen]
	hello, fault := handoff.HelloOf(&said)
	if fault != nil {
		return l, fault
	}
	l.deadline = never
	l.host = m.policy.restoreHost(hello, l.peer, &note.host)
	if l.host == nil {
		return l, errors.New("its pool is not known")
	}
	l.host.link = l
	m.rewatchProcess(l, estate)
	return l, nil
}

// restoreHost attaches a host as it was.
func (p *policy) restoreHost(hello *handoff.Hello, peer listener.Credentials, state *hostState) *host {
	if int(state.inPool) >= len(p.pools) || p.pools[state.inPool] == nil {
		return nil
	}
	h := newHost(hello, peer, p.pools[state.inPool], state)
	h.heard = p.now
	p.hosts[h.id] = h
	h.pool.hosts = append(h.pool.hosts, h)
	p.reconsider(h.pool)
	h.pool.sticky = h.pool.sticky || h.sticky
	return h
}

// restoreEnds: a private pool ends with its host.
func (p *policy) restoreEnds() {
	for to := range p.eachPool {
		to.ended = to.private && !slices.ContainsFunc(to.hosts, func(h *host) bool { return !h.draining })
	}
}

// restoreDoors opens the listeners that hosts have brought, and notes the others as closed, until they are added.
func (m *Manager) restoreDoors(was *notes, estate Estate) {
	p := m.policy
	for _, n := range was.Doors {
		for int(n.Index) >= len(p.listeners) {
			p.listeners = append(p.listeners, nil)
		}
		if int(n.Pool) >= len(p.pools) || p.pools[n.Pool] == nil {
			continue
		}
		d := &door{
			id: n.ID, index: n.Index, name: n.Name, key: n.Key, pool: p.pools[n.Pool], ready: n.Ready, silentLease: n.SilentLease, edge: n.Edge, shared: n.Shared,
			firstByte: n.FirstByte, proxies: n.Proxies, accepted: n.Accepted, closed: true,
		}
		p.listeners[n.Index] = d
		if l := m.links[n.Link]; l != nil && l.host != nil && n.FD >= 0 && estate.claim(n.FD) {
			m.restoreDoor(d, l, n.FD)
		}
	}
}

func (m *Manager) restoreDoor(d *door, l *link, fd int) {
	socket, err := listener.Adopt(fd)
	if err != nil {
		m.closeForeign(fd, l.hostID())
		m.log.Error("a listener is lost", "listener", d.name, "error", err)
		return
	}
	e := &entrance{token: doorToken | uint64(d.id), listener: socket, door: d, link: l}
	if err := m.sel.Register(fd, e.token, m.acceptInterest()); err != nil {
		m.log.Error("a listener is lost", "listener", d.name, "error", errors.Join(err, socket.Close()))
		return
	}
	d.closed, d.host = false, l.host
	d.pool.doors++
	m.doors[e.token] = e
	l.doors = append(l.doors, e)
}

// restoreTable takes over the connections, the longest in their state first.
func (p *policy) restoreTable(estate Estate, said map[ConnID]saying) {
	t, head := &p.table, p.memory.head
	for n := 0; n < int(head.fresh); n += chunkSize {
		t.chunks = append(t.chunks, p.memory.records(len(t.chunks)))
	}
	t.fresh = head.fresh
	p.restoreClasses()
	order := make([]uint32, 0, t.fresh)
	for slot := range t.fresh {
		if p.restorable(slot, estate) {
			order = append(order, slot)
		} else {
			p.vacate(slot, estate)
		}
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return cmp.Compare(t.at(a).since, t.at(b).since) })
	for _, slot := range order {
		p.restore(t.at(slot), slot, said)
	}
	for _, slot := range order {
		p.resume(t.at(slot), slot, estate, said)
	}
	p.countClients()
	for _, d := range p.listeners[1:] {
		if d != nil {
			p.forgetDoor(d)
		}
	}
	for to := range p.eachPool {
		p.forgetPool(to)
	}
	p.wake = p.now
}

func (p *policy) restoreClasses() {
	for _, c := range p.memory.head.classes {
		if c.timeout == 0 {
			return // none from here on were ever used
		}
		p.idle.classes = append(p.idle.classes, idleClass{timeout: c.timeout, kind: c.kind})
	}
}

// restorable reports whether a slot has a connection whose descriptor is here.
func (p *policy) restorable(slot uint32, estate Estate) bool {
	r := p.table.at(slot)
	known := r.state != Free && int(r.pool) < len(p.pools) && p.pools[r.pool] != nil && int(r.listener) < len(p.listeners) && p.listeners[r.listener] != nil
	return known && r.fd > maxStdio && estate.claim(int(r.fd))
}

const maxStdio = 2

// vacate frees a slot for good. The descriptor that its last connection had may not be closed yet.
func (p *policy) vacate(slot uint32, estate Estate) {
	r := p.table.at(slot)
	if fd := toBeClosed(r.fd); r.state != Free && fd > maxStdio && estate.claim(int(fd)) {
		p.act.drop(fd, 0, true)
	}
	if r.state != Free && r.listener == 0 {
		p.memory.extra(slot).bringer = 0
	}
	*r = record{generation: r.generation}
	if r.generation < maxGeneration {
		p.table.push(&p.table.free, slot)
	}
}

// restore puts a connection where it was: into its list and its counts.
func (p *policy) restore(r *record, slot uint32, said map[ConnID]saying) {
	p.table.live++
	if r.marks&kept != 0 {
		p.kept++
	}
	p.recount(r, slot)
	p.setKept(r, r.marks&kept != 0 || r.state == Idle && r.marks&fresh == 0)
	r.marks = r.marks&^warned | moving
	r.prev, r.next = 0, 0
	id := p.id(r, slot)
	if s := said[id]; s.what == handoff.TypeLease && r.state == Ready && r.host == s.host && r.seq == s.seq {
		r.state = Leased
	}
	switch {
	case r.state == Idle && (r.marks&partial != 0 || int(r.detail) >= len(p.idle.classes) || p.idle.classes[r.detail].kind == waitRest):
		r.detail = p.idle.classFor(p.patienceWith(r))
	case (r.state == Leased || r.state == Ready && r.marks&sticky != 0) && p.hosts[r.host] == nil:
		return // resume sees to it
	}
	p.settleIn(r, slot)
}

// settleIn is the second half of enter.
func (p *policy) settleIn(r *record, slot uint32) {
	p.table.push(p.listOf(r), slot)
	p.count(r, +1)
	r.marks &^= moving
}

// patienceWith is how long an idle connection may be so, when its own time is not known.
func (p *policy) patienceWith(r *record) (timeout int64, kind wait) {
	if r.marks&fresh != 0 {
		return int64(p.listeners[r.listener].firstByteTimeout(p.limits)), waitFirstByte
	}
	return int64(p.limits.KeepAliveTimeout), waitRequest
}

// resume watches a connection again, and does again what may have been done in part.
func (p *policy) resume(r *record, slot uint32, estate Estate, said map[ConnID]saying) {
	id, d := p.id(r, slot), p.listeners[r.listener]
	if p.act.watchQuietly(r.fd, id) != nil {
		p.settleLost(r, slot)
		p.close(r, slot, ReasonFailed)
		return
	}
	r.marks = r.marks&^stirred | hushed
	if r.marks&partial != 0 {
		p.act.settle(r.fd)
		r.marks &^= partial // what has arrived is told, and looked at, as if it had just begun
	}
	p.introduceAgain(r, d)
	forgotten := said[id].what == handoff.TypeForget && said[id].host == r.host && r.state != Closing
	if forgotten {
		r.marks &^= held
	}
	switch {
	case r.marks&moving != 0:
		p.resumeLost(r, slot)
	case r.marks&replied != 0 && r.state != Closing:
		p.close(r, slot, ReasonHostGone)
	case forgotten && (r.state == Leased || r.marks&sticky != 0): // it was taken back, for whatever reason
		p.close(r, slot, ReasonOperator)
	case r.state == Idle:
		p.hear(r, slot)
	case r.state == Finishing:
		p.resumeFinishing(r, slot, estate)
	case r.state == Closing && !p.act.shut(r.fd, id):
		p.gone(r, slot)
	}
}

// introduceAgain takes a PROXY header away that had been read, if it is still there.
func (p *policy) introduceAgain(r *record, d *door) {
	if r.marks&(fresh|introduced) != fresh|introduced {
		return
	}
	if seen, _ := p.act.introduce(r.fd, d.proxies); seen.Verdict == proxied.Whole {
		p.act.takeAway(r.fd, seen.Length)
		r.taken = takenUnknown // once, or twice
	}
}

// resumeLost: a connection whose host was lost.
func (p *policy) resumeLost(r *record, slot uint32) {
	wasLeased := r.state == Leased
	p.settleLost(r, slot)
	if wasLeased && r.marks&replied == 0 {
		p.orphan(r, slot)
		return
	}
	p.close(r, slot, ReasonHostGone)
}

// settleLost lets a connection go on from being ready, in its pool's queue, if it is in no list.
func (p *policy) settleLost(r *record, slot uint32) {
	if r.marks&moving != 0 {
		r.marks &^= sticky | held
		r.state = Ready
		p.settleIn(r, slot)
	}
}

// resumeFinishing goes on with the rest of a response where the kernel says that it stands.
func (p *policy) resumeFinishing(r *record, slot uint32, estate Estate) {
	rest := p.remainder(slot)
	if rest.left <= 0 || !estate.claim(int(rest.file)) {
		rest.left = -1 // its file is closed, so all of it was sent
	}
	if h := p.hosts[rest.host]; h != nil {
		h.finishing++
	}
	rest.asked, rest.room = false, false
	resumed := rest.left < 0 || p.act.resume(p.id(r, slot), rest)
	switch {
	case r.marks&broken != 0 || !resumed: // the reset may not have been sent, or the rest may be sent twice
		p.close(r, slot, ReasonFailed)
	case rest.left <= 0:
		p.finished(r, slot, rest)
	case p.act.watchRoom(r.fd, p.id(r, slot)) != nil:
		p.close(r, slot, ReasonFailed)
	}
}

// resumeLinks obeys what hosts had said when the predecessor ended, and sends what it had not sent.
func (m *Manager) resumeLinks() {
	for _, l := range m.resumed {
		if err := m.obeyAgain(l); err != nil {
			m.fail(l, err)
		} else {
			m.markDirty(l)
		}
	}
	m.resumed = nil
}

// obeyAgain: the first frame may have been obeyed already. Some would be taken amiss the second time.
func (m *Manager) obeyAgain(l *link) error {
	var f handoff.Frame
	fd, ok, lost := l.in.Next(&f)
	if !ok {
		return lost
	}
	if m.policy.memory.head.closing.has(fd) {
		fd, lost = -1, handoff.ErrDescriptorLost // it was refused; the answer may not have been sent
	}
	if m.wasObeyed(l, &f, int32(fd)) {
		return m.obeyFrames(l)
	}
	if fault := m.obeyFrame(l, &f, fd, lost); fault != nil {
		return fault
	}
	return m.obeyFrames(l)
}

// wasObeyed reports whether a frame has been obeyed, and answers it, perhaps a second time: a HELLO of a host that is attached, or one whose descriptor is in use.
func (m *Manager) wasObeyed(l *link, f *handoff.Frame, fd int32) bool {
	if f.Type == handoff.TypeHello && l.host != nil {
		if last := new(handoff.Frame); !l.out.Last(last) || last.Type != handoff.TypeWelcome {
			m.greet(l)
		}
		return true
	}
	if fd < 0 {
		return false
	}
	for _, e := range l.doors {
		if e.listener.FD() == int(fd) {
			m.reply(l, handoff.Frame{Type: handoff.TypeListening, Seq: f.Seq, A: uint64(e.door.id)})
			return true
		}
	}
	found := false
	m.policy.table.each(func(slot uint32, r *record) {
		switch {
		case r.fd == fd:
			found = true
			id := m.policy.id(r, slot)
			m.policy.adopted(l.host, id, f)
			m.reply(l, handoff.Frame{Type: handoff.TypeAdopted, Seq: f.Seq, Conn: uint64(id)})
		case r.state == Finishing && m.policy.remainder(slot).file == fd:
			found = true
		}
	})
	return found
}

// TakeStrays takes over what is left of an estate when everybody has claimed what is his: connections that were accepted and not noted yet, clients' and
// hosts'. Anything else is closed. It is called before Run.
func (m *Manager) TakeStrays(estate Estate) error {
	return m.tell(func() error {
		for fd := range estate {
			if !m.takeStray(fd) {
				m.closeForeign(fd, 0)
			}
		}
		clear(estate)
		return nil
	})
}

func (m *Manager) takeStray(fd int) bool {
	if listener.CheckConnection(fd) != nil || m.known(fd) {
		return false
	}
	for _, e := range m.doors {
		if e.listener.Accepted(fd) {
			m.accepted(e, fd)
			return true
		}
	}
	for _, e := range m.handoffs {
		if e.listener.Accepted(fd) {
			m.admitHost(fd)
			return true
		}
	}
	return false
}

// known reports whether a connection has another descriptor here: then this one is a duplicate that was being made.
func (m *Manager) known(fd int) bool {
	var its, other unix.Stat_t
	if unix.Fstat(fd, &its) != nil {
		return false
	}
	found := false
	same := func(fd int) {
		found = found || unix.Fstat(fd, &other) == nil && other.Ino == its.Ino && other.Dev == its.Dev
	}
	m.policy.table.each(func(_ uint32, r *record) { same(int(r.fd)) })
	for _, l := range m.links {
		same(l.fd)
	}
	return found
}

// turned notes that the loop has turned once: if this process dies from now on, it was not of what it
// had inherited.
func (m *Manager) turned() { m.config.Memory.head.unsettled = 0 }

// Settle says that this process serves.
func (m *Manager) Settle() error {
	return m.tell(func() error {
		m.config.Memory.Forgive()
		m.settled = true
		m.policy.reconsiderAll()
		return nil
	})
}
