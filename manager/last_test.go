package manager

import (
	"context"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// What makes a request its connection's last, and when kept connections end.

// last reports whether the next request's lease says LAST; the connection is put all the same.
func (p *peer) last(c *client) bool {
	p.t.Helper()
	c.send("x")
	lease, fd := p.want(handoff.TypeLease)
	p.answer(lease, fd, "x", "y")
	c.want("y")
	return lease.Flags&handoff.FlagLast != 0
}

func TestAConnectionsLastRequest(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Requests: 3}})
	h := r.attach(handoff.Hello{})
	c, other := r.dial(), r.dial()
	for n := 1; n <= 4; n++ {
		if last := h.last(c); last != (n >= 3) {
			t.Errorf("request %d: last %v", n, last)
		}
	}
	if h.last(other) {
		t.Error("another connection's first request is its last")
	}
}

func TestAnOldConnection(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Age: 100 * time.Second, KeepAliveTimeout: 80 * time.Second}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
	busy, idle := r.dial(), r.dial()
	for _, c := range []*client{busy, idle, busy, idle, busy} {
		if h.last(c) {
			t.Error("they are not old yet")
		}
		if c == idle {
			r.leap(43 * time.Second)
		}
	}
	r.leap(15 * time.Second)
	if !h.last(busy) { // 101 s old
		t.Error("there may be another request")
	}
	if n := r.counts(); n.States.Idle != 2 {
		t.Errorf("counts: %+v", n)
	}
	r.leap(3 * time.Second) // put when it was 43 s old: the part of 80 s in which it became too old is over at 103 s
	idle.wantEnd()
	if n := r.counts(); n.States.Idle != 1 || n.Totals.ClosedFor(ReasonExpired) != 1 {
		t.Errorf("counts: %+v", n)
	}
	r.leap(10 * time.Second)
	busy.wantEnd() // it was too old when it was put
}

// Kept connections beyond the limit stay for MinIdle, then the surplus goes; a new client does not wait for that.
func TestMinIdle(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Connections: 3, KeepAlive: 2, MinIdle: 10 * time.Second}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
	clients := []*client{r.dial(), r.dial(), r.dial()}
	var ids []uint64
	for _, c := range clients {
		ids = append(ids, h.exchange(c, "x", "y").Conn)
	}
	r.eventually("all are kept", func(c Counts) bool { return c.States.Idle == 3 })
	r.leap(9 * time.Second)
	h.quiet(r)
	r.leap(time.Second)
	if f, _ := h.want(handoff.TypeForget); f.Conn != ids[0] || f.A != handoff.ForgetEvicted {
		t.Errorf("forget %+v", f)
	}
	clients[0].wantEnd()
	_ = clients[0].Close()
	r.eventually("one has gone", func(c Counts) bool { return c.States.Sum() == 2 })
	for _, c := range clients[1:] {
		h.exchange(c, "x", "y")
	}
	r.dial()
	r.dial() // there is no room: one that is used just now has to go
	if f, _ := h.want(handoff.TypeForget); f.Conn != ids[1] || f.A != handoff.ForgetEvicted {
		t.Errorf("forget %+v", f)
	}
}

// Hosts may promise clients less than we wait.
func TestThePromisedKeepAlive(t *testing.T) {
	for timeout, want := range map[time.Duration]int64{75 * time.Second: 74000, time.Second: 800, 2 * time.Millisecond: 2} {
		r := newRig(t, Config{Limits: Limits{KeepAliveTimeout: timeout}})
		p := r.connect()
		hello := handoff.Hello{Name: "h", Capacity: 1}
		p.send(hello.Frame())
		f, _ := p.want(handoff.TypeWelcome)
		if w, err := handoff.WelcomeOf(&f); err != nil || w.KeepAliveTimeoutMS > want || w.KeepAliveTimeoutMS < want-1 {
			t.Errorf("%v: promised %+v (%v), want %d ms", timeout, w, err, want)
		}
	}
}

// endedLater is a context that has ended by the time somebody asks, and was not awaited.
type endedLater struct{ context.Context }

func (endedLater) Err() error { return context.Canceled }

func TestAShutdownWhoseContextEndsJustAfterTheStop(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	reports := r.shutdown(endedLater{context.Background()}, time.Minute)
	h.want(handoff.TypeDraining)
	r.eventually("it stops", func(c Counts) bool { return !c.Running })
	h.answer(lease, fd, "x", "y")
	c.want("y")
	_ = c.Close()
	if report := <-reports; report != (StopReport{Finished: 1}) {
		t.Errorf("report: %+v", report)
	}
}
