package manager

import (
	"context"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// Tests that put events exactly where they hurt, by taking the loop's turns themselves.

// attachStepped attaches a host to a stepped rig.
func (r *rig) attachStepped(h handoff.Hello) *peer {
	r.t.Helper()
	if h.Pool == "" {
		h.Pool = DefaultPool
	}
	if h.Name == "" {
		h.Name = "test"
	}
	h.Capacity = max(h.Capacity, 1)
	p := r.connect()
	p.send(h.Frame())
	r.turn() // accepts it
	r.turn() // reads its HELLO
	p.want(handoff.TypeWelcome)
	return p
}

// turnUntil takes turns until the counts are as they should.
func (r *rig) turnUntil(what string, is func(Counts) bool) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !is(r.counts()); r.turn() {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 5 s: %s; now %+v", what, r.counts())
		}
	}
}

// keepOne has a client served once by a stepped host, and returns its connection, which is idle.
func (r *rig) keepOne(h *peer) (*client, handoff.Frame) {
	r.t.Helper()
	c := r.dial()
	r.turnUntil("it is accepted", func(c Counts) bool { return c.States.Idle > 0 })
	c.send("x")
	idle := r.counts().States.Idle
	r.turnUntil("it is leased", func(c Counts) bool { return c.States.Leased == 1 })
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "x", "y")
	c.want("y")
	r.turnUntil("it is idle", func(c Counts) bool { return c.States.Idle == idle })
	return c, lease
}

// An idle connection's time is over in the moment in which its next request arrives: the request wins, and no event of it remains.
func TestAnIdleConnectionExpiresJustAsItsRequestArrives(t *testing.T) {
	r := steppedRig(t, Config{})
	h := r.attachStepped(handoff.Hello{})
	c, lease := r.keepOne(h)
	fd := int(r.policy.table.find(ConnID(lease.Conn)).fd)
	c.send("again")
	awaitBytes(t, fd)
	r.leap(2 * 75 * time.Second)
	r.policy.now = r.clock()
	r.policy.expire() // as if epoll_wait(2) had returned just before
	if counts := r.counts(); counts.Totals.Crossed != 1 || counts.States.Ready != 1 {
		t.Fatalf("counts: %+v", counts)
	}
	if n, err := r.sel.Select(r.events, 0); n != 0 || err != nil {
		t.Fatalf("the selector still tells of it: %d events, %v", n, err)
	}
	r.turn()
	again, fd := h.want(handoff.TypeLease)
	if again.Conn != lease.Conn {
		t.Fatalf("lease %+v", again)
	}
	h.answer(again, fd, "again", "and again")
	c.want("and again")
	r.turnUntil("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
}

// The same when it was to be evicted for another.
func TestAnIdleConnectionIsEvictedJustAsItsRequestArrives(t *testing.T) {
	r := steppedRig(t, Config{Limits: Limits{KeepAlive: 1}})
	h := r.attachStepped(handoff.Hello{Capacity: 2})
	first, _ := r.keepOne(h)
	second := r.dial()
	second.send("x")
	r.turnUntil("it is leased", func(c Counts) bool { return c.States.Leased == 1 })
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	first.send("just now")
	for slot := range r.policy.table.fresh {
		awaitBytesOrIdle(t, int(r.policy.table.at(slot).fd), r.policy.table.at(slot).state == Idle)
	}
	if fault := r.policy.put(r.policy.hosts[1], &handoff.Frame{Type: handoff.TypePut, Conn: lease.Conn, Seq: lease.Seq}); fault != nil {
		t.Fatal(fault)
	}
	if c := r.counts(); c.Totals.Crossed != 1 || c.Totals.ClosedFor(ReasonEvicted) != 1 || c.States.Ready != 1 {
		t.Fatalf("counts: %+v", c)
	}
	second.want("y")
	second.wantEnd()
	r.turn()
	lease, fd = h.want(handoff.TypeLease)
	h.answer(lease, fd, "just now", "yes")
	first.want("yes")
}

func awaitBytesOrIdle(t *testing.T, fd int, wait bool) {
	t.Helper()
	if wait {
		awaitBytes(t, fd)
	}
}

// A host goes while frames for it are being sent. What it said before counts, and what follows from it for other hosts is sent and done.
func TestLastWordsHeardWhileSending(t *testing.T) {
	r := steppedRig(t, Config{Limits: Limits{KeepAlive: 1}})
	stays := r.attachStepped(handoff.Hello{Name: "stays", Features: []string{handoff.FeatureTrack}})
	idle, kept := r.keepOne(stays)
	stays.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	r.turn()
	goes := r.attachStepped(handoff.Hello{Name: "goes", Capacity: 2})
	put1, nack2 := r.lendOne(goes), r.lendOne(goes)
	stays.send(handoff.Frame{Type: handoff.TypeCapacity, A: 1})
	r.turn()

	// It puts one, which evicts the connection of the other host, and refuses one, which is then for the other host. Then it goes. The loop hears
	// of it all only when it has something to send.
	goes.send(put(put1))
	goes.send(nack(nack2, handoff.NackOverload))
	goes.close()
	for _, l := range r.links {
		if l.host.name == "goes" {
			r.reply(l, handoff.Frame{Type: handoff.TypePing})
		}
	}
	r.flush()
	idle.wantEnd()
	if p := r.patience(); p != 0 {
		t.Errorf("the loop would wait %v though a request could be lent", p)
	}
	if f, _ := stays.want(handoff.TypeForget); f.Conn != kept.Conn || f.A != handoff.ForgetEvicted {
		t.Errorf("forget: %+v", f)
	}
	r.turn()
	lease, fd := stays.want(handoff.TypeLease)
	if lease.Conn != nack2.Conn {
		t.Errorf("lease: %+v", lease)
	}
	closeFD(fd)
}

// lendOne has a new client's request leased to a stepped host.
func (r *rig) lendOne(h *peer) handoff.Frame {
	r.t.Helper()
	before := r.counts().States.Leased
	r.dial().send("x")
	r.turnUntil("it is leased", func(c Counts) bool { return c.States.Leased == before+1 })
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	return lease
}

// What waits to be sent because too many descriptors are on the way must not be sent with a descriptor that has become another's.
func TestALeaseThatWaitsToBeSentKeepsItsDescriptor(t *testing.T) {
	r := steppedRig(t, Config{})
	h := r.attachStepped(handoff.Hello{Capacity: 2})
	var l *link
	for _, l = range r.links {
	}
	one := r.dial()
	one.send("one")
	r.turnUntil("it is here", func(c Counts) bool { return c.States.Idle == 1 })
	l.stalled, r.stalled = true, append(r.stalled, l) // as after ETOOMANYREFS
	r.policy.now = r.clock()
	if n, err := r.sel.Select(r.events, 5*time.Second); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	r.handle(r.events[0])
	r.policy.dispatch()
	r.flush()
	if n, err := r.Close(context.Background(), Selection{States: []State{Leased}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	one.wantEnd()
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	r.turnUntil("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
	two := r.dial()
	r.turnUntil("another has its place", func(c Counts) bool { return c.States.Idle == 1 })
	r.reviewStalled()
	r.flush()
	_, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	if peer, err := listener.Peer(fd); err == nil && peer.String() == two.LocalAddr().String() {
		t.Error("the lease of a connection that is gone came with another's descriptor")
	}
}
