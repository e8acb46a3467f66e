package listener

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestAcceptTakesOneAtATime(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	for range 3 {
		connect(t, l)
	}
	for range 3 {
		accepted(t, l)
	}
	_, err := l.Accept()
	wantError(t, err, ErrAgain)
}

func TestAcceptAllocatesNothing(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "unix://@"+t.Name(), Options{})
	const runs = 50
	for range runs + 1 { // AllocsPerRun warms up with one more
		connect(t, l)
	}
	allocations := testing.AllocsPerRun(runs, func() {
		fd, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		_ = unix.Close(fd)
	})
	if allocations != 0 {
		t.Errorf("%v allocations", allocations)
	}
	if n := testing.AllocsPerRun(runs, func() { _, _ = l.Accept() }); n != 0 {
		t.Errorf("%v allocations where no connection waits", n)
	}
}

// Every errno that accept4 may give has its place; see accept(2).
func TestErrorsOfAcceptAreClassified(t *testing.T) {
	l := &Listener{fd: math.MaxInt32}
	for errno, want := range map[unix.Errno]error{
		unix.EAGAIN: ErrAgain,
		unix.EMFILE: ErrOutOfDescriptors, unix.ENFILE: ErrOutOfDescriptors, unix.ENOBUFS: ErrOutOfDescriptors, unix.ENOMEM: ErrOutOfDescriptors,
		// This connection only.
		unix.EINTR: nil, unix.ECONNABORTED: nil, unix.EPROTO: nil, unix.EPERM: nil, unix.ENETDOWN: nil, unix.ENOPROTOOPT: nil,
		unix.EHOSTDOWN: nil, unix.ENONET: nil, unix.EHOSTUNREACH: nil, unix.EOPNOTSUPP: nil, unix.ENETUNREACH: nil,
		// Final.
		unix.EINVAL: unix.EINVAL, unix.EBADF: unix.EBADF, unix.ENOTSOCK: unix.ENOTSOCK, unix.ENOSYS: unix.ENOSYS,
	} {
		err := l.Judge(errno)
		wantError(t, err, want)
		if errors.Is(want, errno) {
			wantFinal(t, err)
		}
	}
	wantError(t, ErrOutOfDescriptors, ErrTryLater)
}

func wantFinal(t *testing.T, err error) {
	t.Helper()
	for _, passing := range []error{nil, ErrAgain, ErrTryLater, ErrOutOfDescriptors, ErrClosed} {
		if errors.Is(err, passing) {
			t.Errorf("%v should be final, but matches %v", err, passing)
		}
	}
}

func TestShutdownByAnotherHolderIsFinal(t *testing.T) {
	for _, address := range []string{"tcp://127.0.0.1:0", "unix://@" + t.Name()} {
		t.Run(address, func(t *testing.T) {
			leavesNothing(t)
			l := opened(t, address, Options{})
			other := closing(t, must(unix.FcntlInt(uintptr(l.FD()), unix.F_DUPFD_CLOEXEC, 0))(t))
			ok(t, unix.Shutdown(other, unix.SHUT_RDWR))
			_, err := l.Accept()
			wantError(t, err, unix.EINVAL)
			wantFinal(t, err)
		})
	}
}

// Until then, a Unix socket hands out what had come before.
func TestShutdownLosesNoUnixConnectionThatWaits(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "unix://@"+t.Name(), Options{})
	connect(t, l)
	ok(t, unix.Shutdown(l.FD(), unix.SHUT_RDWR))
	accepted(t, l)
	_, err := l.Accept()
	wantFinal(t, err)
}

