package manager

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/internal/fusetest"
)

// options are what a host may change on the sockets that it shares with the loop.
var options = map[string]func(fd int, on bool){
	"O_NONBLOCK":  func(fd int, on bool) { _ = unix.SetNonblock(fd, on) },
	"SO_LINGER":   func(fd int, on bool) { _ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, lingers(on)) },
	"SO_RCVTIMEO": func(fd int, on bool) { setTimeout(fd, unix.SO_RCVTIMEO, on) },
	"SO_SNDTIMEO": func(fd int, on bool) { setTimeout(fd, unix.SO_SNDTIMEO, on) },
}

func lingers(on bool) *unix.Linger {
	if on {
		return &unix.Linger{Onoff: 1, Linger: 60}
	}
	return &unix.Linger{}
}

// setTimeout sets a minute, or none, which is for ever.
func setTimeout(fd, option int, on bool) {
	limit := unix.Timeval{}
	if on {
		limit.Sec = 60
	}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit)
}

// A host changes an option of the connection that it is lent, and of its listening socket, without
// a pause. It serves, ends connections whose client does not read, and lets the sidecar send; a
// bystander is served all the while.
func TestOptionsThatAHostChangesHoldUpNothing(t *testing.T) {
	for name, change := range options {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{LingerTimeout: time.Millisecond}})
			other := r.bystander()
			l := aListener(t)
			h := r.attach(handoff.Hello{Capacity: 64, Features: []string{handoff.FeatureFinish}})
			h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, l)
			h.want(handoff.TypeListening)
			shared := &shared{change: change}
			t.Cleanup(func() { shared.each(closeFD) }) // later than the toggling ends
			toggles(t, func(on bool) {
				change(l, on)
				shared.each(func(fd int) { change(fd, on) })
			})
			where := localAddress(t, l)
			for range 10 {
				h.endsUnread(r.dialAt(where), shared)
				other.works()
				h.finishesUnread(r.dialAt(where), shared)
				other.works()
			}
		})
	}
}

// shared are the sockets whose options change, each of them time and again.
type shared struct {
	change func(fd int, on bool)

	mu  sync.Mutex
	fds []int // mu
}

func (s *shared) add(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fds = append(s.fds, fd)
}

func (s *shared) each(do func(fd int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range s.fds {
		do(fd)
	}
}

// letGo closes the last one that was added, with its option set: what the sidecar has of it is the
// last descriptor then.
func (s *shared) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.fds) - 1
	s.change(s.fds[last], true)
	closeFD(s.fds[last])
	s.fds = s.fds[:last]
}

// endsUnread serves a client that does not read, and closes the connection.
func (h *peer) endsUnread(c *client, s *shared) {
	h.t.Helper()
	lease := h.stuffed(c, s)
	s.letGo()
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
}

// finishesUnread leaves a response to the sidecar, which the client does not read.
func (h *peer) finishesUnread(c *client, s *shared) {
	h.t.Helper()
	lease := h.stuffed(c, s)
	h.sendFD(finishFrame(lease, 0, 4<<20), memfd(h.t, make([]byte, 4<<20)))
}

// stuffed has a connection lent, whose options change from now on, and writes until the client's
// buffers are full.
func (h *peer) stuffed(c *client, s *shared) handoff.Frame {
	h.t.Helper()
	lease, fd := h.lent(c)
	s.add(fd)
	fill(h.t, fd)
	return lease
}

func localAddress(t *testing.T, l int) string {
	t.Helper()
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	return addressOf(at)
}

// A descriptor whose number is one of the reserve's is closed by a helper, too: its file system
// does not answer.
func TestARefusedDescriptorOfTheReserveHoldsUpNothing(t *testing.T) {
	fs := fusetest.Mount(t, fusetest.Flush)
	r := newRig(t, Config{})
	other := r.bystander()
	h := r.attach(handoff.Hello{})
	shared := r.descriptors.Shared
	r.share(0)
	file := fs.Open(t)
	h.sendFD(handoff.Frame{Type: handoff.TypeAdopt, Seq: 1}, file)
	go func() { _ = unix.Close(file) }()
	h.want(handoff.TypeDenied)
	r.share(shared)
	other.works()
	fs.Release()
}
