package manager

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// What a turn does for operators, and for what comes to its end, is bounded: counted in work, not in time.

// loopingRig is a steppedRig whose commands wait for the next turn, as they do when the loop runs.
func loopingRig(t *testing.T, limits Limits) *rig {
	t.Helper()
	r := steppedRig(t, Config{Limits: limits})
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	return r
}

// turnsUntil turns the loop until done is closed. After each turn it calls check with how much
// something has grown in that turn.
func (r *rig) turnsUntil(done <-chan struct{}, grown func() uint64, check func(uint64)) (turns int) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		select {
		case <-done:
			return turns
		default:
		}
		if time.Now().After(deadline) {
			r.t.Fatal("not done within 30 s")
		}
		before := grown()
		r.turn()
		if n := grown() - before; n > 0 {
			turns++
			check(n)
		}
	}
}

// idle accepts n clients.
func (r *rig) idle(n int) (clients []*client) {
	r.t.Helper()
	due := r.policy.states[Idle] + n
	for range n {
		clients = append(clients, r.dial())
	}
	for r.policy.states[Idle] < due {
		r.turn()
	}
	return clients
}

// asked runs a call of an operator while the test takes the loop's turns.
func asked(call func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		call()
	}()
	return done
}

func (r *rig) closedFor(why Reason) func() uint64 {
	return func() uint64 { return r.policy.totals.ClosedFor(why) }
}

// atMost fails the test if a turn has done more than it may.
func (r *rig) atMost(most uint64) func(uint64) {
	return func(n uint64) {
		r.t.Helper()
		if n > most {
			r.t.Errorf("%d in one turn, at most %d may be", n, most)
		}
	}
}

// Each turn gives every job its share in turn, and no more than its units to all of them.
func TestJobsShareATurn(t *testing.T) {
	r := loopingRig(t, Limits{})
	var spent [10]int
	for i := range spent {
		r.addJob(&job{ctx: t.Context(), step: func(budget int) (int, bool) {
			spent[i] += budget
			return budget, false
		}})
	}
	for turn := 1; turn <= 10; turn++ {
		r.turn()
		total := 0
		for _, units := range spent {
			total += units
		}
		if total != turn*workPerTurn {
			t.Fatalf("%d units after %d turns", total, turn)
		}
		if behind, ahead := slices.Min(spent[:]), slices.Max(spent[:]); ahead-behind > jobShare {
			t.Fatalf("shares differ after %d turns: %v", turn, spent)
		}
	}
	if r.patience() != 0 {
		t.Error("the loop waits though there is work")
	}
}

func TestAJobEndsWithItsCaller(t *testing.T) {
	r := loopingRig(t, Limits{})
	ctx, leaves := context.WithCancel(t.Context())
	steps := 0
	r.addJob(&job{ctx: ctx, step: func(budget int) (int, bool) {
		steps++
		return budget, false
	}})
	r.turn()
	had := steps
	leaves()
	r.turn()
	if steps != had || len(r.jobs) != 0 {
		t.Errorf("%d steps, %d before the caller left; %d jobs", steps, had, len(r.jobs))
	}
}

func TestCallsAtTheLimit(t *testing.T) {
	r := loopingRig(t, Limits{Calls: 2})
	for range 2 {
		r.addJob(&job{ctx: t.Context(), step: func(budget int) (int, bool) { return budget, false }})
	}
	var err error
	done := asked(func() { _, err = r.Connections(t.Context(), Query{}) })
	r.turnsUntil(done, func() uint64 { return 0 }, nil)
	if !errors.Is(err, ErrBusy) {
		t.Errorf("one more call: %v", err)
	}
}

// However many call, one turn describes only so many connections, and every caller gets all of
// them, each once.
func TestManyListings(t *testing.T) {
	r := loopingRig(t, Limits{})
	const connections, callers = 100, 20
	r.idle(connections)
	listed := make(chan []Connection, callers)
	for range callers {
		go func() {
			page, err := r.Connections(t.Context(), Query{Limit: MaxPage})
			if err != nil || page.Next != 0 {
				t.Errorf("%v, next %d", err, page.Next)
			}
			listed <- page.Connections
		}()
	}
	done := asked(func() {
		for range callers {
			if list := <-listed; len(list) != connections || !slices.IsSortedFunc(list, func(a, b Connection) int { return int(a.ID.slot()) - int(b.ID.slot()) }) {
				t.Errorf("%d connections are listed", len(list))
			}
		}
	})
	turns := func() uint64 { return r.Manager.turns }
	before := turns()
	r.turnsUntil(done, func() uint64 { return 0 }, nil)
	if least := uint64(callers * connections * costDescribe / (workPerTurn + callers*costDescribe)); turns()-before < least {
		t.Errorf("all that in %d turns, at least %d are due", turns()-before, least)
	}
}

