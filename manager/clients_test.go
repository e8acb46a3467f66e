package manager

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

const tooMany = "HTTP/1.1 429 Too Many Requests\r\n"

// wantTooMany reads a 429 with Retry-After, and the end.
func (c *client) wantTooMany() {
	c.t.Helper()
	c.want(tooMany)
	rest := make([]byte, 4096)
	n, _ := c.Read(rest)
	if !strings.Contains(string(rest[:n]), "\r\nRetry-After: 1\r\n") || !strings.Contains(string(rest[:n]), "\r\nConnection: close\r\n") {
		c.t.Errorf("the rest is %q", rest[:n])
	}
	c.wantEnd()
	_ = c.Close()
}

func TestAClientWithTooManyConnections(t *testing.T) {
	r := readyRig(t, Limits{ClientConnections: 2})
	h := r.attach(handoff.Hello{Capacity: 8})
	kept, other := r.dial(), r.dial()
	h.exchange(kept, get, "one")
	h.exchange(other, get, "two")
	extra := r.dial()
	extra.send(get)
	extra.wantTooMany()
	r.eventually("it is counted", func(c Counts) bool {
		return c.States.Sum() == 2 && c.Totals.ClosedFor(ReasonClientConnections) == 1 && c.Totals.Answers[slices.Index(answerStatuses, 429)] == 1
	})
	h.exchange(kept, get, "those that are here go on")

	_ = other.Close()
	r.eventually("one has gone", func(c Counts) bool { return c.States.Sum() == 1 })
	next := r.dial()
	h.exchange(next, get, "there is room again")
}

// One that is too many when it comes is served if others have gone when its request is there.
func TestAClientThatHadTooManyConnections(t *testing.T) {
	r := readyRig(t, Limits{ClientConnections: 1})
	h := r.attach(handoff.Hello{})
	first, second := r.dial(), r.dial()
	r.eventually("both are here", func(c Counts) bool { return c.States.Idle == 2 })
	_ = first.Close()
	r.eventually("one has gone", func(c Counts) bool { return c.States.Idle == 1 })
	h.exchange(second, get, "served")
}

// Where no 429 can be said, and where far too many wait for theirs, connections are closed as they come.
func TestConnectionsThatAreTurnedAway(t *testing.T) {
	for name, c := range map[string]struct {
		ready Readiness
		here  int
	}{"bytes": {ReadyBytes, 2}, "requests": {ReadyRequest, 4}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{ClientConnections: 2}})
			r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: c.ready})
			for range c.here {
				r.dial()
			}
			r.eventually("they are here", func(n Counts) bool { return n.States.Idle == c.here })
			r.dial().wantEndOrReset()
			if n := r.counts(); n.States.Sum() != c.here || n.Totals.ClosedFor(ReasonClientConnections) != 1 || n.Totals.Answered != 0 {
				t.Errorf("counts: %+v", n)
			}
		})
	}
}

// Each request of a lease is charged: those that a host has found behind the first are paid for by
// the next ones.
func TestPipelinedRequestsAreCharged(t *testing.T) {
	for name, end := range map[string]func(lease handoff.Frame) handoff.Frame{
		"put":   func(lease handoff.Frame) handoff.Frame { f := put(lease); f.B = 5; return f },
		"close": func(lease handoff.Frame) handoff.Frame { f := put(lease); f.Type, f.B = handoff.TypeClose, 5; return f },
	} {
		t.Run(name, func(t *testing.T) {
			r := readyRig(t, Limits{ClientRate: 1, ClientBurst: 3})
			h := r.attach(handoff.Hello{})
			c := r.dial()
			c.send(get)
			lease, fd := h.want(handoff.TypeLease)
			h.serve(fd, get, "ok")
			closeFD(fd)
			c.want("ok")
			h.send(end(lease))
			r.eventually("it is taken back", func(c Counts) bool { return c.Totals.Requests == 5 })
			r.leap(2 * time.Second) // 5 sent, 3 at once and 2 since: the bucket is empty
			over := r.dial()
			over.send(get)
			over.wantTooMany()
			r.leap(time.Second)
			h.exchange(r.dial(), get, "ok")
		})
	}
}

func TestAClientThatSendsTooManyRequests(t *testing.T) {
	r := readyRig(t, Limits{ClientRate: 2, ClientBurst: 3})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	for range 3 {
		h.exchange(c, get, "ok")
	}
	c.send(get)
	c.wantTooMany()
	again := r.dial()
	again.send(get)
	again.wantTooMany() // another connection is the same client
	r.leap(500 * time.Millisecond)
	last := r.dial()
	h.exchange(last, get, "ok")
	last.send(get)
	last.wantTooMany()
	if n := r.counts(); n.Totals.ClosedFor(ReasonClientRequests) != 3 || n.Totals.Requests != 4 {
		t.Errorf("counts: %+v", n)
	}
}

