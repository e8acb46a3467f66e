package manager

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/blocking"
	"github.com/anteroom-io/anteroom/selector"
)

// Accepting on sockets that other processes hold, too: those that hosts bring, or a service manager
// passes. accept4(2) has no flag that keeps it from blocking when another has cleared O_NONBLOCK,
// or when another process accepts on it and was faster. So helpers accept there.

// askAccept has a helper take the clients, or hosts, that wait.
func (m *Manager) askAccept(e *entrance) {
	if e.asked || e.door != nil && !m.mayAskClients() {
		return
	}
	m.repair(e)
	fd := e.listener.FD()
	e.asked = true
	m.setInterest(e, quiet)
	m.use(int32(fd))
	m.helpers.Do(&blocking.Job{
		Op: blocking.Accept, FD: fd, Length: m.mayTake(e), Party: uint64(e.link.hostID()),
		Done: func(r blocking.Result) { m.acceptDone(e, int32(fd), r) },
	}, m.policy.now)
}

// sharedBatch is how many clients a helper accepts at once.
const sharedBatch = 64

// mayTake is how many a helper may accept: near a limit one, so that no more than one for each
// listener comes on top.
func (m *Manager) mayTake(e *entrance) int64 {
	live := m.policy.table.live + len(m.links) + sharedBatch
	if e.door == nil || live > m.policy.limits.Connections || live > m.descriptors.Shared/3 {
		return 1
	}
	return sharedBatch
}

func (m *Manager) mayAskClients() bool {
	if !m.accepting() {
		return false
	}
	switch {
	case !m.policy.mayAccept():
		m.pauseFull()
	case !m.roomForOne():
		m.pauseAccepting(m.policy.now+int64(acceptPause), m.noRoom())
	default:
		return true
	}
	return false
}

// repair sets O_NONBLOCK of a listening socket again, if another process has cleared it.
func (m *Manager) repair(e *entrance) bool {
	if !(*acts)(m).nonblock(int32(e.listener.FD())) {
		return false
	}
	m.violated(e.link.hostID())
	return true
}

// acceptDone takes what a helper has accepted.
func (m *Manager) acceptDone(e *entrance, fd int32, r blocking.Result) {
	e.asked = false
	open := e.listener.FD() >= 0
	for _, fd := range r.FDs {
		switch {
		case !open:
			m.closeSocket(int(fd))
		case e.door == nil:
			m.admitHost(int(fd))
		default:
			e.listener.Finish(int(fd))
			m.accepted(e, int(fd))
		}
	}
	m.unuse(fd)
	if open {
		m.judgeAccept(e, r)
	}
	if e.listener.FD() >= 0 {
		m.setInterest(e, m.interestOf(e))
	}
}

func (m *Manager) judgeAccept(e *entrance, r blocking.Result) {
	var err error
	switch r.Outcome {
	case blocking.Done:
		if r.Errno != 0 {
			err = e.listener.Judge(r.Errno)
		}
	case blocking.Ended:
		m.acceptBlocked(e)
		return
	case blocking.Failed:
		err = e.listener.Judge(unix.ENOMEM)
	default:
		err = errAcceptStuck
	}
	switch {
	case err == nil:
	case e.door == nil:
		m.acceptHostsFailed(e, err)
	default:
		m.acceptFailed(e, err)
	}
}

var errAcceptStuck = errors.New("accept4(2) has blocked and cannot be ended")

// maxBlocked is how often helpers may block in a host's listening socket before it is closed here.
const maxBlocked = 10

// acceptBlocked: a helper was killed over a listening socket.
func (m *Manager) acceptBlocked(e *entrance) {
	repaired := m.repair(e)
	e.overruns++
	m.log.Warn("accepting on a listening socket that other processes hold has blocked; they must not clear its O_NONBLOCK",
		"listener", e.listener.String(), "repaired", repaired, "times", e.overruns)
	if e.link != nil && e.overruns > maxBlocked {
		m.log.Warn("a listener ended: accepting has blocked too often", "listener", e.listener.String())
		m.closeListener(e)
	}
}

func (m *Manager) interestOf(e *entrance) selector.Interest {
	if e.door == nil {
		return m.hostInterest()
	}
	return m.acceptInterest()
}
