// Package processes starts what the end-to-end tests run, sees how it goes, and sees it to its end. make build comes first.
package processes

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Patience is for what has to happen; it passes in full only where a test fails.
const Patience = 20 * time.Second

// Process is one that a test has started. It is killed at the end of the test, if it is still there.
type Process struct {
	Log  *Journal       // its standard error
	Gone chan struct{}  // closed when it has ended
	In   io.WriteCloser // its standard input
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  *bufio.Scanner // its standard output
}

// Start starts a process. One that leads a group of its own (Setpgid) is killed with the whole group. Should the test itself be killed, it is told to
// end.
func Start(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, name: name, cmd: cmd, Log: &Journal{}, Gone: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGTERM
	cmd.Stderr = p.Log
	cmd.WaitDelay = Patience
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe() // not StdoutPipe, which Wait closes before all is read
	if err != nil {
		t.Fatal(err)
	}
	p.In, p.out, cmd.Stdout = in, bufio.NewScanner(read), write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	go func() {
		_ = cmd.Wait()
		close(p.Gone)
	}()
	t.Cleanup(func() {
		p.kill()
		<-p.Gone
		_ = read.Close()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.Log.Tail(40))
		}
	})
	return p
}

func (p *Process) kill() {
	if p.cmd.SysProcAttr.Setpgid {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
	} else {
		_ = p.cmd.Process.Kill()
	}
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Line returns the next line of its standard output.
func (p *Process) Line() string {
	p.t.Helper()
	if !p.out.Scan() {
		<-p.Gone
		p.t.Fatalf("%s has nothing to say: %v\n%s", p.name, p.out.Err(), p.Log.Tail(20))
	}
	return p.out.Text()
}

// Wants reads a line that must be there.
func (p *Process) Wants(want string) {
	p.t.Helper()
	if got := p.Line(); got != want {
		p.t.Fatalf("%s says %q, want %q", p.name, got, want)
	}
}

// Says writes a line to its standard input.
func (p *Process) Says(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.In, text+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// Signal sends it a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// SignalIfThere sends it a signal, unless it has ended.
func (p *Process) SignalIfThere(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// Terminate has it end, if it is still there, and waits for that.
func (p *Process) Terminate() {
	_ = p.cmd.Process.Signal(unix.SIGTERM)
	<-p.Gone
}

// Exit waits for its end and returns its exit code.
func (p *Process) Exit() int {
	p.t.Helper()
	select {
	case <-p.Gone:
	case <-time.After(Patience):
		p.t.Fatalf("%s has not ended within %v\n%s", p.name, Patience, p.Log.Tail(20))
	}
	return p.cmd.ProcessState.ExitCode()
}

// CPU is how much processor time it has used (proc(5), stat: utime and stime, in ticks of 10 ms).
func (p *Process) CPU() time.Duration {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, fields, _ := strings.Cut(string(text), ") ")
	var user, system int64
	if _, err := fmt.Sscanf(strings.Join(strings.Fields(fields)[11:13], " "), "%d %d", &user, &system); err != nil {
		p.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Status reads a number of /proc/PID/status, such as VmRSS (kB).
func (p *Process) Status(key string) int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), key+":")
	n := 0
	if _, err := fmt.Sscan(rest, &n); err != nil {
		p.t.Fatalf("%s: %v", key, err)
	}
	return n
}

// Journal keeps what a process says on its standard error.
type Journal struct {
	mu   sync.Mutex
	text []byte // mu
}

func (j *Journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, b...)
	return len(b), nil
}

func (j *Journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.text)
}

// Lines is how many lines hold all of the texts.
func (j *Journal) Lines(texts ...string) int {
	n := 0
	for line := range strings.Lines(j.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// Tail is the last lines.
func (j *Journal) Tail(n int) string {
	lines := slices.Collect(strings.Lines(j.String()))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// Eventually waits for a condition that others bring about.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	Within(t, Patience, what, is)
}

// Within is Eventually for what may take another time.
func Within(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Binary is what make build has built.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/anteroom")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		t.Fatal("bin/anteroom is not there: run make build first")
	}
	return path
}
