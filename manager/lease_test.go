package manager

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// The ways of a lease that are not the usual one, with real sockets.

func nack(lease handoff.Frame, why uint64) handoff.Frame {
	return handoff.Frame{Type: handoff.TypeNack, Conn: lease.Conn, Seq: lease.Seq, A: why}
}

func TestNackGoesToAnotherHost(t *testing.T) {
	r := newRig(t, Config{})
	first := r.attach(handoff.Hello{Name: "first"})
	c := r.dial()
	c.send("x")
	lease, fd := first.want(handoff.TypeLease)
	closeFD(fd)
	second := r.attach(handoff.Hello{Name: "second"})
	first.send(nack(lease, handoff.NackOverload))
	again, fd := second.want(handoff.TypeLease)
	if again.Conn != lease.Conn || again.Seq != lease.Seq+1 || again.Flags != handoff.FlagFD|handoff.FlagFresh {
		t.Errorf("lease %+v after %+v", again, lease)
	}
	second.answer(again, fd, "x", "y")
	c.want("y")
	first.quiet(r)
	if counts := r.counts(); counts.Totals.Redelivered != 1 || counts.Hosts[0].Nacks != 1 {
		t.Errorf("counts: %+v", counts)
	}
}

// Alone, a host that is overloaded gets it again after a pause, and one that did not know the connection gets it at once, with a descriptor.
func TestNackAndNobodyElse(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	c := r.dial()
	c.send("a")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "a", "A")
	h.send(put(lease))
	closeFD(fd) // against the rules: it is believed to hold it
	c.want("A")
	c.send("b")
	lease, fd = h.want(handoff.TypeLease)
	if fd != -1 {
		t.Fatal("the descriptor came again")
	}
	h.send(nack(lease, handoff.NackUnknown))
	lease, fd = h.want(handoff.TypeLease)
	if fd < 0 {
		t.Fatal("the descriptor did not come again")
	}
	closeFD(fd)

	h.send(nack(lease, handoff.NackOverload))
	h.quiet(r)
	r.leap(time.Duration(nackPause))
	lease, fd = h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.serve(fd, "b", "B")
	h.send(put(lease))
	c.want("B")
}

// A host that is out of descriptors is told to let go of idle connections that it holds, the oldest
// first, and gets the lease again.
func TestNackForWantOfDescriptorsFreesSome(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	const idle = unholdMost + 4
	var held []handoff.Frame
	for range idle {
		c := r.dial()
		c.send("x")
		lease, fd := h.want(handoff.TypeLease)
		h.serve(fd, "x", "y")
		closeFD(fd) // it is believed to hold it
		h.send(put(lease))
		c.want("y")
		held = append(held, lease)
	}
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	h.send(nack(lease, handoff.NackNoDescriptor))
	for i := range unholdMost {
		if f, _ := h.want(handoff.TypeForget); f.Conn != held[i].Conn || f.A != handoff.ForgetMoved {
			t.Errorf("forget %d: %+v", i, f)
		}
	}
	h.quiet(r) // there is a pause
	r.wantLog(1, "[WARN]", "out of descriptors")
	r.leap(time.Duration(nackPause))
	again, fd := h.want(handoff.TypeLease)
	if again.Conn != lease.Conn || fd < 0 {
		t.Fatalf("lease %+v, descriptor %d", again, fd)
	}
	h.answer(again, fd, "x", "y")
	c.want("y")
	if counts := r.counts(); counts.States.Idle != idle+1 {
		t.Errorf("counts: %+v", counts)
	}
}

// Sticky connections stay with their host, and one that holds none is told nothing.
func TestNackForWantOfDescriptorsAndNothingToFree(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Redeliveries: 2}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	near, _ := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Flags: handoff.FlagSticky}, near)
	h.want(handoff.TypeAdopted)
	c := r.dial()
	c.send("x")
	for range 3 {
		lease, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		h.send(nack(lease, handoff.NackNoDescriptor))
		r.settled("NACK")
		r.leap(time.Duration(nackPause))
	}
	c.wantEnd()
	h.quiet(r)
}

