package process

import (
	"testing"
	"time"
)

// Twelve thousand connections, nearly all idle, from several processes: they cost the sidecar little memory and no time, and the host nothing, and
// each of them still works.
func TestThousandsOfIdleConnections(t *testing.T) {
	const processes, each = 3, 4000
	s := serve(t, "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--listen", "tcp://127.0.0.1:0", "--keep-alive-timeout", "1h")
	aHost(t, s, "one")
	s.hosts(1)
	before := s.status("VmRSS")
	var crowds []*process
	for i := range processes {
		crowds = append(crowds, someClients(t, s.web[i], each))
	}
	for _, c := range crowds {
		c.wants("ready")
	}
	if c := s.counts(); c.States != (states{Idle: processes * each}) || c.Totals.Accepted != processes*each || c.Totals.Requests != processes*each {
		t.Errorf("counts: %+v", c)
	}
	if grown := s.status("VmRSS") - before; grown > 16<<10 {
		t.Errorf("the sidecar has grown by %d kB", grown)
	}
	used := s.cpu()
	time.Sleep(500 * time.Millisecond)
	if used = s.cpu() - used; used > 50*time.Millisecond {
		t.Errorf("the sidecar used %v in half a second in which nothing happened", used)
	}
	for _, c := range crowds {
		c.says("ask")
	}
	for _, c := range crowds {
		c.wants("asked 400")
	}
	for _, c := range crowds {
		if err := c.in.Close(); err != nil {
			t.Fatal(err)
		}
		if code := c.exit(); code != 0 {
			t.Errorf("clients ended with %d", code)
		}
	}
	eventually(t, "all have gone", func() bool { return s.counts().States == states{} })
}
