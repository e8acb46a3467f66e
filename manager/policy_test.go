package manager

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/proxied"
	"github.com/anteroom-io/anteroom/scan"
)

// world is a model of everything outside the policy: the kernel's sockets, the clients, the hosts. It is the policy's actor, and it objects to
// every act that the real world would punish.
type world struct {
	t        *rapid.T
	p        *policy
	life     int               // acts until the process dies; below 0: it does not
	said     map[ConnID]saying // frames of this step
	again    func()            // what the outside says again if the process dies over it
	dying    *attached
	socks    map[int32]*sock // open descriptors
	nextFD   int32
	leases   map[ConnID]lent
	past     []answer // leases that were, for late answers
	hosts    map[HostID]*attached
	files    map[int32]bool          // of remainders, open
	helps    map[ConnID]bool         // a helper sends a part of them
	services map[string]ServiceState // of pools, as they were told
	fired    []fired                 // events that the selector has reported and the policy has not handled yet
}

// sock is a client's connection in the kernel.
type sock struct {
	id       ConnID
	address  netip.Addr
	watched  bool
	armed    bool // watched once
	edge     bool // watched for arrivals
	told     bool // an arrival is to be told
	news     bool // something has arrived that nobody has looked for
	unread   bool
	next     bool // some of it came while a host had the connection: its next request
	ended    bool // the client's FIN is there
	shut     bool // ours is sent
	blocking bool
	seen     int  // bytes at the last look
	blank    bool // what is unread is an empty line
	low      bool // it has a low-water mark
	room     bool // there is room to send is told
	answered bool // by the sidecar
	called   bool // told to go on
	acked    uint64
}

type lent struct {
	host HostID
	seq  uint32
}

type answer struct {
	id   ConnID
	lent lent
}

type fired struct {
	id    ConnID
	ended bool
}

// attached is what a host believes.
type attached struct {
	h        *host
	hello    handoff.Hello
	holds    map[ConnID]bool
	hungUp   bool
	pinged   bool // and has not answered
	mute     bool // it will not
	hopeless bool
}

func (w *world) open() int32 {
	w.nextFD++
	w.socks[w.nextFD] = &sock{address: rapid.SampledFrom(addresses).Draw(w.t, "address")}
	return w.nextFD
}

// addresses of clients: two of one /64, one that is exempt, and that of a Unix socket.
var addresses = []netip.Addr{
	netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"),
	netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1"), {},
}

func (w *world) peer(fd int32) netip.Addr {
	if s := w.sock(fd); !s.ended {
		return s.address
	}
	return netip.Addr{} // reset
}

// ping: whoever answers, does so at once.
func (w *world) ping(h *host) {
	a := w.hosts[h.id]
	if a == nil || a.pinged && !h.orphaned {
		w.t.Fatalf("host %d is asked twice, or is not there: %v", h.id, a)
	}
	a.pinged = true
}

func (w *world) giveUp(h *host) {
	a := w.hosts[h.id]
	if a == nil || !a.mute || !a.pinged {
		w.t.Fatalf("host %d, which answers, is given up", h.id)
	}
	a.hopeless = true
}

func (w *world) sock(fd int32) *sock {
	w.mortal()
	s := w.socks[fd]
	if s == nil {
		w.t.Fatalf("descriptor %d is used after it was closed", fd)
	}
	return s
}

func (w *world) watch(fd int32, id ConnID, once bool) error {
	s := w.sock(fd)
	if s.watched {
		w.t.Fatalf("%d is watched twice", id)
	}
	s.id, s.watched = id, true
	return w.arm(fd, id, once)
}

func (w *world) watchQuietly(fd int32, id ConnID) error {
	s := w.sock(fd)
	if s.watched {
		w.t.Fatalf("%d is watched twice", id)
	}
	s.id, s.watched = id, true
	return nil
}

func (w *world) arm(fd int32, id ConnID, once bool) error {
	s := w.sock(fd)
	if _, leased := w.leases[id]; leased || s.id != id || !s.watched {
		w.t.Fatalf("%d is armed while leased (%v), or is not watched", id, leased)
	}
	s.armed, s.edge, s.room = once, !once, false
	s.told = s.edge && (s.unread || s.ended)
	return nil
}

func (w *world) disarm(fd int32, _ ConnID) {
	s := w.sock(fd)
	s.armed, s.edge, s.told = false, false, false
}

// arrives: bytes, or the client's end.
func (s *sock) arrives() {
	s.told, s.news = s.edge, true
}

// selects is what epoll_wait does: it reports armed one-shots that have something, once. A batch is handled to its end before the next.
func (w *world) selects(t *rapid.T) {
	if len(w.fired) > 0 {
		t.Skip("a batch is being handled")
	}
	for _, fd := range sorted(w.socks) {
		s := w.socks[fd]
		if (s.told || s.armed && (s.unread || s.ended)) && rapid.Bool().Draw(t, "reported") {
			s.armed, s.told = false, false
			w.fired = append(w.fired, fired{s.id, s.ended})
		}
	}
}

func (w *world) unread(fd int32) int {
	s := w.sock(fd)
	s.news = false
	switch {
	case s.unread && s.blank:
		return 2
	case s.unread:
		return 1000
	}
	return 0
}

// some may find nothing though something is unread: a host may have set the socket's options.
func (w *world) some(fd int32) (bool, Reason) {
	s := w.sock(fd)
	s.news = false
	switch {
	case s.unread:
		return rapid.IntRange(0, 4).Draw(w.t, "something") > 0, ReasonNone
	case s.ended:
		return false, ReasonHungUp
	}
	return false, rapid.SampledFrom([]Reason{ReasonNone, ReasonNone, ReasonFailed}).Draw(w.t, "over")
}

func (w *world) room(fd int32, _ int) room {
	w.sock(fd)
	return rapid.SampledFrom([]room{roomUnknown, roomMore, roomNone}).Draw(w.t, "room")
}

