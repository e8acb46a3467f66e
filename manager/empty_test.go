package manager

import (
	"context"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// An empty line begins nothing (RFC 9112, 2.2): a client may send one behind a body.

// A kept connection with an empty line in its queue is idle as any other: it is not answered, it
// serves the next request, and it expires in its time.
func TestAnEmptyLineBehindARequest(t *testing.T) {
	eachKind(t, Limits{KeepAliveTimeout: 20 * time.Second}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		c := dial()
		h.exchange(c, get, "one")
		r.trickle(c, "\r\n")
		r.leap(15 * time.Second) // beyond the first look at the rate of a request
		h.quiet(r)
		c.send(get)
		lease, fd := h.want(handoff.TypeLease)
		if lease.A>>32 != uint64(len("\r\n"+get)) {
			t.Errorf("the length is %d", lease.A>>32)
		}
		h.answer(lease, fd, "\r\n"+get, "two")
		c.want("two")
		r.trickle(c, "\r\n")
		r.leap(20 * time.Second)
		c.wantEnd()
		r.eventually("it is counted", func(c Counts) bool {
			return c.Totals.ClosedFor(ReasonExpired) == 1 && c.Totals.Answered == 0
		})
	})
}

// The empty line comes together with the request before it, and is looked at when that is put.
func TestAnEmptyLineWithARequest(t *testing.T) {
	eachKind(t, Limits{}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		c := dial()
		c.send(get + "\r\n")
		lease, fd := h.want(handoff.TypeLease)
		readAll(t, fd, len(get))
		closeFD(fd)
		h.send(put(lease))
		r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
		r.leap(15 * time.Second)
		h.quiet(r)
		_ = c.CloseWrite() // with nothing but an empty line there is nothing to lend
		c.wantEnd()
		h.quiet(r)
		r.eventually("it is counted", func(c Counts) bool {
			return c.Totals.ClosedFor(ReasonHungUp) == 1 && c.Totals.Leases == 1
		})
	})
}

// A new connection with nothing but an empty line is silent.
func TestAnEmptyLineIsSilence(t *testing.T) {
	eachKind(t, Limits{FirstByteTimeout: 10 * time.Second}, func(t *testing.T, r *rig, dial func() *client) {
		c := dial()
		c.send("\r\n")
		r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 1 })
		r.leap(10 * time.Second)
		c.wantEnd()
		r.eventually("it is counted", func(c Counts) bool {
			return c.Totals.ClosedFor(ReasonSilent) == 1 && c.Totals.Answered == 0
		})
	})
}

// A kept connection with an empty line in its queue makes room for a new one.
func TestAnEmptyLineDoesNotKeepAConnection(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Connections: 1}})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	h := r.attach(handoff.Hello{})
	first := r.dial()
	h.exchange(first, get, "one")
	first.send("\r\n")
	r.eventually("it is put", func(c Counts) bool { return c.Totals.Puts == 1 })
	h.exchange(r.dial(), get, "two")
	first.wantEndOrReset()
	r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonEvicted) == 1 })
}

// Half a request is paused when a host takes it away: nothing is left that could be waited for, and
// the loop goes on.
func TestHalfARequestIsTakenAway(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{KeepAliveTimeout: 20 * time.Second}})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	c := r.dial()
	c.send(get)
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.serve(fd, get, "one")
	c.want("one")
	h.send(put(lease))
	c.send("GET / HTTP/1.1\r\nX: ")
	n := len("GET / HTTP/1.1\r\nX: ")
	for ; !r.pauses(); n++ { // more pieces than are looked at without a pause
		c.send("y")
	}
	awaitUnread(t, fd, n)
	readAll(t, fd, n)
	for range 10 {
		r.leap(time.Second)
	}
	c.send(get)
	lease, _ = h.want(handoff.TypeLease)
	h.serve(fd, get, "two")
	c.want("two")
	h.send(put(lease))
}

// pauses reports whether a request that arrives is not looked at before its pause is over.
func (r *rig) pauses() bool {
	r.t.Helper()
	paused, err := ask(context.Background(), r.Manager, func() (bool, error) {
		for _, b := range r.policy.partials {
			return b.paused, nil
		}
		return false, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return paused
}
