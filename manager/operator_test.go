package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// What operators ask for.

// must returns the value of a call that must not fail.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestOperatorPut(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
	c := r.dial()
	r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 1 })
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	c.want("y")
	id := ConnID(lease.Conn)
	if err := r.Put(ctx, id, time.Minute); err != nil {
		t.Fatal(err)
	}
	if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetOperator {
		t.Errorf("forget: %+v", f)
	}
	closeFD(fd)
	if err := r.Put(ctx, id, 0); !errors.Is(err, ErrNotLeased) {
		t.Errorf("put again: %v", err)
	}
	h.send(put(lease)) // its host was about to: too late
	again, fd := func() (handoff.Frame, int) { c.send("x"); return h.want(handoff.TypeLease) }()
	if fd < 0 {
		t.Fatal("the host has let go of the descriptor, and gets none")
	}
	h.answer(again, fd, "x", "y")
	if counts := r.counts(); counts.Totals.Stale != 1 || counts.Totals.Puts != 2 {
		t.Errorf("counts: %+v", counts)
	}
	for _, id := range []ConnID{0, id + 1, id + 1<<slotBits, 1<<64 - 1} {
		if err := r.Put(ctx, id, 0); !errors.Is(err, ErrNotFound) {
			t.Errorf("put of %d: %v", id, err)
		}
	}
}

func TestOperatorPutTimeout(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	if err := r.Put(context.Background(), ConnID(lease.Conn), 5*time.Second); err != nil {
		t.Fatal(err)
	}
	c.want("y")
	r.leap(5 * time.Second)
	c.wantEnd()
}

// states brings one connection into each state: idle, ready, leased and closing, and returns them in this order.
func (r *rig) states(h *peer) []*client {
	r.t.Helper()
	idle, ready, leased, closing := r.dial(), r.dial(), r.dial(), r.dial()
	h.exchange(idle, "x", "y")
	closing.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "")
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	leased.send("x")
	_, fd = h.want(handoff.TypeLease)
	closeFD(fd)
	ready.send("x")
	want := StateCounts{Idle: 1, Ready: 1, Leased: 1, Closing: 1}
	r.eventually("one is in each state", func(c Counts) bool { return c.Listeners[0].States == want })
	return []*client{idle, ready, leased, closing}
}

func TestOperatorClose(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name  string
		what  Selection
		ended []int // of the clients of states
	}{
		{"all that are monitored", Selection{}, []int{0, 1}},
		{"those that are leased", Selection{States: []State{Leased}}, []int{2}},
		{"two states", Selection{States: []State{Leased, Ready, Closing}}, []int{1, 2}},
		{"a pool", Selection{Pool: DefaultPool}, []int{0, 1}},
		{"another pool", Selection{Pool: "nobody"}, nil},
		{"a host", Selection{Host: 2}, []int{0}},
		{"a client's address", Selection{Peer: "127.0.0.1", States: []State{Idle}, Pool: DefaultPool}, []int{0}},
		{"a network", Selection{Peer: "127.0.0.0/8", Pool: DefaultPool}, []int{0, 1}},
		{"another network", Selection{Peer: "2001:db8::/32"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, Config{})
			b := r.bystander()
			clients := r.states(r.attach(handoff.Hello{}))
			if test.what.Pool == "" && test.what.Host == 0 {
				test.what.Pool = DefaultPool // the bystander is not to be closed
			}
			n := must(r.Close(ctx, test.what))(t)
			if n != len(test.ended) {
				t.Errorf("%d are closed, want %d", n, len(test.ended))
			}
			for _, i := range test.ended {
				clients[i].wantEndOrReset()
			}
			if c := r.counts(); c.Totals.ClosedFor(ReasonOperator) != uint64(len(test.ended)) {
				t.Errorf("counts: %+v", c)
			}
			b.works()
		})
	}
}

