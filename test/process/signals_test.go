package process

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// asking sends a request that takes a while, and returns when its host has it.
func asking(t *testing.T, s *processes.Sidecar, word string, wait time.Duration) *client {
	t.Helper()
	c := mustDial(t, s.Web[0])
	if err := c.send(word, 1000, wait); err != nil {
		t.Fatal(err)
	}
	processes.Eventually(t, "it is leased", func() bool { return s.Counts().States.Leased == 1 })
	return c
}

// over reads the end of a connection.
func (c *client) over(t *testing.T) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(processes.Patience))
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection has not ended: %v", err)
	}
}

func TestSIGTERMDrains(t *testing.T) {
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	h := aHost(t, s, "one")
	s.Hosts(1)
	idle := mustDial(t, s.Web[0])
	if err := idle.ask("idle", 10, 0); err != nil {
		t.Fatal(err)
	}
	busy := asking(t, s, "busy", 700*time.Millisecond)
	s.Signal(syscall.SIGTERM)
	processes.Eventually(t, "nobody gets in", func() bool {
		c, err := dial(s.Web[0])
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if err := busy.receive("busy", 1000); err != nil && !errors.Is(err, errLast) {
		t.Errorf("the answer under way: %v", err)
	}
	busy.over(t)
	idle.over(t)
	if code := s.Exit(); code != 0 {
		t.Errorf("the sidecar ended with %d\n%s", code, s.Log)
	}
	for _, path := range []string{s.Handoff(), s.Control()} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind: %v", path, err)
		}
	}
	select {
	case <-h.Gone:
		t.Error("the host has gone with the sidecar, it was to wait for the next")
	default:
	}
}

// A second signal ends at once. What comes right behind the first is not a second one, so the test
// repeats it.
func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, _ bool, flag string) {
		s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0", "--drain-timeout", "1h", flag)
		aHost(t, s, "one")
		s.Hosts(1)
		busy := asking(t, s, "busy", time.Hour)
		processes.Eventually(t, "it ends", func() bool {
			select {
			case <-s.Gone:
				return true
			default:
				s.SignalIfThere(syscall.SIGTERM)
				return false
			}
		})
		if code := s.Exit(); code != 1 {
			t.Errorf("the sidecar ended with %d, want 1\n%s", code, s.Log)
		}
		busy.over(t)
	})
}

// One Ctrl-C, or one SIGTERM to every process of the service, drains: however many of the processes
// it reaches, and whoever passes it on.
func TestASignalToTheWholeGroupIsOne(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		bothWays(t, func(t *testing.T, _ bool, flag string) {
			s := grouped(t, flag)
			busy := asking(t, s, "busy", time.Second)
			for range 2 { // as if a shell had passed it on
				if err := syscall.Kill(-s.PID(), sig); err != nil {
					t.Fatal(err)
				}
			}
			if err := busy.receive("busy", 1000); err != nil && !errors.Is(err, errLast) {
				t.Errorf("the answer under way, after %v: %v", sig, err)
			}
			if code := s.Exit(); code != 0 {
				t.Errorf("it ended with %d\n%s", code, s.Log)
			}
		})
	}
}

// The keeper has got the signal, too; it still succeeds, and ends what its predecessor had begun to.
func TestTheSidecarIsKilledWhileItDrains(t *testing.T) {
	s := grouped(t, "--supervise")
	busy := asking(t, s, "busy", 2*time.Second)
	pid := serving(t, s, true)
	_ = syscall.Kill(-s.PID(), syscall.SIGTERM)
	processes.Eventually(t, "it drains", func() bool { return s.Log.Lines("draining") > 0 })
	_ = syscall.Kill(pid, syscall.SIGKILL)
	if err := busy.receive("busy", 1000); err != nil && !errors.Is(err, errLast) {
		t.Errorf("the answer under way: %v", err)
	}
	if code := s.Exit(); code != 0 || s.Log.Lines("going on where another process has ended") != 1 {
		t.Errorf("it ended with %d\n%s", code, s.Log)
	}
}

// grouped starts a sidecar in a process group of its own, with a host.
func grouped(t *testing.T, flag string) *processes.Sidecar {
	t.Helper()
	cmd := exec.Command(processes.Binary(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := processes.ServeWith(t, t.TempDir(), cmd, "--listen", "tcp://127.0.0.1:0", flag)
	aHost(t, s, "one")
	s.Hosts(1)
	return s
}

// A host that is asked to end finishes what it has; its clients go on with the next host, on the same connections.
func TestAHostDrains(t *testing.T) {
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	h := aHost(t, s, "old")
	s.Hosts(1)
	busy := asking(t, s, "busy", 500*time.Millisecond)
	h.Signal(syscall.SIGTERM)
	if err := busy.receive("busy", 1000); err != nil {
		t.Fatal(err)
	}
	if code := h.Exit(); code != 0 {
		t.Errorf("the host ended with %d", code)
	}
	aHost(t, s, "new")
	if err := busy.ask("again", 1000, 0); err != nil {
		t.Error(err)
	}
}

// A sidecar that is killed loses its clients, not its hosts: they finish, and attach to the next one.
func TestTheSidecarIsKilled(t *testing.T) {
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	h := aHost(t, s, "one")
	s.Hosts(1)
	busy := asking(t, s, "busy", 300*time.Millisecond)
	s.Signal(syscall.SIGKILL)
	s.Exit()
	if err := busy.receive("busy", 1000); err != nil && !errors.Is(err, errLast) {
		t.Errorf("the answer under way: %v", err)
	}
	if _, err := os.Lstat(s.Handoff()); err != nil {
		t.Fatalf("nothing stale is left, so the test shows nothing: %v", err)
	}
	next := serveAgain(t, s)
	next.Hosts(1)
	if err := mustDial(t, next.Web[0]).ask("new", 10, 0); err != nil {
		t.Error(err)
	}
	select {
	case <-h.Gone:
		t.Error("the host has ended")
	default:
	}
}

// The supervisor is killed: the sidecar and its keeper go on, over the sidecar's own death too.
func TestTheSupervisorIsKilled(t *testing.T) {
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0", "--supervise")
	aHost(t, s, "one")
	s.Hosts(1)
	clients := passBy(t, s)
	pid := serving(t, s, true)
	heir := keeperOf(pid)
	t.Cleanup(func() { _ = syscall.Kill(heir, syscall.SIGTERM) })
	s.Signal(syscall.SIGKILL)
	processes.Eventually(t, "it is gone", func() bool { return syscall.Kill(s.PID(), 0) != nil })
	clients.idle.mustAsk(t, "orphaned")
	_ = syscall.Kill(pid, syscall.SIGKILL)
	clients.after(t)
}
