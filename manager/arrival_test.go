package manager

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// What clients do to be lent before their request has arrived, and what has to be lent although it has not.

// eachKind runs a test with a client of each kind of listener where requests are looked at.
func eachKind(t *testing.T, limits Limits, f func(t *testing.T, r *rig, dial func() *client)) {
	t.Helper()
	for name, address := range map[string]string{"TCP": "tcp://127.0.0.1:0", "IPv6": "tcp://[::1]:0", "Unix": ""} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{Limits: limits})
			if address != "" {
				at := r.listen(address, ListenerOptions{Ready: ReadyRequest})
				f(t, r, func() *client { return r.dialAt(at) })
				return
			}
			path := filepath.Join(t.TempDir(), "web.sock")
			if err := r.AddListener(r.open("unix://"+path), ListenerOptions{Ready: ReadyRequest}); err != nil {
				t.Fatal(err)
			}
			f(t, r, func() *client { return r.dialUnix(path) })
		})
	}
}

// control calls f with the client's descriptor.
func (c *client) control(f func(fd int) error) {
	c.t.Helper()
	raw, err := c.conn.(syscall.Conn).SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	if other := raw.Control(func(fd uintptr) { err = f(int(fd)) }); other != nil || err != nil {
		c.t.Fatal(other, err)
	}
}

// sendUrgent sends bytes, the last of them urgent (MSG_OOB).
func (c *client) sendUrgent(s string) {
	c.t.Helper()
	c.control(func(fd int) error { return unix.Sendto(fd, []byte(s), unix.MSG_OOB, nil) })
}

// awaitAcked waits until the kernel has all that the client has sent over TCP: of many small
// segments some wait for the acknowledgement of others.
func (c *client) awaitAcked() {
	c.t.Helper()
	for unacked, deadline := 1, time.Now().Add(5*time.Second); unacked > 0 && c.LocalAddr().Network() == "tcp"; time.Sleep(time.Millisecond) {
		c.control(func(fd int) (err error) {
			unacked, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
			return err
		})
		if time.Now().After(deadline) {
			c.t.Fatalf("%d bytes are not acknowledged", unacked)
		}
	}
}

// trickle sends s byte by byte, and lets the loop look at each.
func (r *rig) trickle(c *client, s string) {
	r.t.Helper()
	for i := range len(s) {
		c.send(s[i : i+1])
		r.counts()
	}
}

// However many pieces a part of a request comes in, it is not lent: more looks without news do not
// mean that no more will come. What comes later completes it.
func TestManyPiecesAreNotARequest(t *testing.T) {
	const part = "GET / HTTP/1.1\r\nHost: a\r\nX: " + "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"
	eachKind(t, Limits{RequestTimeout: time.Minute, MinRate: 1}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		for _, n := range []int{1, 20, 33, 40, len(part)} {
			c := dial()
			r.trickle(c, part[:n])
			for range 40 {
				r.leap(100 * time.Millisecond)
			}
			h.quiet(r)
			whole := part[:n] + (part + "\r\n\r\n")[n:]
			c.send(whole[n:])
			c.awaitAcked()
			r.leap(10 * time.Second)
			lease, fd := h.want(handoff.TypeLease)
			if lease.A>>32 != uint64(len(whole)) {
				t.Errorf("%d pieces: the length is %d, want %d", n, lease.A>>32, len(whole))
			}
			h.answer(lease, fd, whole, "ok")
			c.want("ok")
		}
	})
}

// A part of a request that stays one is answered with 408 when its time is over, and no host has seen it.
func TestAPartOfARequestGets408(t *testing.T) {
	eachKind(t, Limits{RequestTimeout: time.Minute, MinRate: 1}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		c := dial()
		r.trickle(c, "GET / HTTP/1.1\r\nHost: example.org\r\nX: y")
		for range 61 {
			r.leap(time.Second)
		}
		c.want("HTTP/1.1 408 Request Timeout\r\n")
		h.quiet(r)
	})
}

// Peeking stops at an urgent byte. What is behind it cannot be seen, so a head with one in it is
// refused: lending it would be lending what may be half a request.
func TestAnUrgentByteInAHeadIsRefused(t *testing.T) {
	eachKind(t, Limits{}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		c := dial()
		c.send("GET / HTTP/1.1\r\n")
		c.sendUrgent("!")
		c.send("X")
		c.want("HTTP/1.1 400 Bad Request\r\n")
		h.quiet(r)
	})
}

