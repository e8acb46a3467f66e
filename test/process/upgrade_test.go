package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// replaceable starts a sidecar from a copy of the binary, which can be replaced.
func replaceable(t *testing.T, flags ...string) (s *processes.Sidecar, program string) {
	t.Helper()
	dir := t.TempDir()
	program = filepath.Join(dir, "anteroom")
	put(t, program, content(t, processes.Binary(t)))
	flags = append([]string{"--listen", "tcp://127.0.0.1:0", "--keep-alive-timeout", "1h", "--log-level", "debug"}, flags...)
	s = processes.ServeWith(t, dir, exec.Command(program), flags...)
	t.Cleanup(func() { // the supervisor, if there is one, would leave the others behind if it were killed
		s.Terminate()
	})
	aHost(t, s, "host")
	s.Hosts(1)
	return s, program
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// put makes a program, in the place of another if there is one, as a package manager does.
func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func upgrade(t *testing.T, s *processes.Sidecar) (string, error) {
	t.Helper()
	out, err := exec.Command(processes.Binary(t), "upgrade", "--control", s.Control()).CombinedOutput()
	return string(out), err
}

// passers are clients over a takeover: one is idle, one waits for its answer. after checks both.
type passers struct {
	idle, waiting *client
}

func passBy(t *testing.T, s *processes.Sidecar) passers {
	t.Helper()
	p := passers{mustDial(t, s.Web[0]), mustDial(t, s.Web[0])}
	if err := p.idle.ask("before", 10, 0); err != nil {
		t.Fatal(err)
	}
	if err := p.waiting.send("waiting", 1000, time.Second); err != nil {
		t.Fatal(err)
	}
	processes.Eventually(t, "its request is with the host", func() bool { return s.Counts().States.Leased == 1 })
	return p
}

func (p passers) after(t *testing.T) {
	t.Helper()
	if err := p.waiting.receive("waiting", 1000); err != nil {
		t.Errorf("who waited for an answer: %v", err)
	}
	for _, c := range []*client{p.idle, p.waiting} {
		if err := c.ask("after", 10, 0); err != nil {
			t.Errorf("the same connection, afterwards: %v", err)
		}
	}
}

func TestUpgrade(t *testing.T) {
	for _, supervise := range []string{"false", "true"} {
		t.Run("supervise="+supervise, func(t *testing.T) {
			s, program := replaceable(t, "--supervise="+supervise)
			clients := passBy(t, s)
			put(t, program, content(t, processes.Binary(t)))
			out, err := upgrade(t, s)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			pid, _ := strconv.Atoi(regexp.MustCompile(`process (\d+) serves now`).FindStringSubmatch(out)[1])
			clients.after(t)
			if supervise == "false" {
				_ = syscall.Kill(pid, syscall.SIGTERM) // nobody stands for the new one
			} else {
				s.Signal(syscall.SIGTERM)
			}
			if code := s.Exit(); code != 0 {
				t.Errorf("what was started first ended with %d", code)
			}
			processes.Eventually(t, "the new process has ended", func() bool { return syscall.Kill(pid, 0) != nil })
		})
	}
}

// A new program that cannot take over changes nothing, or, if it fails when it has begun to, is succeeded by the old one.
func TestUpgradesThatFail(t *testing.T) {
	const answersCheck = "#!/bin/sh\n[ \"$1\" = check ] && exit 0\n"
	for _, c := range []struct{ name, program, says string }{
		{"is no program", "nonsense", "exec format error"},
		{"refuses the configuration", "#!/bin/sh\necho no such key; exit 2\n", "no such key"},
		{"leaves a child behind", "#!/bin/sh\nsleep 1000 &\necho no such key; exit 2\n", "no such key"},
		{"ends", answersCheck + "exit 1\n", "it has ended"},
		{"is killed", answersCheck + "kill -9 $$\n", "it has ended"},
		{"hangs", answersCheck + "exec sleep 100\n", "it did not answer within"},
		{"takes over and ends", answersCheck + "fd=${ANTEROOM_OFFER%:*}; echo r >&$fd; exit 1\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, program := replaceable(t, "--supervise")
			clients := passBy(t, s)
			put(t, program, c.program)
			out, err := upgrade(t, s)
			if err == nil || !strings.Contains(out, c.says) {
				t.Errorf("%v: %s; want %q", err, out, c.says)
			}
			put(t, program, content(t, processes.Binary(t)))
			processes.Eventually(t, "a sidecar answers", func() bool {
				return exec.Command(processes.Binary(t), "healthcheck", "--control", s.Control()).Run() == nil
			})
			clients.after(t)
			if out, err := upgrade(t, s); err != nil {
				t.Errorf("the next upgrade: %v: %s", err, out)
			}
			clients.idle.mustAsk(t, "again")
			s.Signal(syscall.SIGTERM)
			if code := s.Exit(); code != 0 {
				t.Errorf("the supervisor ended with %d", code)
			}
		})
	}
}