func TestNackAgainAndAgain(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Redeliveries: 2}})
	h := r.attach(handoff.Hello{})
	c, other := r.dial(), r.dial()
	c.send("x")
	for range 3 {
		lease, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		h.send(nack(lease, handoff.NackUnknown))
	}
	c.wantEnd()
	h.exchange(other, "x", "y")
	if counts := r.counts(); counts.Totals.ClosedFor(ReasonRefused) != 1 || counts.Totals.Redelivered != 2 {
		t.Errorf("counts: %+v", counts)
	}
}

// A request that was refused stands first again, but those behind it do not wait longer for that.
func TestNackDoesNotProlongTheWaitOfOthers(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{QueueTimeout: 30 * time.Second}})
	h := r.attach(handoff.Hello{})
	c, behind := r.dial(), r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	behind.send("x")
	r.eventually("one waits", func(c Counts) bool { return c.States.Ready == 1 })
	r.leap(29 * time.Second)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	h.send(nack(lease, handoff.NackOverload))
	r.eventually("two wait", func(c Counts) bool { return c.States.Ready == 2 })
	r.leap(time.Second)
	behind.wantEnd()
}

func TestStickyGoesBackToItsHost(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Name: "sticky"})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	stick := func(lease handoff.Frame) {
		t.Helper()
		h.serve(fd, "x", "y")
		f := put(lease)
		f.Flags = handoff.FlagSticky
		h.send(f)
		c.want("y")
	}
	stick(lease)
	other := r.attach(handoff.Hello{Name: "other", Capacity: 100})
	for range 3 {
		c.send("x")
		again, none := h.want(handoff.TypeLease)
		if none != -1 || again.Conn != lease.Conn {
			t.Fatalf("lease %+v with descriptor %d", again, none)
		}
		stick(again)
	}
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	c.send("x")
	r.eventually("it waits for its host alone", func(c Counts) bool { return c.States.Ready == 1 })
	other.quiet(r)
	h.close()
	c.wantEnd()
	other.exchange(r.dial(), "x", "y")
	if counts := r.counts(); counts.Totals.ClosedFor(ReasonStopped) != 1 {
		t.Errorf("counts: %+v", counts)
	}
}

func TestStickyIdleEndsWithItsHost(t *testing.T) {
	for _, how := range []string{"hangs up", "drains"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{Capacity: 2})
			stuck, free, leased := r.dial(), r.dial(), r.dial()
			h.exchange(free, "x", "y")
			for _, c := range []*client{stuck, leased} {
				c.send("x")
				lease, fd := h.want(handoff.TypeLease)
				h.serve(fd, "x", "y")
				defer closeFD(fd)
				f := put(lease)
				f.Flags = handoff.FlagSticky
				h.send(f)
				c.want("y")
			}
			leased.send("x")
			lease, _ := h.want(handoff.TypeLease)
			if how == "drains" {
				h.send(handoff.Frame{Type: handoff.TypeDrain})
				if f, _ := h.want(handoff.TypeDraining); f.A != 1 {
					t.Errorf("draining: %+v", f)
				}
				if f, _ := h.want(handoff.TypeForget); f.A != handoff.ForgetStopped {
					t.Errorf("forget: %+v", f)
				}
				f := put(lease)
				f.Flags = handoff.FlagSticky
				h.send(f)
				h.want(handoff.TypeForget)
				if _, _, err := h.read(5 * time.Second); err != io.EOF {
					t.Errorf("after the last lease: %v", err)
				}
			} else {
				h.close()
			}
			stuck.wantEnd()
			leased.wantEndOrReset()
			r.attach(handoff.Hello{}).exchange(free, "x", "y")
		})
	}
}

func TestDetach(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Connections: 1}})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("upgrade")
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeDetach, Conn: lease.Conn, Seq: lease.Seq})
	h.exchange(r.dial(), "x", "y") // neither capacity nor room is missing
	h.serve(fd, "upgrade", "switching")
	c.want("switching")
	c.send("more")
	awaitBytes(t, fd)
	h.serve(fd, "more", "and more")
	c.want("and more")
	if counts := r.counts(); counts.Totals.ClosedFor(ReasonDetached) != 1 || counts.States.Sum() != 1 {
		t.Errorf("counts: %+v", counts)
	}
}

