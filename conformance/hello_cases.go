package conformance

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const ruleBackOff = "PROTOCOL.md, rule 7"

const defaultPool = "default"

var helloCases = []Case{
	{Name: "hello/in-time", Requires: "The program connects to ANTEROOM_HANDOFF and says HELLO within 2 s of connecting.", Rule: "PROTOCOL.md, HELLO and code 6", own: true, run: func(t *T) {
		t.begin(nil)
		k := t.link()
		if took := k.introduced.Sub(k.came); took > helloTime {
			t.failf("HELLO came %v after connecting, 2 s are allowed", took.Round(time.Millisecond))
		}
		t.works(k, t.connect())
	}},
	{Name: "hello/fields", Requires: "HELLO's members are those of the environment: pool, name, capacity.", Rule: "PROTOCOL.md, HELLO; " + ruleApp, run: func(t *T) {
		k := t.link()
		h := *k.hello
		if h.Pool != poolName {
			t.failf("pool %q, want ANTEROOM_POOL: %q", h.Pool, poolName)
		}
		if !strings.HasPrefix(h.Name, hostName) {
			t.failf("name %q, want ANTEROOM_NAME, %q, or that with something behind it", h.Name, hostName)
		}
		t.await(func() bool {
			sum := 0
			for _, l := range t.sidecar.liveLocked() {
				sum += l.hello.Capacity
			}
			return sum == t.opts.Capacity || h.Capacity == t.opts.Capacity
		}, "offered a capacity of ANTEROOM_CAPACITY, %d, by one link or by all together (this one: %d)", t.opts.Capacity, h.Capacity)
	}},
	{Name: "hello/default-pool", Requires: "Without ANTEROOM_POOL the program joins the pool `default`.", Rule: ruleApp, own: true, run: func(t *T) {
		t.pool = ""
		t.begin(nil)
		k := t.link()
		if pool := k.hello.Pool; pool != defaultPool {
			t.failf("pool %q, want %q: clients of the sidecar's listeners are lent to that pool", pool, defaultPool)
		}
		t.works(k, t.connect())
	}},
	{Name: "hello/welcome-unknown-members", Requires: "Unknown members of WELCOME are ignored.", Rule: "PROTOCOL.md, JSON payloads", own: true, run: func(t *T) {
		t.begin(func(k *link) {
			k.agreeLocked(k.hello.Features)
			f := k.welcome(k.hello.Features)
			f.Payload = addMembers(f.Payload)
			k.send(&f)
		})
		t.works(t.link(), t.connect())
	}},
	{Name: "hello/welcome-in-pieces", Requires: "A WELCOME may come byte by byte.", Rule: "PROTOCOL.md, Transport", own: true, run: func(t *T) {
		t.begin(func(k *link) {
			k.agreeLocked(k.hello.Features)
			f := k.welcome(k.hello.Features)
			go k.dribble(f.Append(nil))
		})
		k := t.link()
		t.poll(func() bool { return k.dribbled.Load() }, "read a WELCOME that came byte by byte")
		t.works(k, t.connect())
	}},
	{Name: "hello/lease-at-once", Requires: "A LEASE may come right behind WELCOME.", Rule: "PROTOCOL.md, Transport", own: true, run: func(t *T) {
		c := t.connect()
		t.say(c, request("GET", "/bytes?n=10"))
		leases := make(chan *lease, 1)
		lent := false
		t.begin(func(k *link) {
			if lent {
				k.welcomeLocked(k.hello.Features)
				return
			}
			lent = true
			k.agreeLocked(k.hello.Features)
			welcome := k.welcome(k.hello.Features)
			l, f := c.beginLocked(k, handoff.FlagFD)
			leases <- l
			k.write(append(welcome.Append(nil), f.Append(nil)...), c.fd)
		})
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(<-leases)
	}},
	{Name: "hello/without-features", Requires: "A host whose features are not agreed closes its descriptor after each answer, and sends no FINISH.", Rule: "PROTOCOL.md, Features", own: true, run: func(t *T) {
		t.begin(func(k *link) { k.welcomeLocked(nil) })
		k, c := t.link(), t.connect()
		for range 3 {
			t.works(k, c)
			t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed its descriptor of a connection that it has put")
		}
		t.want(t.get(k, c, "/file?n=3000000"), 200, pattern(3_000_000))
	}},
	{Name: "hello/refused-for-now", Requires: "Refused (STOPPING), the program waits and tries again, ever longer, and is served once it is welcome; or it exits.", Rule: "PROTOCOL.md, REFUSE", own: true, run: func(t *T) {
		refusing := true
		t.begin(func(k *link) {
			if !refusing {
				k.welcomeLocked(k.hello.Features)
				return
			}
			refuse := handoff.Faultf(handoff.CodeStopping, "the sidecar is stopping").Frame(handoff.TypeRefuse, 0)
			k.send(&refuse)
			k.hangUpLocked()
		})
		t.spinning()
		if !t.process.running() {
			return
		}
		t.holds(func() bool { refusing = false; return true })
		t.works(t.link(), t.connect())
	}},
	{Name: "hello/refused-for-good", Requires: "Refused before HELLO is read (NOT_ALLOWED), the program exits or tries again ever more slowly.", Rule: "PROTOCOL.md, REFUSE", own: true, run: func(t *T) {
		t.sidecar.meet = func(k *link) {
			refuse := handoff.Faultf(handoff.CodeNotAllowed, "user 1 may not attach").Frame(handoff.TypeRefuse, 0)
			k.send(&refuse)
			k.hangUpLocked()
		}
		t.begin(nil)
		t.spinning()
	}},
	{Name: "hello/hung-up-on", Requires: "Hung up on without a word, the program tries again ever more slowly.", Rule: ruleBackOff, own: true, run: func(t *T) {
		t.sidecar.meet = func(k *link) { k.hangUpLocked() }
		t.begin(nil)
		t.spinning()
		if !t.process.running() {
			t.failf("the program ended (%s); a sidecar that restarts would have lost it", t.process.result)
		}
		t.holds(func() bool { t.sidecar.meet = nil; return true })
		t.works(t.link(), t.connect())
	}},
}

// helloTime is how long a host has from connecting to HELLO.
const helloTime = 2 * time.Second

// begin starts the program, with greet for its HELLO, and waits for a first connection.
func (t *T) begin(greet func(*link)) {
	t.sidecar.greet = greet
	if err := t.start(); err != nil {
		t.failf("%v", err)
	}
	if err := t.sidecar.wait(t.opts.StartTimeout, t.process.ended, func() bool { return len(t.sidecar.links) > 0 }); err != nil {
		t.failf("the program has not connected to ANTEROOM_HANDOFF %v after its start%s", t.opts.StartTimeout, t.ending())
	}
}

// spinning watches how often a program that is not let in comes again.
func (t *T) spinning() {
	const (
		watch = 3 * time.Second
		most  = 40
	)
	select {
	case <-time.After(watch):
	case <-t.process.ended:
	}
	n := 0
	t.holds(func() bool { n = len(t.sidecar.links); return true })
	if n > most*t.opts.Capacity {
		t.failf("the program connected %d times in %v: wait before trying again, ever longer", n, watch)
	}
}

// addMembers puts members into a JSON object that no version has.
func addMembers(object []byte) []byte {
	var m map[string]any
	if err := json.Unmarshal(object, &m); err != nil {
		panic(err)
	}
	m["future"] = map[string]any{"nested": []any{1, "two", nil, map[string]any{"three": 3.5}}}
	m["another"] = "\u00fc\u2603 \\\" ]}"
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
