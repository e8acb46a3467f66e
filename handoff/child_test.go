package handoff

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Some facts need a process of their own: one with a small descriptor table, or one without root's privileges. Such a test runs its own
// test binary again, for this one test.

// childKind is the process that a test needs.
type childKind string

const (
	childFullTable    childKind = "a process that may lower its limits"
	childUnprivileged childKind = "a process without privileges"
)

const childVariable = "HANDOFF_TEST_CHILD"

// inChild reports whether this is the process that the test needs. If not, it runs the test in one, whose result is the test's.
func inChild(t *testing.T, kind childKind) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run", "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	c.Env = append(os.Environ(), childVariable+"=1", "GORACE=atexit_sleep_ms=0", "GOCOVERDIR="+t.TempDir())
	c.Dir = "/"
	if kind == childUnprivileged && os.Getuid() == 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := c.CombinedOutput()
	t.Logf("child:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("child: %v", err)
	}
	return false
}

// fillDescriptorTable lowers the limit of open descriptors and opens as many as there may be.
func fillDescriptorTable(t *testing.T) []int {
	t.Helper()
	limitDescriptors(t, 64)
	var full []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			return full
		}
		if err != nil {
			t.Fatal(err)
		}
		full = append(full, fd)
	}
}

func limitDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}
