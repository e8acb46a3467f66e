package manager

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

func TestHostsAtTheLimit(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Hosts: 2}})
	b := r.bystander()
	first := r.attach(handoff.Hello{})
	extra := handoff.Hello{Name: "extra", Capacity: 1}
	p := r.connect()
	p.send(extra.Frame())
	p.wantFault(handoff.CodeAtLimit)
	b.works()
	first.close()
	r.eventually("there is room", func(c Counts) bool { return len(c.Hosts) == 1 })
	r.hello(extra)
	if c := r.counts(); c.Totals.HostsRefused != 1 || len(c.Pools) != 3 {
		t.Errorf("counts: %+v", c)
	}
}

func TestListenersAtTheLimit(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Listeners: 2}}) // the sidecar's own, and one of a host
	h := r.hello(handoff.Hello{})
	one, two := aListener(t), aListener(t)
	ask := func(fd int, tag uint32) {
		h.sendFD(handoff.Frame{Type: handoff.TypeListen, Seq: tag, Payload: []byte("{}")}, fd)
	}
	ask(one, 1)
	open, _ := h.want(handoff.TypeListening)
	ask(two, 2)
	denied, _ := h.want(handoff.TypeDenied)
	if denied.Seq != 2 || handoff.Code(denied.A) != handoff.CodeAtLimit {
		t.Errorf("denied: %+v %q", denied, denied.Payload)
	}
	h.send(handoff.Frame{Type: handoff.TypeUnlisten, Seq: 3, A: open.A})
	h.want(handoff.TypeUnlistened)
	ask(two, 4) // the denied socket was left as it was
	h.want(handoff.TypeListening)
	if err := r.AddListener(r.open("tcp://127.0.0.1:0"), ListenerOptions{Pool: "nobody's"}); err == nil {
		t.Error("a listener of the sidecar's own went over the limit")
	}
	if c := r.counts(); len(c.Listeners) != 2 || len(c.Pools) != 2 {
		t.Errorf("counts: %+v", c)
	}
}

func TestAnothersListenerIsNotClosed(t *testing.T) {
	r := newRig(t, Config{})
	h, other := r.hello(handoff.Hello{}), r.hello(handoff.Hello{})
	h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, aListener(t))
	open, _ := h.want(handoff.TypeListening)
	for tag, id := range []uint64{open.A, 1 << 40, 0} {
		other.send(handoff.Frame{Type: handoff.TypeUnlisten, Seq: uint32(tag), A: id})
		denied, _ := other.want(handoff.TypeDenied)
		if int(denied.Seq) != tag || handoff.Code(denied.A) != handoff.CodeNotYours {
			t.Errorf("denied: %+v %q", denied, denied.Payload)
		}
	}
	if c := r.counts(); len(c.Listeners) != 2 || len(c.Hosts) != 2 {
		t.Errorf("counts: %+v", c)
	}
}

// full is a rig with no room for another connection: all are leased.
func full(t *testing.T) (r *rig, h *peer, leases []handoff.Frame, waiting *client) {
	t.Helper()
	r = newRig(t, Config{Limits: Limits{Connections: 2}})
	h = r.attach(handoff.Hello{Capacity: 8})
	for range 2 {
		c := r.dial()
		c.send("x")
		lease, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		leases = append(leases, lease)
	}
	waiting = r.dial() // in the kernel's backlog
	waiting.send("me too")
	r.eventually("accepting pauses", func(c Counts) bool { return c.Listeners[0].Paused })
	return r, h, leases, waiting
}

func TestConnectionsAtTheLimit(t *testing.T) {
	r, h, leases, waiting := full(t)
	h.quiet(r)
	near, _ := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 3}, near)
	denied, _ := h.want(handoff.TypeDenied)
	if denied.Seq != 3 || handoff.Code(denied.A) != handoff.CodeAtLimit {
		t.Errorf("denied: %+v %q", denied, denied.Payload)
	}
	r.leap(time.Minute) // no time passes that would change it
	if c := r.counts(); !c.Listeners[0].Paused || c.Totals.AcceptPauses != 1 {
		t.Errorf("counts: %+v", c)
	}
	h.send(handoff.Frame{Type: handoff.TypeDetach, Conn: leases[0].Conn, Seq: leases[0].Seq})
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "me too", "you too")
	waiting.want("you too")
	r.wantLog(1, "[WARN]", "accepting pauses")
	r.wantLog(1, "[INFO]", "accepting goes on")
}

// A put connection can make room for one that waits: nobody has to wait until it expires.
func TestAPutEndsAPauseOfAccepting(t *testing.T) {
	_, h, leases, waiting := full(t)
	h.send(put(leases[0])) // its request is still unread, and is leased again
	again, fd := h.want(handoff.TypeLease)
	h.answer(again, fd, "x", "y")
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "me too", "you too")
	waiting.want("you too")
}

func TestAHigherLimitEndsAPauseOfAccepting(t *testing.T) {
	r, h, _, waiting := full(t)
	if _, err := r.SetLimits(context.Background(), Limits{Connections: 3}); err != nil {
		t.Fatal(err)
	}
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "me too", "you too")
	waiting.want("you too")
}