// In a body whose length is known nothing needs to be seen.
func TestAnUrgentByteInABodyIsABodysByte(t *testing.T) {
	eachKind(t, Limits{}, func(t *testing.T, r *rig, dial func() *client) {
		h := r.attach(handoff.Hello{})
		c := dial()
		const head = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n"
		c.send(head + "a")
		c.sendUrgent("!")
		r.counts()
		c.send("b")
		lease, fd := h.want(handoff.TypeLease)
		defer closeFD(fd)
		if lease.A>>32 != uint64(len(head)+3) {
			t.Errorf("the length is %d", lease.A>>32)
		}
		readAll(t, fd, len(head)+1)
		readAll(t, fd, 2)
	})
}

// An urgent byte in front of a request is a byte of the stream, as everywhere: the loop does not
// spin over it.
func TestAnUrgentByteWhereAnyByteWillDo(t *testing.T) {
	r := newRig(t, Config{})
	path := filepath.Join(t.TempDir(), "web.sock")
	if err := r.AddListener(r.open("unix://"+path), ListenerOptions{}); err != nil {
		t.Fatal(err)
	}
	h := r.attach(handoff.Hello{})
	for _, c := range []*client{r.dial(), r.dialUnix(path)} {
		h.exchange(c, "x", "one")
		c.sendUrgent("!")
		lease, fd := h.want(handoff.TypeLease)
		c.send(get)
		awaitUnread(t, fd, 1+len(get))
		h.answer(lease, fd, "!"+get, "two")
		c.want("two")
		h.exchange(c, "x", "three")
	}
}

// What a host does to a connection cannot make the loop spin. With SO_PEEK_OFF there is nothing to
// peek at, though poll(2) reports the socket and the kernel says how much there is to read
// (SIOCINQ). Such a connection ends with its time.
func TestNothingToPeekAtIsToldOfOnce(t *testing.T) {
	for _, ready := range []Readiness{ReadyBytes, ReadyRequest} {
		t.Run(ready.String(), func(t *testing.T) {
			r := newRig(t, Config{Limits: Limits{KeepAliveTimeout: 10 * time.Second}})
			path := filepath.Join(t.TempDir(), "web.sock")
			if err := r.AddListener(r.open("unix://"+path), ListenerOptions{Ready: ready}); err != nil {
				t.Fatal(err)
			}
			h := r.attach(handoff.Hello{})
			c := r.dialUnix(path)
			c.send(get)
			lease, fd := h.want(handoff.TypeLease)
			h.serve(fd, get, "one")
			c.want("one")
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 1000); err != nil {
				t.Fatal(err)
			}
			closeFD(fd)
			h.send(put(lease))
			r.eventually("it is put", func(c Counts) bool { return c.Totals.Puts == 1 })
			c.send(get)
			awaitStillness(t, r)
			h.quiet(r)
			r.leap(10 * time.Second)
			c.wantEnd()
			r.eventually("it is counted", func(c Counts) bool { return c.Totals.ClosedFor(ReasonExpired) == 1 })
		})
	}
}

// awaitStillness waits until the loop waits: it turns no more than it is asked to.
func awaitStillness(t *testing.T, r *rig) {
	t.Helper()
	still, before := 0, r.turns()
	for range 1000 {
		n := r.turns()
		if still++; n > before+3 {
			still = 0
		}
		if before = n; still == 20 {
			return
		}
	}
	t.Error("the loop does not come to rest")
}

func TestAConnectionThatBecameAListeningSocket(t *testing.T) {
	for _, ready := range []Readiness{ReadyBytes, ReadyRequest} {
		t.Run(ready.String(), func(t *testing.T) {
			r := newRig(t, Config{})
			r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ready})
			h := r.attach(handoff.Hello{})
			c := r.dial()
			c.send(get)
			lease, fd := h.want(handoff.TypeLease)
			(*acts)(r.Manager).breakOff(int32(fd)) // AF_UNSPEC
			if err := unix.Listen(fd, 4); err != nil {
				t.Fatal(err)
			}
			sa, err := unix.Getsockname(fd)
			if err != nil {
				t.Fatal(err)
			}
			h.send(put(lease))
			r.eventually("it is put", func(c Counts) bool { return c.Totals.Puts == 1 })
			visitor := aSocket(t, unix.AF_INET, unix.SOCK_STREAM)
			if err := unix.Connect(visitor, sa); err != nil {
				t.Fatal(err)
			}
			r.eventually("it is closed", func(c Counts) bool {
				return c.States.Sum() == 0 && c.Totals.ClosedFor(ReasonFailed) == 1
			})
			closeFD(fd)
		})
	}
}

