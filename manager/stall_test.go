package manager

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/internal/fusetest"
)

// What others share with the loop, and what they send to it, may make system calls block. Here they
// do, until the end of the test, and a bystander is served meanwhile.

// toggles changes what others share with the loop, without a pause, until the end of the test.
func toggles(t *testing.T, change func(on bool)) {
	t.Helper()
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for on := false; !stop.Load(); on = !on {
			change(on)
			runtime.Gosched()
		}
	}()
	t.Cleanup(func() {
		stop.Store(true)
		<-ended
	})
}

// lent has a connection leased to the host, which keeps its descriptor, of which dup is one more.
func (h *peer) lent(c *client) (lease handoff.Frame, fd int) {
	h.t.Helper()
	c.send("x")
	lease, fd = h.want(handoff.TypeLease)
	h.serve(fd, "x", "")
	return lease, fd
}

// A client that does not read, and a host that clears O_NONBLOCK of its socket again and again.
func TestSendingDoesNotBlock(t *testing.T) {
	for _, kind := range []string{"file", "pipe"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, Config{})
			other := r.bystander()
			h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish, handoff.FeatureCache}})
			c := r.dial()
			lease, fd := h.lent(c)
			defer closeFD(fd)
			f := finishFrame(lease, 0, 16<<20)
			file := memfd(t, make([]byte, 16<<20))
			if kind == "pipe" {
				file = fullPipe(t, &f)
				fill(t, fd)
			}
			toggles(t, func(on bool) { _ = unix.SetNonblock(fd, on) })
			h.sendFD(f, file)
			r.eventually("it is finishing", func(c Counts) bool { return c.States.Finishing == 1 })
			for range 20 {
				other.works()
			}
		})
	}
}

// fullPipe is a pipe with as much as f is to send.
func fullPipe(t *testing.T, f *handoff.Frame) int {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = out.Close(), in.Close() })
	f.B = 60000
	if _, err := in.Write(make([]byte, f.B)); err != nil {
		t.Fatal(err)
	}
	return int(out.Fd())
}

// fill fills a socket's buffers.
func fill(t testing.TB, fd int) {
	t.Helper()
	for p := make([]byte, 1<<16); ; {
		if err := unix.Sendto(fd, p, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil); err != nil {
			return
		}
	}
}

// blocksHelpers has helpers block in sending a response, one after another, until a condition
// holds. Each time O_NONBLOCK is cleared when the sidecar has looked at it, and before a helper
// sends. The client reads nothing meanwhile.
func (r *rig) blocksHelpers(fd int, is func(Counts) bool) {
	r.t.Helper()
	const patience = 100 * time.Millisecond // for a helper, before it is killed
	for met := false; ; {
		r.eventually("a part is to be sent", func(c Counts) bool {
			met = is(c)
			return met || c.Helpers.Waiting > 0
		})
		if met {
			break
		}
		_ = unix.SetNonblock(fd, false)
		r.helpersDo(func(now int64) {
			r.helpers.Resume(now)
			r.helpers.Settle(now, patience)
		})
	}
	r.helpersDo(r.helpers.Resume)
}

// pauseHelpers has calls wait until blocksHelpers.
func (r *rig) pauseHelpers() {
	r.t.Helper()
	r.helpersDo(func(now int64) { r.helpers.Settle(now, time.Second) })
}

func (r *rig) helpersDo(do func(now int64)) {
	r.t.Helper()
	if err := r.tell(func() error {
		do(r.policy.now)
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// A host that clears O_NONBLOCK time and again holds up helpers; after some times it is hung up on.
func TestAHostThatKeepsHelpersBusyIsHungUpOn(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish, handoff.FeatureCache}})
	c := r.dial()
	lease, fd := h.lent(c)
	defer closeFD(fd)
	r.pauseHelpers()
	h.sendFD(finishFrame(lease, 0, 64<<20), memfd(t, make([]byte, 64<<20)))
	r.blocksHelpers(fd, func(c Counts) bool { return c.Totals.HostsFailed == 1 })
	if n := r.journal.lines("a host clears O_NONBLOCK"); n != maxOverruns {
		t.Errorf("it was warned of %d times", n)
	}
	c.wantReset()
}