func (w *world) flow(fd int32) (flow, bool) {
	s := w.sock(fd)
	s.acked += rapid.Uint64Range(0, 1).Draw(w.t, "acked")
	return flow{acked: s.acked, silent: time.Duration(s.acked) * time.Second}, rapid.Bool().Draw(w.t, "TCP")
}

// look draws what might be seen: the policy has to live with any of it.
func (w *world) look(fd int32, _ scan.Limits, _ *scan.Scanner) (scan.Seen, int, Reason) {
	s := w.sock(fd)
	s.news = false
	switch {
	case !s.unread && s.ended:
		return scan.Seen{}, 0, ReasonHungUp
	case !s.unread:
		return scan.Seen{}, 0, ReasonNone
	case s.blank:
		return scan.Seen{Verdict: scan.More, Need: 3, Empty: true}, 2, ReasonNone
	}
	s.seen += rapid.IntRange(0, 1).Draw(w.t, "more bytes")
	verdict := rapid.SampledFrom([]scan.Verdict{scan.More, scan.More, scan.Whole, scan.Opaque, scan.Malformed}).Draw(w.t, "verdict")
	seen := scan.Seen{Verdict: verdict, Need: s.seen + 1, Expects: verdict == scan.More && s.seen == 0}
	if verdict == scan.Whole {
		seen.Total = s.seen
	}
	return seen, s.seen, ReasonNone
}

func (w *world) introduce(fd int32, _ []listener.Subnet) (proxied.Seen, int) {
	s := w.sock(fd)
	s.news = false
	if !s.unread {
		return proxied.Seen{Verdict: proxied.None}, 0
	}
	s.seen++
	verdict := rapid.SampledFrom([]proxied.Verdict{proxied.More, proxied.Whole, proxied.None, proxied.Invalid}).Draw(w.t, "header")
	if verdict == proxied.Whole && rapid.Bool().Draw(w.t, "nothing behind the header") {
		return proxied.Seen{Verdict: verdict, Length: s.seen, Source: netip.MustParseAddrPort("192.0.2.1:1")}, s.seen
	}
	return proxied.Seen{Verdict: verdict, Need: s.seen + 1}, s.seen
}

func (w *world) takeAway(fd int32, n int) {
	if s := w.sock(fd); n == s.seen {
		s.unread = false
	}
}

func (w *world) await(fd int32, id ConnID, _ int) error {
	w.sock(fd).low = true
	err := w.arm(fd, id, false)
	w.sock(fd).told = false // there are not enough bytes yet
	return err
}

func (w *world) settle(fd int32) { w.sock(fd).low = false }

func (w *world) watchRoom(fd int32, id ConnID) error {
	s := w.sock(fd)
	if _, leased := w.leases[id]; leased {
		w.t.Fatalf("%d is watched for room while leased", id)
	}
	s.room, s.armed, s.edge, s.told = true, false, false, false
	return nil
}

func (w *world) maySend() bool { return true }

func (w *world) send(fd int32, id ConnID, rest *remainder) {
	if s := w.sock(fd); !s.room || !w.files[rest.file] || rest.left <= 0 || w.helps[id] {
		w.t.Fatalf("%d is sent to: room watched %v, file open %v, left %d, by a helper already %v", id, s.room, w.files[rest.file], rest.left, w.helps[id])
	}
	w.helps[id] = true
}

// helperSends is a part that a helper has sent.
func (w *world) helperSends(t *rapid.T) {
	if len(w.helps) == 0 {
		t.Skip("no helper")
	}
	id := rapid.SampledFrom(sorted(w.helps)).Draw(t, "helper")
	delete(w.helps, id)
	rest := w.p.unfinished(id)
	if rest == nil {
		w.p.sent(id, sendYield, 1) // too late
		return
	}
	n := rapid.Int64Range(0, rest.left).Draw(w.t, "sent")
	how := rapid.SampledFrom([]progress{sendFull, sendFull, sendYield, sendBroken}).Draw(w.t, "progress")
	if rest.left -= n; rest.left == 0 {
		how = sendDone
	}
	w.p.sent(id, how, n)
}

func (w *world) resume(ConnID, *remainder) bool {
	return rapid.IntRange(0, 9).Draw(w.t, "helper has gone") > 0
}

func (w *world) closeFile(file int32, _ HostID) {
	if !w.files[file] {
		w.t.Fatalf("file %d is closed twice", file)
	}
	delete(w.files, file)
	w.mortal()
}

func (w *world) fate(fd int32, o outset) fate {
	if o.first && w.sock(fd).unread && rapid.Bool().Draw(w.t, "untouched") {
		return fateUntouched
	}
	return rapid.SampledFrom([]fate{fateUnknown, fateConsumed}).Draw(w.t, "fate")
}

func (w *world) base(fd int32) base {
	w.sock(fd)
	return base{}
}

func (w *world) breakOff(fd int32) { w.sock(fd) }

func (w *world) goOn(fd int32) {
	if s := w.sock(fd); s.called {
		w.t.Fatalf("%d is told to go on twice", s.id)
	}
	w.sock(fd).called = true
}

func (w *world) answer(fd int32, status int, _ bool) {
	s := w.sock(fd)
	if _, leased := w.leases[s.id]; leased != (status == 504) || status < 400 || s.answered { // 504 is for what is revoked
		w.t.Fatalf("%d is answered with %d: leased %v, answered before %v", s.id, status, leased, s.answered)
	}
	s.answered = true
}

func (w *world) nonblock(fd int32) bool {
	s := w.sock(fd)
	was := s.blocking
	s.blocking = false
	return was
}