func TestAdopt(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache, handoff.FeatureTrack}})
	near, far := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 77, A: 5000}, near)
	adopted, _ := h.want(handoff.TypeAdopted)
	if adopted.Seq != 77 {
		t.Errorf("adopted: %+v", adopted)
	}
	if _, err := unix.Write(far, []byte("x")); err != nil {
		t.Fatal(err)
	}
	lease, fd := h.want(handoff.TypeLease)
	if fd < 0 || lease.Conn != adopted.Conn {
		t.Fatalf("lease %+v with descriptor %d: who has it adopted does not hold it", lease, fd)
	}
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(put(lease))
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 && c.Totals.Adopted == 1 })
	r.leap(75 * time.Second)
	if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetExpired {
		t.Errorf("forget: %+v", f)
	}
}

// brings has a host bring connections until one is denied, and returns how many it could.
func (p *peer) brings(most int) (n int, denied handoff.Frame) {
	p.t.Helper()
	for n = range most {
		near, _ := aPair(p.t, unix.SOCK_STREAM)
		p.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: uint32(n)}, near)
		f, _ := p.next()
		if f.Type == handoff.TypeDenied {
			return n, f
		}
	}
	return most, denied
}

// What hosts bring takes the room that is left: at no limit it evicts a client, of its own pool or another's.
func TestAdoptNeverEvicts(t *testing.T) {
	for name, test := range map[string]struct {
		limits Limits
		may    int // connections that a host may bring in addition to two clients
		says   string
	}{
		"all connections":             {Limits{Connections: 5, Adopted: 10, HostAdopted: 10}, 3, "max-connections"},
		"kept connections":            {Limits{KeepAlive: 4}, 2, "keep-alive-limit"},
		"all that hosts have brought": {Limits{Adopted: 3}, 3, "max-adopted"},
		"what one host has brought":   {Limits{HostAdopted: 2}, 2, "max-host-adopted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Limits: test.limits})
			b := r.bystander()
			c, server := r.dial(), r.attach(handoff.Hello{})
			server.exchange(c, "x", "y")
			r.eventually("two clients are kept", func(c Counts) bool { return c.States.Idle == 2 })
			h := r.hello(handoff.Hello{})
			n, denied := h.brings(10)
			if n != test.may || handoff.Code(denied.A) != handoff.CodeAtLimit || !strings.Contains(string(denied.Payload), test.says) {
				t.Errorf("%d were brought, then %v", n, handoff.FaultOf(&denied))
			}
			if c := r.counts(); c.Totals.Closed[ReasonEvicted] != 0 || c.States.Idle != 2+n {
				t.Errorf("counts: %+v", c)
			}
			b.works()
			server.exchange(c, "x", "y")
		})
	}
}

// A host may bring another connection when one of those that it has brought has gone, whoever had it last.
func TestAdoptAgainWhenOneHasGone(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{HostAdopted: 1}})
	h, other := r.attach(handoff.Hello{Capacity: 1}), r.attach(handoff.Hello{Capacity: 2})
	near, far := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt}, near)
	h.want(handoff.TypeAdopted)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	r.settled("CAPACITY")
	if _, err := unix.Write(far, []byte("x")); err != nil {
		t.Fatal(err)
	}
	lease, fd := other.want(handoff.TypeLease)
	closeFD(fd)
	if n, _ := h.brings(1); n != 0 {
		t.Error("a second one was taken")
	}
	other.send(handoff.Frame{Type: handoff.TypeDetach, Conn: lease.Conn, Seq: lease.Seq})
	r.eventually("it is detached", func(c Counts) bool { return c.States.Sum() == 0 })
	if n, denied := h.brings(1); n != 1 {
		t.Errorf("none is taken: %v", handoff.FaultOf(&denied))
	}
}

func TestAdoptedConnectionExpiresAsAsked(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
	near, _ := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, A: 5000}, near)
	h.want(handoff.TypeAdopted)
	r.leap(4 * time.Second)
	h.quiet(r)
	r.leap(time.Second)
	if f, _ := h.want(handoff.TypeForget); f.A != handoff.ForgetExpired {
		t.Errorf("forget: %+v", f)
	}
}

