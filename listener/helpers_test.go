package listener

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roles are what the test binary does when it is started again as another process; the environment variable names one.
var roles = map[string]func() error{}

const roleVariable = "LISTENER_TEST_ROLE"

func TestMain(m *testing.M) {
	role, found := roles[os.Getenv(roleVariable)]
	if !found {
		os.Exit(m.Run())
	}
	if err := role(); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

// child returns a command that runs this test binary in a role. Files become its descriptors 3, 4 and so on.
func child(t *testing.T, role string, files ...*os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), must(os.Executable())(t))
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "GORACE=atexit_sleep_ms=0") // which else sleeps for a second
	cmd.ExtraFiles = files
	return cmd
}

// runChild fails the test with what the child says is wrong.
func runChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// must fails the test on an error of something that is not under test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func openDescriptors(t testing.TB) int {
	t.Helper()
	return len(must(os.ReadDir("/proc/self/fd"))(t))
}

// leavesNothing fails the test if it ends with another number of descriptors than it had at this call, which therefore comes first.
func leavesNothing(t testing.TB) {
	t.Helper()
	time.Sleep(time.Nanosecond) // the process's first timer makes Go's own poller open its descriptors
	before := openDescriptors(t)
	t.Cleanup(func() {
		if now := openDescriptors(t); now != before {
			t.Errorf("%d descriptors are open, before the test %d", now, before)
		}
	})
}

// closing closes fd at the end of the test.
func closing(t testing.TB, fd int) int {
	t.Helper()
	t.Cleanup(func() { ok(t, unix.Close(fd)) })
	return fd
}

// opened opens address until the end of the test.
func opened(t testing.TB, address string, o Options) *Listener {
	t.Helper()
	l := must(Open(must(ParseAddress(address))(t), o))(t)
	t.Cleanup(func() { ok(t, l.Close()) })
	return l
}

// socketPath returns a path in a directory of the test's own.
func socketPath(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "app.sock")
}

func unixAddress(path string) Address { return Address{Network: Unix, Path: path} }

// connect returns a client of l until the end of the test.
func connect(t testing.TB, l *Listener) int {
	t.Helper()
	to := l.Addr()
	if to.Network == TCP && (!to.Host.IsValid() || to.Host.IsUnspecified()) {
		to.Host = loopback(to.Host)
	}
	fd := closing(t, must(streamSocket(familyFor(to)))(t))
	ok(t, connectTo(t, fd, to))
	return fd
}

func loopback(every netip.Addr) netip.Addr {
	if every.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func familyFor(a Address) int {
	if a.Network == Unix {
		return unix.AF_UNIX
	}
	return familyOf(a.Host)
}

// connectTo connects and waits for it.
func connectTo(t testing.TB, fd int, to Address) error {
	t.Helper()
	if to.Network == Unix {
		return unix.Connect(fd, &unix.SockaddrUnix{Name: to.Path})
	}
	ok(t, unix.SetNonblock(fd, false))
	return unix.Connect(fd, must(sockaddr(to))(t))
}

// accepted accepts one connection, which is there or just about to be, and closes it at the end of the test.
func accepted(t testing.TB, l *Listener) int {
	t.Helper()
	awaitReadable(t, l.FD())
	return closing(t, must(l.Accept())(t))
}

// awaitReadable waits at most ten seconds, which only a test that fails does.
func awaitReadable(t testing.TB, fd int) {
	t.Helper()
	watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(watched, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Fatalf("nothing arrived at descriptor %d: %v", fd, err)
		}
		return
	}
}

func flags(t testing.TB, fd, command int) int {
	t.Helper()
	return must(unix.FcntlInt(uintptr(fd), command, 0))(t)
}

func option(t testing.TB, fd, level, name int) int {
	t.Helper()
	return must(unix.GetsockoptInt(fd, level, name))(t)
}

// wantOurs checks what every descriptor made here has to be.
func wantOurs(t testing.TB, fd int) {
	t.Helper()
	if flags(t, fd, unix.F_GETFD)&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor %d is not close-on-exec", fd)
	}
	if flags(t, fd, unix.F_GETFL)&unix.O_NONBLOCK == 0 {
		t.Errorf("descriptor %d is not non-blocking", fd)
	}
}