func (w *world) lease(h *host, id ConnID, r *record, withFD bool, flags handoff.Flags, _ time.Duration) {
	s, a := w.sock(r.fd), w.hosts[h.id]
	switch was, leased := w.leases[id]; {
	case leased:
		w.t.Fatalf("%d is leased to %d while %d has it", id, h.id, was.host)
	case s.armed, s.edge && r.length == 0:
		w.t.Fatalf("%d is leased while the selector is armed", id)
	case s.shut || s.low:
		w.t.Fatalf("%d is leased while closing (%v), or with a low-water mark (%v)", id, s.shut, s.low)
	case a == nil || a.hungUp || h.draining || h.hung:
		w.t.Fatalf("%d is leased to host %d, which is not there", id, h.id)
	case h.leases.len > h.capacity:
		w.t.Fatalf("host %d has %d leases, its capacity is %d", h.id, h.leases.len, h.capacity)
	case !withFD && !a.holds[id]:
		w.t.Fatalf("%d is leased without a descriptor, and host %d holds none", id, h.id)
	case flags&handoff.FlagLast == 0 && w.p.kept > w.p.keepLimit():
		w.t.Fatalf("%d is promised to be kept, as number %d of %d", id, w.p.kept, w.p.keepLimit())
	case flags&handoff.FlagFresh != 0 && !withFD:
		w.t.Fatalf("%d is fresh and comes without a descriptor", id)
	}
	for other, b := range w.hosts {
		if other != h.id && b.holds[id] {
			w.t.Fatalf("%d is leased to %d while %d still holds it", id, h.id, other)
		}
	}
	a.holds[id] = true
	w.leases[id] = lent{h.id, r.seq}
	w.said[id] = saying{handoff.TypeLease, h.id, r.seq}
	w.mortal()
}

func (w *world) forget(h *host, id ConnID, _ uint64) {
	a := w.hosts[h.id]
	if a == nil {
		w.t.Fatalf("host %d, which is not there, is to forget %d", h.id, id)
	}
	delete(a.holds, id)
	w.endLease(id)
	w.said[id] = saying{handoff.TypeForget, h.id, 0}
	w.mortal()
}

func (w *world) endLease(id ConnID) {
	if l, ok := w.leases[id]; ok {
		w.past = append(w.past, answer{id, l})
		delete(w.leases, id)
	}
}

func (w *world) hangUp(h *host) {
	if h.leases.len > 0 {
		w.t.Fatalf("host %d is hung up on with %d leases", h.id, h.leases.len)
	}
	if a := w.hosts[h.id]; a != nil {
		a.hungUp = true
	}
}

func (w *world) shut(fd int32, _ ConnID) bool {
	s := w.sock(fd)
	s.shut, s.armed, s.edge, s.told, s.unread = true, false, false, false, false
	return !s.ended
}

func (w *world) drop(fd int32, _ ConnID, _ bool) {
	w.endLease(w.sock(fd).id)
	delete(w.socks, fd)
	w.mortal()
}

// tell checks what can only be seen when it happens.
func (w *world) tell(e Event) {
	r := w.p.table.find(e.Conn)
	if e.Kind != EventClosed || r == nil {
		return
	}
	switch idle := w.p.now - r.since; {
	case e.Reason == ReasonEvicted && idle < int64(w.p.limits.MinIdle) && w.p.roomLeft():
		w.t.Fatalf("%d is evicted after %d ns, and there is room", e.Conn, idle)
	case e.Reason == ReasonClientConnections && w.clientsOf(r) <= w.p.limits.ClientConnections:
		w.t.Fatalf("%d is refused, its client has %d", e.Conn, w.clientsOf(r))
	}
}

// clientsOf is how many connections the client of a connection has.
func (w *world) clientsOf(r *record) (n int) {
	own := w.p.clients.of
	slot := w.socks[r.fd].id.slot()
	for other := range own {
		if int(slot) < len(own) && own[slot] != 0 && own[other] == own[slot] {
			n++
		}
	}
	return n
}

// The steps of the property test. Each is something that the outside does; the loop's own steps follow each of them. Where there is nothing to do
// it to (no lease to put, no host to kill), a step is skipped: rapid draws another, the test goes on.

func (w *world) step(name string, f func(*rapid.T)) func(*rapid.T) {
	return func(t *rapid.T) {
		w.t = t
		clear(w.said)
		f(t)
		w.turn()
		w.check(name)
	}
}

// turn is the second half of Manager.Run's loop.
func (w *world) turn() {
	w.p.countMore(jobShare)
	w.p.expire()
	w.p.dispatch()
	w.p.stopDone()
	for _, id := range sorted(w.hosts) {
		a := w.hosts[id]
		w.answers(a)
		if a.hungUp || a.hopeless {
			w.closeDoorsOf(a.h)
			w.leave(a)
		}
	}
	w.p.dispatch()
	w.p.reviewPools(func(to *pool, was PoolService) {
		if w.services[to.name] != was.State {
			w.t.Fatalf("pool %s was told to be %v, now it is said to have been %v", to.name, w.services[to.name], was.State)
		}
		w.services[to.name] = to.service.State
	})
}

func (w *world) leave(a *attached) {
	for _, id := range sorted(w.leases) {
		if w.leases[id].host == a.h.id {
			w.endLease(id)
		}
	}
	delete(w.hosts, a.h.id)
	w.dying = a
	w.again = func() { w.p.hostGone(a.h, "test") }
	w.again()
	w.again, w.dying = nil, nil
}

func (w *world) accept(t *rapid.T) {
	d := w.openDoors()[rapid.IntRange(0, len(w.openDoors())-1).Draw(t, "door")]
	if w.p.mayAccept() {
		fd := w.open()
		if id, err := w.p.accepted(fd, d.index); err != nil || id == 0 && w.p.limits.ClientConnections < 1 {
			t.Fatal(id, err)
		}
	}
}

func (w *world) openDoors() []*door {
	var open []*door
	for _, d := range w.p.listeners[1:] {
		if d != nil && !d.closed {
			open = append(open, d)
		}
	}
	return open
}

func (w *world) anySock(t *rapid.T) *sock {
	if len(w.socks) == 0 {
		t.Skip("no connection")
	}
	return w.socks[rapid.SampledFrom(sorted(w.socks)).Draw(t, "fd")]
}

