package processes

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Sidecar is a running bin/anteroom serve, with all its sockets in a directory of its own.
type Sidecar struct {
	*Process
	Dir string   // where its sockets are
	Web []string // where clients connect
}

// Handoff is the path of its handoff socket.
func (s *Sidecar) Handoff() string { return filepath.Join(s.Dir, "handoff.sock") }

// Control is the path of its control socket.
func (s *Sidecar) Control() string { return filepath.Join(s.Dir, "control.sock") }

// Serve starts a sidecar and waits until it serves.
func Serve(t testing.TB, flags ...string) *Sidecar {
	t.Helper()
	return ServeWith(t, t.TempDir(), exec.Command(Binary(t)), flags...)
}

// ServeWith starts it in a directory, by a command that may be more than the binary.
func ServeWith(t testing.TB, dir string, cmd *exec.Cmd, flags ...string) *Sidecar {
	t.Helper()
	s := Launch(t, dir, cmd, flags...)
	Eventually(t, "the sidecar has started", func() bool {
		select {
		case <-s.Gone:
			t.Fatalf("the sidecar has ended with %d:\n%s", s.cmd.ProcessState.ExitCode(), s.Log)
		default:
		}
		return s.Log.Lines("sidecar: started") == 1
	})
	for _, l := range s.Counts().Listeners {
		s.Web = append(s.Web, strings.TrimPrefix(l.Address, "tcp://"))
	}
	return s
}

// Launch starts it and does not wait.
func Launch(t testing.TB, dir string, cmd *exec.Cmd, flags ...string) *Sidecar {
	t.Helper()
	s := &Sidecar{Dir: dir}
	cmd.Args = append(cmd.Args, "serve", "--handoff", s.Handoff(), "--control", s.Control())
	cmd.Args = append(cmd.Args, flags...)
	s.Process = Start(t, "the sidecar", cmd)
	return s
}

// Counts is what anteroom status --json shows, as far as the tests look at it.
type Counts struct {
	States    States
	Listeners []struct {
		Address string
		Paused  bool
	}
	Hosts []struct {
		Name       string
		Capacity   int
		Leased     int
		Leases     uint64 `json:",string"`
		Violations uint64 `json:",string"`
	}
	Totals struct {
		Accepted     uint64 `json:",string"`
		Requests     uint64 `json:",string"`
		HostsRefused uint64 `json:",string"`
		AcceptPauses uint64 `json:",string"`
	}
}

// States is how many connections are in which state.
type States struct{ Idle, Ready, Leased, Finishing, Closing int }

// Counts asks for them.
func (s *Sidecar) Counts() Counts {
	s.t.Helper()
	out, err := exec.Command(Binary(s.t), "status", "--json", "--control", s.Control()).CombinedOutput()
	if err != nil {
		s.t.Fatalf("anteroom status: %v\n%s", err, out)
	}
	var answer struct{ Counts Counts }
	if err := json.Unmarshal(out, &answer); err != nil {
		s.t.Fatalf("anteroom status: %v\n%s", err, out)
	}
	return answer.Counts
}

// Hosts waits until so many are attached.
func (s *Sidecar) Hosts(n int) {
	s.t.Helper()
	Eventually(s.t, "the hosts are attached", func() bool { return len(s.Counts().Hosts) == n })
}
