package sidecar

import (
	"fmt"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// dialVariable makes this test binary a stranger: a process of another user who connects to the path and says what came of it.
const dialVariable = "ANTEROOM_TEST_DIAL"

func TestMain(m *testing.M) {
	if path := os.Getenv(dialVariable); path != "" {
		fmt.Println(dialResult(path))
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// dialResult is "refused" if the other side hangs up without a byte.
func dialResult(path string) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); n == 0 && err != nil {
		return "refused"
	}
	return "let in"
}