func (w *world) clientSends(t *rapid.T) {
	if s := w.anySock(t); !s.shut && !s.ended {
		_, leased := w.leases[s.id]
		s.blank = (!s.unread || s.blank) && !leased && rapid.IntRange(0, 4).Draw(t, "an empty line") == 0
		s.unread, s.next = true, leased
		s.arrives()
	}
}

func (w *world) clientEnds(t *rapid.T) {
	s := w.anySock(t)
	s.ended = true
	s.arrives()
	if s.shut {
		w.p.readable(s.id, newsHungUp)
	}
}

// handleEvent handles a reported event. Since it was reported its connection may have changed state, or gone.
func (w *world) handleEvent(t *rapid.T) {
	if len(w.fired) == 0 {
		t.Skip("no event")
	}
	e := w.fired[0]
	w.fired = w.fired[1:]
	if r := w.p.table.find(e.id); r != nil && w.socks[r.fd].armed {
		return // armed again since: the loop ends a batch before it lends, so nothing can have been put in the middle of one
	}
	switch {
	case !e.ended:
		w.p.readable(e.id, newsBytes)
	case rapid.Bool().Draw(t, "reset"):
		w.p.readable(e.id, newsHungUp)
	default:
		w.p.readable(e.id, newsLast)
	}
}

func (w *world) hostAttaches(t *rapid.T) {
	hello := handoff.Hello{
		Name: "h", Pool: rapid.SampledFrom([]string{"a", "b", ""}).Draw(t, "pool"),
		Capacity: rapid.IntRange(1, 3).Draw(t, "capacity"),
		Features: rapid.SampledFrom([][]string{nil, {"cache"}, {"track"}, {"cache", "track"}}).Draw(t, "features"),
	}
	h, fault := w.p.attach(&hello, listener.Credentials{}, new(hostState))
	if fault != nil {
		if len(w.p.hosts) < w.p.limits.Hosts {
			t.Fatal(fault)
		}
		return
	}
	w.hosts[h.id] = &attached{h: h, hello: hello, holds: map[ConnID]bool{}}
	if hello.Pool == "" {
		d := &door{id: 1000 + ListenerID(h.id), host: h, silentLease: rapid.Bool().Draw(t, "silent"), ready: ReadyHead, edge: true}
		if fault := w.p.addDoor(d, h.pool); fault != nil {
			t.Fatal(fault)
		}
	}
}

func (w *world) anyHost(t *rapid.T) *attached {
	if len(w.hosts) == 0 {
		t.Skip("no host")
	}
	return w.hosts[rapid.SampledFrom(sorted(w.hosts)).Draw(t, "host")]
}

func (w *world) closeDoorsOf(h *host) {
	for _, d := range w.openDoors() {
		if d.host == h {
			w.p.closeDoor(d)
		}
	}
}

func (w *world) hostDies(t *rapid.T) {
	a := w.anyHost(t)
	w.closeDoorsOf(a.h)
	w.leave(a)
}

func (w *world) hostDrains(t *rapid.T) {
	a := w.anyHost(t)
	w.closeDoorsOf(a.h)
	w.says(a, func(h *host) *handoff.Fault {
		w.p.drain(h)
		return nil
	})
}

func (w *world) hostChangesCapacity(t *rapid.T) {
	a, n := w.anyHost(t), rapid.Uint64Range(0, 4).Draw(t, "capacity")
	w.says(a, func(h *host) *handoff.Fault {
		w.p.setCapacity(h, n)
		return nil
	})
}

// anyLease draws a lease and the host that has it.
func (w *world) anyLease(t *rapid.T) (ConnID, lent, *attached) {
	if len(w.leases) == 0 {
		t.Skip("no lease")
	}
	id := rapid.SampledFrom(sorted(w.leases)).Draw(t, "lease")
	return id, w.leases[id], w.hosts[w.leases[id].host]
}

func (w *world) hostPuts(t *rapid.T) {
	id, l, a := w.anyLease(t)
	f := handoff.Frame{Type: handoff.TypePut, Conn: uint64(id), Seq: l.seq}
	f.A = rapid.SampledFrom([]uint64{0, 0, 5, 100, 1 << 60}).Draw(t, "timeout")
	if rapid.IntRange(0, 4).Draw(t, "sticky") == 0 {
		f.Flags |= handoff.FlagSticky
	}
	s := w.socks[w.p.table.find(id).fd]
	w.takesRequest(t, s)
	s.blocking = rapid.Bool().Draw(t, "blocking")
	w.endLease(id)
	if !a.h.cache && f.Flags&handoff.FlagSticky == 0 {
		delete(a.holds, id)
	}
	w.says(a, func(h *host) *handoff.Fault { return w.p.put(h, &f) })
}

// says lets a host say something, once more if the process dies over it.
func (w *world) says(a *attached, do func(*host) *handoff.Fault) {
	say := func() {
		if fault := do(a.h); fault != nil {
			w.t.Fatal(fault)
		}
	}
	w.again = say
	say()
	w.again = nil
}

// takesRequest: a host has read its request; the next one may have arrived meanwhile.
func (w *world) takesRequest(t *rapid.T, s *sock) {
	s.news = s.news && (s.next || s.ended)
	s.unread, s.next, s.seen, s.answered, s.called, s.blank = s.next, false, 0, false, false, false
	if rapid.Bool().Draw(t, "next request is there") {
		s.unread, s.blank = true, rapid.Bool().Draw(t, "an empty line")
		s.arrives()
	}
}

func (w *world) hostFinishes(t *rapid.T) {
	id, l, a := w.anyLease(t)
	f := handoff.Frame{Type: handoff.TypeFinish, Conn: uint64(id), Seq: l.seq}
	if rapid.Bool().Draw(t, "then close") {
		f.Flags |= handoff.FlagClose
	}
	s := w.socks[w.p.table.find(id).fd]
	w.takesRequest(t, s)
	w.endLease(id)
	if !a.h.cache || f.Flags != 0 {
		delete(a.holds, id)
	}
	w.nextFD++
	file := w.nextFD
	w.files[file] = true
	left := rapid.Int64Range(1, 1000).Draw(t, "left")
	w.says(a, func(h *host) *handoff.Fault {
		if r := w.p.table.find(id); !w.files[file] || r != nil && r.state == Finishing {
			return nil // done already
		}
		return w.p.finish(h, &f, remainder{file: file, left: left})
	})
}

