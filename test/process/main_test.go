// Package process tests the sidecar from outside: bin/anteroom, hosts and clients are processes of their own, which can be killed. make build
// comes first.
package process

import (
	"fmt"
	"os"
	"testing"
)

// role is the environment variable that makes this test binary something else: a host, or clients.
const role = "ANTEROOM_TEST_ROLE"

var roles = map[string]func() error{
	"host":     beHost,
	"clients":  beClients,
	"stranger": beStranger,
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
