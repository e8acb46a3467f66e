package process

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sidecar is a running bin/anteroom serve, with all its sockets in a directory of its own.
type sidecar struct {
	*process
	dir string
	web []string // where clients connect
}

func (s *sidecar) handoff() string { return filepath.Join(s.dir, "handoff.sock") }
func (s *sidecar) control() string { return filepath.Join(s.dir, "control.sock") }

// serve starts a sidecar and waits until it serves.
func serve(t testing.TB, flags ...string) *sidecar {
	t.Helper()
	return serveWith(t, t.TempDir(), exec.Command(binary(t)), flags...)
}

// serveWith starts it in a directory, by a command that may be more than the binary.
func serveWith(t testing.TB, dir string, cmd *exec.Cmd, flags ...string) *sidecar {
	t.Helper()
	s := launch(t, dir, cmd, flags...)
	eventually(t, "the sidecar has started", func() bool {
		select {
		case <-s.gone:
			t.Fatalf("the sidecar has ended with %d:\n%s", s.cmd.ProcessState.ExitCode(), s.log)
		default:
		}
		return s.log.lines("sidecar: started") == 1
	})
	for _, l := range s.counts().Listeners {
		s.web = append(s.web, strings.TrimPrefix(l.Address, "tcp://"))
	}
	return s
}

// launch starts it and does not wait.
func launch(t testing.TB, dir string, cmd *exec.Cmd, flags ...string) *sidecar {
	t.Helper()
	s := &sidecar{dir: dir}
	cmd.Args = append(cmd.Args, "serve", "--handoff", s.handoff(), "--control", s.control())
	cmd.Args = append(cmd.Args, flags...)
	s.process = start(t, "the sidecar", cmd)
	return s
}

// counts is what anteroom status --json shows, as far as the tests look at it.
type counts struct {
	States    states
	Listeners []struct {
		Address string
		Paused  bool
	}
	Hosts []struct {
		Name   string
		Leased int
	}
	Totals struct {
		Accepted     uint64 `json:",string"`
		Requests     uint64 `json:",string"`
		HostsRefused uint64 `json:",string"`
		AcceptPauses uint64 `json:",string"`
	}
}

type states struct{ Idle, Ready, Leased, Finishing, Closing int }

func (s *sidecar) counts() counts {
	s.t.Helper()
	out, err := exec.Command(binary(s.t), "status", "--json", "--control", s.control()).CombinedOutput()
	if err != nil {
		s.t.Fatalf("anteroom status: %v\n%s", err, out)
	}
	var answer struct{ Counts counts }
	if err := json.Unmarshal(out, &answer); err != nil {
		s.t.Fatalf("anteroom status: %v\n%s", err, out)
	}
	return answer.Counts
}

// hosts waits until so many are attached.
func (s *sidecar) hosts(n int) {
	s.t.Helper()
	eventually(s.t, "the hosts are attached", func() bool { return len(s.counts().Hosts) == n })
}
