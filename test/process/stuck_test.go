package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/internal/fusetest"
	"github.com/anteroom-io/anteroom/test/processes"
)

// Helper processes of the sidecar sleep in the kernel, where no signal ends them: a host has sent
// files whose file system does not answer, more of them than there are helpers, so that the sidecar
// holds some, too. The sidecar is killed, replaced and stopped all the same. Its connections go on,
// and what it listened on is free when it has ended.
func TestAHelperThatCannotBeEnded(t *testing.T) {
	bothWays(t, func(t *testing.T, supervised bool, flag string) {
		for what, next := range map[string]func(*testing.T, *processes.Sidecar, bool) int{"kill": killed, "upgrade": upgraded, "stop": unchanged} {
			t.Run(what, func(t *testing.T) {
				fs := fusetest.Mount(t, fusetest.Flush)
				s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0", "--keep-alive-timeout", "1h", "--max-helpers", "4", flag)
				t.Cleanup(func() { s.Terminate() })
				aHost(t, s, "host")
				s.Hosts(1)
				c := mustDial(t, s.Web[0])
				c.mustAsk(t, "before")
				sticks(t, s, fs)
				pid := next(t, s, supervised)
				if pid != 0 {
					c.mustAsk(t, "after")
					terminate(t, s, supervised, pid)
				}
				c.over(t)
				refuses(t, s.Web[0])
			})
		}
	})
}

// killed kills the sidecar. It returns who serves then: 0 if there is no supervisor, and so no successor.
func killed(t *testing.T, s *processes.Sidecar, supervised bool) int {
	t.Helper()
	pid := serving(t, s, supervised)
	_ = syscall.Kill(pid, syscall.SIGKILL)
	if !supervised {
		s.Exit()
		return 0
	}
	var next int
	processes.Eventually(t, "another serves", func() bool {
		next = serving(t, s, supervised)
		return next != pid
	})
	return next
}

func upgraded(t *testing.T, s *processes.Sidecar, _ bool) int {
	t.Helper()
	out, err := upgrade(t, s)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pid, _ := strconv.Atoi(regexp.MustCompile(`process (\d+) serves now`).FindStringSubmatch(out)[1])
	return pid
}

func unchanged(t *testing.T, s *processes.Sidecar, supervised bool) int {
	t.Helper()
	return serving(t, s, supervised)
}

// terminate ends the sidecar, which may be another process by now, and waits until it has.
func terminate(t *testing.T, s *processes.Sidecar, supervised bool, pid int) {
	t.Helper()
	if supervised {
		s.Signal(syscall.SIGTERM)
	} else {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	if code := s.Exit(); code != 0 {
		t.Errorf("what was started first ended with %d", code)
	}
	processes.Eventually(t, "the sidecar has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

// refuses: nothing listens there any more.
func refuses(t *testing.T, address string) {
	t.Helper()
	processes.Eventually(t, "the address is free", func() bool {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED)
	})
}

// stuckHelpers is how many helpers of 4 may be stuck.
const stuckHelpers = 3

// sticks has the sidecar get files that hang when they are closed, and waits until it says that the
// helpers cannot be ended.
func sticks(t *testing.T, s *processes.Sidecar, fs *fusetest.FS) {
	t.Helper()
	as(t, "hostile", "ANTEROOM_HANDOFF="+s.Handoff(), "ANTEROOM_TEST_FILE="+fs.File)
	t.Cleanup(fs.Release) // first: the hostile process cannot end before
	processes.Eventually(t, "the helpers are stuck", func() bool { return s.Log.Lines("cannot be ended") == stuckHelpers })
}

// beHostile sends the sidecar files, and stays until it is killed. The test's process must not hold
// such a file itself: what it starts would close it in execve(2), and hang.
func beHostile() error {
	for range stuckHelpers + 2 {
		if err := sendFile(); err != nil {
			return err
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

// sendFile attaches, sends a file where none is due, and is hung up on.
func sendFile() error {
	link, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(link, &unix.SockaddrUnix{Name: os.Getenv("ANTEROOM_HANDOFF")}); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	file, err := unix.Open(os.Getenv("ANTEROOM_TEST_FILE"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	var out handoff.Outbox
	f := (&handoff.Hello{Name: "hostile", Pool: "other", Capacity: 1}).Frame()
	out.Add(&f)
	out.AddFD(&handoff.Frame{Type: handoff.TypePong}, file)
	return out.Flush(link)
}
