package process

import (
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// Twelve thousand connections, nearly all idle, from several processes: they cost the sidecar little memory and no time, and the host nothing, and
// each of them still works.
func TestThousandsOfIdleConnections(t *testing.T) {
	const crowd, each = 3, 4000
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--keep-alive-timeout", "1h")
	aHost(t, s, "one")
	s.Hosts(1)
	before := s.Status("VmRSS")
	var crowds []*processes.Process
	for i := range crowd {
		crowds = append(crowds, someClients(t, s.Web[i], each))
	}
	for _, c := range crowds {
		c.Wants("ready")
	}
	if c := s.Counts(); c.States != (processes.States{Idle: crowd * each}) || c.Totals.Accepted != crowd*each || c.Totals.Requests != crowd*each {
		t.Errorf("counts: %+v", c)
	}
	if grown := s.Status("VmRSS") - before; grown > 16<<10 {
		t.Errorf("the sidecar has grown by %d kB", grown)
	}
	used := s.CPU()
	time.Sleep(500 * time.Millisecond)
	if used = s.CPU() - used; used > 50*time.Millisecond {
		t.Errorf("the sidecar used %v in half a second in which nothing happened", used)
	}
	for _, c := range crowds {
		c.Says("ask")
	}
	for _, c := range crowds {
		c.Wants("asked 400")
	}
	for _, c := range crowds {
		if err := c.In.Close(); err != nil {
			t.Fatal(err)
		}
		if code := c.Exit(); code != 0 {
			t.Errorf("clients ended with %d", code)
		}
	}
	processes.Eventually(t, "all have gone", func() bool { return s.Counts().States == processes.States{} })
}
