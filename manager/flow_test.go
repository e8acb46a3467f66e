package manager

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// flowing is a lease whose host writes and whose client reads.
type flowing struct {
	r     *rig
	h     *peer
	c     *client
	lease handoff.Frame
	fd    int
}

func newFlowing(t *testing.T, limits Limits) *flowing {
	r := newRig(t, Config{Limits: limits})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	f := &flowing{r: r, h: r.attach(handoff.Hello{}), c: r.dial()}
	f.c.send(get)
	f.take()
	return f
}

// take takes the lease and reads its request.
func (f *flowing) take() {
	f.r.t.Helper()
	f.lease, f.fd = f.h.want(handoff.TypeLease)
	b := make([]byte, len(get))
	if n, err := unix.Read(f.fd, b); err != nil || string(b[:n]) != get {
		f.r.t.Fatalf("read %q, %v", b[:max(n, 0)], err)
	}
}

// flow lets a part of the response reach the client.
func (f *flowing) flow() {
	f.r.t.Helper()
	const part = "data: x\n\n"
	if _, err := unix.Write(f.fd, []byte(part)); err != nil {
		f.r.t.Fatal(err)
	}
	f.c.want(part)
	f.r.eventually("it is acknowledged", func(Counts) bool {
		unacked, err := unix.IoctlGetInt(f.fd, unix.SIOCOUTQ)
		return err == nil && unacked == 0
	})
}

// A response that flows is neither warned of nor cut off, however long it takes; one that has
// stopped is both.
func TestAResponseThatFlows(t *testing.T) {
	f := newFlowing(t, Limits{LeaseWarn: time.Minute, LeaseTimeout: 10 * time.Minute})
	for range 40 {
		f.flow()
		f.r.pass(time.Minute)
	}
	f.r.wantLog(0, "a lease is out for long")
	page, err := f.r.Connections(context.Background(), Query{})
	if err != nil || len(page.Connections) != 1 || page.Connections[0].InState < 40*time.Minute {
		t.Errorf("it is leased for 40 minutes: %+v, %v", page.Connections, err)
	}
	f.r.pass(time.Minute)
	f.r.pass(time.Minute)
	f.r.wantLog(1, "a lease is out for long")
	f.flow() // for the last time
	f.r.pass(9 * time.Minute)
	f.r.pass(time.Minute)
	if n := f.r.counts(); n.States.Leased != 1 {
		t.Errorf("it has flowed: %+v", n.States)
	}
	for range 20 {
		f.r.pass(time.Minute)
	}
	f.c.wantEndOrReset()
	if n := f.r.counts(); n.Totals.ClosedFor(ReasonLeaseTime) != 1 || n.Totals.Answered != 0 {
		t.Errorf("counts: %+v", n)
	}
	closeFD(f.fd)
}

// The time of a lease that has flowed begins again, the lease does not: a response that has begun
// is not answered with a 504 behind it.
func TestARevokedLeaseThatHasFlowed(t *testing.T) {
	f := newFlowing(t, Limits{LeaseWarn: time.Minute, LeaseTimeout: 10 * time.Minute})
	f.flow()
	closeFD(f.fd)
	f.h.send(put(f.lease)) // so that the next is not the connection's first request
	awaitQuiet(t, f.c)
	f.c.send(get)
	f.take()
	f.flow()
	f.r.pass(time.Minute)
	awaitQuiet(t, f.c)
	if n, err := f.r.Revoke(context.Background(), []ConnID{ConnID(f.lease.Conn)}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	f.c.wantEndOrReset()
	if n := f.r.counts(); n.Totals.Answered != 0 {
		t.Errorf("counts: %+v", n)
	}
	closeFD(f.fd)
}

// A Unix socket does not say what its client has taken: the lease ends with its time.
func TestAResponseOnAUnixSocketIsCut(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{LeaseTimeout: time.Minute}})
	path := t.TempDir() + "/web.sock"
	if err := r.AddListener(r.open("unix://"+path), ListenerOptions{Ready: ReadyRequest}); err != nil {
		t.Fatal(err)
	}
	h := r.attach(handoff.Hello{})
	c := r.dialUnix(path)
	c.send(get)
	_, fd := h.want(handoff.TypeLease)
	h.serve(fd, get, "data: x\n\n")
	c.want("data: x\n\n")
	r.leap(time.Minute)
	c.wantEnd()
	closeFD(fd)
}
