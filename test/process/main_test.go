// Package process tests the sidecar from outside: bin/anteroom, hosts and clients are processes of their own, which can be killed. make build
// comes first.
package process

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/anteroom-io/anteroom/test/processes"
)

// role is the environment variable that makes this test binary something else: a host, or clients.
const role = "ANTEROOM_TEST_ROLE"

var roles = map[string]func() error{
	"host":     beHost,
	"clients":  beClients,
	"stranger": beStranger,
	"hostile":  beHostile,
}

func TestMain(m *testing.M) {
	be, known := roles[os.Getenv(role)]
	if !known {
		os.Exit(m.Run())
	}
	if err := be(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// as starts this test binary in a role.
func as(t testing.TB, what string, environment ...string) *processes.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), append(environment, role+"="+what)...)
	return processes.Start(t, what, cmd)
}
