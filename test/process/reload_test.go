package process

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// configured starts a sidecar whose listeners and limits stand in a file, with a host.
func configured(t *testing.T, flag, text string) (s *processes.Sidecar, file string) {
	t.Helper()
	dir := t.TempDir()
	file = filepath.Join(dir, "anteroom.yaml")
	put(t, file, text)
	s = processes.ServeWith(t, dir, exec.Command(processes.Binary(t)), "--config", file, "--keep-alive-timeout", "1h", flag)
	t.Cleanup(func() { s.Terminate() })
	aHost(t, s, "host")
	s.Hosts(1)
	return s, file
}

func anteroom(t *testing.T, s *processes.Sidecar, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(processes.Binary(t), append(args, "--control", s.Control())...).CombinedOutput()
	return string(out), err
}

func must(t *testing.T, s *processes.Sidecar, args ...string) string {
	t.Helper()
	out, err := anteroom(t, s, args...)
	if err != nil {
		t.Fatalf("anteroom %v: %v\n%s", args, err, out)
	}
	return out
}

// limitIs compares a limit in force.
func limitIs(t *testing.T, s *processes.Sidecar, key, want string) {
	t.Helper()
	for line := range strings.Lines(must(t, s, "limits")) {
		if fields := strings.Fields(line); fields[0] == key && fields[1] != want {
			t.Errorf("%s is %s, want %s", key, fields[1], want)
		}
	}
}

// reloaded ends an unsupervised sidecar's successor with the test.
func reloaded(t *testing.T, out string) {
	t.Helper()
	var pid int
	at := strings.Index(out, "process ")
	if n, _ := fmt.Sscanf(out[max(at, 0):], "process %d serves now", &pid); n != 1 {
		t.Fatalf("the reload says %q", out)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
}

// A reload takes up what has changed in the file. Connections go on, idle or leased, also those of
// a listener that is not there any more; limits set at run time stay, unless the file has changed
// them.
func TestReload(t *testing.T) {
	bothWays(t, func(t *testing.T, _ bool, flag string) {
		stays, goes, comes := freeAddress(t), freeAddress(t), freeAddress(t)
		path := filepath.Join(t.TempDir(), "goes.sock")
		s, file := configured(t, flag, fmt.Sprintf("listen: [\"tcp://%s\", \"tcp://%s\", \"unix://%s\"]\nmax-hosts: 10\n", stays, goes, path))
		must(t, s, "limits", "--set", "max-queue=77", "--set", "max-hosts=30")
		clients := passers{mustDial(t, stays), mustDial(t, stays)}
		clients.idle.mustAsk(t, "before")
		orphan := mustDial(t, goes)
		orphan.mustAsk(t, "before")
		if err := clients.waiting.send("waiting", 1000, time.Second); err != nil {
			t.Fatal(err)
		}
		processes.Eventually(t, "its request is with the host", func() bool { return s.Counts().States.Leased == 1 })

		put(t, file, fmt.Sprintf("listen: [\"tcp://%s\", \"tcp://%s\"]\nmax-hosts: 20\n", stays, comes))
		out := must(t, s, "reload")
		reloaded(t, out)
		for _, want := range []string{"listen: ", "max-hosts: 20 (before: 30)"} {
			if !strings.Contains(out, want) {
				t.Errorf("%q is missing in %q", want, out)
			}
		}
		clients.after(t)
		orphan.mustAsk(t, "after")
		mustDial(t, comes).mustAsk(t, "new")
		processes.Eventually(t, "the old address refuses", func() bool {
			c, err := net.Dial("tcp", goes)
			if err == nil {
				_ = c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of the Unix listener is left behind: %v", err)
		}
		limitIs(t, s, "max-queue", "77")
		limitIs(t, s, "max-hosts", "20")
		out = must(t, s, "reload")
		reloaded(t, out)
		if !strings.HasPrefix(out, "no setting has changed\n") {
			t.Errorf("a reload of the same file says %q", out)
		}
	})
}

func TestSIGHUPReloads(t *testing.T) {
	bothWays(t, func(t *testing.T, supervised bool, flag string) {
		s, file := configured(t, flag, "listen: tcp://127.0.0.1:0\nmax-hosts: 10\n")
		c := mustDial(t, s.Web[0])
		c.mustAsk(t, "before")
		put(t, file, "listen: tcp://127.0.0.1:0\nmax-hosts: 20\n")
		old := serving(t, s, supervised)
		s.Signal(syscall.SIGHUP)
		processes.Eventually(t, "the old process has left", func() bool { return syscall.Kill(old, 0) != nil })
		c.mustAsk(t, "after")
		limitIs(t, s, "max-hosts", "20")
		if n := s.Log.Lines("a setting changes", "max-hosts", "before=10", "now=20"); n != 1 {
			t.Errorf("%d lines about the change, want one\n%s", n, s.Log)
		}
		if n := s.Log.Lines("has died"); n != 0 {
			t.Errorf("a reload is logged as a death\n%s", s.Log)
		}
		if !supervised {
			var pid int
			_, line, _ := strings.Cut(s.Log.String(), "successor=")
			_, _ = fmt.Sscanf(line, "%d", &pid)
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	})
}

// A file with a mistake, or with what cannot be opened, changes nothing, and says why; nor does it
// keep a successor from taking over after kill -9.
func TestReloadsThatFail(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name, text, says string
		status           int // as docs/cli.md says
	}{
		{"mistake", "listen: tcp://127.0.0.1:0\nmax-hots: 20\n", "did you mean max-hosts", 2},
		{"no YAML", "listen: [", "is not YAML", 2},
		{"address in use", "listen: [\"tcp://127.0.0.1:0\", \"tcp://" + taken.Addr().String() + "\"]\nmax-hosts: 20\n", "address in use", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, file := configured(t, "--supervise", "listen: tcp://127.0.0.1:0\nmax-hosts: 10\n")
			clients := passBy(t, s)
			put(t, file, c.text)
			pid := serving(t, s, true)
			out, err := anteroom(t, s, "reload")
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != c.status || !strings.Contains(out, c.says) {
				t.Errorf("%v: %q; want %d and %q", err, out, c.status, c.says)
			}
			if !strings.HasPrefix(out, "anteroom: the reload was given up, nothing has changed: ") || strings.Contains(out, "\n:") {
				t.Errorf("%q", out)
			}
			if serving(t, s, true) != pid {
				t.Error("the process was replaced")
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			clients.after(t)
			limitIs(t, s, "max-hosts", "10")
			if n := s.Log.Lines("[WARN]", "the sidecar's process has died", fmt.Sprintf("died=%d", pid)); n != 1 {
				t.Errorf("%d lines about the death, want one\n%s", n, s.Log)
			}
		})
	}
}