func (w *world) clientReads(t *rapid.T) {
	if s := w.anySock(t); s.room {
		w.p.readable(s.id, newsRoom)
	}
}

func (w *world) hostAnswers(t *rapid.T, typ handoff.Type, do func(*host, *handoff.Frame) *handoff.Fault) {
	id, l, a := w.anyLease(t)
	w.endLease(id)
	delete(a.holds, id)
	f := handoff.Frame{Type: typ, Conn: uint64(id), Seq: l.seq, A: rapid.Uint64Range(1, 3).Draw(t, "why")}
	w.says(a, func(h *host) *handoff.Fault { return do(h, &f) })
}

// hostAnswersLate: the lease has long ended; nothing may change.
func (w *world) hostAnswersLate(t *rapid.T) {
	if len(w.past) == 0 || len(w.hosts) == 0 {
		t.Skip("nothing past")
	}
	old := rapid.SampledFrom(w.past).Draw(t, "old")
	h := w.anyHost(t).h
	before := w.p.states
	f := handoff.Frame{Type: handoff.TypePut, Conn: uint64(old.id), Seq: old.lent.seq}
	if fault := w.p.put(h, &f); fault != nil || w.p.states != before {
		t.Fatalf("a late put: %v, %v became %v", fault, before, w.p.states)
	}
}

// hostAnswersForAnother is a fault and changes nothing.
func (w *world) hostAnswersForAnother(t *rapid.T) {
	id, l, a := w.anyLease(t)
	thief := w.anyHost(t)
	if thief == a {
		t.Skip("its own")
	}
	before := w.p.states
	f := handoff.Frame{Type: handoff.TypePut, Conn: uint64(id), Seq: l.seq}
	if fault := w.p.put(thief.h, &f); fault == nil || fault.Code != handoff.CodeNotYours || w.p.states != before {
		t.Fatalf("a put of another host's lease: %v, %v became %v", fault, before, w.p.states)
	}
}

func (w *world) hostDrops(t *rapid.T) {
	a := w.anyHost(t)
	if len(a.holds) == 0 {
		t.Skip("holds none")
	}
	id := rapid.SampledFrom(sorted(a.holds)).Draw(t, "held")
	if r := w.p.table.find(id); r == nil || r.state == Leased || r.marks&sticky != 0 {
		t.Skip("in use")
	}
	delete(a.holds, id)
	w.p.dropped(a.h, id)
}

func (w *world) hostAdopts(t *rapid.T) {
	a := w.anyHost(t)
	fd := w.open()
	f := handoff.Frame{Type: handoff.TypeAdopt}
	if rapid.Bool().Draw(t, "sticky") {
		f.Flags |= handoff.FlagSticky
	}
	w.says(a, func(h *host) *handoff.Fault {
		var id ConnID
		w.p.table.each(func(slot uint32, r *record) {
			if r.fd == fd {
				id = w.p.id(r, slot) // done already, perhaps in part
			}
		})
		if id != 0 {
			w.p.adopted(h, id, &f)
		} else {
			evicted := w.p.totals.Closed[ReasonEvicted]
			id, _ = w.p.adopt(h, fd, &f)
			if w.p.totals.Closed[ReasonEvicted] != evicted {
				w.t.Fatal("a connection was evicted for an adopted one")
			}
			if id == 0 { // denied
				delete(w.socks, fd)
				return nil
			}
		}
		if f.Flags != 0 {
			a.holds[id] = true
		}
		return nil
	})
}

func (w *world) timePasses(t *rapid.T) {
	w.p.now += rapid.SampledFrom([]int64{1, int64(time.Millisecond), int64(50 * time.Millisecond), int64(time.Second), int64(time.Minute)}).Draw(t, "time")
}

func (w *world) operatorPuts(t *rapid.T) {
	id, _, _ := w.anyLease(t)
	w.endLease(id)                                  // the host learns it at the end of the turn
	w.again = func() { _ = w.p.operatorPut(id, 0) } // it may be done already
	if err := w.p.operatorPut(id, 0); err != nil {
		t.Fatal(err)
	}
	w.again = nil
}

func (w *world) operatorCloses(t *rapid.T) {
	s := w.anySock(t)
	w.p.closeAll(func(id ConnID, _ *record) bool { return id == s.id }, ReasonOperator)
}

func (w *world) operatorStops(t *rapid.T) {
	w.p.beginStop(rapid.SampledFrom([]time.Duration{0, time.Second}).Draw(t, "grace"))
}

func (w *world) limitsChange(t *rapid.T) {
	w.p.setLimits(w.p.limits.merge(Limits{
		Connections: rapid.IntRange(1, 20).Draw(t, "connections"),
		KeepAlive:   rapid.SampledFrom([]int{KeepAliveNone, 1, 3, 20}).Draw(t, "keep-alive"),
		Queue:       rapid.IntRange(1, 10).Draw(t, "queue"),
		MinIdle:     rapid.SampledFrom([]time.Duration{Off, time.Millisecond, 50 * time.Millisecond}).Draw(t, "min-idle"),
		Age:         rapid.SampledFrom([]time.Duration{Off, 2 * time.Second}).Draw(t, "age"),
		Requests:    rapid.SampledFrom([]int{Off, 2}).Draw(t, "requests"),
		Adopted:     rapid.IntRange(1, 10).Draw(t, "adopted"),
		HostAdopted: rapid.IntRange(1, 5).Draw(t, "adopted by a host"),
	}))
}