func (c *client) mustAsk(t *testing.T, word string) {
	t.Helper()
	if err := c.ask(word, 10, 0); err != nil {
		t.Errorf("%s: %v", word, err)
	}
}

// The new process is killed when it has a keeper of its own: exactly one sidecar goes on, never that keeper and the old one's too.
func TestAnUpgradeWhoseNewProcessIsKilled(t *testing.T) {
	s, _ := replaceable(t, "--supervise")
	clients := passBy(t, s)
	old := sidecars(s.PID())
	s.Signal(syscall.SIGUSR2)
	killed := false
	for end := time.Now().Add(20 * time.Second); !killed && time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		for _, pid := range sidecars(s.PID()) {
			if !slices.Contains(old, pid) && slices.ContainsFunc(children(pid), isKeeper) {
				killed = syscall.Kill(pid, syscall.SIGKILL) == nil
			}
		}
	}
	if !killed {
		t.Fatal("no new process came")
	}
	time.Sleep(time.Second) // or who is alone now may not be for long
	processes.Eventually(t, "one sidecar goes on", func() bool { return len(sidecars(s.PID())) == 1 })
	clients.after(t)
}

// sidecars lists those descendants of a supervisor that are neither keepers nor helpers.
func sidecars(pid int) (all []int) {
	for _, c := range children(pid) {
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c)); err == nil && len(line) > 0 && !strings.HasPrefix(comm(c), "anteroom-") { // one that has ended has none
			all = append(all, c)
		}
		all = append(all, sidecars(c)...)
	}
	return all
}

func isKeeper(pid int) bool { return comm(pid) == "anteroom-keeper" }

// comm is what ps(1) calls a process, empty if it is not there.
func comm(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(text))
}

// keeperOf is a sidecar's keeper, 0 if it has none.
func keeperOf(pid int) int {
	for _, c := range children(pid) {
		if isKeeper(c) {
			return c
		}
	}
	return 0
}

// isHelper reports whether a process is one that a sidecar has for system calls that may block, or
// for what is left behind its death.
func isHelper(pid int) bool {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	name := strings.TrimSpace(string(comm))
	return err == nil && (name == "anteroom-helper" || name == "anteroom-closer")
}

// The keeper costs no descriptors and little memory, and closing a connection ends it though two processes hold it.
func TestTheKeepersCost(t *testing.T) {
	s, _ := replaceable(t, "--supervise")
	const clients = 1000
	all := make([]*client, clients)
	for i := range all {
		all[i] = mustDial(t, s.Web[0])
		all[i].mustAsk(t, name(i))
	}
	var sidecar, keeper int
	processes.Eventually(t, "there is a keeper", func() bool {
		sidecar = child(s.PID())
		keeper = keeperOf(sidecar)
		return keeper != 0
	})
	if private := privateMemory(t, keeper); private > 8<<20 {
		t.Errorf("the keeper has %d kB of memory of its own", private>>10)
	} else {
		t.Logf("with %d connections the keeper has %d kB of memory of its own, the sidecar %d kB", clients, private>>10, privateMemory(t, sidecar)>>10)
	}
	if out, err := exec.Command(processes.Binary(t), "close", "--all", "--control", s.Control()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, c := range all {
		if err := c.receive("", 0); !errors.Is(err, errEnded) {
			t.Fatalf("client %d: %v; want the end of its connection", i, err)
		}
	}
}

// child is a process's only child, 0 if there is none.
func child(pid int) int {
	if all := children(pid); len(all) == 1 {
		return all[0]
	}
	return 0
}

// children lists a process's children but helpers, whichever of its threads has made them (proc(5)).
func children(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			if child, _ := strconv.Atoi(field); !isHelper(child) {
				all = append(all, child)
			}
		}
	}
	return all
}

// privateMemory is what a process shares with nobody, in bytes (proc_pid_smaps(5)).
func privateMemory(t *testing.T, pid int) (bytes int) {
	t.Helper()
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(rollup), "\n") {
		var kB int
		if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &kB); err == nil {
			bytes += kB << 10
		} else if err == io.EOF {
			continue
		}
	}
	return bytes
}
