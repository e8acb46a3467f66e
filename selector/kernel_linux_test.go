package selector

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests write down what the kernel does and the design relies on. They fail when it changes.

func TestKernelKeepsReportingAClosedDescriptorWhileADuplicateLives(t *testing.T) {
	s := newSelector(t)
	near, far := barePair(t)
	duplicate := must(unix.FcntlInt(uintptr(near), unix.F_DUPFD_CLOEXEC, 0))(t)
	ok(t, s.Register(near, 1, Read))
	ok(t, unix.Close(near))
	send(t, far, "x")

	wantEvents(t, selected(t, s), Event{1, Readable})
	wantError(t, s.Unregister(near), unix.EBADF)
	wantEvents(t, pending(t, s), Event{1, Readable}) // and nothing can stop it but the last close

	ok(t, unix.Close(duplicate))
	wantEvents(t, pending(t, s))
	ok(t, unix.Close(far))
}

func TestKernelForgetsADescriptorWhenItsLastDuplicateCloses(t *testing.T) {
	s := newSelector(t)
	near, far := barePair(t)
	ok(t, s.Register(near, 1, Read))
	send(t, far, "x")
	ok(t, unix.Close(near))
	wantEvents(t, pending(t, s))
	wantError(t, s.Unregister(near), unix.EBADF)
	ok(t, unix.Close(far))
}

func TestKernelDisarmsAOneShotUntilItIsModified(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read|OneShot))
	send(t, far, "x")
	wantEvents(t, selected(t, s), Event{1, Readable})

	send(t, far, "y")
	ok(t, unix.Shutdown(far, unix.SHUT_RDWR)) // not even a hang-up passes
	wantEvents(t, pending(t, s))

	ok(t, s.Modify(near, 2, Read|OneShot))
	wantEvents(t, pending(t, s), Event{2, Readable | PeerClosed | HungUp})
}

func TestKernelFiresAOneShotAtOnceIfItIsReadyWhenModified(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read|OneShot))
	send(t, far, "xy")
	for range 3 {
		wantEvents(t, pending(t, s), Event{1, Readable})
		wantEvents(t, pending(t, s))
		ok(t, s.Modify(near, 1, Read|OneShot))
	}
}

func TestKernelTellsHangUpsApart(t *testing.T) {
	reset := func(t *testing.T, client int) {
		t.Helper()
		ok(t, unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		ok(t, unix.Close(client))
	}
	finish := func(t *testing.T, client int) {
		t.Helper()
		ok(t, unix.Shutdown(client, unix.SHUT_WR))
	}
	tests := map[string]struct {
		sent string
		end  func(*testing.T, int)
		want Ready
		err  error // what reading says once what was sent is read; a reset leaves the receive queue alone
	}{
		"FIN":              {"", finish, Readable | PeerClosed, nil},
		"FIN after data":   {"bye", finish, Readable | PeerClosed, nil},
		"reset":            {"", reset, Readable | PeerClosed | HungUp | Failed, unix.ECONNRESET},
		"reset after data": {"bye", reset, Readable | PeerClosed | HungUp | Failed, unix.ECONNRESET},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSelector(t)
			server, client := tcpPair(t)
			send(t, client, test.sent)
			test.end(t, client)
			ok(t, s.Register(server, 7, Read))
			awaitHangUp(t, server)

			wantEvents(t, selected(t, s), Event{7, test.want})
			checkQueue(t, server, test.sent, test.err)
			ok(t, unix.Close(server))
			if test.err == nil {
				ok(t, unix.Close(client))
			}
		})
	}
}

// awaitHangUp returns once the FIN or the reset has arrived; loopback delivers in another context.
func awaitHangUp(t *testing.T, fd int) {
	t.Helper()
	watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	if n, err := unix.Poll(watched, int(patience/time.Millisecond)); n != 1 {
		t.Fatalf("no hang-up arrived: %v", err)
	}
}

// checkQueue reads what is left and then the end: 0 bytes or an error.
func checkQueue(t *testing.T, fd int, left string, end error) {
	t.Helper()
	if left != "" {
		if got := receive(t, fd); got != left {
			t.Errorf("read %q, want %q", got, left)
		}
	}
	n, err := unix.Read(fd, make([]byte, 16))
	wantError(t, err, end)
	if n > 0 {
		t.Errorf("read %d bytes more", n)
	}
}