func TestRelistenRevivesATCPSocketThatWasShutDown(t *testing.T) {
	leavesNothing(t)
	picked := opened(t, "tcp://127.0.0.1:0", Options{ReusePort: true})
	chosen := opened(t, picked.String(), Options{ReusePort: true})
	want := chosen.Addr()
	for _, l := range []*Listener{picked, chosen} {
		ok(t, unix.Shutdown(l.FD(), unix.SHUT_RDWR))
	}
	ok(t, chosen.Relisten(0))
	if chosen.Addr() != want {
		t.Errorf("the port was asked for, and yet %s became %s", want, chosen)
	}
	connect(t, chosen)
	accepted(t, chosen)

	ok(t, picked.Relisten(0))
	connect(t, picked) // at the port where it is now
	accepted(t, picked)
}

func TestAConnectionThatWasResetWhileItWaitedIsAccepted(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	client := must(streamSocket(unix.AF_INET))(t)
	ok(t, connectTo(t, client, l.Addr()))
	ok(t, unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	ok(t, unix.Close(client))
	fd := accepted(t, l) // Linux hands it out, and the error comes with the first read
	awaitReadable(t, fd)
	_, err := Peer(fd)
	wantError(t, err, ErrNotConnected)
	wantError(t, CheckConnection(fd), ErrNotConnected)
}

func TestClosedListener(t *testing.T) {
	leavesNothing(t)
	l := opened(t, "tcp://127.0.0.1:0", Options{})
	ok(t, l.Close())
	ok(t, l.Close())
	_, err := l.Accept()
	wantError(t, err, ErrClosed)
	wantError(t, l.Relisten(0), ErrClosed)
	if l.FD() != -1 {
		t.Errorf("FD is %d", l.FD())
	}
}

func init() { roles["out of descriptors"] = runOutOfDescriptors }

func TestOutOfDescriptors(t *testing.T) { runChild(t, child(t, "out of descriptors")) }

// runOutOfDescriptors lowers the limit to what is open, which only a process of its own may do: accepting fails, and works again as soon as
// one descriptor is free.
func runOutOfDescriptors() error {
	l, err := Open(Address{Network: Unix, Path: fmt.Sprintf("@out-of-descriptors-%d", unix.Getpid())}, Options{})
	if err != nil {
		return err
	}
	client, err := streamSocket(unix.AF_UNIX)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: l.Addr().Path}); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(client) + 1, Max: uint64(client) + 1}); err != nil {
		return err
	}
	for range 3 {
		if _, err := l.Accept(); !errors.Is(err, ErrOutOfDescriptors) || !errors.Is(err, unix.EMFILE) {
			return fmt.Errorf("with every descriptor in use Accept says: %w", err)
		}
	}
	if err := unix.Close(client); err != nil {
		return err
	}
	_, err = l.Accept()
	return err
}

func init() { roles["forbidden"] = runForbidden }

func TestARuleThatForbidsEveryConnection(t *testing.T) { runChild(t, child(t, "forbidden")) }

// runForbidden makes accept4 fail with EPERM for good, as a security module may: Accept must give up, for later.
func runForbidden() error {
	l, err := Open(Address{Network: Unix, Path: fmt.Sprintf("@forbidden-%d", unix.Getpid())}, Options{})
	if err != nil {
		return err
	}
	runtime.LockOSThread() // seccomp(2) binds the thread
	if err := forbidAccept(); err != nil {
		return err
	}
	if _, err = l.Accept(); !errors.Is(err, ErrTryLater) || errors.Is(err, ErrOutOfDescriptors) {
		return fmt.Errorf("where every connection is forbidden Accept says: %w", err)
	}
	return nil
}

func forbidAccept() error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the system call (struct seccomp_data)
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_ACCEPT4},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(program)), 0, 0)
}

func BenchmarkAccept(b *testing.B) {
	l := opened(b, "unix://@"+b.Name(), Options{})
	to := &unix.SockaddrUnix{Name: l.Addr().Path}
	for b.Loop() {
		client, err := streamSocket(unix.AF_UNIX)
		if err != nil || unix.Connect(client, to) != nil {
			b.Fatal("cannot connect", err)
		}
		fd, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		_ = unix.Close(fd)
		_ = unix.Close(client)
	}
}
