package blocking

import (
	"fmt"
	"math"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plan is all that a helper needs, prepared before clone(2). A child of a Go process that does not
// exec has no runtime: it may neither allocate, nor grow its stack, nor be preempted. All that it
// runs is marked nosplit and makes raw system calls only.
type plan struct {
	name   *byte
	slot   *Slot
	parent uintptr // process id
	event  uintptr // eventfd: a result is there
	null   uintptr // what a closed descriptor is replaced by
	one    uint64  // what is written to event
	watch  unix.PollFd
	now    unix.Timespec // 0: ppoll(2) does not wait
}

const sigsetSize = 8 // sizeof(sigset_t) in the kernel

// fork makes a helper and returns its pid. Its thread must live as long as the helper: the end of it
// kills the helper (PR_SET_PDEATHSIG).
func fork(p *plan) (pid int, err error) {
	all, was := uint64(math.MaxUint64), uint64(0)
	if errno := setMask(&all, &was); errno != 0 { // the helper never enters the runtime's handlers
		return 0, fmt.Errorf("rt_sigprocmask: %w", errno)
	}
	child, errno := cloneAndServe(p)
	_ = setMask(&was, nil)
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	return int(child), nil
}

func setMask(set, old *uint64) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), sigsetSize, 0, 0)
	return errno
}

// cloneAndServe: without an exit signal, so that the process gets no SIGCHLD and a wait for any child
// does not see helpers.
//
//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func cloneAndServe(p *plan) (uintptr, syscall.Errno) {
	child, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES, 0, 0, 0, 0, 0)
	if child != 0 || errno != 0 {
		return child, errno
	}
	serve(p)
	return 0, 0 // never: serve does not return
}

// serve is a helper's life.
//
//go:norace
//go:nosplit
//go:nocheckptr
//go:noinline
func serve(p *plan) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(p.name)), 0, 0, 0, 0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != p.parent {
		leave() // it died before it could be watched
	}
	s := p.slot
	for {
		if s.state != slotAsked {
			_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.state)), futexWait, uintptr(s.state), 0, 0, 0)
			continue
		}
		fence(s)
		perform(p, s)
		fence(s)
		s.state = slotDone
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, p.event, uintptr(unsafe.Pointer(&p.one)), 8)
	}
}

// futex(2) on memory that processes share.
const (
	futexWait = 0
	futexWake = 1
)

// fence orders what is written before it and what is read after it. Only amd64 keeps the order of
// stores by itself; futex(2), FUTEX_WAKE, has a full barrier.
//
//go:norace
//go:nosplit
//go:nocheckptr
func fence(s *Slot) {
	if runtime.GOARCH != "amd64" {
		_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.state)), futexWake, 0, 0, 0, 0)
	}
}

//go:norace
//go:nosplit
//go:nocheckptr
func perform(p *plan, s *Slot) {
	s.count, s.errno = 0, 0
	switch s.op {
	case Close:
		closeAll(p, s)
	case Accept:
		acceptAll(p, s)
	case Check:
		check(s)
	case Sendfile:
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDFILE, uintptr(s.fd), uintptr(s.file),
			uintptr(unsafe.Pointer(&s.Offset)), uintptr(s.length), 0, 0)
		result(s, n, errno)
	case Splice:
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(s.file), 0, uintptr(s.fd), 0, uintptr(s.length),
			unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		result(s, n, errno)
	default:
		s.errno = int64(unix.ENOSYS)
	}
}

//go:norace
//go:nosplit
func result(s *Slot, n uintptr, errno syscall.Errno) {
	if errno != 0 {
		s.errno = int64(errno)
		return
	}
	s.count = int64(n)
}

// closeAll replaces each descriptor, which closes it, and keeps its number in use: whoever does it
// again after this helper was killed cannot hit another's descriptor.
//
//go:norace
//go:nosplit
func closeAll(p *plan, s *Slot) {
	for s.count < s.length {
		_, _, errno := syscall.RawSyscall(unix.SYS_DUP3, p.null, uintptr(s.fds[s.count]), unix.O_CLOEXEC)
		if errno != unix.EINTR && errno != unix.EBUSY {
			s.count++
		}
	}
}

// acceptAll asks before each accept4(2) whether a connection waits: the call blocks if O_NONBLOCK has
// been cleared, and those that were accepted before it would wait.
//
//go:norace
//go:nosplit
//go:nocheckptr
func acceptAll(p *plan, s *Slot) {
	for s.count < s.length {
		p.watch.Fd, p.watch.Events, p.watch.Revents = s.fd, unix.POLLIN, 0
		_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.watch)), 1, uintptr(unsafe.Pointer(&p.now)), 0, sigsetSize, 0)
		if p.watch.Revents == 0 {
			s.errno = int64(unix.EAGAIN)
			return
		}
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(s.fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno != 0 {
			s.errno = int64(errno)
			return
		}
		s.fds[s.count] = int32(n)
		s.count++
	}
}

//go:norace
//go:nosplit
//go:nocheckptr
func check(s *Slot) {
	_, _, errno := syscall.RawSyscall(unix.SYS_FSTAT, uintptr(s.file), uintptr(unsafe.Pointer(&s.stat)), 0)
	s.errno, s.mode, s.size = int64(errno), s.stat.Mode, s.stat.Size
	if errno != 0 || s.mode&unix.S_IFMT != unix.S_IFIFO {
		return
	}
	var n int32
	_, _, errno = syscall.RawSyscall(unix.SYS_IOCTL, uintptr(s.file), unix.TIOCINQ, uintptr(unsafe.Pointer(&n))) // FIONREAD
	s.errno, s.size = int64(errno), int64(n)
}

//go:norace
//go:nosplit
func leave() {
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
