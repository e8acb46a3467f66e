package hosttest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// BinaryVariable names the environment variable with the path of a real sidecar's binary, which Launch then runs instead of a Sidecar.
const BinaryVariable = "ANTEROOM_TEST_BINARY"

// Launch runs a real sidecar if BinaryVariable names one, else a Sidecar, until the test ends. It has no listeners of its own, and agrees to every
// feature.
func Launch(t testing.TB) Running {
	t.Helper()
	binary := os.Getenv(BinaryVariable)
	if binary == "" {
		s := Start(t)
		s.AgreeToFinish()
		return s
	}
	dir, err := os.MkdirTemp("", "sidecar") //nolint:usetesting // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, binary: binary, dir: dir}
	p.Restart()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the sidecar's log:\n%s", p.log.Bytes())
		}
		_ = os.RemoveAll(dir)
	})
	return p
}

// process is a sidecar in a process of its own.
type process struct {
	t      testing.TB
	binary string
	dir    string
	cmd    *exec.Cmd
	log    bytes.Buffer
}

// Path is where hosts attach.
func (p *process) Path() string { return filepath.Join(p.dir, "handoff.sock") }

// Restart starts the process and waits until it listens.
func (p *process) Restart() {
	p.t.Helper()
	p.cmd = exec.Command(p.binary, "serve", "--handoff", p.Path(), "--control", "unix://"+filepath.Join(p.dir, "control.sock"))
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for until := time.Now().Add(startTime); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", p.Path())
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(until) {
			p.t.Fatalf("%s does not listen %v after its start: %v", p.binary, startTime, err)
		}
	}
}

// startTime is how long a sidecar may take to start.
const startTime = 10 * time.Second

// Kill is SIGKILL.
func (p *process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
}