func TestExemptClients(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{ClientConnections: 1, ClientRate: 1, ClientBurst: 1}, Exempt: []listener.Subnet{subnet("127.0.0.0/8")}})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	h := r.attach(handoff.Hello{})
	first, second := r.dial(), r.dial()
	for range 3 {
		h.exchange(first, get, "ok")
		h.exchange(second, get, "ok")
	}
}

// Behind a load balancer a client is who the PROXY header says, IPv6 by its first 64 bits.
func TestClientsBehindALoadBalancer(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{ClientConnections: 1}})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest, Proxies: []listener.Subnet{subnet("127.0.0.1/32")}})
	h := r.attach(handoff.Hello{})
	from := func(address string) *client {
		c := r.dial()
		c.send("PROXY TCP6 " + address + " 2001:db8:ffff::1 4711 80\r\n")
		r.settled(address)
		return c
	}
	h.exchange(from("2001:db8::1"), get, "the first of its network")
	same := from("2001:db8::2")
	same.send(get)
	same.wantTooMany()
	h.exchange(from("2001:db8:0:1::1"), get, "the first of another")
}

// A limit that is set later holds for the connections that are here already.
func TestALimitOfClientsThatIsSetLater(t *testing.T) {
	r := readyRig(t, Limits{})
	h := r.attach(handoff.Hello{})
	h.exchange(r.dial(), get, "ok")
	must(r.SetLimits(context.Background(), Limits{ClientConnections: 1}))(t)
	extra := r.dial()
	extra.send(get)
	extra.wantTooMany()
	must(r.SetLimits(context.Background(), Limits{ClientConnections: Off}))(t)
	h.exchange(r.dial(), get, "ok")
}

func TestAddressesAreForgottenBeforeTheyAreTooMany(t *testing.T) {
	s := clients{known: map[clientKey]uint32{}}
	address := func(i int) clientKey { return keyOf(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})) }
	for i := range 1000 { // one after the other
		if s.join(0, address(i), 8, int64(i)) == nil {
			t.Fatalf("there is no room for number %d", i)
		}
		s.leave(0)
	}
	if len(s.all) > 8 || len(s.known) > 8 {
		t.Errorf("%d are remembered, %d by name", len(s.all), len(s.known))
	}
	for i := range 9 { // all at once
		if full := s.join(uint32(i), address(i), 8, 0) == nil; full != (i == 8) {
			t.Errorf("number %d: full %v", i, full)
		}
	}
}

// One whose bucket is not full is kept in mind longer than one that has sent nothing.
func TestABusyAddressIsRemembered(t *testing.T) {
	s := clients{known: map[clientKey]uint32{}}
	busy, next := keyOf(netip.MustParseAddr("192.0.2.1")), keyOf(netip.MustParseAddr("192.0.2.2"))
	if c := s.join(0, busy, 8, 0); !c.takes(0, 1, 1) || c.takes(0, 1, 1) {
		t.Fatal("a bucket with room for one takes none, or two")
	}
	s.leave(0)
	s.join(1, next, 8, 1)
	if c := s.join(0, busy, 8, 2); c.takes(2, 1, 1) {
		t.Error("the bucket is full again")
	}
	if c := s.at(0); !c.takes(int64(time.Second), 1, 1) {
		t.Error("after its time the bucket is not full")
	}
}

func TestKeysOfAddresses(t *testing.T) {
	for _, c := range []struct {
		one, other string
		same       bool
	}{
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"2001:db8::1", "2001:db8::ffff:0:0:1", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"::1", "0.0.0.0", false},
	} {
		if same := keyOf(netip.MustParseAddr(c.one)) == keyOf(netip.MustParseAddr(c.other)); same != c.same {
			t.Errorf("%s and %s: the same %v", c.one, c.other, same)
		}
	}
}

// A connection that was reset has no address any more, and is counted no longer all the same.
func TestAClientThatResets(t *testing.T) {
	r := readyRig(t, Limits{ClientConnections: 1})
	h := r.attach(handoff.Hello{})
	for range 3 {
		c := r.dial()
		h.exchange(c, get, "ok")
		c.reset()
		r.eventually("it has gone", func(c Counts) bool { return c.States.Sum() == 0 })
	}
}

func TestARequestOfALimitedClientAllocatesNothing(t *testing.T) {
	r := steppedRig(t, Config{Limits: Limits{ClientConnections: 10, ClientRate: 1 << 20, ClientBurst: 1 << 20}})
	l := laneOf(t, r, r.attachStepped(handoff.Hello{}))
	id := ConnID(l.conn)
	if r.policy.clients.join(id.slot(), keyOf(netip.MustParseAddr("192.0.2.1")), 10, 0) == nil {
		t.Fatal("it is not counted")
	}
	for range 10 {
		l.request(t)
	}
	if n := testing.AllocsPerRun(200, func() { l.request(t) }); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}