// Requests that do not fit in the client's send buffer and our receive buffer are lent when the
// kernel says so: the client waits for room, which only a host that reads can make.
func TestARequestThatDoesNotFitIsLent(t *testing.T) {
	for _, c := range []struct {
		name                string
		total, piece, sends int
		chunked             bool
	}{
		{"at once", 230_000, 230_000, 0, false},
		{"at once, in chunks", 230_000, 230_000, 0, true},
		{"in writes of 1000", 100_000, 1000, 0, false},
		{"in writes of 50", 40_000, 50, 0, false},
		{"a small send buffer", 20_000, 20_000, 4096, false},
		{"a small send buffer, in chunks", 20_000, 20_000, 4096, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachKind(t, Limits{RequestTimeout: time.Hour, MinRate: 1}, func(t *testing.T, r *rig, dial func() *client) {
				h := r.attach(handoff.Hello{})
				client := dial()
				if c.sends > 0 {
					client.control(func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, c.sends) })
				}
				request := requestOf(c.total)
				if c.chunked {
					request = chunkedOf(c.total)
				}
				go func() {
					for rest := request; rest != ""; rest = rest[min(c.piece, len(rest)):] {
						if _, err := client.Write([]byte(rest[:min(c.piece, len(rest))])); err != nil {
							return
						}
					}
				}()
				lease, fd := h.want(handoff.TypeLease)
				readLater(t, fd, len(request))
				if _, err := unix.Write(fd, []byte("ok")); err != nil {
					t.Fatal(err)
				}
				closeFD(fd)
				h.send(put(lease))
				client.want("ok")
			})
		})
	}
}

// Where the kernel does not say what room a client has, a good part of a request is lent when
// nothing more has come for a while, and a small one is not.
func TestARequestWithoutKnownRoom(t *testing.T) {
	r := newRig(t, Config{Limits: Limits{RequestTimeout: time.Hour, MinRate: 1}})
	r.diagnoses = false // as if its client were in another network namespace
	path := filepath.Join(t.TempDir(), "web.sock")
	if err := r.AddListener(r.open("unix://"+path), ListenerOptions{Ready: ReadyRequest}); err != nil {
		t.Fatal(err)
	}
	h := r.attach(handoff.Hello{Capacity: 2})
	small, large := r.dialUnix(path), r.dialUnix(path)
	small.send(requestOf(blindBytes * 2)[:blindBytes-1])
	large.send(requestOf(blindBytes * 2)[:blindBytes])
	r.eventually("both have been looked at", func(Counts) bool { return r.begun() == 2 })
	r.leap(time.Duration(blindPatience) - 100*time.Millisecond)
	h.quiet(r)
	for range 20 {
		r.leap(time.Second)
	}
	lease, fd := h.want(handoff.TypeLease)
	readAll(t, fd, blindBytes)
	closeFD(fd)
	h.send(put(lease))
	h.quiet(r)
}

// begun is how many requests are arriving.
func (r *rig) begun() int {
	r.t.Helper()
	n, err := ask(context.Background(), r.Manager, func() (int, error) { return len(r.policy.partials), nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// A head of very many fields, or a body of very many chunks, that grows by a byte each 10 ms costs
// the loop a bounded number of looks, and what is copied for them is bounded by what has come
// (docs/readiness.md).
func TestLooksAtATrickleAreBounded(t *testing.T) {
	for name, begin := range map[string]string{
		"fields": "GET / HTTP/1.1\r\n" + strings.Repeat("a:\r\n", 12_000),
		"chunks": "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			r := steppedRig(t, Config{Limits: Limits{MinRate: 1}})
			r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
			c := r.dial()
			c.send(begin)
			r.turnUntil("it is looked at", func(Counts) bool { return len(r.policy.partials) == 1 })
			sent := len(begin)
			for range 100 * 100 { // 100 s
				c.send("1")
				sent++
				r.leap(10 * time.Millisecond)
				r.turn()
			}
			const looks = 200 // 32 and 16 free of the time, then one with each sixteenth of it
			for slot, b := range r.policy.partials {
				if r.policy.table.at(slot).state != Idle || b.looks > looks {
					t.Errorf("%d looks at %d bytes", b.looks, sent)
				}
			}
			if len(r.policy.partials) != 1 || r.peeked > 2*looks*sent {
				t.Errorf("%d requests are arriving; %d bytes were copied for %d", len(r.policy.partials), r.peeked, sent)
			}
		})
	}
}

// chunkedOf is a request with a body of length bytes in one chunk.
func chunkedOf(length int) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", length, strings.Repeat("b", length))
}

// readLater reads n bytes, some of which are still to come.
func readLater(t *testing.T, fd, n int) {
	t.Helper()
	for b := make([]byte, 1<<16); n > 0; {
		awaitBytes(t, fd)
		got, err := unix.Read(fd, b[:min(n, len(b))])
		if err != nil || got == 0 {
			t.Fatalf("read %d, %v; %d bytes are missing", got, err, n)
		}
		n -= got
	}
}