// The client may reset a connection while its host hands it over: that is nobody's fault, and costs the host nothing.
func TestAdoptOfAConnectionThatWasReset(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	l := aListener(t)
	where, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(dead, where); err != nil {
		t.Fatal(err)
	}
	server, _, err := unix.Accept(l)
	opened(t)(server, err)
	abort(t, dead)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 4}, server)
	denied, _ := h.want(handoff.TypeDenied)
	if denied.Seq != 4 || handoff.Code(denied.A) != handoff.CodeBadDescriptor {
		t.Errorf("denied: %+v %q", denied, denied.Payload)
	}
	h.exchange(r.dial(), "x", "y")
}

func TestCapacity(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Capacity: 2})
	lease := func() (handoff.Frame, int) { t.Helper(); return h.want(handoff.TypeLease) }
	clients := []*client{r.dial(), r.dial(), r.dial(), r.dial()}
	for _, c := range clients {
		c.send("x")
	}
	one, fd1 := lease()
	two, fd2 := lease()
	h.quiet(r)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0}) // pauses; what it has it finishes
	h.answer(one, fd1, "x", "y")
	h.answer(two, fd2, "x", "y")
	h.quiet(r)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 1})
	three, fd3 := lease()
	h.quiet(r)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 1 << 63})
	four, fd4 := lease()
	h.answer(three, fd3, "x", "y")
	h.answer(four, fd4, "x", "y")
	for _, c := range clients {
		c.want("y")
	}
	if c := r.counts(); c.Hosts[0].Capacity != handoff.MaxCapacity {
		t.Errorf("counts: %+v", c)
	}
}

// A host dies with everything a host can have.
func TestAHostDies(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	h := r.attach(handoff.Hello{Name: "dies", Capacity: 10, Features: []string{handoff.FeatureCache, handoff.FeatureTrack}})
	held, stuck, leased, waiting := r.dial(), r.dial(), r.dial(), r.dial()
	for _, c := range []*client{held, stuck} {
		c.send("x")
		lease, fd := h.want(handoff.TypeLease)
		h.serve(fd, "x", "y")
		defer closeFD(fd) // what a process that dies holds goes a little later than its link
		f := put(lease)
		if c == stuck {
			f.Flags = handoff.FlagSticky
		}
		h.send(f)
		c.want("y")
	}
	leased.send("x")
	_, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	waiting.send("x")
	r.eventually("one waits", func(c Counts) bool { return c.States.Ready == 1 })
	h.close()
	stuck.wantEnd()
	b.works()

	next := r.attach(handoff.Hello{Name: "next", Features: []string{handoff.FeatureCache}})
	for _, c := range []*client{leased, waiting} { // in this order: the first was there before
		lease, fd := next.want(handoff.TypeLease)
		next.answer(lease, fd, "x", "y")
		c.want("y")
	}
	next.exchange(held, "x", "y") // with a descriptor: exchange needs one
	if c := r.counts(); c.Totals.ClosedFor(ReasonHostGone) != 0 || c.Totals.ClosedFor(ReasonStopped) != 1 || c.States.Idle != 4 {
		t.Errorf("counts: %+v", c)
	}
}

func TestADrainingHost(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Capacity: 4})
	c, waits := r.dial(), r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.send(handoff.Frame{Type: handoff.TypeDrain})
	if f, _ := h.want(handoff.TypeDraining); f.A != 1 {
		t.Errorf("draining: %+v", f)
	}
	waits.send("x")
	near, _ := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 2}, near)
	if f, _ := h.want(handoff.TypeDenied); f.Seq != 2 || handoff.Code(f.A) != handoff.CodeStopping {
		t.Errorf("denied: %+v", f)
	}
	h.sendFD(handoff.Frame{Type: handoff.TypeListen, Seq: 3, Payload: []byte("{}")}, aListener(t))
	if f, _ := h.want(handoff.TypeDenied); f.Seq != 3 || handoff.Code(f.A) != handoff.CodeStopping {
		t.Errorf("denied: %+v", f)
	}
	h.quiet(r)
	h.answer(lease, fd, "x", "y")
	c.want("y")
	if _, _, err := h.read(5 * time.Second); err != io.EOF {
		t.Errorf("after the last lease: %v", err)
	}
	next := r.attach(handoff.Hello{})
	lease, fd = next.want(handoff.TypeLease)
	next.answer(lease, fd, "x", "y")
	waits.want("y")
	next.exchange(c, "x", "y")
}

