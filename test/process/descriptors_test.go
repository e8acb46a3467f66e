package process

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// The sidecar may open far fewer files than there are clients. Accepting pauses with one warning, nothing dies or spins, those who are in are
// served all the while, and when some go the others get in by themselves.
func TestOutOfDescriptors(t *testing.T) {
	const files, reserved, clients = 400, 104, 500
	s := processes.ServeWith(t, t.TempDir(), limited(t, files), "--listen", "tcp://127.0.0.1:0",
		"--max-connections", fmt.Sprint(files-reserved), "--keep-alive-timeout", "1h", "--first-byte-timeout", "1m")
	aHost(t, s, "one")
	s.Hosts(1)
	var in, waiting []*client
	for i := range clients {
		c := mustDial(t, s.Web[0])
		if err := c.send(name(i), 10, 0); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	processes.Eventually(t, "accepting pauses", func() bool { return s.Log.Lines("[WARN]", "accepting pauses") > 0 })
	for i := range clients { // in the order in which they came
		if err := waiting[0].receiveWithin(name(i), 10, time.Second); err != nil {
			break
		}
		in, waiting = append(in, waiting[0]), waiting[1:]
	}
	if len(in) < files/2 || len(in) >= files-reserved {
		t.Fatalf("%d clients are in", len(in))
	}
	late := aHost(t, s, "late") // waits as well

	used := s.CPU()
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if err := in[7].ask("still-here", 10, 0); err != nil {
			t.Fatal(err)
		}
	}
	if used = s.CPU() - used; used > 300*time.Millisecond {
		t.Errorf("the sidecar used %v in 1.5 s of waiting", used)
	}
	if n := s.Log.Lines("[WARN]", "accepting pauses"); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}

	for len(waiting) > 0 { // those who are in go, and the next come
		for _, c := range in {
			_ = c.Close()
		}
		in = nil
		for i := 0; i < files/2 && len(waiting) > 0; i++ {
			c := waiting[0]
			if err := c.receive(name(clients-len(waiting)), 10); err != nil {
				t.Fatal(err)
			}
			in, waiting = append(in, c), waiting[1:]
		}
	}
	processes.Eventually(t, "the other host is here", func() bool { return len(s.Counts().Hosts) == 2 })
	processes.Eventually(t, "the end of the pause is in the log", func() bool { return s.Log.Lines("accepting goes on") > 0 })
	select {
	case <-late.Gone:
		t.Error("the late host has ended")
	default:
	}
}

// limited is a command that starts the sidecar with a limit of open files.
func limited(t testing.TB, files int) *exec.Cmd {
	t.Helper()
	return exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), processes.Binary(t))
}

// Every descriptor is in use when the sidecar is killed, again and again: its successor has a
// reserve and goes on with every connection. An operator gets in all the while, also where
// connections to the control socket that say nothing are many; so does an upgrade.
func TestAKillWithEveryDescriptorInUse(t *testing.T) {
	const files, successors = 400, 40
	s := processes.ServeWith(t, t.TempDir(), limited(t, files), "--listen", "tcp://127.0.0.1:0", "--supervise",
		"--max-connections", fmt.Sprint(files-104), "--keep-alive-timeout", "1h", "--first-byte-timeout", "1h")
	t.Cleanup(func() { s.Terminate() })
	aHost(t, s, "one")
	s.Hosts(1)
	in := fillTable(t, s, files)
	s.Counts() // an operator gets in
	for generation := range 4 {
		silent := fillControl(t, s)
		pid := serving(t, s, true)
		if generation == 3 {
			s.Signal(syscall.SIGUSR2)
		} else if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for i, c := range in {
			if err := c.ask(name(i), 10, 0); err != nil {
				t.Fatalf("generation %d, client %d: %v", generation, i, err)
			}
		}
		processes.Eventually(t, "another process serves", func() bool { return serving(t, s, true) != pid })
		if n := reserveInUse(t, serving(t, s, true), files-successors); n > successors/2 {
			t.Errorf("generation %d: %d descriptors of the reserve of %d are in use, half of it may be", generation, n, successors)
		}
		for _, c := range silent {
			_ = c.Close()
		}
	}
	if n := s.Log.Lines("starting anew"); n != 0 {
		t.Errorf("connections were lost\n%s", s.Log.Tail(40))
	}
}

// fillTable connects clients until no more are accepted.
func fillTable(t *testing.T, s *processes.Sidecar, most int) (in []*client) {
	t.Helper()
	for len(in) < most && s.Log.Lines("accepting pauses") == 0 {
		c := mustDial(t, s.Web[0])
		if err := c.send("first", 10, 0); err != nil {
			t.Fatal(err)
		}
		if err := c.receiveWithin("first", 10, time.Second); err != nil {
			break
		}
		in = append(in, c)
	}
	processes.Eventually(t, "accepting pauses", func() bool { return s.Log.Lines("accepting pauses") > 0 })
	return in
}

// fillControl connects to the control socket until the sidecar has no descriptor left for that, and
// says nothing there.
func fillControl(t *testing.T, s *processes.Sidecar) (silent []net.Conn) {
	t.Helper()
	for range 60 {
		c, err := net.DialTimeout("unix", s.Control(), processes.Patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		silent = append(silent, c)
	}
	return silent
}

// reserveInUse counts a process's descriptors from a number on.
func reserveInUse(t *testing.T, pid, from int) (n int) {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= from {
			n++
		}
	}
	return n
}

func name(i int) string { return fmt.Sprintf("client-%d", i) }

// receiveWithin gives up early; a connection given up on can still get its answer.
func (c *client) receiveWithin(word string, size int, wait time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	if _, err := c.in.Peek(1); err != nil {
		_ = c.SetReadDeadline(time.Now().Add(processes.Patience))
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(processes.Patience))
	return c.receive(word, size)
}
