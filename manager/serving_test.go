package manager

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/handoff"
)

// board is what Config.OnService has told.
type board struct {
	mu    sync.Mutex
	whole ServiceState
	pools map[string]PoolService
}

func (b *board) tell(whole ServiceState, changed []PoolService) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole = whole
	for _, s := range changed {
		b.pools[s.Pool] = s
		if s.State == 0 {
			delete(b.pools, s.Pool)
		}
	}
}

// want checks the states that were told, once the loop has done what it was asked before.
func (b *board) want(r *rig, whole ServiceState, pools map[string]ServiceState) {
	r.t.Helper()
	counts := r.counts()
	b.mu.Lock()
	defer b.mu.Unlock()
	told := map[string]ServiceState{}
	for name, s := range b.pools {
		told[name] = s.State
	}
	if b.whole != whole || counts.State != whole || !maps.Equal(told, pools) {
		r.t.Errorf("told %v %v, counted %v; want %v %v", b.whole, told, counts.State, whole, pools)
	}
	for _, p := range counts.Pools {
		if p.Service != pools[p.Name] {
			r.t.Errorf("pool %s is counted as %v, want %v", p.Name, p.Service, pools[p.Name])
		}
	}
}

func boardRig(t *testing.T, limits Limits) (*rig, *board) {
	b := &board{pools: map[string]PoolService{}}
	return newRig(t, Config{OnService: b.tell, Limits: limits}), b
}

// A listener is served by hosts of its own pool. Others do not help its clients, and the log says
// once what is missing.
func TestAListenerIsServedByItsOwnPool(t *testing.T) {
	r, b := boardRig(t, Limits{})
	r.listen("tcp://127.0.0.1:0", ListenerOptions{Name: "public", Pool: "web"})
	b.want(r, NoHost, map[string]ServiceState{DefaultPool: NoHost, "web": NoHost})
	elsewhere := r.attach(handoff.Hello{Name: "elsewhere", Pool: "other"})
	private := r.hello(handoff.Hello{Name: "private", Capacity: 1})
	defer private.close()
	web := r.attach(handoff.Hello{Name: "web", Pool: "web"})
	b.want(r, NoHost, map[string]ServiceState{DefaultPool: NoHost, "web": Serving, "other": Serving, "private-2": Serving})
	r.attach(handoff.Hello{Name: "default"})
	b.want(r, Serving, map[string]ServiceState{DefaultPool: Serving, "web": Serving, "other": Serving, "private-2": Serving})
	r.wantLog(1, "[INFO]", "waiting for hosts", "pool=web", "listeners=public", "at "+r.handoff+" (ANTEROOM_HANDOFF)", "ANTEROOM_POOL")
	r.wantLog(1, "[INFO]", "waiting for hosts", "pool=default", r.web)
	r.wantLog(0, "no host is attached to a pool")
	r.wantLog(1, "a pool is served:", "pool=web")
	r.wantLog(0, "a pool is served again")

	elsewhere.close()
	web.close()
	r.eventually("gone", func(c Counts) bool { return len(c.Hosts) == 2 })
	b.want(r, NoHost, map[string]ServiceState{DefaultPool: Serving, "web": NoHost, "private-2": Serving})
	r.wantLog(1, "[WARN]", "no host is attached to a pool", "pool=web", "listeners=public", "the attached hosts, 2, are in other pools")
	r.wantLog(0, "no host is attached to a pool", "pool=other")
	r.attach(handoff.Hello{Name: "web", Pool: "web"})
	r.wantLog(1, "a pool is served again", "pool=web")
	r.wantLog(1, "waiting for hosts", "pool=web")
}

