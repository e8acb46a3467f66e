package manager

import (
	"os"
	"testing"
	"time"
)

// TestMain has the runtime's poller open its descriptors, which it does with the first timer, before a
// test counts those that are open.
func TestMain(m *testing.M) {
	time.Sleep(time.Nanosecond)
	os.Exit(m.Run())
}
