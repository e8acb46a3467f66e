package process

import (
	"fmt"
	"os/exec"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// The sidecar may open far fewer files than there are clients. Accepting pauses with one warning, nothing dies or spins, those who are in are
// served all the while, and when some go the others get in by themselves.
func TestOutOfDescriptors(t *testing.T) {
	const files, clients = 96, 200
	shell := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), processes.Binary(t))
	s := processes.ServeWith(t, t.TempDir(), shell, "--listen", "tcp://127.0.0.1:0", "--max-connections", "1000", "--keep-alive-timeout", "1h", "--first-byte-timeout", "1m")
	aHost(t, s, "one")
	s.Hosts(1)
	var in, waiting []*client
	for i := range clients {
		c := mustDial(t, s.Web[0])
		if err := c.send(name(i), 10, 0); err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, c)
	}
	processes.Eventually(t, "accepting pauses", func() bool { return s.Log.Lines("[WARN]", "accepting pauses") > 0 })
	for i := range clients { // in the order in which they came
		if err := waiting[0].receiveWithin(name(i), 10, time.Second); err != nil {
			break
		}
		in, waiting = append(in, waiting[0]), waiting[1:]
	}
	if len(in) < files/2 || len(in) >= files {
		t.Fatalf("%d clients are in", len(in))
	}
	late := aHost(t, s, "late") // waits as well

	used := s.CPU()
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if err := in[7].ask("still-here", 10, 0); err != nil {
			t.Fatal(err)
		}
	}
	if used = s.CPU() - used; used > 300*time.Millisecond {
		t.Errorf("the sidecar used %v in 1.5 s of waiting", used)
	}
	if n := s.Log.Lines("[WARN]", "accepting pauses"); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}

	for len(waiting) > 0 { // those who are in go, and the next come
		for _, c := range in {
			_ = c.Close()
		}
		in = nil
		for i := 0; i < files/2 && len(waiting) > 0; i++ {
			c := waiting[0]
			if err := c.receive(name(clients-len(waiting)), 10); err != nil {
				t.Fatal(err)
			}
			in, waiting = append(in, c), waiting[1:]
		}
	}
	processes.Eventually(t, "the other host is here", func() bool { return len(s.Counts().Hosts) == 2 })
	processes.Eventually(t, "the end of the pause is in the log", func() bool { return s.Log.Lines("accepting goes on") > 0 })
	select {
	case <-late.Gone:
		t.Error("the late host has ended")
	default:
	}
}

func name(i int) string { return fmt.Sprintf("client-%d", i) }

// receiveWithin gives up early; a connection given up on can still get its answer.
func (c *client) receiveWithin(word string, size int, wait time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(wait))
	if _, err := c.in.Peek(1); err != nil {
		_ = c.SetReadDeadline(time.Now().Add(processes.Patience))
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(processes.Patience))
	return c.receive(word, size)
}
