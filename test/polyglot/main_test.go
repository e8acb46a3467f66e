// Package polyglot puts every server of every SDK behind the real sidecar, and has clients try the same things with each. make build comes first.
//
// A server is one entry of the list in servers_test.go. What came of it is written to bin/polyglot.md, a table.
package polyglot

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// root is the repository's, as seen from this folder: go test runs a test in its package's folder.
const root = "../.."

func TestMain(m *testing.M) {
	// What a server's processes leave behind becomes ours, so that it is seen and reaped.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, os.NewSyscallError("prctl", err))
		os.Exit(1)
	}
	code := m.Run()
	if err := results.write(root + "/bin/polyglot.md"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
