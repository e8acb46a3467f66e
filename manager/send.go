package manager

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/internal/blocking"
	"github.com/anteroom-io/anteroom/selector"
)

// The rest of a response (FINISH) goes from its file to the socket within the kernel: sendfile(2)
// for files and memfds, splice(2) for pipes. Both calls block if a host clears O_NONBLOCK of the
// socket, or if the file's system does not answer. So helpers make them.

// sendAtOnce bounds how much of one response a helper sends before it is another's turn, in bytes.
const sendAtOnce = 1 << 20

// hasRoom is edge-triggered: the end of the client's sending, which level-triggered epoll repeats, must not wake the loop again and again.
const hasRoom = selector.Write | selector.EdgeTriggered

func (a *acts) watchRoom(fd int32, id ConnID) error {
	return a.sel.Modify(int(fd), uint64(id), hasRoom)
}

func (a *acts) maySend() bool { return a.helpers.FilesLeft() }

func (a *acts) send(fd int32, id ConnID, rest *remainder) {
	m := (*Manager)(a)
	j := &blocking.Job{
		Op: blocking.Sendfile, Owner: uint64(id), Party: uint64(rest.host), File: true,
		FD: int(fd), Source: int(rest.file), Offset: rest.offset, Length: min(rest.left, sendAtOnce),
		Begin: func(slot int) {
			if rest := m.policy.unfinished(id); rest != nil {
				rest.slot = uint32(slot) + 1 // first: a successor asks whether that helper has gone
			}
		},
	}
	switch {
	case !rest.known:
		j.Op = blocking.Check
	case rest.pipe:
		j.Op = blocking.Splice
	}
	if rest.known && a.nonblock(fd) {
		m.violated(rest.host)
	}
	file := rest.file
	m.use(fd, file)
	j.Done = func(r blocking.Result) {
		m.partSent(id, fd, j.Op, r)
		m.unuse(fd, file)
	}
	m.helpers.Do(j, m.policy.now)
}

// violated counts that a host has cleared O_NONBLOCK.
func (m *Manager) violated(by HostID) {
	m.policy.totals.Violations++
	if h := m.policy.hosts[by]; h != nil {
		h.violations++
	}
}

// partSent keeps the account of a remainder, then tells the policy.
func (m *Manager) partSent(id ConnID, fd int32, op blocking.Op, r blocking.Result) {
	rest := m.policy.unfinished(id)
	if rest == nil {
		if r.Outcome == blocking.Stuck {
			m.helperStuck(0)
		}
		return
	}
	from := rest.host
	if op == blocking.Check {
		m.fileChecked(id, rest, r)
		return
	}
	moved := rest.account(op, r)
	rest.slot = 0
	switch r.Outcome {
	case blocking.Done:
		m.policy.sent(id, rest.progress(r), moved)
	case blocking.Ended:
		m.policy.sent(id, m.overrun(fd, from), moved)
	case blocking.Stuck:
		m.policy.sent(id, sendBroken, 0)
		m.helperStuck(from)
	default:
		m.log.Error("a response cannot be sent: no helper process could be made", "conn", uint64(id))
		m.policy.sent(id, sendBroken, 0)
	}
}

// account notes what a helper has sent, and returns how many bytes. Of a splice(2) that was killed
// that is not known: the pipe is asked.
func (rest *remainder) account(op blocking.Op, r blocking.Result) (moved int64) {
	switch {
	case r.Outcome > blocking.Ended:
		return 0
	case op == blocking.Sendfile:
		moved = r.Offset - rest.offset
		rest.offset = r.Offset
	case r.Outcome == blocking.Ended:
		rest.known = false
		return 0
	default:
		moved = r.Count
	}
	rest.left -= moved
	return moved
}

// progress judges what sendfile(2) or splice(2) has said.
func (rest *remainder) progress(r blocking.Result) progress {
	switch {
	case rest.left <= 0:
		return sendDone
	case r.Errno == unix.EAGAIN:
		return sendFull
	case r.Errno == unix.EINTR:
		return sendYield
	case r.Errno != 0 || r.Count == 0: // 0: the file has become shorter
		return sendBroken
	}
	return sendYield
}

// maxOverruns is how often a helper may block in sending to a socket whose O_NONBLOCK a host has
// cleared, before the host is hung up on.
const maxOverruns = 3

// overrun: a helper had to be killed since it blocked. If O_NONBLOCK was cleared it is set again.
func (m *Manager) overrun(fd int32, from HostID) progress {
	if !(*acts)(m).nonblock(fd) {
		return sendYield // a slow file
	}
	m.violated(from)
	h := m.policy.hosts[from]
	if h == nil {
		return sendYield
	}
	if h.overruns++; h.overruns <= maxOverruns {
		m.log.Warn("a host clears O_NONBLOCK of a connection whose response is being sent", "host", h.id, "name", h.name)
		return sendYield
	}
	m.blame(h, handoff.Faultf(handoff.CodeBadFrame, "O_NONBLOCK of a connection was cleared %d times while its response was being sent", h.overruns))
	return sendBroken
}

