package keeper

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What becomes of a dead process's descriptor table that yet another process shares: a helper that
// sleeps in the kernel and cannot be killed (package blocking). The successor has a copy; but as
// long as the old table is there, what the successor closes stays open: clients hear no end,
// addresses stay in use, and the reader of the log waits. So all sockets and pipes in the old table
// are closed. Whoever watches for the death does it: the keeper, by a process that it leaves in the
// old table, the closer; or the closer alone, where there is no keeper.

const closerName = "anteroom-closer"

// What a plan's gate says to the closer that a keeper has left behind.
const (
	gateShut uint32 = iota // the keeper has the table, too
	gateOpen               // it has a copy of its own
	gateGone               // it has none: nothing is to be closed
)

// newGate makes a word that both see.
func newGate() (*uint32, error) {
	page, err := unix.Mmap(-1, 0, unix.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(page))), nil
}

// CloseBehind makes a process that closes this one's sockets and pipes when it has died, for a
// process without a Guard.
func CloseBehind() error {
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open (Linux 5.3 or later): %w", err)
	}
	p, err := newPlan(Program{Path: Self, Args: []string{closerName}})
	if err != nil {
		return err
	}
	p.path, p.name, p.parent = nil, p.closerName, pidfd
	if _, err := fork(p, unix.CLONE_FILES); err != nil {
		return fmt.Errorf("starting the closer: %w", err)
	}
	return nil
}

// leaveTable gives the keeper a descriptor table of its own, and leaves a closer in the other. If
// there can be no closer it goes on without. The closer's parent is the keeper's (CLONE_PARENT):
// the successor knows nothing of it.
//
//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func leaveTable(p *plan) {
	if p.gate == nil {
		return
	}
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|unix.CLONE_PARENT, 0, 0, 0, 0, 0)
	if errno == 0 && child == 0 {
		closeBehindKeeper(p)
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_FILES, 0, 0)
	*p.gate = gateOpen
	if errno != 0 {
		*p.gate = gateGone
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(p.gate)), futexWake, 1, 0, 0, 0)
}

// endKeeper ends a keeper that is not to succeed. Whoever ends last with the table closes what is
// left in it, which may wait for a file system. That is to be a closer, for which the supervisor
// does not wait.
//
//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func endKeeper(p *plan) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.closerName)), 0, 0, 0, 0) // first: the child has it too
	own, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES, 0, 0, 0, 0, 0)
	if errno == 0 && child != 0 {
		leave(0)
	}
	if errno == 0 {
		awaitOrphan(own)
	}
	closeTable(p)
	leave(0)
}

// awaitOrphan waits until the parent has ended.
//
//go:norace
//go:nosplit
//go:nocheckptr
func awaitOrphan(parent uintptr) {
	pause := unix.Timespec{Nsec: 1e6}
	for {
		now, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		if now != parent {
			return
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
}

// futex(2) on memory that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// closeBehindKeeper is the closer's life. It gives way to the successor (setpriority(2)), and gives
// up if the keeper died.
//
//go:norace
//go:nosplit
//go:nocheckptr
func closeBehindKeeper(p *plan) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.closerName)), 0, 0, 0, 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, 19)
	patience := unix.Timespec{Sec: 10}
	for *p.gate == gateShut {
		_, _, errno := syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(p.gate)), futexWait, uintptr(gateShut),
			uintptr(unsafe.Pointer(&patience)), 0, 0)
		if errno == unix.ETIMEDOUT {
			leave(0)
		}
	}
	if *p.gate == gateOpen {
		closeTable(p)
	}
	leave(0)
}

// closeTable closes what another process may notice. Pipes come last: their close waits for the
// pipe's lock, which a process may hold that sleeps. Files are left alone: their close may wait for
// a file system.
//
//go:norace
//go:nosplit
//go:nocheckptr
func closeTable(p *plan) {
	closeSockets(p)
	for fd := uintptr(0); fd < p.descriptors; fd++ {
		if _, _, errno := syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_GETPIPE_SZ, 0); errno == 0 { // EBADF: not a pipe
			_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
	}
}

// closeSockets closes every socket of the table: at once, whatever SO_LINGER says.
//
//go:norace
//go:nosplit
//go:nocheckptr
func closeSockets(p *plan) {
	var linger unix.Linger
	for fd := uintptr(0); fd < p.descriptors; fd++ {
		size := uint32(unix.SizeofLinger)
		_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)),
			uintptr(unsafe.Pointer(&size)), 0)
		if errno == unix.EBADF || errno == unix.ENOTSOCK {
			continue
		}
		if errno == 0 && linger.Onoff != 0 && linger.Linger > 0 {
			linger.Onoff = 0
			_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)),
				unix.SizeofLinger, 0)
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}
}
