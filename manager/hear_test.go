package manager

import (
	"testing"

	"github.com/anteroom-io/anteroom/handoff"
)

const get = "GET / HTTP/1.1\r\n\r\n"

// A request that arrives while a host still has the connection is told of once, and must not be forgotten.
func TestTheNextRequestArrivesBeforeThePut(t *testing.T) {
	r := readyRig(t, Limits{})
	for _, features := range [][]string{nil, {handoff.FeatureCache}} {
		h := r.attach(handoff.Hello{Features: features})
		c := r.dial()
		c.send(get)
		lease, fd := h.want(handoff.TypeLease)
		h.serve(fd, get, "one")
		c.want("one")
		c.send(get)
		r.settled(get) // the loop has been told of it
		h.send(put(lease))
		again, other := h.want(handoff.TypeLease)
		if again.Conn != lease.Conn || again.Seq != lease.Seq+1 {
			t.Fatalf("the next lease is %+v", again)
		}
		h.serve(fd, get, "two")
		c.want("two")
		h.send(handoff.Frame{Type: handoff.TypeClose, Conn: again.Conn, Seq: again.Seq})
		closeFD(fd)
		if other >= 0 {
			closeFD(other)
		}
		c.wantEnd()
		h.close()
	}
}

// The client's end arrives while a host has the connection: it is seen when that is put.
func TestTheClientEndsBeforeThePut(t *testing.T) {
	r := readyRig(t, Limits{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send(get)
	lease, fd := h.want(handoff.TypeLease)
	_ = c.CloseWrite()
	r.settled(get)
	h.serve(fd, get, "one")
	closeFD(fd)
	c.want("one")
	h.send(put(lease))
	c.wantEnd()
	r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonHungUp) == 1 })
}

// The client's end comes with its request: it is told once, before the lease, and nothing tells it again.
func TestTheClientEndsWithItsRequest(t *testing.T) {
	r := readyRig(t, Limits{})
	c := r.dial()
	c.send(get)
	_ = c.CloseWrite()
	r.eventually("it is known", func(c Counts) bool { return c.States.Ready == 1 })
	h := r.attach(handoff.Hello{})
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, get, "one")
	closeFD(fd)
	c.want("one")
	h.send(put(lease))
	c.wantEnd()
	r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonHungUp) == 1 })
}

// A client that resets its connection while its request waits is dropped, before a worker runs the request.
func TestAClientThatResetsWhileItWaitsIsDropped(t *testing.T) {
	r := readyRig(t, Limits{})
	c := r.dial()
	c.send(get)
	r.eventually("it waits", func(c Counts) bool { return c.States.Ready == 1 })
	c.reset()
	r.eventually("it is dropped", func(c Counts) bool { return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonHungUp) == 1 })
}

// What a host reads of a request whose end is unknown is the host's affair: the loop does not wake for it.
func TestTheLoopIsDeafToABodyThatAHostReads(t *testing.T) {
	r := readyRig(t, Limits{WaitBody: 10})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")
	_, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	before := r.turns()
	for range 50 {
		c.send("part of the body")
	}
	if n := r.turns() - before; n > 5 {
		t.Errorf("the loop turned %d times", n)
	}
}