func (w *world) clientLimitsChange(t *rapid.T) {
	w.p.setLimits(w.p.limits.merge(Limits{
		ClientConnections: rapid.SampledFrom([]int{Off, 1, 2}).Draw(t, "client connections"),
		ClientRate:        rapid.SampledFrom([]int{Off, 1, 100}).Draw(t, "client rate"),
		ClientBurst:       rapid.IntRange(1, 3).Draw(t, "client burst"),
		Clients:           rapid.IntRange(1, 4).Draw(t, "clients"),
	}))
}

func (w *world) livenessChanges(t *rapid.T) {
	w.p.setLimits(w.p.limits.merge(Limits{
		LeaseWarn:    rapid.SampledFrom([]time.Duration{Off, time.Millisecond, time.Second}).Draw(t, "lease-warn"),
		PingInterval: rapid.SampledFrom([]time.Duration{Off, time.Second}).Draw(t, "ping-interval"),
		HangTimeout:  rapid.SampledFrom([]time.Duration{Off, time.Second}).Draw(t, "hang-timeout"),
	}))
	for _, a := range w.hosts {
		a.pinged = a.h.asked != 0
	}
}

// hostHangs, or goes on, and then answers what it was asked meanwhile.
func (w *world) hostHangs(t *rapid.T) {
	a := w.anyHost(t)
	a.mute = !a.mute
	w.answers(a)
}

// processEnds: who has attached a host ends, and leaves the link to another, who answers or does not.
func (w *world) processEnds(t *rapid.T) {
	a := w.anyHost(t)
	if a.h.orphaned {
		t.Skip("it has ended")
	}
	if w.p.left(a.h); a.h.asked == 0 || w.p.hasRoom(a.h) {
		t.Fatalf("host %d has room for leases, asked %d", a.h.id, a.h.asked)
	}
}

func (w *world) answers(a *attached) {
	if a.pinged && !a.mute {
		a.pinged = false
		w.p.alive(a.h)
		w.p.pong(a.h, a.h.number)
	}
}

func (w *world) operatorRevokes(t *rapid.T) {
	id, _, _ := w.anyLease(t)
	w.p.revokeLease(w.p.table.find(id), id.slot(), ReasonOperator)
}

func newWorld(t *rapid.T, memory *Memory) *world {
	w := &world{
		t: t, life: -1, said: map[ConnID]saying{}, nextFD: maxStdio, socks: map[int32]*sock{}, leases: map[ConnID]lent{}, files: map[int32]bool{}, helps: map[ConnID]bool{}, services: map[string]ServiceState{}, hosts: map[HostID]*attached{},
	}
	w.p = newPolicy(Limits{
		Connections: 12, KeepAlive: 6, Hosts: 4, KeepAliveTimeout: 100 * time.Millisecond, FirstByteTimeout: 60 * time.Millisecond,
		QueueTimeout: 80 * time.Millisecond, LeaseTimeout: 10 * time.Second, LingerTimeout: 30 * time.Millisecond,
		ClientConnections: 2, ClientRate: 5, ClientBurst: 2, Clients: 2, LeaseWarn: time.Second, PingInterval: 500 * time.Millisecond,
	}.withDefaults(1000), w, memory)
	w.p.exempt = []listener.Subnet{subnet("203.0.113.0/24")}
	for i, name := range []string{"a", "b"} {
		ready := []Readiness{ReadyBytes, ReadyRequest}[i]
		to, _ := w.p.poolNamed(name, false)
		if fault := w.p.addDoor(&door{id: ListenerID(len(w.p.listeners)), name: name, ready: ready, proxies: make([]listener.Subnet, ready)}, to); fault != nil {
			t.Fatal(fault)
		}
	}
	return w
}

// TestPolicy drives the policy with random sequences of events. A failing sequence is shrunk by rapid and printed with its seed; more steps:
// go test ./manager -run 'TestPolicy$' -rapid.checks=10000 -rapid.steps=100.
func TestPolicy(t *testing.T) {
	memory := smallMemory(t)
	rapid.Check(t, func(t *rapid.T) {
		memory.wipe()
		w := newWorld(t, memory)
		put := func(t *rapid.T) { w.hostPuts(t) }
		t.Repeat(map[string]func(*rapid.T){
			"accept": w.step("accept", w.accept), "accept again": w.step("accept", w.accept),
			"client sends": w.step("client sends", w.clientSends), "client sends again": w.step("client sends", w.clientSends),
			"client ends": w.step("client ends", w.clientEnds),
			"select":      w.step("select", w.selects), "select 2": w.step("select", w.selects),
			"event": w.step("event", w.handleEvent), "event 2": w.step("event", w.handleEvent), "event 3": w.step("event", w.handleEvent),
			"host attaches": w.step("host attaches", w.hostAttaches),
			"host dies":     w.step("host dies", w.hostDies),
			"host drains":   w.step("host drains", w.hostDrains),
			"capacity":      w.step("capacity", w.hostChangesCapacity),
			"put":           w.step("put", put), "put 2": w.step("put", put), "put 3": w.step("put", put),
			"finish": w.step("finish", w.hostFinishes), "client reads": w.step("client reads", w.clientReads),
			"helper": w.step("helper", w.helperSends), "helper 2": w.step("helper", w.helperSends),
			"close":   w.step("close", func(t *rapid.T) { w.hostAnswers(t, handoff.TypeClose, w.p.closeLease) }),
			"detach":  w.step("detach", func(t *rapid.T) { w.hostAnswers(t, handoff.TypeDetach, w.p.detach) }),
			"nack":    w.step("nack", func(t *rapid.T) { w.hostAnswers(t, handoff.TypeNack, w.p.nack) }),
			"late":    w.step("late answer", w.hostAnswersLate),
			"foreign": w.step("foreign answer", w.hostAnswersForAnother),
			"dropped": w.step("dropped", w.hostDrops),
			"adopt":   w.step("adopt", w.hostAdopts),
			"time":    w.step("time", w.timePasses), "time 2": w.step("time", w.timePasses),
			"operator puts":   w.step("operator puts", w.operatorPuts),
			"operator closes": w.step("operator closes", w.operatorCloses),
			"stop":            w.step("stop", w.operatorStops),
			"start":           w.step("start", func(*rapid.T) { w.p.start() }), "start 2": w.step("start", func(*rapid.T) { w.p.start() }),
			"limits": w.step("limits", w.limitsChange), "client limits": w.step("client limits", w.clientLimitsChange),
			"liveness limits": w.step("liveness limits", w.livenessChanges),
			"host hangs":      w.step("host hangs", w.hostHangs),
			"process ends":    w.step("process ends", w.processEnds),
			"revoke":          w.step("revoke", w.operatorRevokes),
			"dies":            w.dies, "dies 2": w.dies, "dies 3": w.dies,
		})
	})
}

