package manager

import (
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// pong waits for a PING and answers it.
func (p *peer) pong() {
	p.t.Helper()
	ping, _ := p.want(handoff.TypePing)
	p.send(handoff.Frame{Type: handoff.TypePong, A: ping.A})
}

func TestAHostThatGivesSignsOfLife(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{PingInterval: 10 * time.Second}})
	h := r.attach(handoff.Hello{})
	r.leap(9 * time.Second)
	h.quiet(r)
	h.send(handoff.Frame{Type: handoff.TypeDropped}) // any frame will do
	r.settled("DROPPED")
	r.leap(9 * time.Second)
	h.quiet(r)
	for range 3 {
		r.leap(10 * time.Second)
		h.pong()
		r.settled("PONG")
	}
	r.leap(5 * time.Second)
	if c := r.counts(); c.Hosts[0].Hung || c.Totals.HostsHung != 0 {
		t.Errorf("counts: %+v", c)
	}
}

// A hung host gets no leases, others do, and it gets them again when it lives.
func TestAHostThatHangs(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{PingInterval: 10 * time.Second, PingTimeout: 3 * time.Second}})
	w := r.Watch(0, EventHostHung, EventHostAlive)
	defer w.Close()
	h := r.attach(handoff.Hello{Capacity: 2})
	r.leap(10 * time.Second)
	ping, _ := h.want(handoff.TypePing)
	r.leap(3 * time.Second)
	r.eventually("it is hung", func(c Counts) bool { return c.Hosts[0].Hung && c.Totals.HostsHung == 1 })
	r.wantLog(1, "[WARN]", "no sign of life")
	c := r.dial()
	c.send("x")
	r.eventually("it waits", func(c Counts) bool { return c.States.Ready == 1 })
	h.quiet(r)

	h.send(handoff.Frame{Type: handoff.TypePong, A: ping.A})
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "x", "y")
	c.want("y")
	if first, second := <-w.Events(), <-w.Events(); first.Kind != EventHostHung || second.Kind != EventHostAlive || first.Host != second.Host {
		t.Errorf("events: %+v, %+v", first, second)
	}
}

// What it had goes to nobody else: it may wake up, and then it has the connection still.
func TestAHostThatHangsForTooLong(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{PingInterval: 10 * time.Second, PingTimeout: 3 * time.Second, HangTimeout: 20 * time.Second}})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send(get)
	_, fd := h.want(handoff.TypeLease)
	closeFD(fd) // unread
	r.leap(10 * time.Second)
	h.want(handoff.TypePing)
	r.leap(3 * time.Second)
	r.eventually("it is hung", func(c Counts) bool { return c.Hosts[0].Hung })
	r.leap(20 * time.Second)
	h.wantFault(handoff.CodeNotAnswering)
	c.want("HTTP/1.1 504 Gateway Timeout\r\n")
	if n := r.counts(); n.Totals.HostsFailed != 1 || len(n.Hosts) != 0 {
		t.Errorf("counts: %+v", n)
	}
}

func TestALeaseThatIsOutForLong(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{LeaseWarn: time.Minute}})
	w := r.Watch(0, EventLeaseOverdue)
	defer w.Close()
	h := r.attach(handoff.Hello{Capacity: 2})
	for range 2 {
		r.dial().send("x")
	}
	lease, fd := h.want(handoff.TypeLease)
	other, otherFD := h.want(handoff.TypeLease)
	r.leap(time.Minute)
	r.wantLog(2, "[WARN]", "a lease is out for long")
	r.leap(time.Minute) // once for each
	h.answer(lease, fd, "x", "y")
	r.eventually("it is back", func(c Counts) bool { return c.States.Idle == 1 })
	r.leap(time.Minute)
	r.wantLog(2, "[WARN]", "a lease is out for long")
	if n := r.counts(); n.Totals.Overdue != 2 {
		t.Errorf("counts: %+v", n)
	}
	if first, second := <-w.Events(), <-w.Events(); uint64(first.Conn) != lease.Conn || uint64(second.Conn) != other.Conn {
		t.Errorf("events %+v, %+v", first, second)
	}
	h.answer(other, otherFD, "x", "y")
}

// Peers that have yet to say HELLO are no more than the limit, and hosts do not count.
func TestNewcomersAtTheLimit(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Newcomers: 2}})
	b := r.bystander()
	first, second := r.connect(), r.connect()
	r.eventually("the loop knows them", func(Counts) bool { return r.peers() == 3 })
	r.connect().wantFault(handoff.CodeAtLimit)
	first.close()
	r.eventually("one has gone", func(Counts) bool { return r.peers() == 2 })
	hello := handoff.Hello{Name: "late", Capacity: 1}
	second.send(hello.Frame())
	second.want(handoff.TypeWelcome)
	r.attach(handoff.Hello{})
	b.works()
	if c := r.counts(); c.Totals.HostsRefused != 1 || len(c.Hosts) != 3 {
		t.Errorf("counts: %+v", c)
	}
}

// A host that asks for what it cannot have again and again does not fill the log.
func TestDenialsAreWarnedAboutOnce(t *testing.T) {
	r := newRig(t, Config{})
	h, other := r.hello(handoff.Hello{}), r.hello(handoff.Hello{})
	deny := func(p *peer) {
		p.send(handoff.Frame{Type: handoff.TypeUnlisten, A: 1 << 40})
		p.want(handoff.TypeDenied)
	}
	for range 10 {
		deny(h)
	}
	deny(other)
	r.wantLog(2, "[WARN]", "a host was denied")
	r.wantLog(9, "[DEBUG]", "a host was denied")
	r.leap(denyWarning)
	deny(h)
	r.wantLog(3, "[WARN]", "a host was denied")
}
