package selector

import (
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

// leavesNothing fails the test if it ends with more descriptors or goroutines than it had at this call, which therefore comes first.
func leavesNothing(t testing.TB) {
	t.Helper()
	time.Sleep(time.Nanosecond) // the process's first timer makes Go's own poller open its descriptors
	descriptors, goroutines := openDescriptors(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if now := openDescriptors(t); now != descriptors {
			t.Errorf("%d descriptors are open, before the test %d", now, descriptors)
		}
		// A goroutine that has done its last send may still be on its way out.
		for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Errorf("%d goroutines are left, before the test %d", runtime.NumGoroutine(), goroutines)
				return
			}
		}
	})
}

func newSelector(t testing.TB) *Selector {
	t.Helper()
	leavesNothing(t)
	s := must(New())(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// pair returns two connected, non-blocking stream sockets that are closed at the end of the test.
func pair(t testing.TB) (near, far int) {
	t.Helper()
	near, far = barePair(t)
	t.Cleanup(func() { ok(t, errors.Join(unix.Close(near), unix.Close(far))) })
	return near, far
}

// barePair is pair for a test that closes both itself.
func barePair(t testing.TB) (near, far int) {
	t.Helper()
	fds := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))(t)
	return fds[0], fds[1]
}

// tcpPair returns both ends of a loopback connection. The test closes them.
func tcpPair(t testing.TB) (server, client int) {
	t.Helper()
	l, where := tcpListener(t)
	client = must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	ok(t, unix.Connect(client, where))
	server, _, err := unix.Accept4(l, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	ok(t, err)
	ok(t, unix.Close(l))
	return server, client
}

// tcpListener listens on a port of the kernel's choice. The test closes it.
func tcpListener(t testing.TB) (int, unix.Sockaddr) {
	t.Helper()
	l := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
	ok(t, unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	ok(t, unix.Listen(l, 16))
	return l, must(unix.Getsockname(l))(t)
}

func send(t testing.TB, fd int, text string) {
	t.Helper()
	n, err := unix.Write(fd, []byte(text))
	ok(t, err)
	if n != len(text) {
		t.Fatalf("sent %d of %d bytes", n, len(text))
	}
}

func receive(t testing.TB, fd int) string {
	t.Helper()
	var buffer [256]byte
	return string(buffer[:must(unix.Read(fd, buffer[:]))(t)])
}

// patience is for what has to happen; it only passes in full where a test fails.
const patience = 10 * time.Second

// selected returns what one Select reports, waiting for it.
func selected(t testing.TB, s *Selector) []Event {
	t.Helper()
	return selectedWithin(t, s, patience)
}

// pending returns what is ready at this moment.
func pending(t testing.TB, s *Selector) []Event {
	t.Helper()
	return selectedWithin(t, s, 0)
}

func selectedWithin(t testing.TB, s *Selector, timeout time.Duration) []Event {
	t.Helper()
	events := make([]Event, 16)
	return events[:must(s.Select(events, timeout))(t)]
}

func wantEvents(t testing.TB, got []Event, want ...Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("events are %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("events are %v, want %v", got, want)
		}
	}
}
