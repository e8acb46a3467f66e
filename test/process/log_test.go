package process

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/freeport"
	"github.com/anteroom-io/anteroom/test/processes"
)

// piped starts a sidecar whose log goes to a pipe of this test's, and waits until a host is attached.
func piped(t *testing.T, flags ...string) (s *processes.Sidecar, log *os.File) {
	t.Helper()
	log, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	address := freeAddress(t)
	dir := t.TempDir()
	// The shell puts the pipe, its descriptor 3, in the place of standard error.
	shell := exec.Command("sh", "-c", `exec "$0" "$@" 2>&3 3>&-`, processes.Binary(t))
	shell.ExtraFiles = []*os.File{write}
	s = processes.Launch(t, dir, shell, append([]string{"--listen", "tcp://" + address, "--keep-alive-timeout", "1h"}, flags...)...)
	_ = write.Close()
	t.Cleanup(func() { s.Terminate() })
	s.Web = []string{address}
	processes.Eventually(t, "the sidecar answers", func() bool {
		return exec.Command(processes.Binary(t), "healthcheck", "--live", "--control", s.Control()).Run() == nil
	})
	aHost(t, s, "host")
	s.Hosts(1)
	return s, log
}

// freeAddress returns an address on loopback that is reserved until the test ends.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(port.Close)
	return port.Loopback()
}

// fail has something logged: a peer of the handoff socket says nonsense, and reads why that is refused.
func fail(t *testing.T, s *processes.Sidecar) {
	t.Helper()
	c, err := net.DialTimeout("unix", s.Handoff(), processes.Patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(processes.Patience))
	_, _ = c.Write(make([]byte, 64))
	if n, err := c.Read(make([]byte, 1000)); n == 0 {
		t.Fatalf("the sidecar has not answered: %v", err)
	}
}

// isFull reports whether a pipe has no room: it has a number of pages, of which each write fills a
// part. So poll(2) says it, by a write end that is opened for the question, and not FIONREAD.
func isFull(t *testing.T, pipe *os.File) bool {
	t.Helper()
	w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", pipe.Fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(w) }()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w), Events: unix.POLLOUT}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n == 0
}

// fill has lines logged until the pipe is full and lines are being dropped.
func fill(t *testing.T, s *processes.Sidecar, log *os.File) {
	t.Helper()
	for lines := 0; !isFull(t, log); lines++ {
		if lines > 10_000 {
			t.Fatal("the log does not fill")
		}
		fail(t, s)
	}
	for range 100 {
		fail(t, s)
	}
}

// serving is the process that serves: the sidecar itself, or the supervisor's child.
func serving(t *testing.T, s *processes.Sidecar, supervised bool) (pid int) {
	t.Helper()
	if !supervised {
		return s.PID()
	}
	processes.Eventually(t, "one sidecar serves", func() bool {
		all := sidecars(s.PID())
		if len(all) == 1 {
			pid = all[0]
		}
		return len(all) == 1 && keeperOf(pid) != 0
	})
	return pid
}

func bothWays(t *testing.T, f func(t *testing.T, supervised bool, flag string)) {
	for _, supervised := range []bool{false, true} {
		flag := fmt.Sprintf("--supervise=%v", supervised)
		t.Run(flag, func(t *testing.T) { f(t, supervised, flag) })
	}
}

// The log's reader stalls: clients are served all the same, over kill -9 and SIGTERM too, and what was
// dropped is told when somebody reads.
func TestTheReaderOfTheLogStalls(t *testing.T) {
	bothWays(t, func(t *testing.T, supervised bool, flag string) {
		s, log := piped(t, flag)
		clients := passBy(t, s)
		fill(t, s, log)
		clients.after(t)
		if supervised {
			_ = syscall.Kill(serving(t, s, supervised), syscall.SIGKILL)
			clients.idle.mustAsk(t, "over-kill--9")
			fail(t, s)
		}
		s.Signal(syscall.SIGTERM)
		if code := s.Exit(); code != 0 {
			t.Errorf("it ended with %d", code)
		}
	})
}

// A crash's report goes to standard error, too: the process ends though the reader stalls, and its
// keeper succeeds.
func TestACrashWhileTheReaderOfTheLogStalls(t *testing.T) {
	s, log := piped(t, "--supervise")
	clients := passBy(t, s)
	fill(t, s, log)
	_ = syscall.Kill(serving(t, s, true), syscall.SIGQUIT) // the Go runtime prints every goroutine and exits
	clients.after(t)
}

func TestDroppedLinesAreTold(t *testing.T) {
	s, log := piped(t, "--metrics", "unix://"+t.TempDir()+"/metrics.sock")
	fill(t, s, log)
	for range 6000 { // more than the queue has room for
		fail(t, s)
	}
	found := make(chan bool)
	go func() {
		var text []byte
		for b := make([]byte, 64<<10); ; {
			n, err := log.Read(b)
			text = append(text, b[:n]...)
			if told := bytes.Contains(text, []byte("log lines were dropped")); told || err != nil {
				found <- told
				return
			}
			text = text[max(0, len(text)-200):]
		}
	}()
	select {
	case told := <-found:
		if !told {
			t.Error("the log has ended without a word about lines that were dropped")
		}
	case <-time.After(processes.Patience):
		t.Error("dropped lines are not told")
	}
}

// The reader of the log goes away: nothing ends.
func TestTheReaderOfTheLogGoes(t *testing.T) {
	bothWays(t, func(t *testing.T, supervised bool, flag string) {
		s, log := piped(t, flag)
		clients := passBy(t, s)
		_ = log.Close()
		fail(t, s)
		fail(t, s)
		clients.after(t)
		if supervised {
			_ = syscall.Kill(serving(t, s, supervised), syscall.SIGKILL)
			clients.idle.mustAsk(t, "over-kill--9")
			fail(t, s)
			clients.idle.mustAsk(t, "after-that")
		}
		out, err := upgrade(t, s)
		if err != nil {
			t.Fatalf("upgrade: %v: %s", err, out)
		}
		pid, _ := strconv.Atoi(regexp.MustCompile(`process (\d+) serves now`).FindStringSubmatch(out)[1])
		fail(t, s)
		clients.idle.mustAsk(t, "after-the-upgrade")
		_ = syscall.Kill(pid, syscall.SIGTERM)
		if code := s.Exit(); code != 0 {
			t.Errorf("what was started first ended with %d", code)
		}
	})
}
