package manager

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// What a request costs. All of it happens on the thread of the test, over Unix sockets: the client's bytes arrive, the loop turns, the host's
// frame is there; the host puts, the loop turns, the connection is armed again.

// lane is one idle connection, its client, and its host.
type lane struct {
	r       *rig
	host    int // the host's end of its link
	client  int
	server  int // the sidecar's end of the connection: the test reads the request where a host would
	conn    uint64
	put     []byte // PUT, complete but for its seq
	scratch []byte
}

// newLane: with the feature cache, the host has the descriptor already.
func newLane(t testing.TB, features ...string) *lane {
	t.Helper()
	r := steppedRig(t, Config{})
	return laneOf(t, r, r.attachStepped(handoff.Hello{Features: features}))
}

func laneOf(t testing.TB, r *rig, h *peer) *lane {
	t.Helper()
	near, far := aPair(t, unix.SOCK_STREAM)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt}, near)
	r.turn()
	adopted, _ := h.want(handoff.TypeAdopted)
	server := int(r.policy.table.find(ConnID(adopted.Conn)).fd)
	l := &lane{r: r, host: h.sock, client: far, server: server, conn: adopted.Conn, scratch: make([]byte, 256)}
	l.put = wire(handoff.Frame{Type: handoff.TypePut, Conn: l.conn})
	return l
}

// request is one request's way. Reading a LEASE with read(2) lets the kernel drop its descriptor.
func (l *lane) request(t testing.TB) {
	l.move(t, l.client, l.put[:1], l.server) // one byte is a request
	l.move(t, -1, nil, l.host)
	copy(l.put[4:8], l.scratch[4:8]) // the lease's seq
	if n, err := unix.Write(l.host, l.put); n != len(l.put) || err != nil {
		t.Fatal(n, err)
	}
	if err := l.r.Manager.turn(0); err != nil {
		t.Fatal(err)
	}
}

// move writes, lets the loop turn, and reads.
func (l *lane) move(t testing.TB, to int, b []byte, from int) {
	if to >= 0 {
		if n, err := unix.Write(to, b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		if err := l.r.Manager.turn(0); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := unix.Read(from, l.scratch); n <= 0 || err != nil {
		t.Fatal(n, err)
	}
}

func TestARequestAllocatesNothing(t *testing.T) {
	for name, features := range map[string][]string{"the descriptor is sent": nil, "the host has it": {handoff.FeatureCache}} {
		t.Run(name, func(t *testing.T) {
			l := newLane(t, features...)
			for range 10 {
				l.request(t) // what grows once has grown
			}
			const runs = 200
			if n := testing.AllocsPerRun(runs, func() { l.request(t) }); n != 0 {
				t.Errorf("a request allocates %v times", n)
			}
			if c := l.r.counts(); c.Totals.Puts != 10+runs+1 || c.Totals.Stale != 0 || c.States.Idle != 1 {
				t.Errorf("counts: %+v", c)
			}
		})
	}
}

// TestAConnectionsSize: a million idle connections cost 64 MB here, and a bit each in the selector.
func TestAConnectionsSize(t *testing.T) {
	if size := unsafe.Sizeof(record{}); size > 64 {
		t.Errorf("a connection costs %d bytes", size)
	}
}

func BenchmarkTurn(b *testing.B) {
	for name, features := range map[string][]string{"descriptor": nil, "cache": {handoff.FeatureCache}} {
		b.Run(name, func(b *testing.B) {
			l := newLane(b, features...)
			b.ReportAllocs()
			for b.Loop() {
				l.request(b)
			}
		})
	}
}
