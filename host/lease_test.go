package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
)

// attached is a host for the frame level, and the address that its clients connect to.
type attached struct {
	*host.Host
	sidecar   *hosttest.Sidecar
	listening *host.Listening
	addr      string
}

func attach(t testing.TB, o host.Options, how host.ListenOptions) *attached {
	t.Helper()
	checkLeaks(t)
	s := hosttest.Start(t)
	o.Path, o.Private, o.Logger = s.Path(), true, quiet()
	h, err := host.Attach(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	l := listenTCP(t)
	t.Cleanup(func() { h.Close() })
	listening, err := h.Listen(t.Context(), l, how)
	if err != nil {
		t.Fatal(err)
	}
	return &attached{h, s, listening, l.Addr().String()}
}

// next waits for a lease.
func (a *attached) next(t testing.TB) host.Lease {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := a.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serveLine answers one line with itself.
func serveLine(t testing.TB, l host.Lease) {
	t.Helper()
	buf := make([]byte, 100)
	n, err := l.Read(buf)
	if err != nil {
		t.Error(err)
	}
	if _, err := l.Write(buf[:n]); err != nil {
		t.Error(err)
	}
}

func (c *client) exchange(line string) {
	c.t.Helper()
	c.send(line)
	if got, err := c.r.ReadString('\n'); err != nil || got != line {
		c.t.Errorf("got %q, %v, want %q", got, err, line)
	}
}

func TestLeasesByHand(t *testing.T) {
	for _, hold := range []int{0, -1} {
		t.Run(fmt.Sprint("hold ", hold), func(t *testing.T) {
			a := attach(t, host.Options{Hold: hold}, host.ListenOptions{Name: "lines"})
			c := dial(t, a.addr)
			var last host.Lease
			for i := range 3 {
				c.send("a line\n")
				l := a.next(t)
				if l.Fresh != (i == 0) || l.Last || l.Silent || l.Conn == 0 || i > 0 && (l.Conn != last.Conn || l.Seq == last.Seq) {
					t.Errorf("lease %d: %+v after %+v", i, l, last)
				}
				if l.RemoteAddr().String() != c.LocalAddr().String() || l.LocalAddr().String() != a.addr {
					t.Errorf("from %v to %v", l.RemoteAddr(), l.LocalAddr())
				}
				serveLine(t, l)
				if i > 0 {
					if err := last.Put(0); !errors.Is(err, host.ErrLeaseOver) {
						t.Errorf("an answer for the lease before: %v", err)
					}
				}
				if err := l.Put(0); err != nil {
					t.Error(err)
				}
				if err := l.Close(host.Done); !errors.Is(err, host.ErrLeaseOver) {
					t.Errorf("a second answer: %v", err)
				}
				if got, err := c.r.ReadString('\n'); err != nil || got != "a line\n" {
					t.Errorf("%q, %v", got, err)
				}
				last = l
			}
			if n := a.sidecar.Counts(); n.Stale != 0 || n.Puts < 2 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestEveryAnswer(t *testing.T) {
	a := attach(t, host.Options{Capacity: 1}, host.ListenOptions{})
	t.Run("Close", func(t *testing.T) {
		c := dial(t, a.addr)
		c.send("x\n")
		l := a.next(t)
		serveLine(t, l)
		if err := l.Close(host.Done); err != nil {
			t.Error(err)
		}
		if _, err := l.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("reading after the answer: %v", err)
		}
		if _, err := l.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("writing after the answer: %v", err)
		}
		if got, err := io.ReadAll(c.r); err != nil || string(got) != "x\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Nack", func(t *testing.T) {
		c := dial(t, a.addr)
		c.send("x\n")
		first := a.next(t)
		if err := first.Nack(); err != nil {
			t.Error(err)
		}
		again := a.next(t)
		if again.Conn != first.Conn || again.Seq == first.Seq {
			t.Errorf("%+v after %+v", again, first)
		}
		serveLine(t, again)
		if err := again.Put(0); err != nil {
			t.Error(err)
		}
		if got, err := c.r.ReadString('\n'); err != nil || got != "x\n" {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("Detach", func(t *testing.T) {
		c := dial(t, a.addr)
		c.send("x\n")
		own, err := a.next(t).Detach()
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		eventually(t, "detached", func() bool { return a.sidecar.Counts().Detaches == 1 })
		_ = own.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 10)
		for range 2 {
			n, err := own.Read(buf)
			if err != nil || string(buf[:n]) != "x\n" {
				t.Errorf("%q, %v", buf[:n], err)
			}
			c.send("x\n")
		}
		_ = own.SetReadDeadline(time.Now().Add(-1))
		if _, err := own.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
	})
	t.Run("Finish without the feature", func(t *testing.T) {
		c := dial(t, a.addr)
		c.send("x\n")
		l := a.next(t)
		if err := l.Finish(os.Stdin, 0, 1, false); err == nil {
			t.Error("the sidecar did not agree to that")
		}
		if err := l.Close(host.App); err != nil {
			t.Errorf("the lease is still to be answered: %v", err)
		}
		c.Close()
	})
	t.Run("Put with a timeout", func(t *testing.T) {
		c := dial(t, a.addr)
		c.send("x\n")
		l := a.next(t)
		serveLine(t, l)
		if err := l.Put(time.Millisecond); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(c.r); err != nil || string(got) != "x\n" {
			t.Errorf("%q, %v: the sidecar should have ended it", got, err)
		}
	})
}

func TestALeaseTakenBackBeforeAnyoneTookIt(t *testing.T) {
	a := attach(t, host.Options{}, host.ListenOptions{})
	c := dial(t, a.addr)
	c.send("x\n")
	eventually(t, "leased", func() bool { return a.sidecar.Counts().Leased == 1 })
	a.sidecar.CloseLeased()
	a.sidecar.Ping()
	eventually(t, "the host has heard of it", func() bool { return a.sidecar.Counts().Pongs == 1 })
	c.wantEnd()
	c2 := dial(t, a.addr)
	c2.send("y\n")
	l := a.next(t) // not the first one
	serveLine(t, l)
	if err := l.Put(0); err != nil {
		t.Error(err)
	}
	if got, err := c2.r.ReadString('\n'); err != nil || got != "y\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestALeaseOutlivesItsSidecar(t *testing.T) {
	a := attach(t, host.Options{}, host.ListenOptions{})
	c := dial(t, a.addr)
	c.send("x\n")
	l := a.next(t)
	a.sidecar.Kill()
	eventually(t, "gone", func() bool { return a.Pool() == "" })
	serveLine(t, l)
	if err := l.Put(0); !errors.Is(err, host.ErrLinkLost) {
		t.Errorf("%v, want ErrLinkLost", err)
	}
	if got, err := io.ReadAll(c.r); err != nil || string(got) != "x\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCapacityIsKeptAndMayChange(t *testing.T) {
	a := attach(t, host.Options{Capacity: 2}, host.ListenOptions{})
	for range 4 {
		dial(t, a.addr).send("x\n")
	}
	counts := func(leased, ready int) func() bool {
		return func() bool { n := a.sidecar.Counts(); return n.Leased == leased && n.Ready == ready }
	}
	eventually(t, "two leased, two waiting", counts(2, 2))
	if err := a.SetCapacity(3); err != nil {
		t.Error(err)
	}
	eventually(t, "three leased, one waiting", counts(3, 1))
	if err := a.SetCapacity(0); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := a.next(t).Close(host.Done); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "none leased, one waiting", counts(0, 1))
	for _, wrong := range []int{-1, handoff.MaxCapacity + 1} {
		if err := a.SetCapacity(wrong); err == nil {
			t.Errorf("capacity %d was accepted", wrong)
		}
	}
}

func TestUnlistenClosesTheSidecarsCopy(t *testing.T) {
	a := attach(t, host.Options{}, host.ListenOptions{Silent: true, FirstByte: time.Second, Backlog: 7})
	dial(t, a.addr).send("x\n")
	_ = a.next(t).Close(host.Done)
	if err := a.listening.Unlisten(t.Context()); err != nil {
		t.Error(err)
	}
	accepted := a.sidecar.Counts().Accepted
	dial(t, a.addr).send("x\n") // stays in the backlog
	if n := a.sidecar.Counts().Accepted; n != accepted {
		t.Errorf("%d accepted after Unlisten, %d before", n, accepted)
	}
	if err := a.listening.Unlisten(t.Context()); err == nil {
		t.Error("a second Unlisten must be denied")
	}
}

func TestAdoptedConnectionsAreLentLikeOthers(t *testing.T) {
	a := attach(t, host.Options{}, host.ListenOptions{})
	l := listenTCP(t)
	c := dial(t, l.Addr().String())
	own, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.Adopt(t.Context(), own, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c.send("x\n")
		lease := a.next(t)
		if lease.Conn != id {
			t.Errorf("connection %d, adopted as %d", lease.Conn, id)
		}
		serveLine(t, lease)
		if err := lease.Put(0); err != nil {
			t.Error(err)
		}
		if got, err := c.r.ReadString('\n'); err != nil || got != "x\n" {
			t.Errorf("%q, %v", got, err)
		}
	}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	if _, err := a.Adopt(t.Context(), server, 0); err == nil {
		t.Error("a pipe has no descriptor")
	}
}

func TestAnswersGivenTogether(t *testing.T) {
	const clients, rounds = 50, 20
	a := attach(t, host.Options{Capacity: clients}, host.ListenOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	var workers, users sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				l, err := a.Next(ctx)
				if err != nil {
					return
				}
				serveLine(t, l)
				if err := l.Put(0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range clients {
		users.Go(func() {
			c := dial(t, a.addr)
			for j := range rounds {
				c.exchange(fmt.Sprint("line ", i, " ", j, "\n"))
			}
		})
	}
	users.Wait()
	eventually(t, "all put", func() bool { return a.sidecar.Counts().Puts == clients*rounds })
	cancel()
	workers.Wait()
}

func TestWhatASidecarMayNotSend(t *testing.T) {
	for name, f := range map[string]handoff.Frame{
		"a host's frame":     {Type: handoff.TypePut},
		"an unknown command": {Type: 0x90},
		"an error":           handoff.Faultf(handoff.CodeStopping, "stopping").Frame(handoff.TypeError, 0),
	} {
		t.Run(name, func(t *testing.T) {
			a := attach(t, host.Options{}, host.ListenOptions{})
			a.sidecar.Send(f)
			eventually(t, "hung up, and back", func() bool { n := a.sidecar.Counts(); return n.Hosts == 1 && n.Attached == 2 })
		})
	}
	t.Run("an unknown word that may be ignored", func(t *testing.T) {
		a := attach(t, host.Options{}, host.ListenOptions{})
		a.sidecar.Send(handoff.Frame{Type: 0x70, Payload: []byte("news")})
		a.sidecar.Ping()
		c := dial(t, a.addr)
		c.send("x\n")
		_ = a.next(t).Close(host.Done)
		if n := a.sidecar.Counts(); n.Attached != 1 {
			t.Errorf("%+v", n)
		}
	})
}

func TestFlagsOfSharedSocketsStay(t *testing.T) {
	a := attach(t, host.Options{}, host.ListenOptions{})
	c := dial(t, a.addr)
	c.send("x\n")
	l := a.next(t)
	flags, err := unix.FcntlInt(uintptr(l.FD()), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x, %v", flags, err)
	}
	flags, err = unix.FcntlInt(uintptr(l.FD()), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %x, %v", flags, err)
	}
	_ = l.Close(host.Done)
}
