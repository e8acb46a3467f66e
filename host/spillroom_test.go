package host

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

func TestTheRoomForWhatIsPutAside(t *testing.T) {
	r := &spillRoom{response: 10, total: 25}
	for i, step := range []struct {
		has  int64
		more int
		want bool
	}{{0, 10, true}, {5, 6, false}, {5, 5, true}, {0, 10, true}, {0, 1, false}} {
		if got := r.take(step.has, step.more); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
	r.give(10)
	if !r.take(0, 10) || r.taken != 25 {
		t.Errorf("%d bytes are taken, want 25", r.taken)
	}
}

// TestARestCountsUntilTheNextLease: this host's memory is in use until the sidecar has sent the rest, which the next lease or a FORGET shows.
func TestARestCountsUntilTheNextLease(t *testing.T) {
	for _, shows := range []handoff.Type{handoff.TypeLease, handoff.TypeForget} {
		h, p := attachPeer(t)
		p.lease(1)
		l, err := h.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fill(t, l.FD())
		c := &conn{socket: l.c.sock, c: l.c, lease: l, kick: make(chan struct{}, 1)}
		if n, err := c.Write(make([]byte, 1000)); n != 1000 || err != nil {
			t.Fatal(n, err)
		}
		if kept, err := c.putOrFinish(1500 * time.Millisecond); !kept || err != nil {
			t.Fatal(kept, err)
		}
		f, fd := p.receiveFD()
		closeFD(fd)
		if how, fault := handoff.FinishOf(&f); fault != nil || how.KeepAliveTimeoutMS != 1500 {
			t.Errorf("%+v, %v: the connection should be kept for 1.5 s", how, fault)
		}
		if f.Type != handoff.TypeFinish || f.A != 0 || f.B != 1000 || h.roomTaken() != 1000 {
			t.Errorf("%+v, %d bytes are taken", f, h.roomTaken())
		}
		if shows == handoff.TypeLease {
			p.lease(2)
			if _, err := h.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			p.out.Add(&handoff.Frame{Type: handoff.TypeForget, Conn: 1, A: handoff.ForgetHungUp})
			if err := p.out.Flush(p.fd); err != nil {
				t.Fatal(err)
			}
		}
		for until := time.Now().Add(10 * time.Second); h.roomTaken() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("%d bytes are still taken after %s", h.roomTaken(), shows)
			}
		}
	}
}

func (h *Host) roomTaken() int64 {
	h.room.mu.Lock()
	defer h.room.mu.Unlock()
	return h.room.taken
}

// fill writes until the socket takes no more.
func fill(t testing.TB, fd int) {
	t.Helper()
	for {
		if _, err := unix.Write(fd, make([]byte, 64<<10)); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for {
		if _, err := unix.Write(fd, []byte{0}); err != nil {
			return
		}
	}
}

// TestAFileThatBecomesShorterEndsTheResponse: there is nothing else to send.
func TestAFileThatBecomesShorterEndsTheResponse(t *testing.T) {
	h, p := attachPeer(t)
	p.lease(1)
	l, err := h.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := newFileSpill(l.c.sock, file, 0, 100)
	defer s.close()
	<-s.done
	if _, _, err := s.stop(); !errors.Is(err, errShorter) {
		t.Errorf("%v, want %v", err, errShorter)
	}
	_ = l.Close(App)
}

// BenchmarkSpill is what it costs to put 64 KiB aside for a client that takes nothing, and to leave them to the sidecar.
func BenchmarkSpill(b *testing.B) {
	h, p := attachPeer(b)
	p.lease(1)
	l, err := h.Next(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	fill(b, l.FD())
	data := make([]byte, 64<<10)
	b.SetBytes(int64(len(data)))
	for seq := uint32(2); b.Loop(); seq++ {
		c := &conn{socket: l.c.sock, c: l.c, lease: l, kick: make(chan struct{}, 1)}
		if n, err := c.Write(data); n != len(data) || err != nil {
			b.Fatal(n, err)
		}
		if kept, err := c.putOrFinish(0); !kept || err != nil {
			b.Fatal(kept, err)
		}
		_, fd := p.receiveFD()
		closeFD(fd)
		p.lease(seq)
		if l, err = h.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
