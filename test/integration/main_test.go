//go:build integration

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// root is the repository's, as seen from this folder: go test runs a test in its package's folder.
const root = "../.."

// interrupted ends at Ctrl-C, so that tests fail and take their projects down instead of leaving them behind.
var interrupted context.Context

func TestMain(m *testing.M) {
	if said, err := exec.Command(root + "/scripts/docker-engine").CombinedOutput(); err != nil {
		fmt.Fprint(os.Stderr, string(said))
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var stop context.CancelFunc
	interrupted, stop = signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM) //nolint:fatcontext // set once, before any test
	code := m.Run()
	stop()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
