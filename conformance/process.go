package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// process is the program under test, in a process group of its own.
type process struct {
	cmd    *exec.Cmd
	out    *os.File // standard error
	stdout *os.File
	ended  chan struct{}
	state  *os.ProcessState // once ended
	result string           // the same in words
}

// start runs the program as a host of the sidecar at socket. It is told of a pool unless that is empty.
func start(ctx context.Context, o *Options, dir, socket, pool string) (*process, error) {
	out, err := os.CreateTemp(dir, "output")
	if err != nil {
		return nil, err
	}
	stdout, err := os.CreateTemp(dir, "stdout")
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	p := &process{out: out, stdout: stdout, ended: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, o.Command[0], o.Command[1:]...)
	p.cmd.Env = environment(o, socket, pool)
	p.cmd.Stdout, p.cmd.Stderr = stdout, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Cancel = func() error { return unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL) }
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", strings.Join(o.Command, " "), err), out.Close(), stdout.Close())
	}
	go p.await()
	return p, nil
}

func environment(o *Options, socket, pool string) []string {
	env := slices.DeleteFunc(os.Environ(), func(each string) bool { return strings.HasPrefix(each, poolVariable) })
	if pool != "" {
		env = append(env, poolVariable+pool)
	}
	return append(env, handoff.PathVariable+"="+socket, "ANTEROOM_NAME="+hostName, "ANTEROOM_CAPACITY="+strconv.Itoa(o.Capacity))
}

const poolVariable = "ANTEROOM_POOL="

// What the program is called by its environment.
const (
	poolName = "conformance"
	hostName = "kit:host-1"
)

func (p *process) await() {
	err := p.cmd.Wait()
	p.state, p.result = p.cmd.ProcessState, "exit status 0"
	if err != nil {
		p.result = err.Error()
	}
	close(p.ended)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the program and everything it has started.
func (p *process) kill() {
	others := family(p.pid())
	_ = unix.Kill(-p.pid(), unix.SIGKILL)
	for _, pid := range others {
		if pid != p.pid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	select {
	case <-p.ended:
	case <-time.After(killTime):
	}
	for _, f := range []*os.File{p.out, p.stdout} {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
}

// killTime is how long the kernel may take to end a killed process.
const killTime = 10 * time.Second

// mark is a place in the output.
func (p *process) mark() int64 { return size(p.out) }

func size(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// outputSince is the end of what was printed since mark.
func (p *process) outputSince(mark int64) string {
	end := p.mark()
	mark = max(mark, end-maxOutput)
	text := make([]byte, max(end-mark, 0))
	n, _ := p.out.ReadAt(text, mark)
	return string(text[:n])
}

// maxOutput is how much of a program's output is shown, in bytes.
const maxOutput = 16 << 10

// tempDir is a private folder, with a name short enough for a socket's path.
func tempDir() (dir, socket string, err error) {
	dir, err = os.MkdirTemp("", "anteroom-kit-")
	return dir, filepath.Join(dir, "handoff.sock"), err
}
