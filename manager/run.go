package manager

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/selector"
)

// Tokens tell the loop what an event is about: connections by their id, everything else by its serial number and one of these bits.
const (
	helpersToken = uint64(1) << 59
	doorToken    = uint64(1) << 60
	handoffToken = uint64(1) << 61
	linkToken    = uint64(1) << 62
	processToken = uint64(1) << 63 // of a link
	tokenKinds   = helpersToken | doorToken | handoffToken | linkToken | processToken
)

// eventsPerTurn is how many events one turn of the loop takes from the selector.
const eventsPerTurn = 512

// Run is the loop. It returns nil after Shutdown, and an error if the selector fails, which leaves nothing to go on with. It runs once.
//
// A turn has these steps: wait; act on what is ready (connections become ready, hosts' frames are
// obeyed, newcomers are accepted); obey commands, and do a share of long ones; end what is overdue;
// lend what is ready to hosts with room; send each host its frames together.
func (m *Manager) Run() error {
	if err := m.begin(); err != nil {
		return err
	}
	err := m.run()
	m.end() // not deferred: a panic must leave everything as it is, for a successor
	return err
}

// run takes turns until the manager is to end, or a turn fails.
func (m *Manager) run() error {
	m.policy.now = m.clock()
	m.resumeLinks()
	err := m.turn(0) // without waiting: commands were obeyed before there was a loop
	m.turned()
	for err == nil && !m.quit {
		err = m.turn(m.patience())
	}
	return err
}

func (m *Manager) turn(patience time.Duration) error {
	n, err := m.sel.Select(m.events, patience)
	if err != nil {
		return fmt.Errorf("the selector failed: %w", err)
	}
	m.policy.now = m.clock()
	m.turns++
	for _, e := range m.events[:n] {
		m.handle(e)
	}
	m.reviewBereaved()
	m.obey()
	m.work()
	m.policy.expire()
	m.policy.dispatch()
	m.flush()
	m.tidy()
	return nil
}

var errRunTwice = errors.New("manager: Run was called before")

func (m *Manager) begin() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running {
		return errRunTwice
	}
	m.running = true
	return nil
}

// clock is the policy's time: ns since New, monotonic.
func (m *Manager) clock() int64 { return int64(time.Since(m.start)) }

// patience is how long the selector may wait.
func (m *Manager) patience() time.Duration {
	due := min(m.policy.wake, m.deadline())
	switch {
	case len(m.dirty) > 0 || m.policy.undispatched() || m.behind || len(m.jobs) > 0 || m.policy.uncounted > 0:
		return 0 // a host that went while frames were sent to it, or in tidy, has left work for the next turn
	case due == never:
		return -1
	}
	return time.Duration(max(due-m.clock(), 0))
}

// handle acts on one event. Tokens of what has gone meanwhile find nothing.
func (m *Manager) handle(e selector.Event) {
	switch e.Token & tokenKinds {
	case 0:
		m.connectionReady(ConnID(e.Token), e.Ready)
	case helpersToken:
		m.helpers.Turn(m.policy.now)
	case linkToken:
		if l := m.links[e.Token]; l != nil {
			m.linkReady(l, e.Ready)
		}
	case processToken:
		if l := m.links[e.Token^processToken|linkToken]; l != nil {
			m.processEnded(l)
		}
	case doorToken:
		if d := m.doors[e.Token]; d != nil {
			m.acceptClients(d)
		}
	case handoffToken:
		if d := m.handoffs[e.Token]; d != nil {
			m.acceptHosts(d)
		}
	}
}

// connectionReady tells the policy whether there is something to read, or the client has ended.
func (m *Manager) connectionReady(id ConnID, ready selector.Ready) {
	r := m.policy.table.find(id)
	switch {
	case r == nil:
	case r.state == Closing:
		m.linger(r, id)
	case r.state == Finishing && ready&(selector.HungUp|selector.Failed) == 0:
		m.policy.readable(id, newsRoom)
	case ready&(selector.HungUp|selector.Failed) != 0:
		m.policy.readable(id, newsHungUp)
	case ready&selector.PeerClosed != 0:
		m.policy.readable(id, newsLast)
	default:
		m.policy.readable(id, newsBytes)
	}
}

// obey runs the commands that were posted, as many as one turn may.
func (m *Manager) obey() {
	m.mu.Lock()
	n := min(len(m.commands), commandsPerTurn)
	m.lastObey = append(m.lastObey[:0], m.commands[:n]...)
	m.commands = slices.Delete(m.commands, 0, n)
	m.behind = len(m.commands) > 0
	m.mu.Unlock()
	for i, command := range m.lastObey {
		command()
		m.lastObey[i] = nil
	}
}

// flush sends every host what this turn has for it.
func (m *Manager) flush() {
	for i := 0; i < len(m.dirty); i++ { // grows when a host turns out to have gone: its last words may concern others
		l := m.dirty[i]
		l.dirty = false
		m.send(l)
	}
	m.dirty = m.dirty[:0]
}

// tidy ends the turn: what waited for others' progress is looked at again.
func (m *Manager) tidy() {
	m.reviewHelpers()
	m.reviewHopeless()
	m.reviewHalves()
	m.reviewYoung()
	m.reviewStalled()
	m.reviewPause()
	m.reviewStop()
	m.reviewService()
	m.giveReleased()
}

// deadline is the first of those that the policy does not know.
func (m *Manager) deadline() int64 {
	due := never
	for _, l := range m.young {
		due = min(due, l.deadline)
	}
	for _, l := range m.halves {
		due = min(due, l.frameBy)
	}
	if len(m.stalled) > 0 {
		due = min(due, m.policy.now+int64(stallPause))
	}
	if m.leaving {
		due = min(due, m.leaveBy)
	}
	return min(due, m.paused.until(), m.helpers.Due())
}

// end closes everything; nobody waits for an answer afterwards.
func (m *Manager) end() {
	m.mu.Lock()
	m.commands = nil
	m.mu.Unlock()
	defer m.over(ErrStopped)
	for _, l := range m.links {
		m.hangUp(l, "the sidecar ended")
	}
	m.policy.table.each(func(slot uint32, r *record) { m.policy.gone(r, slot) })
	for _, d := range m.doors {
		m.closeEntrance(d, nil)
	}
	for _, d := range m.handoffs {
		m.closeEntrance(d, nil)
	}
	m.endHelpers()
	_ = m.sel.Close()
	if m.config.ownMemory {
		_ = m.config.Memory.Close()
	}
}