func TestOperatorCloseById(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	clients := r.states(h)
	page := must(r.Connections(ctx, Query{Selection: Selection{States: []State{Leased}}}))(t)
	leased := page.Connections[0].ID
	if n := must(r.Close(ctx, Selection{IDs: []ConnID{leased, 12345}}))(t); n != 1 {
		t.Errorf("%d are closed", n)
	}
	clients[2].wantEndOrReset()
	if f, _ := h.want(handoff.TypeForget); f.Conn != uint64(leased) || f.A != handoff.ForgetOperator {
		t.Errorf("forget: %+v", f)
	}
	if _, err := r.Close(ctx, Selection{IDs: []ConnID{12345}}); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody's id: %v", err)
	}
	if _, err := r.Close(ctx, Selection{Peer: "localhost"}); !errors.Is(err, ErrBadPeer) {
		t.Errorf("a name for a peer: %v", err)
	}
}

func TestSetLimits(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{Limits: Limits{KeepAlive: 5}})
	h := r.attach(handoff.Hello{Capacity: 5})
	var clients []*client
	for range 4 {
		c := r.dial()
		h.exchange(c, "x", "y")
		clients = append(clients, c)
	}
	before := must(r.Limits(ctx))(t)
	var bad *LimitsError
	if _, err := r.SetLimits(ctx, Limits{KeepAlive: -7, Hosts: 1 << 30, QueueTimeout: -1, LeaseTimeout: 1}); !errors.As(err, &bad) || len(bad.Violations) != 4 {
		t.Errorf("bad limits: %v", err)
	}
	if now := must(r.Limits(ctx))(t); now != before {
		t.Errorf("bad limits have changed something: %+v", now)
	}
	now := must(r.SetLimits(ctx, Limits{KeepAlive: 2, KeepAliveTimeout: time.Second}))(t)
	want := before
	want.KeepAlive, want.KeepAliveTimeout = 2, time.Second
	if now != want {
		t.Errorf("limits are %+v, want %+v", now, want)
	}
	clients[0].wantEnd()
	clients[1].wantEnd()
	h.exchange(clients[2], "x", "y")
	r.leap(time.Second)
	clients[2].wantEnd() // its put was under the new time
	if c := r.counts(); c.States.Idle != 1 || c.Totals.ClosedFor(ReasonEvicted) != 2 {
		t.Errorf("counts: %+v", c)
	}
}

func TestASlowWatcherIsToldWhatItLost(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Name: "h"})
	slow, quick, puts := r.Watch(2), r.Watch(0), r.Watch(0, EventPut)
	defer slow.Close()
	defer quick.Close()
	defer puts.Close()
	c := r.dial()
	const requests = 5
	for range requests {
		h.exchange(c, "x", "y")
	}
	r.eventually("all are put", func(c Counts) bool { return c.Totals.Puts == requests })
	for range 2 {
		if e := <-slow.Events(); e.Lost != 0 {
			t.Errorf("event %+v", e)
		}
	}
	h.exchange(c, "x", "y")
	r.eventually("all are put", func(c Counts) bool { return c.Totals.Puts == requests+1 })
	if e := <-slow.Events(); e.Kind != EventLeased || e.Lost != 1+2*requests-2 {
		t.Errorf("after the loss: %+v", e)
	}

	want := []EventKind{EventAccepted}
	for range requests + 1 {
		want = append(want, EventLeased, EventPut)
	}
	for i, kind := range want {
		e := <-quick.Events()
		if e.Kind != kind || e.Lost != 0 || e.Time.IsZero() || e.Pool != DefaultPool || e.Conn == 0 {
			t.Errorf("event %d is %+v, want %v", i, e, kind)
		}
		if kind == EventAccepted && e.Peer != c.LocalAddr().String() || kind != EventAccepted && e.Name != "h" {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	if n := len(puts.Events()); n != requests+1 {
		t.Errorf("%d puts were seen", n)
	}
}

func TestWatchersSeeEnds(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	w := r.Watch(0, EventClosed, EventExpired, EventDetached, EventHostAttached, EventHostGone, EventStopped, EventStarted)
	h := r.attach(handoff.Hello{Name: "h"})
	hungUp, expired := r.dial(), r.dial()
	h.exchange(expired, "x", "y")
	hungUp.wantGone()
	r.eventually("one is left", func(c Counts) bool { return c.States.Sum() == 1 })
	r.leap(75 * time.Second)
	expired.wantEnd()
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeDetach, Conn: lease.Conn, Seq: lease.Seq})
	r.eventually("one is detached", func(c Counts) bool { return c.Totals.ClosedFor(ReasonDetached) == 1 })
	must(r.Stop(ctx, 0))(t)
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	h.close()
	r.eventually("the host has gone", func(c Counts) bool { return len(c.Hosts) == 0 })
	var got []string
	for range 7 {
		e := <-w.Events()
		got = append(got, fmt.Sprint(e.Kind, " ", e.Reason))
	}
	want := []string{
		"host_attached none", "closed hung_up", "expired expired", "detached detached", "stopped none", "started none", "host_gone none",
	}
	if !slices.Equal(got, want) {
		t.Errorf("events are %q, want %q", got, want)
	}
	w.Close()
	w.Close()
	if _, open := <-w.Events(); open {
		t.Error("a closed watcher has an event")
	}
}

