package logqueue

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func pipe(t *testing.T) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(p[0]), unix.Close(p[1]) })
	return p[0], p[1]
}

func flags(t *testing.T, fd int) int {
	t.Helper()
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

// A pipe that is opened again by /proc/self/fd has flags of its own: others who hold the pipe stay blocking.
func TestUnblockChangesNobodyElsesFlags(t *testing.T) {
	r, w := pipe(t)
	other, err := unix.Dup(w)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(other) }()
	if err := unblock(w); err != nil {
		t.Fatal(err)
	}
	if flags(t, w)&unix.O_NONBLOCK == 0 || flags(t, other)&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %o, and %o of the other holder", flags(t, w), flags(t, other))
	}
	for err = nil; err == nil; {
		_, err = unix.Write(w, make([]byte, piece))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a write to the full pipe: %v, want EAGAIN", err)
	}
	if _, err := unix.Read(r, make([]byte, piece)); err != nil {
		t.Error(err)
	}
}

// A write to a socket that is not read ends, too.
func TestUnblockBoundsWritesToASocket(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(unix.Close(pair[0]), unix.Close(pair[1])) }()
	if err := unblock(pair[0]); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = unix.Write(pair[0], make([]byte, piece))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("a write to the full socket: %v, want EAGAIN", err)
	}
}

// A regular file keeps its description, and so its position.
func TestUnblockLeavesFilesAlone(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, _ = f.WriteString("before\n")
	if err := unblock(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	if _, err := write(int(f.Fd()), []byte("after\n")); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(f.Name()); string(text) != "before\nafter\n" {
		t.Errorf("the file holds %q", text)
	}
}

// write waits for the reader, whichever way the pipe is.
func TestWriteWaitsForTheReader(t *testing.T) {
	for _, nonblocking := range []bool{false, true} {
		r, w := pipe(t)
		if nonblocking {
			if err := unblock(w); err != nil {
				t.Fatal(err)
			}
		}
		const size = 1 << 20
		read := make(chan int)
		go func() {
			total, b := 0, make([]byte, 10000)
			for total < size {
				n, err := unix.Read(r, b)
				if n <= 0 || err != nil {
					break
				}
				total += n
			}
			read <- total
		}()
		if n, err := write(w, make([]byte, size)); n != size || err != nil {
			t.Errorf("wrote %d: %v", n, err)
		}
		if n := <-read; n != size {
			t.Errorf("%d bytes were read", n)
		}
	}
}

func TestWriteFailsWithoutAReader(t *testing.T) {
	r, w := pipe(t)
	_ = unix.Close(r)
	if _, err := write(w, []byte("line\n")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("%v, want EPIPE", err)
	}
}

// brokenVariable makes this test binary a process whose standard error has no reader any more.
const brokenVariable = "ANTEROOM_TEST_BROKEN_STDERR"

func TestMain(m *testing.M) {
	if os.Getenv(brokenVariable) == "" {
		os.Exit(m.Run())
	}
	_ = GuardStderr()
	for range 3 {
		if _, err := os.Stderr.WriteString("line\n"); !errors.Is(err, unix.EPIPE) {
			os.Exit(3)
		}
	}
	os.Exit(0)
}

// Without GuardStderr the Go runtime ends a process that writes to a broken standard error
// (os/signal, SIGPIPE).
func TestAProcessOutlivesTheReaderOfItsStderr(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	defer w.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), brokenVariable+"=1"), w
	if err := cmd.Run(); err != nil {
		t.Errorf("the process: %v", err)
	}
}