// blame hangs up on a host after the turn.
func (m *Manager) blame(h *host, fault *handoff.Fault) {
	if !h.gone && h.fault == nil {
		h.fault = fault
		m.hopeless = append(m.hopeless, h.link)
	}
}

// fileChecked: what the file of a FINISH is has been asked.
func (m *Manager) fileChecked(id ConnID, rest *remainder, r blocking.Result) {
	fault := rest.check(r)
	rest.slot = 0
	if fault == nil {
		m.policy.sent(id, sendYield, 0)
		return
	}
	from := rest.host
	m.policy.sent(id, sendBroken, 0)
	if r.Outcome == blocking.Stuck {
		m.helperStuck(from)
	}
	if h := m.policy.hosts[from]; h != nil {
		m.blame(h, fault)
	}
}

// check judges the file of a FINISH: a regular file or memfd that has those bytes, or a pipe that
// holds them already.
func (rest *remainder) check(r blocking.Result) *handoff.Fault {
	if r.Outcome != blocking.Done {
		return handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: the file did not say within %v what it is", checkTimeout)
	}
	if r.Errno != 0 {
		return handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: %v", r.Errno)
	}
	holds := r.Size
	switch r.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		holds -= rest.offset
	case unix.S_IFIFO:
		if rest.pipe { // it was known before a helper was killed
			rest.left, rest.known = max(holds-rest.beyond, 0), true
			return nil
		}
		rest.pipe, rest.beyond = true, holds-rest.left
	default:
		return handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: the descriptor is neither a file, a memfd nor a pipe")
	}
	if holds < rest.left {
		return handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: %d bytes are to be sent, the descriptor holds %d", rest.left, max(holds, 0))
	}
	rest.known = true
	return nil
}

// checkTimeout is how long a file has to say what it is.
const checkTimeout = blocking.JobTimeout

// resume: of a file the kernel has counted what was sent, a pipe is asked what it still holds.
func (a *acts) resume(id ConnID, rest *remainder) bool {
	if rest.slot == 0 {
		return true
	}
	owner, offset, ended := a.helpers.Found(int(rest.slot) - 1)
	switch {
	case owner != uint64(id) || !ended:
		return false
	case rest.pipe:
		rest.known = false
	case rest.known:
		rest.offset, rest.left = offset, rest.end-offset
	}
	rest.slot = 0
	return true
}

func (a *acts) closeFile(file int32, from HostID) { (*Manager)(a).closeForeign(int(file), from) }

// remainderOf reads a FINISH. What its file is, is asked later.
func remainderOf(f *handoff.Frame, fd int) (remainder, *handoff.Fault) {
	rest := remainder{file: int32(fd), offset: int64(f.A), end: int64(f.A) + int64(f.B), left: int64(f.B)}
	how, fault := handoff.FinishOf(f)
	if fault != nil {
		return rest, fault
	}
	rest.timeout = msDuration(how.KeepAliveTimeoutMS)
	if rest.offset < 0 || rest.left <= 0 || rest.end < rest.offset {
		return rest, handoff.Faultf(handoff.CodeBadFrame, "FINISH: offset %d, length %d: the length must be at least 1", f.A, f.B)
	}
	return rest, nil
}

// helperStuck: one more helper waits for a file that does not answer, and cannot be ended. Once
// there is none left for files, who has sent the last one is hung up on.
func (m *Manager) helperStuck(from HostID) {
	m.log.Warn("a helper process waits for a file system that does not answer, and cannot be ended", "host", from, "stuck", m.helpers.Stuck())
	h := m.policy.hosts[from]
	if h != nil && !m.helpers.FilesLeft() {
		m.blame(h, handoff.Faultf(handoff.CodeBadDescriptor, "a file of this host does not answer, and all helpers wait for such files"))
	}
}

// The helpers in the loop.

// reviewHelpers takes the helpers' results when it is time.
func (m *Manager) reviewHelpers() {
	if m.policy.now >= m.helpers.Due() {
		m.helpers.Turn(m.policy.now)
	}
}

// endHelpers: jobs that end let go of more descriptors.
func (m *Manager) endHelpers() {
	for len(m.released) > 0 || m.helpers.Busy() {
		m.giveReleased()
		m.helpers.Drain(m.policy.now, helpersPatience)
	}
	m.helpers.End(m.policy.now)
}

// helpersPatience is how long jobs may take when the loop stops, before their helpers are killed.
const helpersPatience = 100 * time.Millisecond