// Every connection that stays is on exactly one page, whatever comes and goes between two pages.
func TestConnectionsPages(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Name: "h"})
	var stay []*client
	for range 25 {
		c := r.dial()
		h.exchange(c, "x", "y")
		stay = append(stay, c)
	}
	goes := r.dial()
	h.exchange(goes, "x", "y")
	seen := map[ConnID]int{}
	q := Query{Limit: 7}
	pages := 0
	for {
		page := must(r.Connections(ctx, q))(t)
		for _, c := range page.Connections {
			seen[c.ID]++
			if c.State != Idle || c.Pool != DefaultPool || c.Host != 1 || c.HostName != "h" || c.Requests != 1 || c.Fresh || c.Peer == "" || c.RTT == 0 ||
				c.BytesReceived != 1 || c.Listener == "" {
				t.Errorf("connection %+v", c)
			}
		}
		if pages++; page.Next == 0 {
			break
		}
		if pages == 1 {
			goes.wantGone()
			r.eventually("one has gone", func(c Counts) bool { return c.States.Sum() == 25 })
		}
		if q.After = page.Next; len(page.Connections) != 7 {
			t.Errorf("%d connections on a page that is not the last", len(page.Connections))
		}
	}
	if len(seen) != len(stay) || pages != 4 {
		t.Errorf("%d connections on %d pages", len(seen), pages)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("connection %d is on %d pages", id, n)
		}
	}
	for name, q := range map[string]Query{
		"beyond the end": {After: 1<<53 - 1}, "another pool": {Selection: Selection{Pool: "no"}}, "another state": {Selection: Selection{States: []State{Leased}}},
	} {
		if page := must(r.Connections(ctx, q))(t); len(page.Connections) != 0 || page.Next != 0 {
			t.Errorf("%s: %+v", name, page)
		}
	}
	port := Query{Selection: Selection{Peer: "127.0.0.1:80"}}
	if _, err := r.Connections(ctx, port); !errors.Is(err, ErrBadPeer) {
		t.Errorf("a peer with a port: %v", err)
	}
}

func TestConnectionDetails(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Name: "h"})
	near, _ := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Flags: handoff.FlagSticky}, near)
	adopted, _ := h.want(handoff.TypeAdopted)
	c := must(r.Connection(ctx, ConnID(adopted.Conn)))(t)
	if c.Listener != "" || !c.Sticky || c.Fresh || c.Host != 1 || c.RTT != 0 || c.State != Idle {
		t.Errorf("connection %+v", c)
	}
	fresh := r.dial()
	r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 2 })
	r.leap(7 * time.Second)
	page := must(r.Connections(ctx, Query{}))(t)
	if c := page.Connections[1]; !c.Fresh || c.Host != 0 || c.Age < 7*time.Second || c.InState < 7*time.Second || c.Peer != fresh.LocalAddr().String() {
		t.Errorf("connection %+v", c)
	}
	if _, err := r.Connection(ctx, 999); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody's id: %v", err)
	}
}