// What the log says at the start names every listener of a pool, however the sidecar opens them one by
// one, and says nothing of a pool whose host was faster.
func TestTheLogWaitsForEveryListener(t *testing.T) {
	m := &rig{t: t, journal: &journal{}}
	var err error
	if m.Manager, err = New(Config{Logger: hclog.New(&hclog.LoggerOptions{Output: m.journal})}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run() }()
	defer func() {
		_, _ = m.Shutdown(t.Context(), 0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	m.listen("tcp://127.0.0.1:0", ListenerOptions{Name: "first", Pool: "web"})
	m.wantLog(0, "waiting for hosts")
	m.listen("tcp://127.0.0.1:0", ListenerOptions{Name: "second", Pool: "web"})
	m.wantLog(0, "waiting for hosts")
	if err := m.Settle(); err != nil {
		t.Fatal(err)
	}
	m.wantLog(1, "waiting for hosts", "pool=web", `listeners="first, second"`)
	m.wantLog(1, "waiting for hosts")
}

// A host in a pool that no listener feeds is warned of once, if a listener's pool has no host.
func TestAHostInAPoolThatNoListenerFeeds(t *testing.T) {
	r, _ := boardRig(t, Limits{})
	const words = "a host has attached to a pool that no listener feeds"
	private := r.hello(handoff.Hello{Name: "private", Capacity: 1})
	defer private.close()
	r.wantLog(0, words)
	r.attach(handoff.Hello{Name: "one", Pool: "wbe"})
	r.wantLog(1, "[WARN]", words, "pool=wbe", "without_host=default")
	r.attach(handoff.Hello{Name: "two", Pool: "wbe"})
	r.attach(handoff.Hello{Name: "right"})
	r.attach(handoff.Hello{Name: "other", Pool: "other"})
	r.wantLog(1, words)
}

// The first request that waits for a host to attach is told at once, the second is not.
func TestARequestThatWaitsForAHostIsTold(t *testing.T) {
	r, _ := boardRig(t, Limits{})
	first, second := r.dial(), r.dial()
	first.send("a")
	r.eventually("waits", func(c Counts) bool { return c.States.Ready == 1 })
	r.wantLog(1, "a request waits for a host to attach", "pool=default", "listeners=tcp://"+r.web, "waits=30s", r.handoff)
	second.send("b")
	r.eventually("both wait", func(c Counts) bool { return c.States.Ready == 2 })
	r.wantLog(1, "a request waits for a host to attach")
	p := r.attach(handoff.Hello{Name: "h"})
	_, fd := p.want(handoff.TypeLease)
	closeFD(fd)
	p.close()
	r.eventually("waits again", func(c Counts) bool { return c.States.Ready == 2 })
	r.wantLog(2, "a request waits for a host to attach")
}

// A pool whose hosts are all hung, paused or leaving is not served, and says which.
func TestAPoolOfHostsThatDoNotServe(t *testing.T) {
	r, b := boardRig(t, Limits{PingInterval: time.Minute, PingTimeout: time.Second})
	state := func(s ServiceState) {
		t.Helper()
		b.want(r, s, map[string]ServiceState{DefaultPool: s})
	}
	h := r.attach(handoff.Hello{Name: "h", Capacity: 1})
	state(Serving)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 0})
	h.quiet(r)
	state(Paused)
	h.send(handoff.Frame{Type: handoff.TypeCapacity, A: 1})
	h.quiet(r)
	state(Serving)

	r.leap(time.Minute)
	ping, _ := h.want(handoff.TypePing)
	r.leap(time.Second)
	r.eventually("hung", func(c Counts) bool { return c.Hosts[0].Service == Hung })
	state(Hung)
	r.wantLog(1, "every host of a pool is hung", "pool=default")
	h.send(handoff.Frame{Type: handoff.TypePong, A: ping.A})
	r.eventually("alive", func(c Counts) bool { return c.Hosts[0].Service == Serving })
	state(Serving)

	c := r.dial()
	c.send("x")
	_, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeDrain})
	h.want(handoff.TypeDraining)
	state(Draining)
	other := r.attach(handoff.Hello{Name: "other"})
	state(Serving)
	other.close()
}

// An operator's Stop is stopping until no lease is left, then stopped.
func TestStoppingAndStopped(t *testing.T) {
	r, b := boardRig(t, Limits{})
	h := r.attach(handoff.Hello{Name: "h"})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	stopped := make(chan error, 1)
	go func() {
		_, err := r.Stop(context.Background(), time.Hour)
		stopped <- err
	}()
	r.eventually("stopping", func(c Counts) bool { return !c.Running })
	b.want(r, Stopping, map[string]ServiceState{DefaultPool: Stopping})
	h.send(put(lease))
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	b.want(r, Stopped, map[string]ServiceState{DefaultPool: Stopped})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.want(r, Serving, map[string]ServiceState{DefaultPool: Serving})
}

// With no listener at all, hosts bring their connections: one pool that is served suffices.
func TestServingWithoutAListener(t *testing.T) {
	p := newPolicy(Limits{}.withDefaults(1000), nil, smallMemory(t))
	if got := p.service(); got != NoHost {
		t.Errorf("%v without a pool", got)
	}
	p.unfed[Serving], p.unfed[Hung] = 1, 1
	if got := p.service(); got != Serving {
		t.Errorf("%v with one pool of two served", got)
	}
}
