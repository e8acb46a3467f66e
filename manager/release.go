package manager

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/blocking"
)

// Letting go of descriptors.
//
// close(2) may wait: of a TCP socket as long as SO_LINGER says, which a host may have set (and then
// closed its own descriptor, so that this one is the last); of a file until its file system has
// answered (FLUSH of FUSE, NFS); of a Unix socket for all descriptors that are on their way in it.
// So what others have, or have had, helpers close. The number stays in use until that is done, and
// the memory says that it is to be closed: a successor does not take it for a new connection.

// numbers is a set of descriptors.
type numbers [maxDescriptors / 64]uint64

// maxDescriptors is the default of fs.nr_open (proc_sys_fs(5)), beyond which no descriptor's number goes.
const maxDescriptors = 1 << 20

func (n *numbers) add(fd int)    { n[uint(fd)%maxDescriptors/64] |= 1 << (uint(fd) % 64) }
func (n *numbers) remove(fd int) { n[uint(fd)%maxDescriptors/64] &^= 1 << (uint(fd) % 64) }

func (n *numbers) has(fd int) bool {
	return fd >= 0 && n[uint(fd)%maxDescriptors/64]&(1<<(uint(fd)%64)) != 0
}

// release is a descriptor to be closed by a helper.
type release struct {
	fd   int32
	from HostID // that has sent it
}

// use: helpers have jobs with these descriptors, so that their numbers must stay theirs.
func (m *Manager) use(fds ...int32) {
	for _, fd := range fds {
		m.inUse[fd]++
	}
}

// unuse is the end of use.
func (m *Manager) unuse(fds ...int32) {
	for _, fd := range fds {
		if m.inUse[fd]--; m.inUse[fd] == 0 {
			delete(m.inUse, fd)
			if r, waits := m.afterUse[fd]; waits {
				delete(m.afterUse, fd)
				m.queueRelease(r)
			}
		}
	}
}

// closeSocket closes a socket that others may have had.
func (m *Manager) closeSocket(fd int) { m.letGo(release{fd: int32(fd)}) }

// closeForeign closes a descriptor that a host has sent, whatever it is.
func (m *Manager) closeForeign(fd int, from HostID) { m.letGo(release{int32(fd), from}) }

func (m *Manager) letGo(r release) {
	if m.policy.memory.head.closing.has(int(r.fd)) {
		panic(fmt.Sprintf("descriptor %d was closed twice", r.fd))
	}
	m.policy.memory.head.closing.add(int(r.fd))
	if m.inUse[r.fd] > 0 {
		m.afterUse[r.fd] = r
		return
	}
	m.queueRelease(r)
}

// queueRelease: sockets go together at the end of the turn. What may be a file goes alone: another
// of its kind would wait for it.
func (m *Manager) queueRelease(r release) {
	if isSocket(int(r.fd)) {
		m.released = append(m.released, r.fd)
		return
	}
	m.giveClose([]int32{r.fd}, r.from, true)
}

func isSocket(fd int) bool {
	_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil
}

// giveReleased gives the sockets of this turn to helpers.
func (m *Manager) giveReleased() {
	for len(m.released) > 0 {
		n := min(len(m.released), blocking.MaxBatch)
		batch := make([]int32, n)
		m.released = m.released[:copy(m.released, m.released[copy(batch, m.released):])]
		m.giveClose(batch, 0, false)
	}
}

func (m *Manager) giveClose(fds []int32, from HostID, file bool) {
	m.helpers.Do(&blocking.Job{
		Op: blocking.Close, FDs: fds, File: file, Party: uint64(from),
		Done: func(r blocking.Result) { m.closed(fds, from, file, r) },
	}, m.policy.now)
}

// closed: the helper has put a harmless file in the place of so many. If it was killed over one,
// that one is tried again alone, and the others in two parts, so that many that wait do not hold up
// the rest one after another.
func (m *Manager) closed(fds []int32, from HostID, file bool, r blocking.Result) {
	if r.Outcome == blocking.Stuck {
		m.helperStuck(from)
	}
	n := 0
	if r.Outcome <= blocking.Ended {
		n = int(min(r.Count, int64(len(fds))))
	}
	for _, fd := range fds[:n] {
		m.policy.memory.head.closing.remove(int(fd)) // first: the number may soon be a new connection's
		closeFD(int(fd))
		if then := m.onClosed[fd]; then != nil {
			delete(m.onClosed, fd)
			then()
		}
	}
	switch rest := fds[n:]; {
	case len(rest) == 0:
	case r.Outcome == blocking.Failed, len(rest) == 1:
		m.giveClose(rest, from, file)
	default:
		half := 1 + (len(rest)-1)/2
		for _, part := range [][]int32{rest[:1], rest[1:half], rest[half:]} {
			if len(part) > 0 {
				m.giveClose(part, from, file)
			}
		}
	}
}

// resumeClosing closes what a predecessor was about to. What is not in the estate has been taken
// over as something else, such as a listening socket.
func (m *Manager) resumeClosing(estate Estate) {
	closing := &m.policy.memory.head.closing
	for fd := range maxDescriptors {
		switch {
		case closing[fd/64] == 0 || !closing.has(fd):
		case estate.claim(fd):
			m.queueRelease(release{fd: int32(fd)})
		default:
			closing.remove(fd)
		}
	}
}
