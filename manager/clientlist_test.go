package manager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// How an operator finds the client that does what it should not.

const nonsense = "nonsense\r\n\r\n"

// offends sends what gets a 400, and waits for it.
func (r *rig) offends(at string) (own string) {
	r.t.Helper()
	c := r.dialAt(at)
	c.send(nonsense)
	c.want("HTTP/1.1 400 Bad Request\r\n")
	return c.LocalAddr().String()
}

func TestEventsOfEndsNameTheClient(t *testing.T) {
	r := newRig(t, Config{})
	at := r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	w := r.Watch(0, EventClosed, EventExpired, EventDetached)
	defer w.Close()
	h := r.attach(handoff.Hello{})
	want := func(kind EventKind, why Reason, peer string) {
		t.Helper()
		if e := <-w.Events(); e.Kind != kind || e.Reason != why || e.Peer != peer {
			t.Errorf("event %+v, want %v of %s", e, why, peer)
		}
	}
	want(EventClosed, ReasonMalformed, r.offends(at))
	expired := r.dialAt(at)
	h.exchange(expired, get, "y")
	r.leap(75 * time.Second)
	expired.wantEnd()
	want(EventExpired, ReasonExpired, expired.LocalAddr().String())
	kept := r.dialAt(at)
	kept.send(get)
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeDetach, Conn: lease.Conn, Seq: lease.Seq})
	want(EventDetached, ReasonDetached, kept.LocalAddr().String())
}

// Behind a load balancer it is the client that the PROXY header has told.
func TestEventsOfEndsNameTheToldClient(t *testing.T) {
	r := behindProxies(t, "127.0.0.0/8")
	w := r.Watch(0, EventClosed)
	defer w.Close()
	c := r.dial()
	c.send(proxyLine + nonsense)
	c.want("HTTP/1.1 400 Bad Request\r\n")
	if e := <-w.Events(); e.Peer != "192.0.2.7:4711" {
		t.Errorf("event %+v", e)
	}
}

// The log tells of the first few errors of each kind in a minute, then how many it has left out.
func TestAnswersOfTheSidecarAreLoggedBySample(t *testing.T) {
	r := newRig(t, Config{})
	at := r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	var last string
	for range closedLines + 3 {
		last = r.offends(at)
	}
	r.wantLog(closedLines, "[INFO]", "a connection is closed", "peer=127.0.0.1:", "reason=malformed", "status=400")
	r.wantLog(1, "[DEBUG]", "a connection is closed", "peer="+last)
	r.leap(closedTime)
	last = r.offends(at)
	r.wantLog(1, "[INFO]", "a connection is closed", "peer="+last, "left_out=3")
}

func TestClientsWithTheMost(t *testing.T) {
	ctx := context.Background()
	r := behindProxies(t, "127.0.0.0/8")
	h := r.attach(handoff.Hello{Capacity: 10})
	from := func(client string, requests int) {
		t.Helper()
		c := r.dial()
		c.send(fmt.Sprintf("PROXY TCP4 %s 192.0.2.200 1 80\r\n", client))
		for range requests {
			c.send(get)
			lease, fd := h.want(handoff.TypeLease)
			h.answer(lease, fd, get, "y")
			c.want("y")
		}
	}
	from("192.0.2.1", 1)
	from("192.0.2.1", 1)
	from("192.0.2.2", 3)
	r.eventually("all are put", func(c Counts) bool { return c.Totals.Puts == 5 })
	for range 2 {
		c := r.dial()
		c.send("PROXY TCP4 192.0.2.3 192.0.2.200 1 80\r\n" + nonsense)
		c.want("HTTP/1.1 400 Bad Request\r\n")
		c.wantGone()
	}
	r.eventually("they have gone", func(c Counts) bool { return c.States.Sum() == 3 })
	for order, want := range map[ClientOrder]Client{
		ByConnections: {Address: "192.0.2.1", Connections: 2, Requests: 2},
		ByRequests:    {Address: "192.0.2.2", Connections: 1, Requests: 3},
		ByRefusals:    {Address: "192.0.2.3", Refusals: 2, Reason: ReasonMalformed},
	} {
		list := must(r.Clients(ctx, ClientQuery{Order: order, Limit: 1}))(t)
		if len(list.Clients) != 1 || list.Known != 3 {
			t.Fatalf("list %+v", list)
		}
		got := list.Clients[0]
		if (got.Refused > 0) != (want.Refusals > 0) {
			t.Errorf("refused %v ago", got.Refused)
		}
		if got.Refused = 0; got != want {
			t.Errorf("the first is %+v, want %+v", got, want)
		}
	}
	one := must(r.Clients(ctx, ClientQuery{Peer: "192.0.2.2/31"}))(t)
	if len(one.Clients) != 2 || one.Clients[0].Address != "192.0.2.2" || one.Clients[1].Address != "192.0.2.3" {
		t.Errorf("of a network: %+v", one)
	}
	if _, err := r.Clients(ctx, ClientQuery{Peer: "localhost"}); !errors.Is(err, ErrBadPeer) {
		t.Errorf("a name for a peer: %v", err)
	}
}

// However many clients are refused, only the last are remembered.
func TestRefusalsAreBounded(t *testing.T) {
	var s refusals
	first := netip.MustParseAddr("10.0.0.0")
	address := first
	for now := range int64(maxRefused + 1) {
		s.add(address, ReasonMalformed, now)
		address = address.Next()
	}
	s.add(netip.Addr{}, ReasonMalformed, 0)
	if _, there := s.known[keyOf(first)]; len(s.all) != maxRefused || len(s.known) != maxRefused || there {
		t.Errorf("%d and %d are remembered, the first of them %v", len(s.all), len(s.known), there)
	}
}

func TestClientNames(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::1%eth0",
	} {
		if got := clientName(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is called %s", address, got)
		}
	}
	if got := clientName(netip.Addr{}); got != "unix" {
		t.Errorf("a Unix socket's is called %s", got)
	}
}
