package polyglot

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/test/processes"
)

// stage is a sidecar with one server behind it.
type stage struct {
	t       testing.TB
	server  server
	sidecar *processes.Sidecar
	program *program // the server's, of now
	started int
}

// program is a running conformance app, whatever processes it is made of: they are a group of their own.
type program struct {
	*processes.Process
	name string // of its hosts
}

func newStage(t testing.TB, s server) *stage {
	t.Helper()
	st := &stage{t: t, server: s, sidecar: processes.Serve(t, "--listen", "tcp://127.0.0.1:0")}
	st.program = st.next()
	st.program.await(t, st.sidecar, capacity)
	return st
}

// next starts the server's program, once more if it runs already.
func (st *stage) next() *program {
	st.t.Helper()
	st.started++
	return st.server.start(st.t, st.sidecar, st.server.name+":"+strconv.Itoa(st.started), capacity)
}

// start starts the server's program, as hosts of that name. Capacity 0 is the program's own.
func (s server) start(t testing.TB, sidecar *processes.Sidecar, name string, capacity int) *program {
	t.Helper()
	cmd := s.command("exec "+s.program, "ANTEROOM_HANDOFF="+sidecar.Handoff(), "ANTEROOM_NAME="+name)
	if capacity > 0 {
		cmd.Env = append(cmd.Env, "ANTEROOM_CAPACITY="+strconv.Itoa(capacity))
	}
	return lead(t, name, cmd)
}

// lead starts a program as the leader of a group of its own, all of which is gone at the end of the test.
func lead(t testing.TB, name string, cmd *exec.Cmd) *program {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &program{name: name}
	t.Cleanup(func() { // after Start's own, which kills
		for p.Process != nil && !p.isReaped(0) {
		}
	})
	p.Process = processes.Start(t, name, cmd)
	return p
}

// isReaped reaps one process of the group, and says whether there was none any more. The leader must be gone.
func (p *program) isReaped(options int) bool {
	_, err := unix.Wait4(-p.PID(), nil, options, nil)
	return errors.Is(err, unix.ECHILD)
}

// leave tells a program to leave. It must do so properly, with all its processes.
func (p *program) leave(t testing.TB) {
	t.Helper()
	p.Signal(unix.SIGTERM)
	if code := p.Exit(); code != 0 {
		t.Errorf("%s has left with %d:\n%s", p.name, code, p.Log.Tail(40))
	}
	processes.Eventually(t, "all processes of "+p.name+" have ended", func() bool { return p.isReaped(unix.WNOHANG) })
}

// buildTime is for programs that build themselves when they are started for the first time.
const buildTime = 5 * time.Minute

// await waits until a program has attached with all that it takes.
func (p *program) await(t testing.TB, s *processes.Sidecar, leases int) {
	t.Helper()
	processes.Within(t, buildTime, p.name+" is attached", func() bool {
		p.mustRun(t)
		return p.attached(s) >= leases
	})
}

// attached is how many leases the program's hosts take.
func (p *program) attached(s *processes.Sidecar) (leases int) {
	for _, h := range s.Counts().Hosts {
		if strings.HasPrefix(h.Name, p.name) {
			leases += h.Capacity
		}
	}
	return leases
}

func (p *program) mustRun(t testing.TB) {
	t.Helper()
	if p.hasEnded() {
		t.Fatalf("%s has ended with %d:\n%s", p.name, p.Exit(), p.Log.Tail(40))
	}
}

func (p *program) hasEnded() bool {
	select {
	case <-p.Gone:
		return true
	default:
		return false
	}
}