// The least recently used kept connection makes room, never one that has yet to speak, and never one whose request is there.
func TestEvictionIsLeastRecentlyUsedFirst(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Connections: 4, FirstByteTimeout: time.Hour}})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
	young := r.dial()
	r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 1 })
	clients := []*client{r.dial(), r.dial(), r.dial()}
	order := []int{2, 0, 1}
	ids := map[int]uint64{}
	for _, i := range order {
		ids[i] = h.exchange(clients[i], "x", "y").Conn
	}
	for round, i := range order[:2] {
		c := r.dial()
		if f, _ := h.want(handoff.TypeForget); f.Conn != ids[i] || f.A != handoff.ForgetEvicted {
			t.Fatalf("round %d: forget %+v, want connection %d", round, f, ids[i])
		}
		clients[i].wantEnd()
		h.exchange(c, "new", "old")
	}
	h.exchange(young, "at last", "hello")
	if c := r.counts(); c.Totals.ClosedFor(ReasonEvicted) != 2 || c.States.Sum() != 4 || c.Totals.AcceptPauses != 0 {
		t.Errorf("counts: %+v", c)
	}
}

func TestKeepAliveAtTheLimit(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{KeepAlive: 2}})
	h := r.attach(handoff.Hello{Capacity: 8})
	capacity := func() Capacity {
		t.Helper()
		c, err := r.Capacity(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var clients []*client
	var leases []handoff.Frame
	var fds []int
	for range 3 { // at the same time: what is promised to one is not promised to the next
		c := r.dial()
		c.send("x")
		lease, fd := h.want(handoff.TypeLease)
		clients, leases, fds = append(clients, c), append(leases, lease), append(fds, fd)
	}
	for i, last := range []bool{false, false, true} {
		if got := leases[i].Flags&handoff.FlagLast != 0; got != last {
			t.Errorf("lease %d: LAST is %v", i, got)
		}
	}
	if c := capacity(); c != (Capacity{Limit: 2, InUse: 2}) {
		t.Errorf("capacity: %+v", c)
	}
	for i := range leases {
		h.answer(leases[i], fds[i], "x", "y") // the third put is against LAST, and costs the first its place
		clients[i].want("y")
	}
	clients[0].wantEnd()
	r.eventually("two are kept", func(c Counts) bool { return c.States.Idle == 2 && c.Totals.ClosedFor(ReasonEvicted) == 1 })

	lease := h.exchange(clients[1], "x", "y") // who has a place keeps it
	if lease.Flags&handoff.FlagLast != 0 {
		t.Error("a kept connection lost its place")
	}
	if _, err := r.SetLimits(context.Background(), Limits{KeepAlive: KeepAliveNone}); err != nil {
		t.Fatal(err)
	}
	clients[1].wantEnd()
	clients[2].wantEnd()
	if c := capacity(); c != (Capacity{}) {
		t.Errorf("capacity: %+v", c)
	}
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	if lease.Flags&handoff.FlagLast == 0 {
		t.Error("a place was promised where none is kept")
	}
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	c.want("y")
	c.wantEnd()
}

// A reservation is given back when the lease does not end with a put.
func TestAPromisedPlaceIsGivenBack(t *testing.T) {
	for _, typ := range []handoff.Type{handoff.TypeClose, handoff.TypeDetach} {
		t.Run(typ.String(), func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{KeepAlive: 1}})
			h := r.attach(handoff.Hello{})
			for range 3 {
				c := r.dial()
				c.send("x")
				lease, fd := h.want(handoff.TypeLease)
				closeFD(fd)
				if lease.Flags&handoff.FlagLast != 0 {
					t.Error("the place was not free")
				}
				h.send(handoff.Frame{Type: typ, Conn: lease.Conn, Seq: lease.Seq})
				c.wantGone()
			}
			if c, err := r.Capacity(context.Background()); err != nil || c != (Capacity{Limit: 1, CanAdd: true}) {
				t.Errorf("capacity %+v, %v", c, err)
			}
		})
	}
}

func TestAFullQueueClosesTheNext(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{Queue: 2}})
	var clients []*client
	for range 3 {
		c := r.dial()
		r.eventually("it is here", func(counts Counts) bool { return counts.States.Idle == 1 })
		c.send("x")
		r.eventually("its request is", func(counts Counts) bool { return counts.States.Idle == 0 })
		clients = append(clients, c)
	}
	clients[2].wantEnd()
	h := r.attach(handoff.Hello{})
	for _, c := range clients[:2] { // in the order of their arrival
		lease, fd := h.want(handoff.TypeLease)
		h.answer(lease, fd, "x", "y")
		c.want("y")
	}
	r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonQueueFull) == 1 })
}

