package manager

import (
	"cmp"
	"context"
	"errors"
	"slices"
)

// Jobs: commands that may take long. A turn does only a share of them, so that however many there
// are, clients wait for no more than that share.

// What one turn does for operators.
const (
	commandsPerTurn = 64   // commands that are obeyed at once; each does little
	workPerTurn     = 4096 // units of work that are spent on jobs
	jobShare        = 1024 // of these, the units that one job gets before it is the next one's turn
)

// Costs in units of work. A unit is about a tenth of a microsecond, so that a turn spends less than
// a millisecond on jobs.
const (
	costLook     = 1   // to look at a record
	costPeer     = 16  // to ask the kernel for a client's address
	costDescribe = 32  // to put a Connection together
	costEnd      = 128 // to end a connection
)

// ErrBusy means that as many jobs wait as may (Limits.Calls).
var ErrBusy = errors.New("as many calls that go through the connections are waiting as may (max-calls)")

// job is a command that is done step by step. A step spends the budget or a little more, unless it
// is done before; it returns what it has spent.
type job struct {
	ctx   context.Context // of the caller: the job ends with it
	step  func(budget int) (cost int, done bool)
	ended chan<- result[struct{}]
}

// askJob has the loop do a job, and returns when it is done. If the caller's context ends first,
// the job ends between two steps, and what it was writing to must be left alone. Errors: ErrBusy,
// ErrStopped, the context's.
func (m *Manager) askJob(ctx context.Context, step func(budget int) (cost int, done bool)) error {
	ended := make(chan result[struct{}], 1)
	m.post(func() { m.addJob(&job{ctx, step, ended}) })
	_, err := await(ctx, m, ended)
	return err
}

// addJob queues a job; before there is a loop it is done at once.
func (m *Manager) addJob(j *job) {
	if !m.running {
		for done := false; !done; {
			_, done = j.step(workPerTurn)
		}
		j.ended <- result[struct{}]{}
		return
	}
	if len(m.jobs) >= m.policy.limits.Calls {
		j.ended <- result[struct{}]{err: ErrBusy}
		return
	}
	m.jobs = append(m.jobs, j)
}

// work spends a turn's units on jobs, share by share, in turn.
func (m *Manager) work() {
	left := workPerTurn - m.policy.countMore(jobShare)
	for left > 0 && len(m.jobs) > 0 {
		j := m.jobs[0]
		m.jobs = slices.Delete(m.jobs, 0, 1)
		if j.ctx.Err() != nil {
			continue // its caller has gone
		}
		cost, done := j.step(min(jobShare, left))
		left -= max(cost, 1)
		if done {
			j.ended <- result[struct{}]{}
		} else {
			m.jobs = append(m.jobs, j)
		}
	}
}

// eachSelected makes the step of a job that calls f for each connection that a selection may
// choose, of those behind after: its IDs, or all. f returns what it has cost in addition to the look, and
// whether it was the last.
func (m *Manager) eachSelected(after ConnID, s Selection, f func(ConnID, *record) (cost int, stop bool)) func(int) (int, bool) {
	look := costLook
	if s.Peer != "" {
		look = costPeer
	}
	over := m.walkFrom(after, s.IDs)
	return func(budget int) (spent int, done bool) {
		for spent < budget {
			id, r, more := over.next()
			if !more {
				return spent, true
			}
			spent += look
			if r == nil {
				continue
			}
			cost, stop := f(id, r)
			if spent += cost; stop {
				return spent, true
			}
		}
		return spent, false
	}
}

// walk goes through the connections of a selection in the order of slots, over many turns.
// Connections come and go meanwhile: it meets each at most once, and each that stays from beginning
// to end.
type walk struct {
	table *table
	named bool     // only ids
	ids   []ConnID // in the order of slots, still to come
	slot  uint32   // to look at next
}

// walkFrom begins behind the slot of a connection, 0: at the first.
func (m *Manager) walkFrom(after ConnID, ids []ConnID) *walk {
	w := &walk{table: &m.policy.table, named: len(ids) > 0}
	if after != 0 {
		w.slot = after.slot() + 1
	}
	for _, id := range ids {
		if id.slot() >= w.slot {
			w.ids = append(w.ids, id)
		}
	}
	slices.SortFunc(w.ids, func(a, b ConnID) int { return cmp.Or(cmp.Compare(a.slot(), b.slot()), cmp.Compare(a, b)) })
	w.ids = slices.Compact(w.ids)
	return w
}

// next is the connection that comes next; r is nil if there is none where it was looked for, and
// more is false behind the last.
func (w *walk) next() (id ConnID, r *record, more bool) {
	if w.named {
		if len(w.ids) == 0 {
			return 0, nil, false
		}
		id, w.ids = w.ids[0], w.ids[1:]
		return id, w.table.find(id), true
	}
	if w.slot >= w.table.fresh {
		return 0, nil, false
	}
	r = w.table.at(w.slot)
	id = makeID(r.generation, w.slot)
	w.slot++
	if r.state == Free {
		return id, nil, true
	}
	return id, r, true
}
