package manager

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel says about a client's room (room.go).

// acceptedTCP is both ends of a connection over loopback; near has been accepted.
func acceptedTCP(t *testing.T) (near, far int) {
	t.Helper()
	l := aListener(t)
	sa, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	far = aSocket(t, unix.AF_INET, unix.SOCK_STREAM)
	if err := unix.Connect(far, sa); err != nil {
		t.Fatal(err)
	}
	near, _, err = unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	return opened(t)(near, err), far
}

// fillWith writes pieces until the socket takes no more.
func fillWith(t *testing.T, fd int, piece int) {
	t.Helper()
	for b := make([]byte, piece); ; {
		err := unix.Sendto(fd, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// awaitRoom asks until the answer is want: TCP closes its window when it acknowledges, and a sender
// fills the last part of it after a while.
func awaitRoom(t *testing.T, want room, ask func() room) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ask() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the room is %d, want %d", ask(), want)
		}
	}
}

func TestRoomOverTCP(t *testing.T) {
	a := &acts{}
	for name, asked := range map[string]func(fd int32, need int) room{"by its window": a.room, "by poll": a.roomBelow} {
		t.Run(name, func(t *testing.T) {
			near, far := acceptedTCP(t)
			if _, err := unix.Write(far, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			awaitBytes(t, near)
			if got := asked(int32(near), 1001); got != roomMore {
				t.Errorf("there is room, and it is said to be %d", got)
			}
			fillWith(t, far, 1<<16)
			awaitRoom(t, roomNone, func() room { return asked(int32(near), 64<<20) })
		})
	}
}

func TestRoomOnAUnixSocket(t *testing.T) {
	if !diagnosesUnix() {
		t.Skip("this kernel does not tell of Unix sockets (CONFIG_UNIX_DIAG)")
	}
	a := &acts{diagnoses: true}
	near, far := aPair(t, unix.SOCK_STREAM)
	if got := a.room(int32(near), 1); got != roomMore {
		t.Errorf("nothing is sent, and the room is said to be %d", got)
	}
	for range 100 { // poll(2) tells the client to wait, write(2) would not
		if _, err := unix.Write(far, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.room(int32(near), 101); got != roomUnknown {
		t.Errorf("the client may write on, and the room is said to be %d", got)
	}
	fillWith(t, far, 1000)
	if got := a.room(int32(near), 1<<20); got != roomNone {
		t.Errorf("the client is stuck, and the room is said to be %d", got)
	}
	if got := (&acts{}).room(int32(near), 1<<20); got != roomUnknown {
		t.Errorf("the kernel is not asked, and the room is said to be %d", got)
	}
}