// What is sent of a response is the same, wherever a helper was killed over it.
func TestNothingIsSentTwiceWhenAHelperIsKilled(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish, handoff.FeatureCache}})
	c := r.dial()
	lease, fd := h.lent(c)
	defer closeFD(fd)
	content := make([]byte, 64<<20)
	for i := range content {
		content[i] = byte(i >> 8)
	}
	f := finishFrame(lease, 0, len(content))
	f.Flags = handoff.FlagClose
	r.pauseHelpers()
	h.sendFD(f, memfd(t, content))
	r.blocksHelpers(fd, func(Counts) bool { return r.journal.lines("a host clears O_NONBLOCK") == 2 })
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(content), err)
	}
}

// A file whose system does not answer: when it is read, asked what it is, or closed.
func TestAFileThatDoesNotAnswerHoldsUpNothing(t *testing.T) {
	for _, hang := range []fusetest.Hang{fusetest.Read, fusetest.Stat, fusetest.Flush} {
		t.Run(string(hang), func(t *testing.T) {
			fs := fusetest.Mount(t, hang)
			r := newRig(t, Config{})
			other := r.bystander()
			h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
			c := r.dial()
			lease, fd := h.lent(c)
			closeFD(fd)
			file := fs.Open(t)
			h.sendFD(finishFrame(lease, 0, fusetest.Size), file)
			go func() { _ = unix.Close(file) }()
			c.wantReset()
			other.works()
			fs.Release()
		})
	}
}

// wantReset: the connection ends in a reset, once what was sent is read.
func (c *client) wantReset() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := io.Copy(io.Discard, c); err == nil {
		c.t.Errorf("%d bytes, then an end, want a reset", n)
	}
}

// Any frame may bring a descriptor whose close waits.
func TestARefusedDescriptorHoldsUpNothing(t *testing.T) {
	fs := fusetest.Mount(t, fusetest.Flush)
	r := newRig(t, Config{Limits: Limits{Helpers: 4}})
	other := r.bystander()
	for range 5 { // more than there are helpers
		h := r.attach(handoff.Hello{})
		file := fs.Open(t)
		h.sendFD(handoff.Frame{Type: handoff.TypePong}, file)
		go func() { _ = unix.Close(file) }()
	}
	r.eventually("all helpers for files are stuck, and all files are still to be closed", func(c Counts) bool {
		return c.Helpers == HelperCounts{Stuck: 3, Waiting: 5}
	})
	other.works()

	t.Run("FINISH is denied then", func(t *testing.T) {
		h := r.attach(handoff.Hello{Features: []string{handoff.FeatureFinish}})
		c := r.dial()
		lease, fd := h.lent(c)
		closeFD(fd)
		h.sendFD(finishFrame(lease, 0, 4), memfd(t, []byte("rest")))
		f, _ := h.want(handoff.TypeDenied)
		if handoff.Code(f.A) != handoff.CodeAtLimit {
			t.Errorf("%v", handoff.FaultOf(&f))
		}
		c.wantReset()
	})
	other.works()
	fs.Release()
	r.eventually("the helpers are back", func(c Counts) bool { return c.Helpers == HelperCounts{} })
}

// A host sets SO_LINGER on what it was lent, and lets go: this process has the last descriptor, of
// a connection with unsent bytes.
func TestClosingDoesNotWaitForALinger(t *testing.T) {
	for _, answer := range []handoff.Type{handoff.TypeClose, handoff.TypeDetach} {
		t.Run(answer.String(), func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{LingerTimeout: time.Millisecond}})
			other := r.bystander()
			h := r.attach(handoff.Hello{})
			for range 20 {
				c := r.dial()
				lease, fd := h.lent(c)
				fill(t, fd)
				if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
					t.Fatal(err)
				}
				closeFD(fd)
				h.send(handoff.Frame{Type: answer, Conn: lease.Conn, Seq: lease.Seq})
			}
			r.eventually("they are gone", func(c Counts) bool { return c.States.Leased+c.States.Closing == 0 })
			other.works()
		})
	}
}

