package conformance

import (
	"fmt"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const (
	ruleCache  = "PROTOCOL.md, feature cache"
	ruleForget = "PROTOCOL.md, FORGET"
)

var reuseCases = []Case{
	{Name: "reuse/by-id", Requires: "With cache, a connection that was put is leased again without a descriptor.", Rule: ruleCache, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.need(k, handoff.FeatureCache)
		t.works(k, c)
		for range 20 {
			if !t.holds(func() bool { return c.holder == k }) {
				t.failf("the host said DROPPED of the only connection that it has; a host that keeps no descriptor should not ask for cache")
			}
			t.works(k, c)
		}
	}},
	{Name: "reuse/with-descriptor", Requires: "A connection that was with another host comes back with a descriptor.", Rule: "PROTOCOL.md, LEASE", run: func(t *T) {
		k, c := t.link(), t.connect()
		for range 5 {
			t.works(k, c)
			t.forget(c, handoff.ForgetMoved)
		}
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed all its descriptors of the connection")
	}},
	{Name: "reuse/put-closes", Requires: "Without cache, the host closes its descriptor after each answer.", Rule: "PROTOCOL.md, Features", run: func(t *T) {
		k, c := t.link(), t.connect()
		if k.agreed(handoff.FeatureCache) {
			t.skipf("the host asked for cache (hello/without-features tests it without)")
		}
		t.works(k, c)
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed its descriptor of a connection that it has put")
	}},
	{Name: "reuse/forget", Requires: "At FORGET the host closes the descriptor that it keeps, without shutdown.", Rule: ruleForget, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.need(k, handoff.FeatureCache)
		t.works(k, c)
		t.barrier(k)
		if len(t.hostHas(c)) == 0 {
			t.failf("no process of the program has a descriptor of the connection, and it has not said DROPPED")
		}
		t.forget(c, handoff.ForgetEvicted)
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed its descriptor of a forgotten connection")
		t.untouched(c)
		t.works(k, c)
	}},
	{Name: "reuse/forget-unknown", Requires: "FORGET of a connection that the host does not know is ignored.", Rule: ruleForget, run: func(t *T) {
		k, c := t.link(), t.connect()
		k.send(&handoff.Frame{Type: handoff.TypeForget, Conn: 123456789, A: handoff.ForgetExpired})
		t.works(k, c)
		t.forget(c, handoff.ForgetExpired)
		k.send(&handoff.Frame{Type: handoff.TypeForget, Conn: c.id, A: handoff.ForgetExpired})
		t.works(k, c)
	}},
	{Name: "reuse/forget-leased", Requires: "FORGET takes a lease back: the host closes its descriptor without shutdown, and has its capacity again.", Rule: ruleForget, run: func(t *T) {
		for range 2 * t.opts.Capacity {
			k, c := t.room(), t.connect()
			t.say(c, request("GET", "/sleep?ms=150"))
			t.lend(k, c)
			t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read a request")
			t.forget(c, handoff.ForgetOperator)
			t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed its descriptor of a lease that was taken back")
			if shutDown(c.fd) {
				t.failf("the host shut the connection down that was taken back")
			}
		}
		for range t.opts.Capacity {
			t.works(t.room(), t.connect())
		}
	}},
	{Name: "reuse/unknown-id", Requires: "A LEASE without descriptor of a connection that the host does not hold is NACKed (2).", Rule: "PROTOCOL.md, NACK", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/bytes?n=10"))
		l, f := c.begin(k, 0)
		k.send(&f)
		if a := t.answered(l, handoff.TypeNack); a.A != handoff.NackUnknown {
			t.failf("NACK with a=%d, want 2", a.A)
		}
		l = t.lend(k, c) // the sidecar leases it again, with its descriptor
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
	}},
	{Name: "reuse/deaf", Requires: "After PUT the host reads nothing until the next lease.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, path := range []string{"/bytes?n=10", "/stream?n=10"} {
			t.get(k, c, path)
			text := request("GET", "/bytes?n=30")
			t.say(c, text)
			t.barrier(k)
			time.Sleep(deafTime)
			if n := unreadHere(c.fd); n != len(text) {
				t.failf("of %d bytes that came after PUT the host has read %d", len(text), len(text)-n)
			}
			l := t.lend(k, c)
			t.want(t.hear(c, "GET"), 200, pattern(30))
			t.put(l)
		}
	}},
	{Name: "reuse/idle-long", Requires: "A connection that was put stays so, longer than servers keep idle connections: no answer, no end, and then the next lease.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.works(k, c)
		if err := c.silent(idleTime); err != nil {
			t.failf("the client of an idle connection should hear nothing: %v", err)
		}
		t.untouched(c)
		t.works(k, c)
	}},
	{Name: "reuse/batched", Requires: "Several leases without descriptors may come in one batch.", Rule: ruleCache, run: func(t *T) {
		k := t.link()
		t.need(k, handoff.FeatureCache)
		var all []*connection
		for range k.capacity {
			c := t.connect()
			t.works(k, c)
			all = append(all, c)
		}
		t.barrier(k)
		var b []byte
		var leases []*lease
		for i, c := range all {
			if !t.holds(func() bool { return c.holder == k }) {
				t.failf("the host keeps fewer descriptors than it takes leases")
			}
			t.say(c, request("GET", fmt.Sprintf("/bytes?n=%d", i+100)))
			l, f := c.begin(k, 0)
			leases = append(leases, l)
			b = f.Append(b)
		}
		k.write(b, -1)
		for i, l := range leases {
			t.want(t.hear(l.c, "GET"), 200, pattern(i+100))
			t.put(l)
		}
	}},
	{Name: "reuse/many", Requires: "Many connections take turns, each with requests of its own.", Rule: "PROTOCOL.md, PUT", run: func(t *T) {
		k := t.link()
		var all []*connection
		for range 30 {
			all = append(all, t.connect())
		}
		for range 3 {
			for i, c := range all {
				a := t.exchange(k, c, "POST", post(pattern(i)))
				t.want(a, 200, pattern(i))
			}
		}
	}},
}

// deafTime is how long a host is watched that should read nothing.
const deafTime = 150 * time.Millisecond

// idleTime is longer than common servers keep an idle connection by themselves (5 s).
const idleTime = 6 * time.Second

// untouched checks that a connection is as it was: no end, no bytes.
func (t *T) untouched(c *connection) {
	if shutDown(c.fd) {
		t.failf("the host shut connection %d down; others go on with it", c.id)
	}
	if err := c.silent(20 * time.Millisecond); err != nil {
		t.failf("the client of connection %d should hear nothing now: %v", c.id, err)
	}
}
