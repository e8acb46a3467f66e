package blocking

import (
	"os"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bench is a pool and its clock.
type bench struct {
	*Pool
	t     *testing.T
	began time.Time
	slots []Slot
}

func newBench(t *testing.T, helpers int) *bench {
	t.Helper()
	size := helpers * int(unsafe.Sizeof(Slot{}))
	page, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, began: time.Now(), slots: unsafe.Slice((*Slot)(unsafe.Pointer(unsafe.SliceData(page))), helpers)}
	if b.Pool, err = New(b.slots); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.End(b.now())
		_ = unix.Munmap(page)
	})
	return b
}

func (b *bench) now() int64 { return int64(time.Since(b.began)) }

// results are those of the jobs, in the order in which they came.
type results struct{ all []Result }

func (r *results) take(result Result) { r.all = append(r.all, result) }

// turnUntil takes turns as a loop does: when the eventfd tells, or time.
func (b *bench) turnUntil(is func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(deadline) {
			b.t.Fatal("not within 20 s")
		}
		b.pause()
		b.Turn(b.now())
	}
}

func (b *bench) do(j Job) Result {
	b.t.Helper()
	var r results
	j.Done = r.take
	b.Do(&j, b.now())
	b.turnUntil(func() bool { return len(r.all) == 1 })
	return r.all[0]
}

func opened(t *testing.T, fd int, err error) int {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func memfd(t *testing.T, content string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	fd = opened(t, fd, err)
	if n, err := unix.Write(fd, []byte(content)); n != len(content) || err != nil {
		t.Fatal(n, err)
	}
	return fd
}

func pair(t *testing.T) (int, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return opened(t, fds[0], err), opened(t, fds[1], err)
}

func read(t *testing.T, fd int) string {
	t.Helper()
	p := make([]byte, 1000)
	n, err := unix.Read(fd, p)
	if err != nil {
		t.Fatal(err)
	}
	return string(p[:n])
}

func TestSendfile(t *testing.T) {
	b := newBench(t, 2)
	near, far := pair(t)
	r := b.do(Job{Op: Sendfile, FD: near, Source: memfd(t, "0123456789"), Offset: 2, Length: 5})
	if r.Outcome != Done || r.Errno != 0 || r.Count != 5 || r.Offset != 7 || read(t, far) != "23456" {
		t.Errorf("%+v", r)
	}
}

func TestSplice(t *testing.T) {
	b := newBench(t, 2)
	near, far := pair(t)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer in.Close()
	_, _ = in.WriteString("from a pipe")
	if r := b.do(Job{Op: Check, Source: int(out.Fd())}); r.Size != 11 || r.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Errorf("%+v", r)
	}
	r := b.do(Job{Op: Splice, FD: near, Source: int(out.Fd()), Length: 4})
	if r.Outcome != Done || r.Count != 4 || read(t, far) != "from" {
		t.Errorf("%+v", r)
	}
}

func TestCheck(t *testing.T) {
	b := newBench(t, 2)
	if r := b.do(Job{Op: Check, Source: memfd(t, "0123")}); r.Size != 4 || r.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Errorf("%+v", r)
	}
	if r := b.do(Job{Op: Check, Source: -1}); r.Errno != unix.EBADF {
		t.Errorf("%+v", r)
	}
}

func TestAccept(t *testing.T) {
	b := newBench(t, 2)
	l := listening(t, unix.SOCK_NONBLOCK)
	connect(t, l)
	connect(t, l)
	r := b.do(Job{Op: Accept, FD: l, Length: MaxBatch})
	if r.Outcome != Done || r.Errno != unix.EAGAIN || r.Count != 2 || len(r.FDs) != 2 {
		t.Fatalf("%+v", r)
	}
	for _, fd := range r.FDs {
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		own, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if flags&unix.O_NONBLOCK == 0 || own&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %x, descriptor's %x", flags, own)
		}
		_ = unix.Close(int(fd))
	}
}

func listening(t *testing.T, flags int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	fd = opened(t, fd, err)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 10); err != nil {
		t.Fatal(err)
	}
	return fd
}