// A link whose unread frames bring sockets with SO_LINGER: closing it closes them.
func TestClosingALinkDoesNotWaitForWhatIsInIt(t *testing.T) {
	r := newRig(t, Config{})
	other := r.bystander()
	h := r.attach(handoff.Hello{})
	c := r.dial()
	_, fd := h.lent(c)
	fill(t, fd)
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	h.push(append(wire(handoff.Frame{Type: handoff.TypeHello}), wire(handoff.Frame{Type: handoff.TypeHello})...))
	for range 20 {
		_ = unix.Sendmsg(h.sock, []byte("x"), unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT) // it may be hung up on already
	}
	closeFD(fd)
	h.wantFault(handoff.CodeHelloTwice)
	other.works()
}

func TestFinishHasLimits(t *testing.T) {
	for name, limits := range map[string]Limits{"in all": {Finishing: 1}, "per host": {HostFinishing: 1}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Limits: limits})
			h := r.attach(handoff.Hello{Capacity: 2, Features: []string{handoff.FeatureFinish}})
			for n := range 2 {
				c := r.dial()
				lease, fd := h.lent(c)
				closeFD(fd)
				h.sendFD(finishFrame(lease, 0, 16<<20), memfd(t, make([]byte, 16<<20)))
				if n == 1 {
					f, _ := h.want(handoff.TypeDenied)
					if handoff.Code(f.A) != handoff.CodeAtLimit || f.Seq != lease.Seq {
						t.Errorf("%+v", f)
					}
					c.wantReset()
				}
			}
			if c := r.counts(); c.States.Finishing != 1 || len(c.Hosts) != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// A host's listening socket, brought twice, whose O_NONBLOCK is cleared again and again while
// another process accepts on it, too.
func TestAcceptingDoesNotBlock(t *testing.T) {
	r := newRig(t, Config{})
	other := r.bystander()
	l := aListener(t)
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h := r.hello(handoff.Hello{})
		h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte(`{"name":"shared"}`)}, l)
		h.want(handoff.TypeListening)
	}
	address := addressOf(at)
	alsoAccepts(t, l, address)
	toggles(t, func(on bool) { _ = unix.SetNonblock(l, on) })
	for range 30 {
		if c, err := netDial(address); err == nil { // else the backlog was full
			_ = c.Close()
		}
		other.works()
	}
}

// alsoAccepts accepts on a listening socket until the end of the test, as another process would.
func alsoAccepts(t *testing.T, l int, address string) {
	t.Helper()
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			if fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC); err == nil {
				_ = unix.Close(fd)
			}
		}
	}()
	t.Cleanup(func() {
		stop.Store(true)
		_ = unix.SetNonblock(l, true)
		for {
			select {
			case <-ended:
				return
			default: // it may block: a client ends that
				if c, err := netDial(address); err == nil {
					_ = c.Close()
				}
			}
		}
	})
}

// A client of a host's blocking listening socket is served: the sidecar makes it non-blocking again.
func TestABlockingListenerIsRepaired(t *testing.T) {
	r := newRig(t, Config{})
	l := aListener(t)
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	h := r.hello(handoff.Hello{})
	h.sendFD(handoff.Frame{Type: handoff.TypeListen, Payload: []byte("{}")}, l)
	h.want(handoff.TypeListening)
	if err := unix.SetNonblock(l, false); err != nil {
		t.Fatal(err)
	}
	h.exchange(r.dialAt(addressOf(at)), "x", "y")
	flags, err := unix.FcntlInt(uintptr(l), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
	if c := r.counts(); c.Totals.Violations != 1 || c.Hosts[0].Violations != 1 {
		t.Errorf("%+v", c)
	}
}

// addressOf is a socket's address as net.Dial takes it.
func addressOf(at unix.Sockaddr) string {
	in, _ := at.(*unix.SockaddrInet4)
	return fmt.Sprintf("127.0.0.1:%d", in.Port)
}
