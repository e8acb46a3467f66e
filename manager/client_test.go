package manager

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// What clients do to their connections.

func TestAClientThatGoesWhileIdle(t *testing.T) {
	for name, end := range map[string]func(*client){
		"FIN":   func(c *client) { c.wantGone() },
		"half":  func(c *client) { _ = c.CloseWrite(); c.wantEnd() },
		"reset": func(c *client) { c.reset() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{Features: []string{handoff.FeatureTrack}})
			fresh, kept := r.dial(), r.dial()
			lease := h.exchange(kept, "x", "y")
			r.eventually("both are idle", func(c Counts) bool { return c.States.Idle == 2 })
			end(fresh)
			end(kept)
			r.eventually("both have gone", func(c Counts) bool { return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonHungUp) == 2 })
			if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetHungUp {
				t.Errorf("forget: %+v", f)
			}
			h.quiet(r) // nobody hears of a connection that has never said anything
		})
	}
}

// A request and a FIN: the client has said all it wants to, and wants its answer.
func TestAHalfClosedClientGetsItsAnswer(t *testing.T) {
	for name, late := range map[string]bool{"FIN with the request": false, "FIN while leased": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{})
			c := r.dial()
			c.send("bye")
			if !late {
				_ = c.CloseWrite()
			}
			lease, fd := h.want(handoff.TypeLease)
			if late {
				_ = c.CloseWrite()
			}
			h.answer(lease, fd, "bye", "goodbye")
			c.want("goodbye")
			c.wantEnd()
			r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonHungUp) == 1 })
		})
	}
}

func TestARequestWithAResetIsNotLent(t *testing.T) {
	r := newRig(t, Config{})
	c := r.dial()
	r.eventually("it is here", func(c Counts) bool { return c.States.Idle == 1 })
	if err := r.tell(func() error { // both at once, between two turns
		c.send("x")
		c.reset()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonHungUp) == 1 })
}

// The client goes while its request waits for a host. Whoever gets it finds out.
func TestAClientThatGoesWhileItsRequestWaits(t *testing.T) {
	r := newRig(t, Config{})
	gone, gives, waits := r.dial(), r.dial(), r.dial()
	for i, c := range []*client{gone, gives, waits} {
		c.send("x")
		r.eventually("it waits", func(c Counts) bool { return c.States.Ready == i+1 })
	}
	gone.reset()
	_ = gives.CloseWrite()
	before := r.turns()
	for range 100 {
		r.counts()
	}
	if n := r.turns() - before; n > 110 {
		t.Errorf("the loop turned %d times for 100 questions", n)
	}

	h := r.attach(handoff.Hello{})
	lease, fd := h.want(handoff.TypeLease)
	if n, err := unix.Write(fd, []byte("y")); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) {
		t.Errorf("wrote %d, %v to a connection that was reset", n, err)
	}
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq, A: handoff.CloseClient})
	for _, c := range []*client{gives, waits} {
		lease, fd := h.want(handoff.TypeLease)
		h.answer(lease, fd, "x", "y")
		c.want("y")
	}
	gives.wantEnd()
	r.eventually("one is left", func(c Counts) bool { return c.States == StateCounts{Idle: 1} })
}

// A reset while leased is found at the next look: when the connection is put, or closed.
func TestAClientThatResetsWhileLeased(t *testing.T) {
	for _, typ := range []handoff.Type{handoff.TypePut, handoff.TypeClose} {
		t.Run(typ.String(), func(t *testing.T) {
			r := newRig(t, Config{})
			h := r.attach(handoff.Hello{})
			c := r.dial()
			c.send("x")
			lease, fd := h.want(handoff.TypeLease)
			c.reset()
			watched := []unix.PollFd{{Fd: int32(fd)}}
			if n, err := unix.Poll(watched, 5000); n != 1 {
				t.Fatalf("no reset arrived: %v", err)
			}
			closeFD(fd)
			h.send(handoff.Frame{Type: typ, Conn: lease.Conn, Seq: lease.Seq})
			r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
			h.exchange(r.dial(), "x", "y")
		})
	}
}

// pipelined bytes are found when the connection is put.
func TestTheNextRequestIsThereAlready(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("one")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "one", "1")
	c.send("two")
	awaitBytes(t, fd)
	closeFD(fd)
	h.send(put(lease))
	again, fd := h.want(handoff.TypeLease)
	h.answer(again, fd, "two", "2")
	c.want("12")
}

// A host answers in the middle of an upload and closes. All of the answer arrives, though the client goes on sending for much longer than it
// takes to read it: a reset by what is unread would destroy it.
func TestABigAnswerSurvivesAnUploadThatGoesOn(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("upload")
	lease, fd := h.want(handoff.TypeLease)
	sent := make(chan int64, 1)
	go func() { sent <- upload(c, 48<<20) }()

	answer := bytes.Repeat([]byte("413 too large\n"), 1<<20/14)
	writeAll(t, fd, answer)
	awaitUnread(t, fd, 2<<20)
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	r.eventually("it is closing", func(c Counts) bool { return c.Totals.ClosedFor(ReasonHost) == 1 })
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n := <-sent; n != 48<<20 {
		t.Errorf("%d bytes were taken from the client", n)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d of %d bytes arrived: %v", len(got), len(answer), err)
	}
	c.wantGone()
	r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
}

func upload(w io.Writer, n int64) int64 {
	chunk := make([]byte, 256<<10)
	var sent int64
	for sent < n {
		m, err := w.Write(chunk)
		sent += int64(m)
		if err != nil {
			break
		}
	}
	return sent
}

// writeAll writes to a non-blocking socket.
func writeAll(t *testing.T, fd int, b []byte) {
	t.Helper()
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if errors.Is(err, unix.EAGAIN) {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
}

// awaitUnread returns when so much is in the receive queue, or it is full.
func awaitUnread(t *testing.T, fd, enough int) {
	t.Helper()
	last, same := 0, 0
	for deadline := time.Now().Add(5 * time.Second); same < 50; time.Sleep(time.Millisecond) {
		n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%d bytes are unread, %v", n, err)
		}
		if n >= enough {
			return
		}
		if same++; n != last {
			last, same = n, 0
		}
	}
}

// A client that neither reads nor ends is let go when the linger time is over.
func TestLingeringEnds(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
	r.eventually("it is closing", func(c Counts) bool { return c.States.Closing == 1 })
	c.send("and another thing")
	r.leap(4 * time.Second)
	if c := r.counts(); c.States.Closing != 1 {
		t.Errorf("counts: %+v", c)
	}
	r.leap(time.Second)
	r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
	c.want("y")
}