func TestAPrivatePoolDrains(t *testing.T) {
	r := newRig(t, Config{})
	h := r.hello(handoff.Hello{Capacity: 4})
	own := aListener(t)
	h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, own)
	h.want(handoff.TypeListening)
	r.web = localAddr(t, own)
	idle, leased := r.dial(), r.dial()
	h.exchange(idle, "x", "y")
	leased.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.send(handoff.Frame{Type: handoff.TypeDrain})
	h.want(handoff.TypeUnlistened)
	h.want(handoff.TypeDraining)
	idle.wantEnd()
	h.answer(lease, fd, "x", "y")
	leased.want("y")
	leased.wantEnd()
	if _, _, err := h.read(5 * time.Second); err != io.EOF {
		t.Errorf("after the last lease: %v", err)
	}
	_, _ = idle.Close(), leased.Close()
	r.eventually("its pool is gone", func(c Counts) bool { return len(c.Pools) == 1 && len(c.Listeners) == 1 && c.States.Sum() == 0 })
}

// A name that the sidecar makes up is nobody else's, whatever names are in use.
func TestAPrivatePoolIsPrivate(t *testing.T) {
	r := newRig(t, Config{})
	guess := r.attach(handoff.Hello{Name: "guesses", Pool: "private-2"})
	h := r.hello(handoff.Hello{Name: "private"})
	own := aListener(t)
	h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, own)
	h.want(handoff.TypeListening)
	r.web = localAddr(t, own)
	h.exchange(r.dial(), "x", "y")
	guess.quiet(r)
	c := r.counts()
	if c.Hosts[0].Pool == c.Hosts[1].Pool {
		t.Fatalf("both are in the pool %q", c.Hosts[1].Pool)
	}
	thief := r.connect()
	late := handoff.Hello{Name: "thief", Pool: c.Hosts[1].Pool, Capacity: 1}
	thief.send(late.Frame())
	thief.wantFault(handoff.CodeNotYours)
}

func localAddr(t testing.TB, fd int) string {
	t.Helper()
	where, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", where.(*unix.SockaddrInet4).Port)
}

// A host may not clear O_NONBLOCK: the open file description is everybody's. It is set again when the host lets go.
func TestBlockingIsUndone(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	watch := opened(t)(unix.Dup(fd))
	setBlocking(t, fd)
	h.answer(lease, fd, "x", "y")
	c.want("y")
	c.send("x")
	lease, fd = h.want(handoff.TypeLease)
	wantNonblocking(t, watch)
	h.answer(lease, fd, "x", "y")
	if c := r.counts(); c.Totals.Violations != 1 || c.Hosts[0].Violations != 1 {
		t.Errorf("counts: %+v", c)
	}
}

// One that holds on harms only itself, until the connection moves on.
func TestBlockingIsUndoneWhenAHeldConnectionMoves(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	h.serve(fd, "x", "y")
	h.send(put(lease))
	c.want("y")
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
	setBlocking(t, fd)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	other := r.attach(handoff.Hello{Name: "other"})
	c.send("x")
	lease, fd2 := other.want(handoff.TypeLease)
	wantNonblocking(t, fd2)
	other.answer(lease, fd2, "x", "y")
	h.want(handoff.TypeForget)
	if c := r.counts(); c.Totals.Violations != 1 || c.Hosts[0].Violations != 1 {
		t.Errorf("counts: %+v", c)
	}
}

func setBlocking(t testing.TB, fd int) {
	t.Helper()
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}

func wantNonblocking(t testing.TB, fd int) {
	t.Helper()
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v: O_NONBLOCK is missing", flags, err)
	}
}
