package process

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
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what has to happen; it passes in full only where a test fails.
const patience = 20 * time.Second

// process is one that a test has started. It is killed at the end of the test, if it is still there.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner // its standard output
	log  *journal       // its standard error
	gone chan struct{}  // closed when it has ended
}

func start(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, log: &journal{}, gone: make(chan struct{})}
	cmd.Stderr = p.log
	cmd.WaitDelay = patience
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe() // not StdoutPipe, which Wait closes before all is read
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out, cmd.Stdout = in, bufio.NewScanner(read), write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = write.Close()
	go func() {
		_ = cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.gone
		_ = read.Close()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.log.tail(40))
		}
	})
	return p
}

// as starts this test binary in a role.
func as(t testing.TB, what string, environment ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), append(environment, role+"="+what)...)
	return start(t, what, cmd)
}

// line returns the next line of its standard output.
func (p *process) line() string {
	p.t.Helper()
	if !p.out.Scan() {
		<-p.gone
		p.t.Fatalf("%s has nothing to say: %v\n%s", p.name, p.out.Err(), p.log.tail(20))
	}
	return p.out.Text()
}

// wants reads a line that must be there.
func (p *process) wants(want string) {
	p.t.Helper()
	if got := p.line(); got != want {
		p.t.Fatalf("%s says %q, want %q", p.name, got, want)
	}
}

func (p *process) says(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, text+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// exit waits for its end and returns its exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended within %v\n%s", p.name, patience, p.log.tail(20))
	}
	return p.cmd.ProcessState.ExitCode()
}

// cpu is how much processor time it has used (proc(5), stat: utime and stime, in ticks of 10 ms).
func (p *process) cpu() time.Duration {
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

// status reads a number of /proc/PID/status, such as VmRSS (kB).
func (p *process) status(key string) int {
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

// journal keeps what a process says on its standard error.
type journal struct {
	mu   sync.Mutex
	text []byte // mu
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, b...)
	return len(b), nil
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return string(j.text)
}

// lines is how many lines hold all of the texts.
func (j *journal) lines(texts ...string) int {
	n := 0
	for line := range strings.Lines(j.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

func (j *journal) tail(n int) string {
	lines := slices.Collect(strings.Lines(j.String()))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// eventually waits for a condition that others bring about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// binary is what make build has built.
func binary(t testing.TB) string {
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

// needRoot: some things only root can show.
func needRoot(t testing.TB) {
	t.Helper()
	if unix.Geteuid() != 0 {
		t.Skip("starting a process as another user needs root")
	}
}