func connect(t *testing.T, l int) int {
	t.Helper()
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	fd = opened(t, fd, err)
	if err := unix.Connect(fd, at); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestCloseKeepsTheNumber: the peer sees the end, and the number is not another's until the caller closes it.
func TestCloseKeepsTheNumber(t *testing.T) {
	b := newBench(t, 2)
	near, far := pair(t)
	if r := b.do(Job{Op: Close, FDs: []int32{int32(near)}}); r.Outcome != Done || r.Count != 1 {
		t.Errorf("%+v", r)
	}
	if read(t, far) != "" {
		t.Error("the peer does not see the end")
	}
	if _, err := unix.FcntlInt(uintptr(near), unix.F_GETFD, 0); err != nil {
		t.Errorf("the number is free: %v", err)
	}
	if _, err := unix.GetsockoptInt(near, unix.SOL_SOCKET, unix.SO_TYPE); err != unix.ENOTSOCK {
		t.Errorf("the number is still a socket: %v", err)
	}
}

// A job that blocks is ended, its helper replaced, and others are done meanwhile.
func TestAJobThatBlocksIsEnded(t *testing.T) {
	b := newBench(t, 4)
	near, far := pair(t)
	if err := unix.SetNonblock(near, false); err != nil {
		t.Fatal(err)
	}
	const length = 64 << 20
	file := memfd(t, "")
	if err := unix.Ftruncate(file, length); err != nil {
		t.Fatal(err)
	}
	var blocked results
	b.Do(&Job{Op: Sendfile, FD: near, Source: file, Length: length, Done: blocked.take, Party: 1}, b.now())
	if r := b.do(Job{Op: Check, Source: file}); r.Outcome != Done {
		t.Errorf("meanwhile: %+v", r)
	}
	b.turnUntil(func() bool { return len(blocked.all) == 1 })
	r := blocked.all[0]
	got := int64(0)
	for p := make([]byte, 1<<20); ; {
		n, err := unix.Read(far, p)
		if err != nil || n == 0 {
			break
		}
		got += int64(n)
	}
	if r.Outcome != Ended || r.Offset != got || got == 0 {
		t.Errorf("%+v; the peer got %d bytes", r, got)
	}
	if r := b.do(Job{Op: Check, Source: file}); r.Outcome != Done || b.Stuck() != 0 {
		t.Errorf("afterwards: %+v, %d stuck", r, b.Stuck())
	}
}

// An accept that blocks, since O_NONBLOCK is cleared and another process took the connection.
func TestABlockingAcceptIsEnded(t *testing.T) {
	b := newBench(t, 4)
	l := listening(t, 0)
	if r := b.do(Job{Op: Accept, FD: l, Length: MaxBatch}); r.Errno != unix.EAGAIN {
		t.Errorf("nothing waits: %+v", r)
	}
}

// No party gets more than half of the helpers.
func TestAPartyHasHalf(t *testing.T) {
	b := newBench(t, 4)
	near, _ := pair(t)
	_ = unix.SetNonblock(near, false)
	file := memfd(t, "")
	_ = unix.Ftruncate(file, 64<<20)
	var its results
	for range 10 {
		b.Do(&Job{Op: Sendfile, FD: near, Source: file, Length: 64 << 20, Party: 7, Done: its.take}, b.now())
	}
	if b.Waiting() != 8 {
		t.Errorf("%d wait", b.Waiting())
	}
	if r := b.do(Job{Op: Check, Source: file, Party: 8}); r.Outcome != Done || len(its.all) != 0 {
		t.Errorf("%+v, %d of the other party's are done", r, len(its.all))
	}
}

func TestSettleEndsWhatBlocks(t *testing.T) {
	b := newBench(t, 4)
	near, _ := pair(t)
	_ = unix.SetNonblock(near, false)
	file := memfd(t, "")
	_ = unix.Ftruncate(file, 64<<20)
	var r results
	b.Do(&Job{Op: Sendfile, FD: near, Source: file, Length: 64 << 20, Done: r.take}, b.now())
	b.Settle(b.now(), 10*time.Millisecond)
	if len(r.all) != 1 || r.all[0].Outcome != Ended {
		t.Errorf("%+v", r.all)
	}
	b.Do(&Job{Op: Check, Source: file, Done: r.take}, b.now())
	if b.Waiting() != 1 {
		t.Error("a job was handed out")
	}
	b.Resume(b.now())
	b.turnUntil(func() bool { return len(r.all) == 2 })
}
