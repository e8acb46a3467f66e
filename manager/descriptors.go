package manager

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Descriptors says how the descriptors of the process are divided. The kernel gives out the lowest
// free number (open(2)), so a number says that all lower ones are in use:
//
//	0 … Shared           clients, hosts, and what hosts bring
//	Shared … Operators   operators, too
//	Operators … Process  the process itself, too, such as for an upgrade
//	Process … Limit      only a process that takes over: until it serves, its soft limit is Limit, then it is Process
type Descriptors struct {
	Shared, Operators, Process int
	Limit                      int // RLIMIT_NOFILE, the hard limit; Go has raised the soft limit to it at start (os package)
}

// The reserves, where the limit is not very low. A process has some twenty descriptors of its own,
// with its helpers'. In a full table they take the first numbers of processReserve, those of its
// successor the next, and an upgrade needs a few for a while; a test counts them.
const (
	successorReserve = 40
	processReserve   = 48
	operatorReserve  = 16
)

// ProcessDescriptors divides the descriptors of this process.
func ProcessDescriptors() (Descriptors, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return Descriptors{}, fmt.Errorf("getrlimit(RLIMIT_NOFILE): %w", err)
	}
	return divide(int(min(limit.Max, mostDescriptors))), nil
}

// mostDescriptors is more than any process can use here.
const mostDescriptors = maxConnections * 2

func divide(limit int) Descriptors {
	d := Descriptors{Limit: limit}
	d.Process = d.Limit - min(successorReserve, limit/4)
	d.Operators = d.Process - min(processReserve, limit/8)
	d.Shared = d.Operators - min(operatorReserve, limit/8)
	return d
}

// Check reports limits for which there are not enough descriptors as a *LimitsError, or nil.
func (d Descriptors) Check(l Limits) error {
	if l.Connections <= d.Shared {
		return nil
	}
	return &LimitsError{[]Violation{{Field: "Connections", Range: fmt.Sprintf("1 to %d", d.Shared), Reason: fmt.Sprintf(
		"%d is out of range, give 1 to %d: the limit of open files is %d, less a reserve of %d; raise it (ulimit -n, LimitNOFILE=) for more",
		l.Connections, d.Shared, d.Limit, d.Limit-d.Shared)}}}
}

// roomForOne reports whether one more descriptor may be opened for a client or a host. Only if a
// third of them may be in use it asks the kernel for the lowest free number.
func (m *Manager) roomForOne() bool {
	if m.policy.table.live+len(m.links) < m.descriptors.Shared/3 {
		return true
	}
	fd, err := unix.FcntlInt(uintptr(m.policy.memory.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	closeFD(fd)
	return fd < m.descriptors.Shared
}

// noRoom is why accepting pauses.
func (m *Manager) noRoom() string {
	return fmt.Sprintf("all descriptors for clients and hosts are in use: %d, the limit of open files less a reserve", m.descriptors.Shared)
}
