package manager

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// smallMemory is for a few connections and hosts.
func smallMemory(t testing.TB) *Memory {
	t.Helper()
	m, err := newMemory(dimensions{slots: chunkSize, links: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// wipe makes a memory as new.
func (m *Memory) wipe() {
	for slot := range m.head.fresh {
		*m.extra(slot) = extra{}
		m.records(int(slot) / chunkSize)[slot%chunkSize] = record{}
	}
	*m.head = head{magic: m.head.magic, layout: m.head.layout, slots: m.head.slots, links: m.head.links, base: m.head.base}
	m.notes = notes{}
}

// death is what a dying process panics with.
type death struct{}

// mortal lets the process die, if its time has come. It is called before each act, and after those that matter.
func (w *world) mortal() {
	if w.life == 0 {
		w.life = -1
		panic(death{})
	}
	if w.life > 0 {
		w.life--
	}
}

// dies is a step that the process may die in, between any two of its acts. A successor goes on.
func (w *world) dies(t *rapid.T) {
	w.t = t
	steps := []func(*rapid.T){
		w.accept, w.handleEvent, w.handleEvent, w.hostAttaches, w.hostDies, w.hostDrains, w.hostChangesCapacity, w.hostPuts, w.hostPuts, w.hostFinishes,
		w.clientReads, w.helperSends, func(t *rapid.T) { w.hostAnswers(t, 3, w.p.closeLease) }, func(t *rapid.T) { w.hostAnswers(t, 4, w.p.detach) },
		func(t *rapid.T) { w.hostAnswers(t, 5, w.p.nack) }, w.hostAdopts, w.timePasses, w.timePasses, w.operatorPuts, w.operatorCloses, w.operatorRevokes,
	}
	step := steps[rapid.IntRange(0, len(steps)-1).Draw(t, "step")]
	w.again, w.dying = nil, nil
	clear(w.said)
	w.life = rapid.IntRange(0, 8).Draw(t, "acts to live")
	w.survive(func() {
		step(t)
		w.turn()
	})
	w.life = -1
	w.succeed()
	if again := w.again; again != nil {
		w.again = nil
		again()
	}
	w.turn()
	w.check("a succession")
}

func (w *world) survive(f func()) {
	defer func() {
		w.life = -1
		if e := recover(); e != nil {
			if _, died := e.(death); !died {
				panic(e)
			}
		}
	}()
	f()
}

// succeed makes a policy of what is left in the memory, as Succeed does.
func (w *world) succeed() {
	old := w.p
	w.p = newPolicy(old.limits, w, old.memory)
	clear(w.services)
	w.p.now, w.p.stopped, w.p.lastHost, w.p.exempt = old.now, old.stopped, old.lastHost, old.exempt
	for _, to := range old.pools {
		w.p.pools = append(w.p.pools, nil)
		if to != nil {
			w.p.restorePool(poolNote{Index: to.index, Name: to.name, Private: to.private})
		}
	}
	if w.dying != nil {
		w.hosts[w.dying.h.id] = w.dying
	}
	for _, id := range sorted(w.hosts) {
		a := w.hosts[id]
		restored := w.p.restoreHost(&a.hello, a.h.peer, a.h.hostState)
		if restored == nil {
			w.t.Fatalf("the pool of host %d is lost", id)
		}
		a.h, a.pinged, a.hopeless = restored, false, false
	}
	w.p.restoreEnds()
	w.succeedDoors(old)
	estate := w.stopWatching()
	w.p.restoreTable(estate, maps.Clone(w.said))
	if w.dying != nil {
		delete(w.hosts, w.dying.h.id)
	}
	w.takeStrays(estate)
}

func (w *world) succeedDoors(old *policy) {
	for _, d := range old.listeners[1:] {
		w.p.listeners = append(w.p.listeners, d)
		if d == nil {
			continue
		}
		restored := *d
		restored.pool, restored.states = w.p.poolNames[d.pool.name], stateCounts{}
		if d.host != nil && !d.closed {
			restored.host = w.p.hosts[d.host.id]
		}
		if !restored.closed {
			restored.pool.doors++
		}
		w.p.listeners[d.index] = &restored
	}
}

// stopWatching: the selector went with the process; every descriptor is inherited.
func (w *world) stopWatching() Estate {
	estate := Estate{}
	for fd, s := range w.socks {
		estate[int(fd)] = true
		s.watched, s.armed, s.edge, s.told, s.room, s.called = false, false, false, false, false, false
	}
	for fd := range w.files {
		estate[int(fd)] = true
	}
	w.fired = nil
	clear(w.helps)
	return estate
}

// takeStrays: what nobody knows of was just accepted, or is about to come again, or was about to be closed.
func (w *world) takeStrays(estate Estate) {
	for fd := range estate {
		if s := w.socks[int32(fd)]; s != nil && w.again == nil {
			if _, err := w.p.accepted(int32(fd), w.openDoors()[0].index); err != nil {
				w.t.Fatal(err)
			}
		}
		if w.again == nil {
			delete(w.files, int32(fd))
		}
	}
}
