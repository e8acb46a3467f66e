package manager

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

func TestAConnectionsLife(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	r.eventually("the connection is idle", func(c Counts) bool { return c.States.Idle == 1 })

	c.send("one")
	lease, fd := h.want(handoff.TypeLease)
	if lease.Flags != handoff.FlagFD|handoff.FlagFresh || lease.Seq != 1 {
		t.Fatalf("first lease: %+v", lease)
	}
	h.serve(fd, "one", "eins")
	c.want("eins")
	h.send(put(lease))
	closeFD(fd)
	r.eventually("it is idle again", func(c Counts) bool { return c.States.Idle == 1 && c.Totals.Puts == 1 })

	c.send("two")
	lease, fd = h.want(handoff.TypeLease)
	if lease.Flags != handoff.FlagFD || lease.Seq != 2 {
		t.Fatalf("second lease: %+v", lease)
	}
	h.serve(fd, "two", "zwei")
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	c.want("zwei")
	c.wantEnd()
	_ = c.Close()
	r.eventually("it is gone", func(c Counts) bool {
		return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonHost) == 1 && c.Totals.Requests == 2
	})
}

func TestASilentConnectionCostsNoWorker(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{FirstByteTimeout: 50 * time.Millisecond}})
	h := r.attach(handoff.Hello{})
	silent, talking := r.dial(), r.dial()
	talking.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(put(lease))
	talking.want("y")
	silent.wantEnd()
	if f, _, err := h.read(0); err != errQuiet {
		t.Errorf("the silent connection came to a host: %+v, %v", f, err)
	}
	r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonSilent) == 1 })
}

func TestACachedDescriptorIsSentOnce(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	c := r.dial()
	c.send("a")
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.serve(fd, "a", "A")
	h.send(put(lease))
	c.want("A")
	c.send("b")
	again, none := h.want(handoff.TypeLease)
	if none != -1 || again.Flags != 0 || again.Conn != lease.Conn {
		t.Fatalf("second lease: %+v, descriptor %d", again, none)
	}
	h.serve(fd, "b", "B")
	c.want("B")

	// The host pauses, another takes the connection: the first is told.
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	h.send(put(again))
	r.eventually("it is put", func(c Counts) bool { return c.States.Idle == 1 })
	other := r.attach(handoff.Hello{Name: "other"})
	c.send("c")
	third, otherFD := other.want(handoff.TypeLease)
	other.serve(otherFD, "c", "C")
	closeFD(otherFD)
	c.want("C")
	if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetMoved {
		t.Fatalf("forget: %+v", f)
	}
	other.send(put(third))
}

func TestIdleConnectionsExpire(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{KeepAliveTimeout: 30 * time.Millisecond}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
	short, long := r.dial(), r.dial()
	short.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(put(lease))
	short.want("y")
	long.send("x")
	kept, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	f := put(kept)
	f.A = 60_000
	h.send(f)
	short.wantEnd()
	if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetExpired {
		t.Fatalf("forget: %+v", f)
	}
	r.eventually("one is left", func(c Counts) bool { return c.States.Idle == 1 && c.Totals.ClosedFor(ReasonExpired) == 1 })
}

func TestStopAndStart(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Capacity: 2})
	finishes, cut := r.dial(), r.dial()
	finishes.send("x")
	first, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	cut.send("x")
	second, fd2 := h.want(handoff.TypeLease)
	defer closeFD(fd2)

	reports := make(chan StopReport, 1)
	go func() {
		report, err := r.Stop(context.Background(), 100*time.Millisecond)
		if err != nil {
			t.Error(err)
		}
		reports <- report
	}()
	r.eventually("it is stopping", func(c Counts) bool { return !c.Running })
	h.send(put(first))
	if report := <-reports; report != (StopReport{Finished: 1, Cut: 1}) {
		t.Fatalf("report %+v", report)
	}
	if f, _ := h.want(handoff.TypeForget); f.Conn != second.Conn || f.A != handoff.ForgetStopped {
		t.Fatalf("forget: %+v", f)
	}
	cut.wantEnd()

	waits := r.dial() // waits in the backlog
	waits.send("x")
	finishes.send("x")
	r.eventually("the request waits", func(c Counts) bool { return c.States.Ready == 1 })
	if f, _, err := h.read(0); err != errQuiet {
		t.Fatalf("handed out while stopped: %+v, %v", f, err)
	}
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		lease, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	}
	finishes.wantEnd()
	waits.wantEnd()
}

func TestAListenerOfAHost(t *testing.T) {
	r := newRig(t, Config{})
	h := r.hello(handoff.Hello{}) // a private pool
	own := r.open("tcp://127.0.0.1:0")
	defer own.Close()
	how := handoff.Listen{Silent: handoff.SilentLease, FirstByteTimeoutMS: 20}
	h.sendFD(how.Frame(7), own.FD())
	f, _ := h.want(handoff.TypeListening)
	if f.Seq != 7 || f.A == 0 {
		t.Fatalf("listening: %+v", f)
	}
	r.web = own.String()[len("tcp://"):]
	c := r.dial()
	lease, fd := h.want(handoff.TypeLease) // though it is silent
	if lease.Flags&handoff.FlagSilent == 0 {
		t.Fatalf("lease: %+v", lease)
	}
	if _, err := unix.Write(fd, []byte("408")); err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	c.want("408")
	c.wantEnd()

	h.send(handoff.Frame{Type: handoff.TypeUnlisten, Seq: 8, A: f.A})
	if f, _ := h.want(handoff.TypeUnlistened); f.Seq != 8 {
		t.Fatalf("unlistened: %+v", f)
	}
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := netDial(r.web); err == nil {
		t.Error("the socket still listens, so the manager has kept a copy")
	}
}