// Closing and revoking take many turns, in each of which clients are served.
func TestManyEndsTakeManyTurns(t *testing.T) {
	const n = 200
	most := uint64(workPerTurn/costEnd + workPerTurn/jobShare)
	for name, what := range map[string]func(*rig, []ConnID) (int, error){
		"close all": func(r *rig, _ []ConnID) (int, error) { return r.Close(context.Background(), Selection{}) },
		"close a pool": func(r *rig, _ []ConnID) (int, error) {
			return r.Close(context.Background(), Selection{Pool: DefaultPool})
		},
		"close by peer": func(r *rig, _ []ConnID) (int, error) {
			return r.Close(context.Background(), Selection{Peer: "127.0.0.0/8"})
		},
		"close by id": func(r *rig, ids []ConnID) (int, error) {
			return r.Close(context.Background(), Selection{IDs: append(ids, ids...)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := loopingRig(t, Limits{})
			r.idle(n)
			var ids []ConnID
			r.policy.table.each(func(slot uint32, c *record) { ids = append(ids, r.policy.id(c, slot)) })
			closed, err := 0, error(nil)
			done := asked(func() { closed, err = what(r, ids) })
			turns := r.turnsUntil(done, r.closedFor(ReasonOperator), r.atMost(most))
			if closed != n || err != nil || turns < n/int(most) {
				t.Errorf("%d closed in %d turns, %v", closed, turns, err)
			}
		})
	}
}

// lent lends n connections to a host, which keeps them.
func (r *rig) lent(n int) (ids []ConnID) {
	r.t.Helper()
	h := r.stepInHost(n)
	for _, c := range r.idle(n) {
		c.send("x")
	}
	for len(ids) < n {
		r.turn()
		if f, fd, err := h.read(0); err == nil {
			ids = append(ids, ConnID(f.Conn))
			closeFD(fd)
		}
	}
	return ids
}

// stepInHost attaches a host while the test takes the turns.
func (r *rig) stepInHost(capacity int) *peer {
	r.t.Helper()
	h := r.connect()
	hello := handoff.Hello{Name: "test", Pool: DefaultPool, Capacity: capacity}
	h.send(hello.Frame())
	for {
		r.turn()
		if f, _, err := h.read(0); err == nil && f.Type == handoff.TypeWelcome {
			return h
		}
	}
}

func TestManyRevocationsTakeManyTurns(t *testing.T) {
	const n = 100
	r := loopingRig(t, Limits{})
	ids := r.lent(n)
	revoked, err := 0, error(nil)
	done := asked(func() { revoked, err = r.Revoke(context.Background(), append(ids, 12345)) })
	turns := r.turnsUntil(done, r.closedFor(ReasonOperator), r.atMost(workPerTurn/costEnd+workPerTurn/jobShare))
	if revoked != n || err != nil || turns < 2 {
		t.Errorf("%d revoked in %d turns, %v", revoked, turns, err)
	}
}

func TestAStopCutsOverManyTurns(t *testing.T) {
	const n = 3*endingsPerTurn - 1
	r := loopingRig(t, Limits{})
	r.lent(n)
	var report StopReport
	done := asked(func() { report, _ = r.Stop(context.Background(), 0) })
	turns := r.turnsUntil(done, r.closedFor(ReasonStopped), r.atMost(endingsPerTurn))
	if report != (StopReport{Cut: n}) || turns != 3 {
		t.Errorf("%+v in %d turns", report, turns)
	}
}

// Connections that come to their end at the same time end over many turns, and so do those that a
// lower limit makes too many.
func TestManyExpiriesTakeManyTurns(t *testing.T) {
	const n = 3*endingsPerTurn - 1
	r := loopingRig(t, Limits{})
	r.idle(n)
	r.start = r.start.Add(-10 * time.Second) // the time for a first byte
	turns := r.turnsUntil(asked(func() {}), r.closedFor(ReasonSilent), r.atMost(endingsPerTurn))
	for r.policy.totals.ClosedFor(ReasonSilent) < n {
		before := r.policy.totals.ClosedFor(ReasonSilent)
		if r.patience() != 0 {
			t.Fatal("the loop waits though there is more to end")
		}
		r.turn()
		r.atMost(endingsPerTurn)(r.policy.totals.ClosedFor(ReasonSilent) - before)
		turns++
	}
	if turns < 3 {
		t.Errorf("%d turns", turns)
	}
}

func TestALowerLimitEvictsOverManyTurns(t *testing.T) {
	const n = 3 * endingsPerTurn
	r := loopingRig(t, Limits{})
	r.policy.limits.HostAdopted = n
	h := r.stepInHost(1)
	for range n {
		near, _ := aPair(t, 1)
		h.sendFD(handoff.Frame{Type: handoff.TypeAdopt}, near)
		r.turn()
		if _, _, err := h.read(0); err != nil {
			t.Fatal(err)
		}
	}
	if r.policy.kept != n {
		t.Fatalf("%d are kept", r.policy.kept)
	}
	done := asked(func() { must(r.SetLimits(context.Background(), Limits{KeepAlive: KeepAliveNone}))(t) })
	evicted := r.closedFor(ReasonEvicted)
	turns := r.turnsUntil(done, evicted, r.atMost(endingsPerTurn))
	for evicted() < n {
		before := evicted()
		r.turn()
		r.atMost(endingsPerTurn)(evicted() - before)
		turns++
	}
	if turns < 2 {
		t.Errorf("all were evicted in %d turns", turns)
	}
}

// A limit of clients counts those that are here over many turns; those that come meanwhile are
// counted at once, and none twice.
func TestClientsAreCountedOverManyTurns(t *testing.T) {
	const n = 200
	r := loopingRig(t, Limits{})
	r.idle(n)
	r.policy.setLimits(r.policy.limits.merge(Limits{ClientConnections: 1000}))
	counted := func() uint64 {
		var all int32
		for _, c := range r.policy.clients.all {
			all += c.connections
		}
		return uint64(all)
	}
	turns := 0
	for r.policy.uncounted > 0 {
		if r.patience() != 0 {
			t.Fatal("the loop waits though there are clients to count")
		}
		before := counted()
		r.turn()
		r.atMost(jobShare / costPeer)(counted() - before)
		turns++
	}
	if counted() != n || turns < n*costPeer/jobShare {
		t.Errorf("%d of %d are counted after %d turns", counted(), n, turns)
	}
	r.idle(1)
	if counted() != n+1 {
		t.Errorf("%d are counted, one has come", counted())
	}
}

// All who ask for the counts at the same time get the same ones.
func TestCountsAreMadeOnceForAllWhoWait(t *testing.T) {
	const callers = 50
	r := loopingRig(t, Limits{})
	r.idle(3)
	got := make(chan Counts, callers)
	for range callers {
		go func() { got <- must(r.Counts(context.Background()))(t) }()
	}
	waiting := func() int { r.counting.mu.Lock(); defer r.counting.mu.Unlock(); return len(r.counting.waiting) }
	for waiting() < callers {
		time.Sleep(time.Millisecond)
	}
	r.mu.Lock()
	commands := len(r.commands)
	r.mu.Unlock()
	r.turn()
	for range callers {
		if c := <-got; c.States.Idle != 3 {
			t.Errorf("counts: %+v", c)
		}
	}
	if commands != 1 {
		t.Errorf("%d commands for %d callers", commands, callers)
	}
}

func TestATurnObeysOnlySoManyCommands(t *testing.T) {
	r := loopingRig(t, Limits{})
	obeyed := 0
	for range commandsPerTurn + 1 {
		r.post(func() { obeyed++ })
	}
	r.turn()
	if obeyed != commandsPerTurn || r.patience() != 0 {
		t.Errorf("%d commands are obeyed, and the loop waits for %v", obeyed, r.patience())
	}
	r.turn()
	if obeyed != commandsPerTurn+1 {
		t.Errorf("%d commands are obeyed", obeyed)
	}
}
