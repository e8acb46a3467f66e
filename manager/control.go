package manager

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// ErrStopping means that Start was called while a Stop is still waiting for leases.
var ErrStopping = errors.New("a stop is in progress; it ends within its grace")

// result is an answer of the loop.
type result[T any] struct {
	value T
	err   error
}

// ask has the loop run f between two turns and returns what it says. If the context ends first, f
// may still run. After Run has returned the answer is ErrStopped, after a Freeze that succeeded
// ErrReplaced; before Run was called, the caller runs f itself.
func ask[T any](ctx context.Context, m *Manager, f func() (T, error)) (T, error) {
	answer := make(chan result[T], 1)
	m.post(func() {
		v, err := f()
		answer <- result[T]{v, err}
	})
	return await(ctx, m, answer)
}

// await waits for an answer of the loop. Errors: the answer's, ErrStopped, the context's.
func await[T any](ctx context.Context, m *Manager, answer <-chan result[T]) (none T, err error) {
	select {
	case r := <-answer:
		return r.value, r.err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	case <-m.ended:
		select { // it may have answered just before it ended
		case r := <-answer:
			return r.value, r.err
		default:
			return none, m.overErr
		}
	}
}

// tell is ask without an answer but success.
func (m *Manager) tell(f func() error) error {
	_, err := ask(context.Background(), m, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// post queues a command for the loop.
func (m *Manager) post(command func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running {
		m.policy.now = m.clock()
		command()
		return
	}
	m.commands = append(m.commands, command)
	m.sel.Wake()
}

// Put makes a leased connection idle, as if its host had put it: whoever calls speaks for the host, which is told to let go of it. A timeout of 0 is
// the default. Errors: ErrNotFound, ErrNotLeased.
func (m *Manager) Put(ctx context.Context, id ConnID, timeout time.Duration) error {
	_, err := ask(ctx, m, func() (struct{}, error) { return struct{}{}, m.policy.operatorPut(id, timeout) })
	return err
}

// Revoke takes leases back from hosts that do not answer them, and ends their connections: by a 504 where requests are looked at and nothing was
// answered, else by a reset. Connections that are not leased stay as they are. It returns how many were taken back. Errors: ErrNotFound if none of the
// ids exists, ErrNotLeased if none is leased.
func (m *Manager) Revoke(ctx context.Context, ids []ConnID) (int, error) {
	if len(ids) == 0 {
		return 0, ErrNotFound
	}
	n, exists := 0, false
	err := m.askJob(ctx, m.eachSelected(0, Selection{IDs: ids}, func(id ConnID, r *record) (cost int, stop bool) {
		exists = true
		if r.state != Leased {
			return 0, false
		}
		m.policy.revokeLease(r, id.slot(), ReasonOperator)
		n++
		return costEnd, false
	}))
	switch {
	case err != nil:
		return 0, err // n may still be written to
	case !exists:
		return 0, ErrNotFound
	case n == 0:
		return 0, ErrNotLeased
	}
	return n, nil
}

// Stop ends accepting and lending. It returns when every lease is back, or when the grace is over and the rest has been cut. Idle connections stay
// and expire as usual; requests that arrive wait, within Limits.QueueTimeout. A context that ends early ends the waiting, not the Stop.
func (m *Manager) Stop(ctx context.Context, grace time.Duration) (StopReport, error) {
	return m.awaitStop(ctx, m.postStop(grace))
}

func (m *Manager) postStop(grace time.Duration) <-chan StopReport {
	reports := make(chan StopReport, 1)
	m.post(func() {
		m.stops = append(m.stops, reports)
		m.policy.beginStop(grace)
		m.setAccepting()
		m.remember()
		m.log.Info(m.policy.ending().String(), "grace", grace, "leased", m.policy.states[Leased])
	})
	return reports
}

func (m *Manager) awaitStop(ctx context.Context, reports <-chan StopReport) (StopReport, error) {
	select {
	case report := <-reports:
		return report, nil
	case <-m.ended:
		return StopReport{}, m.overErr
	case <-ctx.Done():
		return StopReport{}, context.Cause(ctx)
	}
}

// reviewStop tells those who wait for a Stop that it is complete, and ends the loop when a Shutdown is.
func (m *Manager) reviewStop() {
	if report, done := m.policy.stopDone(); done {
		m.log.Info(m.policy.ending().String()+": no lease is left", "finished", report.Finished, "cut", report.Cut)
		for _, reports := range m.stops {
			reports <- report
		}
		m.stops = nil
		m.flush()
	}
	if m.leaving && (m.policy.table.live == 0 || m.policy.now >= m.leaveBy) {
		m.quit = true
	}
}

// Start accepts and lends again after a Stop; without one it does nothing. Error: ErrStopping.
func (m *Manager) Start(ctx context.Context) error {
	_, err := ask(ctx, m, func() (struct{}, error) {
		if m.policy.stop != nil {
			return struct{}{}, ErrStopping
		}
		if m.policy.start() {
			m.setAccepting()
			m.remember()
			m.log.Info("started")
		}
		return struct{}{}, nil
	})
	return err
}

// Freeze stops the loop between two turns and runs f, which may hand everything over to another
// process. If that succeeds the loop never goes on, calls get ErrReplaced and watchers end; on an
// error the loop goes on. Error: f's, or ErrStopping if a Shutdown has begun.
func (m *Manager) Freeze(f func() error) error {
	done := make(chan error, 1)
	m.post(func() {
		err := ErrStopping
		if !m.closing {
			m.helpers.Settle(m.policy.now, helpersPatience)
			err = f()
		}
		if err != nil {
			m.helpers.Resume(m.policy.now)
			done <- err
			return
		}
		done <- nil // first: who waits looks here when the manager is over
		m.over(ErrReplaced)
		select {} // everything is another's now
	})
	select {
	case err := <-done:
		return err
	case <-m.ended:
		select { // it may have said so just before
		case err := <-done:
			return err
		default:
			return m.overErr
		}
	}
}

// over ends every wait for this manager: why is what they are told.
func (m *Manager) over(why error) {
	m.overErr = why
	m.watchers.close(why)
	close(m.ended)
}

// shutdownLinger bounds Limits.LingerTimeout when everything ends.
const shutdownLinger = time.Second

// Shutdown ends the manager: listeners close, hosts are asked to leave, leases have the grace to
// come back, every connection is closed properly, Run returns. A context that ends cuts the grace
// short. Error: ErrReplaced if another process has taken over.
func (m *Manager) Shutdown(ctx context.Context, grace time.Duration) (StopReport, error) {
	m.post(m.closeDoors)
	reports := m.postStop(grace)
	report, err := m.awaitStop(ctx, reports)
	if err != nil && ctx.Err() != nil { // the same Stop, whose report may be under way
		m.post(m.policy.hurryStop)
		report, err = m.awaitStop(context.WithoutCancel(ctx), reports)
	}
	if err != nil {
		return report, err
	}
	m.post(m.leave)
	<-m.ended
	if errors.Is(m.overErr, ErrReplaced) {
		return report, m.overErr
	}
	return report, nil
}

func (m *Manager) closeDoors() {
	m.closing = true
	m.policy.draining = true
	m.policy.reconsiderAll()
	for _, e := range m.handoffs {
		m.closeEntrance(e, nil)
	}
	for _, e := range m.doors {
		m.closeListener(e)
	}
	for _, l := range m.links {
		if l.host == nil {
			m.fail(l, handoff.Faultf(handoff.CodeStopping, "the sidecar is stopping"))
			continue
		}
		m.reply(l, handoff.Frame{Type: handoff.TypeDraining})
	}
}

func (m *Manager) leave() {
	m.leaving, m.leaveBy = true, m.policy.now+int64(min(m.policy.limits.LingerTimeout, shutdownLinger))
	m.policy.closeAll(func(ConnID, *record) bool { return true }, ReasonStopped)
}

// Close begins to close the connections that are selected, and returns how many. Unless states or ids are named it takes the
// monitored ones, idle and ready; connections that are closing already do not count. Error: ErrNotFound if ids are named and none exists.
func (m *Manager) Close(ctx context.Context, s Selection) (int, error) {
	match, err := m.matcher(s)
	if err != nil {
		return 0, err
	}
	n, exists := 0, len(s.IDs) == 0
	err = m.askJob(ctx, m.eachSelected(0, s, func(id ConnID, r *record) (cost int, stop bool) {
		exists = true
		monitored := r.state == Idle || r.state == Ready || len(s.States)+len(s.IDs) > 0
		if !monitored || r.state == Closing || !match(id, r) {
			return 0, false
		}
		m.policy.close(r, id.slot(), ReasonOperator)
		n++
		return costEnd, false
	}))
	if err == nil && !exists {
		err = ErrNotFound
	}
	if err != nil {
		return 0, err // n may still be written to
	}
	return n, nil
}

// ErrBadPeer means that a Selection's Peer is neither an address nor a prefix.
var ErrBadPeer = errors.New("the peer must be an IP address (192.0.2.1, 2001:db8::1, fe80::1%eth0) or a prefix (192.0.2.0/24)")

// matcher turns a Selection, but for its IDs, into a test, which runs in the loop.
func (m *Manager) matcher(s Selection) (func(ConnID, *record) bool, error) {
	peer, err := parsePeer(s.Peer)
	if err != nil {
		return nil, err
	}
	return func(id ConnID, r *record) bool {
		return (len(s.States) == 0 || slices.Contains(s.States, r.state)) &&
			(s.Pool == "" || m.policy.pools[r.pool].name == s.Pool) &&
			(s.Host == 0 || r.host == s.Host) &&
			(s.Peer == "" || m.policy.peerIn(r, id.slot(), peer))
	}, nil
}

func parsePeer(s string) (listener.Subnet, error) {
	if s == "" {
		return listener.Subnet{}, nil
	}
	peer, err := listener.ParseSubnet(s)
	if err != nil {
		return listener.Subnet{}, ErrBadPeer
	}
	return peer, nil
}

// Limits returns the limits in force, with no field zero.
func (m *Manager) Limits(ctx context.Context) (Limits, error) {
	return ask(ctx, m, func() (Limits, error) { return m.policy.limits, nil })
}

// SetLimits puts the non-zero fields of change in force and returns what then is. Error: *LimitsError with every violation; nothing has
// changed then.
func (m *Manager) SetLimits(ctx context.Context, change Limits) (Limits, error) {
	if err := cmp.Or(change.Check(), m.descriptors.Check(change)); err != nil {
		return Limits{}, err
	}
	return ask(ctx, m, func() (Limits, error) {
		m.set = m.set.merge(change)
		m.policy.setLimits(m.policy.limits.merge(change))
		m.helpers.SetLimit(m.policy.limits.Helpers)
		m.remember()
		return m.policy.limits, nil
	})
}