func TestKernelReportsBothDirectionsShutAsHangUp(t *testing.T) {
	s := newSelector(t)
	server, client := tcpPair(t)
	ok(t, s.Register(server, 7, Read))
	ok(t, unix.Shutdown(server, unix.SHUT_WR))
	wantEvents(t, pending(t, s))
	ok(t, unix.Shutdown(client, unix.SHUT_WR))
	awaitHangUp(t, server)
	wantEvents(t, selected(t, s), Event{7, Readable | PeerClosed | HungUp})
	ok(t, unix.Close(server))
	ok(t, unix.Close(client))
}

func TestKernelReportsHangUpWithoutInterest(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, 0))
	send(t, far, "x")
	wantEvents(t, pending(t, s))
	ok(t, unix.Shutdown(far, unix.SHUT_WR))
	wantEvents(t, pending(t, s), Event{1, PeerClosed})
}

// Whoever stops watching a listener for a while must not be woken without end by another holder's shutdown(2) of it: an interest of zero is not
// silence, OneShot without any other interest is, after one event.
func TestKernelReportsAListenerThatWasShutDownWithoutInterest(t *testing.T) {
	s := newSelector(t)
	l, _ := tcpListener(t)
	ok(t, s.Register(l, 1, 0))
	ok(t, unix.Shutdown(l, unix.SHUT_RDWR))
	for range 2 {
		wantEvents(t, pending(t, s), Event{1, HungUp})
	}
	ok(t, s.Modify(l, 1, OneShot))
	wantEvents(t, pending(t, s), Event{1, HungUp})
	wantEvents(t, pending(t, s))
	ok(t, unix.Close(l))
}

// A batch may hold an event of a descriptor that the handling of an earlier event has closed, and whose number has a new owner by now. Only
// the token tells.
func TestStaleTokenIsRecognisableAfterDescriptorReuse(t *testing.T) {
	s := newSelector(t)
	near, far := barePair(t)
	ok(t, s.Register(near, generation(1, near), Read))
	send(t, far, "x")
	batch := selected(t, s)

	ok(t, s.Unregister(near))
	ok(t, unix.Close(near))
	reused, other := barePair(t)
	if reused != near {
		t.Fatalf("the kernel gave number %d, want the lowest free one, %d", reused, near)
	}
	ok(t, s.Register(reused, generation(2, reused), Read))

	wantEvents(t, batch, Event{generation(1, near), Readable})
	wantEvents(t, pending(t, s))
	send(t, other, "y")
	wantEvents(t, selected(t, s), Event{generation(2, near), Readable})
	for _, fd := range []int{far, reused, other} {
		ok(t, unix.Close(fd))
	}
}

func generation(n, fd int) uint64 { return uint64(n)<<32 | uint64(fd) }

func TestKernelReportsAListenerUntilItsQueueIsEmpty(t *testing.T) {
	s := newSelector(t)
	l, where := tcpListener(t)
	ok(t, s.Register(l, 1, Read))
	var open []int
	for range 2 {
		client := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))(t)
		ok(t, unix.Connect(client, where))
		open = append(open, client)
	}
	for range 2 {
		wantEvents(t, selected(t, s), Event{1, Readable})
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		ok(t, err)
		open = append(open, fd)
	}
	wantEvents(t, pending(t, s))
	for _, fd := range append(open, l) {
		ok(t, unix.Close(fd))
	}
}

// The poller's wake relies on it: it never reads its eventfd.
func TestKernelReportsEveryWriteToAnEdgeTriggeredEventfd(t *testing.T) {
	s := newSelector(t)
	fd := must(unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC))(t)
	ok(t, s.Register(fd, 1, Read|EdgeTriggered))
	for range 3 {
		send(t, fd, "\x01\x00\x00\x00\x00\x00\x00\x00")
		wantEvents(t, pending(t, s), Event{1, Readable})
		wantEvents(t, pending(t, s))
	}
	ok(t, unix.Close(fd))
}

// The poller's tick relies on it: it never reads its timer.
func TestKernelReportsEveryExpiryOfAnEdgeTriggeredTimer(t *testing.T) {
	s := newSelector(t)
	fd := must(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC))(t)
	ok(t, s.Register(fd, 1, Read|EdgeTriggered))
	for range 3 {
		ok(t, unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(time.Millisecond))}, nil))
		wantEvents(t, selected(t, s), Event{1, Readable})
		wantEvents(t, pending(t, s))
	}
	ok(t, unix.Close(fd))
}

func TestKernelRefusesFilesWithoutReadiness(t *testing.T) {
	s := newSelector(t)
	fd := must(unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0))(t)
	wantError(t, s.Register(fd, 1, Read), unix.EPERM)
	if n := s.Len(); n != 0 {
		t.Errorf("%d are registered after a refusal", n)
	}
	ok(t, unix.Close(fd))
}