func TestShutdownWithGrace(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Capacity: 2})
	idle, finishes := r.dial(), r.dial()
	h.exchange(idle, "x", "y")
	finishes.send("x")
	lease, fd := h.want(handoff.TypeLease)
	greets := r.connect() // has not said HELLO yet
	r.eventually("the loop knows it", func(Counts) bool { return r.peers() == 2 })
	reports := r.shutdown(context.Background(), time.Minute)
	h.want(handoff.TypeDraining)
	greets.wantFault(handoff.CodeStopping)
	if _, err := netDial(r.web); err == nil {
		t.Error("a client was accepted during shutdown")
	}
	h.answer(lease, fd, "x", "y")
	finishes.want("y")
	finishes.wantEnd()
	idle.wantEnd()
	_, _ = finishes.Close(), idle.Close()
	if report := <-reports; report != (StopReport{Finished: 1}) {
		t.Errorf("report: %+v", report)
	}
	if _, err := r.Counts(context.Background()); !errors.Is(err, ErrStopped) {
		t.Errorf("a question after the end: %v", err)
	}
	if _, open := <-r.Watch(0).Events(); open {
		t.Error("an event after the end")
	}
}

// peers is how many peers of the handoff socket there are, attached or not.
func (r *rig) peers() (n int) {
	_ = r.tell(func() error { n = len(r.links); return nil })
	return n
}

// shutdown begins a Shutdown whose report comes in the channel.
func (r *rig) shutdown(ctx context.Context, grace time.Duration) <-chan StopReport {
	reports := make(chan StopReport, 1)
	go func() {
		report, err := r.Shutdown(ctx, grace)
		if err != nil {
			r.t.Error(err)
		}
		reports <- report
	}()
	return reports
}

func TestShutdownCuts(t *testing.T) {
	for name, begin := range map[string]func(*rig) <-chan StopReport{
		"without grace":   func(r *rig) <-chan StopReport { return r.shutdown(context.Background(), 0) },
		"when it is over": func(r *rig) <-chan StopReport { return r.shutdown(context.Background(), 50*time.Millisecond) },
		"when nobody waits any more": func(r *rig) <-chan StopReport {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			return r.shutdown(ctx, time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{})
			leased, ready := r.dial(), r.dial()
			leased.send("x")
			lease, fd := h.want(handoff.TypeLease)
			h.serve(fd, "x", "half an ans")
			defer closeFD(fd)
			ready.send("x")
			r.eventually("one waits", func(c Counts) bool { return c.States.Ready == 1 })
			reports := begin(r)
			h.want(handoff.TypeDraining)
			if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetStopped {
				t.Errorf("forget: %+v", f)
			}
			leased.want("half an ans")
			leased.wantEnd()
			ready.wantEnd()
			_, _ = leased.Close(), ready.Close()
			if report := <-reports; report != (StopReport{Cut: 1}) {
				t.Errorf("report: %+v", report)
			}
		})
	}
}

func TestTwoStops(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	reports := make(chan StopReport, 2)
	for range 2 {
		go func() { reports <- must(r.Stop(ctx, time.Minute))(t) }()
	}
	r.eventually("both wait", func(Counts) bool { return r.waitingStops() == 2 })
	if err := r.Start(ctx); !errors.Is(err, ErrStopping) {
		t.Errorf("start while stopping: %v", err)
	}
	h.answer(lease, fd, "x", "y")
	for range 2 {
		if report := <-reports; report != (StopReport{Finished: 1}) {
			t.Errorf("report: %+v", report)
		}
	}
	if report := must(r.Stop(ctx, time.Minute))(t); report != (StopReport{}) {
		t.Errorf("a stop of what is stopped: %+v", report)
	}
	for range 2 {
		if err := r.Start(ctx); err != nil {
			t.Error(err)
		}
	}
	c.want("y")
	h.exchange(c, "x", "y")
}

func (r *rig) waitingStops() (n int) {
	_ = r.tell(func() error { n = len(r.stops); return nil })
	return n
}

func TestRunTwice(t *testing.T) {
	r := newRig(t, Config{})
	running := func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.running }
	for !running() {
		time.Sleep(time.Millisecond)
	}
	if err := r.Run(); !errors.Is(err, errRunTwice) {
		t.Errorf("run again: %v", err)
	}
}
