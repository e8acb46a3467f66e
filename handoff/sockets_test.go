package handoff

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the tests of descriptor passing share: a pair of sockets, messages sent and received by hand, and descriptors that can be told apart.

// socketPair returns the two ends of a Unix stream socket, and checks at the end of the test that no descriptor has leaked.
func socketPair(t testing.TB) (sender, receiver int) {
	t.Helper()
	checkDescriptors(t)
	return openPair(t)
}

// openPair is socketPair for a test that checks its descriptors itself.
func openPair(t testing.TB) (sender, receiver int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(pair[:]) })
	return pair[0], pair[1]
}

// checkDescriptors fails the test if other descriptors are open at its end than now. Cleanups run last in, first out: call it first.
func checkDescriptors(t testing.TB) {
	t.Helper()
	before := openDescriptors(t)
	t.Cleanup(func() {
		if after := openDescriptors(t); !maps.Equal(before, after) {
			t.Errorf("descriptors before: %v\nafter: %v", before, after)
		}
	})
}

// openDescriptors says what each open descriptor is. The first call also makes the runtime open those of its poller, before it looks.
func openDescriptors(t testing.TB) map[string]string {
	t.Helper()
	open := map[string]string{}
	for range 2 {
		clear(open)
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(to, "/fd") {
				open[e.Name()] = to
			}
		}
	}
	return open
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			closeFD(fd)
		}
	}
}

// closeFD closes a descriptor that nobody looks at any more.
func closeFD(fd int) { _ = unix.Close(fd) }

// descriptors makes n descriptors with n different inodes; the test's end closes them.
func descriptors(t testing.TB, n int) []int {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.MemfdCreate("handed over", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeFD(fd) })
		fds = append(fds, fd)
	}
	return fds
}

// inode names what a descriptor is open on: two descriptors with the same inode are the same thing.
func inode(t testing.TB, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatalf("fstat %d: %v", fd, err)
	}
	return st.Ino
}

// ward is a descriptor whose last copy's end can be seen: the write end of a pipe. It tells a copy that was closed from one that leaks.
type ward struct{ watch, fd int }

func newWard(t testing.TB) *ward {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	w := &ward{watch: p[0], fd: p[1]}
	t.Cleanup(func() { closeFD(w.watch); w.drop() })
	return w
}

// drop closes the original, so that only copies keep the pipe open.
func (w *ward) drop() {
	closeAll([]int{w.fd})
	w.fd = -1
}

// gone reports whether every copy is closed, in this process and in flight.
func (w *ward) gone() bool {
	n, err := unix.Read(w.watch, make([]byte, 1))
	return n == 0 && err == nil
}

// send is one sendmsg of b, with the descriptors if there are any.
func send(t testing.TB, sock int, b string, fds ...int) {
	t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if n, err := unix.SendmsgN(sock, []byte(b), oob, nil, 0); err != nil || n != len(b) {
		t.Fatalf("sendmsg: %d of %d bytes, %v", n, len(b), err)
	}
}

// received is what one recvmsg brought.
type received struct {
	bytes     string
	fds       []int
	truncated bool
}

func receive(t testing.TB, sock, size, control, flags int) received {
	t.Helper()
	b, oob := make([]byte, size), make([]byte, control)
	n, oobn, got, _, err := unix.Recvmsg(sock, b, oob, flags|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatalf("recvmsg: %v", err)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(fds) })
	return received{bytes: string(b[:n]), fds: fds, truncated: got&unix.MSG_CTRUNC != 0}
}

// arrival is a frame as Inbox gave it out.
type arrival struct {
	conn  uint64
	inode uint64 // 0: no descriptor
}

// takeAll reads until the socket is empty and returns the frames that are complete. It closes their descriptors.
func takeAll(t testing.TB, in *Inbox, sock int) ([]arrival, error) {
	t.Helper()
	var list []arrival
	for {
		err := in.Recv(sock)
		if errors.Is(err, ErrAgain) {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		more, err := takeFrames(t, in)
		list = append(list, more...)
		if err != nil {
			return list, err
		}
	}
}

func takeFrames(t testing.TB, in *Inbox) ([]arrival, error) {
	t.Helper()
	var list []arrival
	for {
		var f Frame
		fd, ok, err := in.Next(&f)
		if err != nil || !ok {
			return list, err
		}
		a := arrival{conn: f.Conn}
		if fd >= 0 {
			a.inode = inode(t, fd)
			closeFD(fd)
		}
		list = append(list, a)
	}
}

func faultCode(err error) string {
	var fault *Fault
	if errors.As(err, &fault) {
		return fault.Code.String()
	}
	return fmt.Sprint(err)
}

func wantFault(t testing.TB, err error, code Code) {
	t.Helper()
	if faultCode(err) != code.String() {
		t.Errorf("got %v, want %s", err, code)
	}
}

func wantEOF(t testing.TB, err error) {
	t.Helper()
	if !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want EOF", err)
	}
}
