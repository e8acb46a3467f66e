package keeper

import (
	"fmt"
	"math"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plan is all that a forked child needs, prepared before the fork: a child of a Go process that does not exec has no runtime, so it may neither
// allocate, nor grow its stack, nor be preempted. Everything it runs is marked nosplit and makes raw system calls only.
type plan struct {
	path        *byte
	argv, envv  **byte
	name        *byte   // of the child's process, until it execs
	parent      int     // pidfd: wait for its death before anything else; -1: go on at once
	owner       *uint32 // shared with the parent: who owns the connections
	own         uint32  // what it says while the parent does; something else when it dies means that another took over, or nobody is to
	mask        uint64  // signals blocked in the successor: those that were before the fork
	descriptors uintptr // one more than the highest that may be open
	gate        *uint32 // shared with the closer: whether the table is its alone (gateShut)
	closerName  *byte
	files       unix.Rlimit // of open files in the successor: all of them, with what was kept in reserve for it
}

// The kernel's struct sigaction (rt_sigaction(2)); 8 is sizeof(sigset_t) there.
type kernelSigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigsetSize = 8

// fork makes a child that carries the plan out, and returns its pid. flags are clone(2)'s.
func fork(p *plan, flags uintptr) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// With its signals blocked the child never enters the handlers of a runtime that is not there.
	all, was := uint64(math.MaxUint64), uint64(0)
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&was)), sigsetSize, 0, 0); errno != 0 {
		return 0, fmt.Errorf("rt_sigprocmask: %w", errno)
	}
	p.mask = was
	child, errno := cloneAndFollow(p, flags|uintptr(unix.SIGCHLD))
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&was)), 0, sigsetSize, 0, 0)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	return int(child), nil
}

//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func cloneAndFollow(p *plan, flags uintptr) (uintptr, syscall.Errno) {
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, flags, 0, 0, 0, 0, 0)
	if child != 0 || errno != 0 {
		return child, errno
	}
	follow(p)
	return 0, 0 // never: follow does not return
}

// follow is the child's life. It ends in execve(2) or exit(2).
//
//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func follow(p *plan) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.name)), 0, 0, 0, 0)
	if p.parent >= 0 {
		awaitDeath(p.parent)
		if p.path == nil {
			closeTable(p)
			leave(0)
		}
		if *p.owner != p.own {
			endKeeper(p)
		}
		leaveTable(p)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&p.files)), 0, 0, 0)
	passAll(p.descriptors)
	defaultSignals(p)
	_, _, errno := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(p.path)), uintptr(unsafe.Pointer(p.argv)), uintptr(unsafe.Pointer(p.envv)))
	leave(uintptr(errno))
}

// awaitDeath waits until the process of a pidfd has ended (pidfd_open(2): it becomes readable).
//
//go:norace
//go:nosplit
//go:nocheckptr
func awaitDeath(pidfd int) {
	watch := unix.PollFd{Fd: int32(pidfd), Events: unix.POLLIN}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&watch)), 1, 0, 0, sigsetSize, 0)
		if errno == 0 && n == 1 {
			return
		}
		if errno != 0 && errno != unix.EINTR {
			leave(uintptr(errno))
		}
	}
}

// passAll lets every descriptor live through execve(2).
//
//go:norace
//go:nosplit
func passAll(descriptors uintptr) {
	for fd := uintptr(0); fd < descriptors; fd++ {
		_, _, _ = syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_SETFD, 0) // EBADF where none is open
	}
}

// defaultSignals takes the runtime's handlers away, then lets signals in again. What is ignored
// stays so, as execve(2) would have it. What arrived meanwhile is discarded (sigaction(2): pending
// signals are, when they are set to be ignored): it was for the whole process group, and would end
// the successor before its first instruction.
//
//go:norace
//go:nosplit
//go:nocheckptr
func defaultSignals(p *plan) {
	const ignored = 1
	var none, now kernelSigaction
	discard := kernelSigaction{handler: ignored}
	for signal := uintptr(1); signal <= 64; signal++ {
		now.handler = ignored // and stays for those that cannot be asked for
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, 0, uintptr(unsafe.Pointer(&now)), sigsetSize, 0, 0)
		if now.handler > ignored {
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&discard)), 0, sigsetSize, 0, 0)
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&none)), 0, sigsetSize, 0, 0)
		}
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.mask)), 0, sigsetSize, 0, 0)
}

//go:norace
//go:nosplit
func leave(status uintptr) {
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}
