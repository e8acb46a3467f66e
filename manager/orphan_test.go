package manager

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// A host dies, having done more or less of its work.
func TestARequestWhoseHostDies(t *testing.T) {
	const nothing, response = "", "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		name       string
		read, sent string
		kept       bool // it is not the connection's first request
		want       string
	}{
		{"nothing is read", nothing, nothing, false, "served by the next"},
		{"a part is read", get[:4], nothing, false, "502"},
		{"all is read", get, nothing, false, "502"},
		{"the response has begun", get, response, false, "reset"},
		{"later, nothing is read", nothing, nothing, true, "served by the next"},
		{"later, a part is read", get[:4], nothing, true, "502"},
		{"later, nothing is sent", get, nothing, true, "502"},
		{"later, and another of its length is there", get + "again", nothing, true, "502"},
		{"later, the response has begun", get, response, true, "reset"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := readyRig(t, Limits{})
			h := r.attach(handoff.Hello{})
			client := r.dial()
			if c.kept {
				h.exchange(client, get, "before")
				awaitQuiet(t, client)
			}
			client.send(get)
			_, fd := h.want(handoff.TypeLease)
			readSome(t, fd, min(len(c.read), len(get)))
			if len(c.read) > len(get) {
				client.send(get)
				awaitUnread(t, fd, len(get))
			}
			if _, err := unix.Write(fd, []byte(c.sent)); err != nil {
				t.Fatal(err)
			}
			closeFD(fd)
			h.close()
			switch c.want {
			case "502":
				client.want("HTTP/1.1 502 Bad Gateway\r\n")
			case "reset":
				client.want(response)
				client.wantEndOrReset()
			default:
				next := r.attach(handoff.Hello{Name: "next"})
				lease, fd := next.want(handoff.TypeLease)
				next.answer(lease, fd, get, "served")
				client.want("served")
			}
		})
	}
}

// A host dies that has read its request, and the next one, of the same length, is in the queue. The
// bytes that were read are counted without wrapping: nothing but the next request's answer may
// follow the first one's.
func TestTheNextRequestIsNotTakenForOneThatWasRead(t *testing.T) {
	for _, length := range []int{1<<16 - 1, 1 << 16, 1<<16 + 1} {
		t.Run(strconv.Itoa(length), func(t *testing.T) {
			r := readyRig(t, Limits{})
			h := r.attach(handoff.Hello{})
			client := r.dial()
			h.exchange(client, get, "before")
			awaitQuiet(t, client)
			request := requestOf(length)
			client.send(request)
			_, fd := h.want(handoff.TypeLease)
			awaitUnread(t, fd, length)
			readAll(t, fd, length)
			client.send(request)
			awaitUnread(t, fd, length)
			closeFD(fd)
			h.close()
			client.want("HTTP/1.1 502 Bad Gateway\r\n")
			r.eventually("it is counted", func(c Counts) bool {
				return c.Totals.Redelivered == 0 && c.Totals.ClosedFor(ReasonHostGone) == 1
			})
		})
	}
}

// requestOf is a whole request of length bytes.
func requestOf(length int) string {
	const head = "POST / HTTP/1.1\r\nContent-Length: %06d\r\n\r\n"
	body := length - len(fmt.Sprintf(head, 0))
	return fmt.Sprintf(head, body) + strings.Repeat("b", body)
}

// readAll reads n bytes that are there.
func readAll(t *testing.T, fd, n int) {
	t.Helper()
	if got, _, err := unix.Recvfrom(fd, make([]byte, n), unix.MSG_WAITALL); got != n || err != nil {
		t.Fatalf("read %d bytes, %v; want %d", got, err, n)
	}
}

func readSome(t *testing.T, fd, n int) {
	t.Helper()
	if n == 0 {
		return
	}
	if got, err := unix.Read(fd, make([]byte, n)); got != n || err != nil {
		t.Fatalf("read %d bytes, %v", got, err)
	}
}

// awaitQuiet waits until nothing has been sent to the client for so long that the kernel's clock can tell it from a later response.
func awaitQuiet(t *testing.T, c *client) {
	t.Helper()
	time.Sleep(3 * clockSlack)
}

// A request that kills each host that reads nothing of it goes to no more than Limits.Redeliveries of them.
func TestARequestIsNotRedeliveredForEver(t *testing.T) {
	r := readyRig(t, Limits{Redeliveries: 2})
	client := r.dial()
	client.send(get)
	for range 3 {
		h := r.attach(handoff.Hello{})
		_, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		h.close()
	}
	client.want("HTTP/1.1 502 Bad Gateway\r\n")
	r.eventually("it is counted", func(c Counts) bool {
		return c.Totals.Redelivered == 2 && c.Totals.ClosedFor(ReasonHostGone) == 1
	})
}

// A lease is taken back from a host that lives.
func TestARevokedLease(t *testing.T) {
	ctx := context.Background()
	const response = "HTTP/1.1 200 OK\r\n"
	for name, c := range map[string]struct {
		ready      Readiness
		read, sent string
		want       string
	}{
		"nothing is read":        {ReadyRequest, "", "", "504"},
		"all is read":            {ReadyRequest, get, "", "504"},
		"the response has begun": {ReadyRequest, get, response, "reset"},
		"who knows":              {ReadyBytes, get, "", "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, Config{})
			r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: c.ready})
			h := r.attach(handoff.Hello{})
			client := r.dial()
			client.send(get)
			lease, fd := h.want(handoff.TypeLease)
			defer closeFD(fd)
			readSome(t, fd, len(c.read))
			if _, err := unix.Write(fd, []byte(c.sent)); err != nil {
				t.Fatal(err)
			}
			if n, err := r.Revoke(ctx, []ConnID{ConnID(lease.Conn), 12345}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			if f, _ := h.want(handoff.TypeForget); f.Conn != lease.Conn || f.A != handoff.ForgetOperator {
				t.Errorf("forget: %+v", f)
			}
			if c.want == "504" {
				client.want("HTTP/1.1 504 Gateway Timeout\r\n")
			} else {
				client.want(c.sent)
				client.wantEndOrReset()
			}
			h.send(put(lease)) // too late
			h.exchange(r.dial(), get, "its capacity is free again")
			if n := r.counts(); n.Totals.ClosedFor(ReasonOperator) != 1 || n.Totals.Stale != 1 {
				t.Errorf("counts: %+v", n)
			}
		})
	}
}

func TestWhatCannotBeRevoked(t *testing.T) {
	ctx := context.Background()
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	id := ConnID(h.exchange(c, "x", "y").Conn)
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
	if n, err := r.Revoke(ctx, []ConnID{12345, 0}); n != 0 || !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody's ids: %d, %v", n, err)
	}
	if n, err := r.Revoke(ctx, []ConnID{12345, id}); n != 0 || !errors.Is(err, ErrNotLeased) {
		t.Errorf("an idle one: %d, %v", n, err)
	}
	h.exchange(c, "x", "it has stayed")
}

// A slot has many connections in its time, and their leases the same numbers.
func TestABaseIsOfOneLease(t *testing.T) {
	p := newPolicy(Limits{}, nil, smallMemory(t))
	r, slot, _ := p.table.add()
	r.seq, r.length = 3, 10
	p.memory.extra(slot).base = base{lease: r.lease(), read: 7}
	if got := p.outset(r, slot).base.read; got != 7 {
		t.Errorf("the base of this lease is not known: %d", got)
	}
	p.table.remove(slot)
	next, again, _ := p.table.add()
	next.seq = 3
	if got := p.outset(next, again).base; again != slot || got != (base{}) {
		t.Errorf("the next connection of the slot has %+v", got)
	}
}