// check is the invariants, after every step.
func (w *world) check(step string) {
	p, t := w.p, w.t
	fail := func(format string, args ...any) { t.Fatalf("after %s: %s", step, fmt.Sprintf(format, args...)) }

	var states stateCounts
	pools, doors := map[uint16]*stateCounts{}, map[uint16]*stateCounts{}
	keptNow, live := 0, 0
	p.table.each(func(slot uint32, r *record) {
		live++
		states[r.state]++
		for m, index := range map[*map[uint16]*stateCounts]uint16{&pools: r.pool, &doors: r.listener} {
			if (*m)[index] == nil {
				(*m)[index] = &stateCounts{}
			}
			(*m)[index][r.state]++
		}
		if r.marks&kept != 0 {
			keptNow++
		}
		w.checkRecord(fail, p.id(r, slot), r)
	})
	if states != p.states || live != p.table.live || keptNow != p.kept || live != len(w.socks) {
		fail("states %v, counted %v; live %d, counted %d, open descriptors %d; kept %d, counted %d",
			p.states, states, p.table.live, live, len(w.socks), p.kept, keptNow)
	}
	if got := states[Leased]; got != len(w.leases) {
		fail("%d leased, the hosts have %d", got, len(w.leases))
	}
	for _, to := range p.pools {
		if to != nil && pools[to.index] == nil {
			pools[to.index] = &stateCounts{}
		}
		if to != nil && *pools[to.index] != to.states {
			fail("pool %s: states %v, counted %v", to.name, to.states, pools[to.index])
		}
	}
	w.checkLists(fail)
	w.checkDispatch(fail)
	w.checkClients(fail)
	w.checkAlive(fail)
	w.checkAdopted(fail)
	w.checkKept(fail)
	w.checkService(fail)
	if due := p.nextDeadline(); p.wake > due {
		fail("expire is due at %d, planned for %d", due, p.wake)
	}
}

func (w *world) checkRecord(fail func(string, ...any), id ConnID, r *record) {
	s := w.socks[r.fd]
	l, leased := w.leases[id]
	switch {
	case s == nil || s.id != id:
		fail("%d has descriptor %d, which is another's or closed", id, r.fd)
	case leased != (r.state == Leased) || leased && (l.host != r.host || l.seq != r.seq):
		fail("%d is %v with host %d, seq %d; the hosts say %v %+v", id, r.state, r.host, r.seq, leased, l)
	case r.state == Leased && w.hosts[r.host] == nil:
		fail("%d is leased to host %d, which is not there", id, r.host)
	case r.state == Leased && s.armed:
		fail("%d is %v and armed", id, r.state)
	case (r.marks&hushed != 0) == (s.armed || s.edge) && r.state != Closing && !w.told(id):
		fail("%d is %v, hushed %v, armed %v, edge %v", id, r.state, r.marks&hushed != 0, s.armed, s.edge)
	case r.state == Idle && s.edge && s.news && !s.told && !s.low && !w.told(id):
		fail("%d is idle, and something has arrived that nobody will look at", id)
	case r.state == Idle && !s.armed && !s.edge && !w.p.partials[id.slot()].paused && !slices.ContainsFunc(w.fired, func(f fired) bool { return f.id == id }):
		fail("%d is idle and nobody watches it", id)
	case r.state == Idle && w.p.pools[r.pool].ended:
		fail("%d is idle in a pool that has ended", id)
	case r.state == Finishing && !w.files[w.p.remainder(id.slot()).file] || len(w.files) != w.p.states[Finishing]:
		fail("%d is %v; %d files are open for %d remainders", id, r.state, len(w.files), w.p.states[Finishing])
	case r.state == Closing != s.shut:
		fail("%d is %v, shut %v", id, r.state, s.shut)
	case (r.marks&partial != 0) != inMap(w.p.partials, id.slot()) || r.marks&partial != 0 && r.state != Idle:
		fail("%d is %v, partial %v", id, r.state, r.marks&partial != 0)
	case r.state == Idle && r.marks&kept == 0 && r.marks&fresh == 0:
		fail("%d is idle between requests and not counted as kept", id)
	case r.state != Closing && w.p.now-r.since > int64(time.Hour):
		fail("%d has been %v without bound", id, r.state)
	}
}

// checkClients: what is counted for each client is what is there.
func (w *world) checkClients(fail func(string, ...any)) {
	s := &w.p.clients
	if !w.p.limitsClients() {
		if len(s.of)+len(s.all)+len(s.known) > 0 {
			fail("clients are counted though they are not limited: %+v", s)
		}
		return
	}
	counted := map[uint32]int32{}
	for slot, link := range s.of {
		if r := w.p.table.at(uint32(slot)); link != 0 && (r.state == Free || w.p.exempts(r)) {
			fail("slot %d is counted for a client, and is %v", slot, r.state)
		}
		if link != 0 {
			counted[link]++
		}
	}
	idle := 0
	for link := s.first; link != 0; link = s.all[link-1].next {
		if idle++; s.all[link-1].connections != 0 {
			fail("a client with connections is in the list of those without: %+v", s)
		}
	}
	without := 0
	for key, i := range s.known {
		c := &s.all[i]
		if c.key != key || c.connections != counted[i+1] {
			fail("client %v has %d connections, counted %d", key, c.connections, counted[i+1])
		}
		if c.connections == 0 {
			without++
		}
	}
	if idle != without || len(s.known) != len(s.all) || len(s.all) > 4 {
		fail("%d clients, %d of them known, %d without connections, %d in the list", len(s.all), len(s.known), without, idle)
	}
}

