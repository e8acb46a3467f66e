package host

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestDialErrorOfAProcessWithoutPermission(t *testing.T) {
	err := dialError("/h", os.NewSyscallError("connect", syscall.EACCES))
	for _, want := range []string{"at /h", "permission denied", "handoff-allow-uid", "handoff-allow-gid"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if !errors.Is(err, syscall.EACCES) {
		t.Errorf("%q does not wrap EACCES", err)
	}
}