func TestTimesOfWaitingAndLeasing(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{QueueTimeout: 20 * time.Second, LeaseTimeout: time.Minute}})
	waits := r.dial()
	waits.send("x")
	r.eventually("it waits", func(c Counts) bool { return c.States.Ready == 1 })
	r.leap(20 * time.Second)
	waits.wantEnd()

	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	hangs := r.dial()
	hangs.send("x")
	lease, fd := h.want(handoff.TypeLease)
	defer closeFD(fd)
	r.leap(time.Minute)
	hangs.wantEndOrReset() // nobody knows here whether the response has begun
	if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetFailed {
		t.Errorf("forget: %+v", f)
	}
	if _, err := unix.Write(fd, []byte("too late")); err != unix.EPIPE && err != unix.ECONNRESET {
		t.Errorf("writing to a connection that was taken back: %v", err)
	}
	h.send(put(lease))
	h.exchange(r.dial(), "x", "y") // its capacity is free again
	if c := r.counts(); c.Totals.ClosedFor(ReasonLeaseTime) != 1 || c.Totals.ClosedFor(ReasonQueueTime) != 1 || c.Totals.Stale != 1 {
		t.Errorf("counts: %+v", c)
	}
}

// Descriptors run out: accepting pauses with one warning however often it is tried, the loop does not spin, and all goes on by itself.
func TestOutOfDescriptors(t *testing.T) {
	r := steppedRig(t, Config{})
	h := r.connect()
	host := handoff.Hello{Name: "first", Pool: DefaultPool, Capacity: 8}
	h.send(host.Frame())
	r.turn() // accepts it
	r.turn() // reads its HELLO
	h.want(handoff.TypeWelcome)
	clients, late := []int{aSocket(t, unix.AF_INET, unix.SOCK_STREAM), aSocket(t, unix.AF_INET, unix.SOCK_STREAM)}, aSocket(t, unix.AF_UNIX, unix.SOCK_STREAM)

	release := exhaust(t)
	for _, fd := range clients {
		connectTo(t, fd, r)
	}
	if err := unix.Connect(late, &unix.SockaddrUnix{Name: r.handoff}); err != nil {
		t.Fatal(err)
	}
	for range 20 { // five seconds of trying again
		r.turn() // watches again
		r.turn() // fails again
		if n, err := r.sel.Select(r.events, 0); n != 0 || err != nil {
			t.Fatalf("the loop spins: %d events, %v", n, err)
		}
		r.leap(acceptPause)
	}
	c := r.counts()
	if c.Totals.AcceptPauses != 1 || c.States.Sum() != 0 || !c.Listeners[0].Paused {
		t.Errorf("counts: %+v", c)
	}
	r.wantLog(1, "[WARN]", "accepting pauses")
	r.wantLog(0, "accepting goes on")

	release()
	for range 3 {
		r.leap(acceptPause)
		r.turn()
	}
	c = r.counts()
	if c.States.Idle != 2 || c.Listeners[0].Paused || len(r.links) != 2 {
		t.Errorf("%d links, counts: %+v", len(r.links), c)
	}
	r.wantLog(1, "[WARN]", "accepting pauses")
	r.wantLog(1, "accepting goes on")
}

// A descriptor that arrives when there is no room for it.
func TestAdoptWhenOutOfDescriptors(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	near, far := aPair(t, unix.SOCK_STREAM)
	release := exhaust(t)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 1}, near)
	denied, _ := h.want(handoff.TypeDenied)
	if denied.Seq != 1 || handoff.Code(denied.A) != handoff.CodeOutOfDescriptors {
		t.Errorf("denied: %+v %q", denied, denied.Payload)
	}
	release()
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 2}, near)
	h.want(handoff.TypeAdopted)
	if _, err := unix.Write(far, []byte("x")); err != nil {
		t.Fatal(err)
	}
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, "x", "y")
}

// exhaust takes every descriptor that this process may still open, until release.
func exhaust(t *testing.T) (release func()) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	now := before
	now.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, fd)
	}
	release = func() {
		for _, fd := range taken {
			closeFD(fd)
		}
		taken = nil
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(release)
	return release
}

func connectTo(t *testing.T, fd int, r *rig) {
	t.Helper()
	listeners := slices.Collect(func(yield func(*entrance) bool) {
		for _, e := range r.doors {
			if !yield(e) {
				return
			}
		}
	})
	where, err := unix.Getsockname(listeners[0].listener.FD())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, where); err != nil {
		t.Fatal(err)
	}
}

// A limit that was set at run time holds over a takeover, unless what is configured for it has changed.
func TestLimitsThatAreUnchanged(t *testing.T) {
	set := Limits{Hosts: 7, Queue: 8, KeepAliveTimeout: 9}
	before, now := Limits{Hosts: 1, Queue: 2}, Limits{Hosts: 1, Queue: 3, Connections: 100}
	if got, want := set.unchanged(before, now), (Limits{Hosts: 7, KeepAliveTimeout: 9}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Every limit has a range in words, which errors show.
func TestEveryLimitHasARange(t *testing.T) {
	for i := range reflect.TypeFor[Limits]().NumField() {
		if name := reflect.TypeFor[Limits]().Field(i).Name; RangeOf(name) == "" {
			t.Errorf("%s has no range", name)
		}
	}
	if got := RangeOf("KeepAlive"); got != "1 to 1048576, or none" {
		t.Errorf("the range of KeepAlive is %q", got)
	}
	if got := RangeOf("Nothing"); got != "" {
		t.Errorf("the range of nothing is %q", got)
	}
}