func (p *policy) exempts(r *record) bool {
	return p.listeners[r.listener].index == 0
}

// checkAdopted: each host has brought what is counted for it.
func (w *world) checkAdopted(fail func(string, ...any)) {
	brought := map[HostID]int{}
	w.p.table.each(func(slot uint32, r *record) {
		if r.listener == 0 {
			brought[w.p.memory.extra(slot).bringer]++
		}
	})
	for id, h := range w.p.hosts {
		if h.adopted != brought[id] {
			fail("host %d has brought %d connections, counted %d", id, brought[id], h.adopted)
		}
	}
	if brought[0] > 0 {
		fail("%d connections were brought by nobody", brought[0])
	}
}

// checkKept: what is kept beyond the limit is evicted as soon as it may.
// checkService: what was told of each pool is what holds now, and so is the state of the whole.
func (w *world) checkService(fail func(string, ...any)) {
	p := w.p
	var worst ServiceState
	served := false
	for to := range p.eachPool {
		s := p.serviceOf(to)
		if w.services[to.name] != s || to.service.Fed != (to.doors > 0) {
			fail("pool %s is %v, it was told to be %v", to.name, s, w.services[to.name])
		}
		if to.doors > 0 {
			worst = max(worst, s)
		}
		served = served || s == Serving
	}
	for name, s := range w.services {
		if s != 0 && p.poolNames[name] == nil {
			fail("pool %s has gone, it was told to be %v", name, s)
		}
	}
	if got := p.service(); worst != 0 && got != worst || (got == Serving) && !served {
		fail("the whole is %v, its pools are %v at worst", got, worst)
	}
}

func (w *world) checkKept(fail func(string, ...any)) {
	r, slot, ok := w.p.idle.leastRecentlyUsed(&w.p.table)
	if ok && w.p.kept > w.p.keepLimit() && w.p.overdue(r, int64(w.p.minIdle())) && !w.waits(r) {
		fail("slot %d is kept, as one of %d, where %d may be", slot, w.p.kept, w.p.keepLimit())
	}
}

// waits reports whether a connection has input that may be a request.
func (w *world) waits(r *record) bool {
	s := w.socks[r.fd]
	return s.unread && (!s.blank || !w.p.looked(r))
}

// looked reports whether a connection's requests are looked at, and its PROXY header, if it was to
// have one, is gone.
func (p *policy) looked(r *record) bool {
	d := p.listeners[r.listener]
	return !d.once() && (len(d.proxies) == 0 || r.marks&introduced != 0)
}

// checkAlive: the warned leases of a host are the first of its list, and what is due about it is done.
func (w *world) checkAlive(fail func(string, ...any)) {
	p := w.p
	for _, a := range w.hosts {
		h, last, over := a.h, uint32(0), false
		for link := h.leases.first; link != 0; link = p.table.at(link - 1).next {
			r := p.table.at(link - 1)
			if over = over || r.marks&warned == 0; over == (r.marks&warned != 0) {
				fail("a lease of host %d is warned of before an older one", h.id)
			}
			if !over {
				last = link
			}
			if late := p.now-r.since >= int64(p.limits.LeaseWarn); late && over && p.limits.LeaseWarn > 0 {
				fail("a lease of host %d is not warned of", h.id)
			}
		}
		if h.warned != last {
			fail("host %d: the last that was warned of is %d, not %d", h.id, last, h.warned)
		}
		if h.hung && !a.mute || a.pinged != (h.asked != 0) {
			fail("host %d: mute %v, pinged %v, asked %d, hung %v", h.id, a.mute, a.pinged, h.asked, h.hung)
		}
	}
}

// told reports whether an event of a connection waits to be handled.
func (w *world) told(id ConnID) bool {
	return slices.ContainsFunc(w.fired, func(f fired) bool { return f.id == id })
}

// checkLists: every connection is in one list, that of its state, in order of time.
func (w *world) checkLists(fail func(string, ...any)) {
	p := w.p
	seen := map[uint32]bool{}
	walk := func(name string, l *list, want State, ordered bool) {
		last, n := int64(0), 0
		for link := l.first; link != 0; link = p.table.at(link - 1).next {
			r := p.table.at(link - 1)
			if r.state != want || seen[link] || p.listOf(r) != l || ordered && r.since < last {
				fail("%s holds slot %d: %v, seen %v, since %d after %d", name, link-1, r.state, seen[link], r.since, last)
			}
			seen[link], last = true, r.since
			n++
		}
		if n != l.len {
			fail("%s has %d, says %d", name, n, l.len)
		}
	}
	for i := range p.idle.classes {
		walk("class", &p.idle.classes[i].list, Idle, true)
	}
	for _, to := range p.poolNames {
		walk("queue of "+to.name, &to.queue, Ready, false)
	}
	for _, h := range p.hosts {
		walk("waiting", &h.waiting, Ready, false)
		walk("leases", &h.leases, Leased, true)
	}
	walk("finishing", &p.finishing, Finishing, true)
	walk("closing", &p.closing, Closing, true)
	if len(seen) != p.table.live {
		fail("%d connections are in lists, %d are live", len(seen), p.table.live)
	}
}

// checkDispatch: nothing waits while a host has room, and nobody is over its room.
func (w *world) checkDispatch(fail func(string, ...any)) {
	if w.p.stopped {
		return
	}
	for _, h := range w.p.hosts {
		if h.resume > 0 && h.resume <= w.p.now {
			fail("host %d pauses beyond its time", h.id)
		}
		if w.p.hasRoom(h) && (h.pool.queue.len > 0 || h.waiting.len > 0) {
			fail("host %d has room, and %d + %d connections wait", h.id, h.pool.queue.len, h.waiting.len)
		}
	}
}

func inMap[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

func sorted[K int32 | ConnID | HostID, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
