package conformance

import (
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const ruleReceive = "PROTOCOL.md, Transport"

var frameCases = []Case{
	{Name: "frames/ping", Requires: "PING is answered with PONG and the same a, all 64 bits of it.", Rule: "PROTOCOL.md, PING", run: func(t *T) {
		k := t.link()
		for _, a := range []uint64{0, 1, 1 << 40, 0xfedcba9876543210} {
			k.send(&handoff.Frame{Type: handoff.TypePing, A: a})
			t.await(func() bool { return len(k.pongs) > 0 && k.pongs[len(k.pongs)-1] == a }, "answered PING with PONG, a = %#x", a)
		}
	}},
	{Name: "frames/ping-busy", Requires: "A host that takes several leases answers PING also while it serves one.", Rule: "PROTOCOL.md, PING", run: func(t *T) {
		k, c := t.link(), t.connect()
		if k.capacity < 2 {
			t.skipf("this host takes one lease at a time")
		}
		const nap = "1200"
		t.say(c, request("GET", "/sleep?ms="+nap))
		l := t.lend(k, c)
		t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read a request")
		k.send(&handoff.Frame{Type: handoff.TypePing, A: 77})
		answered := func() bool { return l.answer != nil || len(k.pongs) > 0 && k.pongs[len(k.pongs)-1] == 77 }
		t.await(answered, "answered PING")
		if t.holds(func() bool { return l.answer != nil }) {
			t.failf("PING was answered only after the request that took %s ms", nap)
		}
		t.want(t.hear(c, "GET"), 200, "slept\n")
		t.put(l)
	}},
	{Name: "frames/cut", Requires: "A LEASE may arrive cut at any byte, in its payload too; its descriptor comes with the first part.", Rule: ruleReceive + " 2", run: func(t *T) {
		k := t.link()
		var payload []byte
		if k.agreed(handoff.FeatureAddress) {
			payload = []byte(`{"peer":"192.0.2.7:1234"}`)
		}
		for cut := 1; cut < handoff.HeaderSize+len(payload); cut++ {
			c := t.connect()
			t.say(c, request("GET", "/bytes?n=10"))
			l, f := c.begin(k, handoff.FlagFD)
			f.Payload = payload
			b := f.Append(nil)
			k.write(b[:cut], c.fd)
			t.poll(func() bool { return k.unread() == 0 || k.gone }, "read the first %d bytes of a LEASE", cut)
			k.write(b[cut:], -1)
			t.want(t.hear(c, "GET"), 200, pattern(10))
			t.put(l)
			t.forget(c, handoff.ForgetMoved)
		}
	}},
	{Name: "frames/merged", Requires: "The second half of a LEASE may be read together with the next LEASE and its descriptor.", Rule: ruleReceive + " 2", run: func(t *T) {
		k := t.link()
		if k.capacity < 2 {
			t.skipf("this host takes one lease at a time")
		}
		first, second := t.connect(), t.connect()
		t.say(first, request("GET", "/bytes?n=10"))
		t.say(second, request("GET", "/bytes?n=20"))
		l1, f1 := first.begin(k, handoff.FlagFD)
		l2, f2 := second.begin(k, handoff.FlagFD)
		b := f1.Append(nil)
		k.write(b[:9], first.fd)
		t.poll(func() bool { return k.unread() == 0 || k.gone }, "read the first 9 bytes of a LEASE")
		k.write(b[9:], -1)
		k.write(f2.Append(nil), second.fd)
		t.want(t.hear(first, "GET"), 200, pattern(10))
		t.want(t.hear(second, "GET"), 200, pattern(20))
		t.put(l1)
		t.put(l2)
	}},
	{Name: "frames/batched", Requires: "Many frames may come at once, with one that carries a descriptor behind them.", Rule: ruleReceive, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/bytes?n=10"))
		var b []byte
		for i := range uint64(40) {
			b = (&handoff.Frame{Type: handoff.TypePing, A: 1000 + i}).Append(b)
			b = (&handoff.Frame{Type: handoff.TypeForget, Conn: 1<<50 + i, A: handoff.ForgetMoved}).Append(b)
			b = (&handoff.Frame{Type: 0x7e, Conn: i, Payload: []byte("skip me")}).Append(b)
		}
		k.write(b, -1)
		l, f := c.begin(k, handoff.FlagFD)
		k.write(f.Append(nil), c.fd)
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
		t.await(func() bool { return len(k.pongs) > 0 && k.pongs[len(k.pongs)-1] == 1039 }, "answered the last of 40 PINGs in one batch")
	}},
	{Name: "frames/unknown", Requires: "A frame of an unknown type below 0x80 is skipped with its payload, also one of 8192 bytes.", Rule: "PROTOCOL.md, Frame", run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, size := range []int{0, 1, handoff.MaxPayload} {
			k.send(&handoff.Frame{Type: 0x7f, Flags: 0xfe, Seq: 9, Conn: 7, A: 1, B: 2, Payload: make([]byte, size)})
			t.works(k, c)
		}
	}},
	{Name: "frames/unknown-with-descriptor", Requires: "A descriptor that comes with an unknown frame is closed, and not taken for the next lease's.", Rule: "PROTOCOL.md, Frame; " + ruleReceive + " 4", run: func(t *T) {
		k, stray := t.link(), t.connect()
		for range 3 {
			f := handoff.Frame{Type: 0x6f, Flags: handoff.FlagFD, Payload: []byte("payload")}
			k.write(f.Append(nil), stray.fd)
			t.works(k, t.connect())
		}
		t.poll(func() bool { return len(t.hostHas(stray)) == 0 }, "closed the descriptor of an unknown frame")
	}},
	{Name: "frames/unknown-flags", Requires: "Unknown flags are ignored.", Rule: "PROTOCOL.md, Frame", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/bytes?n=10"))
		l := t.lendFlags(k, c, 0xc0)
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
	}},
	{Name: "frames/error", Requires: "A frame of an unknown type from 0x80 on is an error: the host hangs up, and attaches again.", Rule: "PROTOCOL.md, Frame", run: func(t *T) {
		k := t.link()
		k.send(&handoff.Frame{Type: 0x90})
		t.await(func() bool { return k.gone }, "hung up after a frame of type 0x90")
		t.works(t.link(), t.connect())
	}},
	{Name: "frames/large-numbers", Requires: "Connection ids up to 2^53-1 and any seq are echoed exactly.", Rule: "PROTOCOL.md, Frame", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.rename(c, handoff.MaxConn-1, 0xfffffff0)
		t.works(k, c)
		t.works(k, c)
	}},
	{Name: "frames/descriptor-missing", Requires: "A LEASE whose FD flag is set and that comes without descriptor is NACKed (1), or the host hangs up and attaches again.", Rule: ruleReceive + " 3", run: func(t *T) {
		k, c := t.link(), t.connect()
		l, f := c.begin(k, handoff.FlagFD)
		k.send(&f)
		t.await(func() bool { return l.answer != nil || k.gone }, "refused a LEASE without its descriptor")
		if l.answer != nil && (l.answer.Type != handoff.TypeNack || l.answer.A != handoff.NackNoDescriptor) {
			t.failf("answered %s (a=%d), want NACK with a=1", l.answer.Type, l.answer.A)
		}
		t.works(t.link(), t.connect())
	}},
}

// rename gives a connection that was never leased another id, and the number after which its leases count.
func (t *T) rename(c *connection, id uint64, seq uint32) {
	t.holds(func() bool {
		delete(t.sidecar.conns, c.id)
		c.id, c.seq = id, seq
		t.sidecar.conns[id] = c
		return true
	})
}

// dribble sends bytes one by one, each when the one before it was read.
func (k *link) dribble(p []byte) {
	for i := range p {
		k.write(p[i:i+1], -1)
		for until := time.Now().Add(writeTime); k.unread() > 0 && time.Now().Before(until); {
			time.Sleep(100 * time.Microsecond)
		}
	}
	k.dribbled.Store(true)
}
