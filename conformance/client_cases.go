package conformance

import (
	"io"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const ruleClient = "PROTOCOL.md, CLOSE a=1"

var clientCases = []Case{
	{Name: "clients/slow-reader", Requires: "A client that takes 8 MB slowly gets them all, and others are served meanwhile.", Rule: "PROTOCOL.md, rule 5", run: func(t *T) {
		const size = 8_000_000 // more than the kernel takes for a client that does not read
		t.warm()
		k, c := t.room(), t.connectWindow(smallWindow)
		t.say(c, request("GET", "/bytes?n=8000000"))
		l := t.lend(k, c)
		_ = c.tcp.SetReadDeadline(time.Now().Add(t.opts.Timeout))
		if _, err := c.in.Peek(100); err != nil {
			t.failf("no response: %v", err)
		}
		t.meanwhile(k, 5)
		t.want(t.hear(c, "GET"), 200, pattern(size))
		t.put(l)
	}},
	{Name: "clients/slow-sender", Requires: "A client that sends its request slowly holds up no other.", Rule: "PROTOCOL.md, rule 1", run: func(t *T) {
		t.warm()
		k, c := t.room(), t.connect()
		text := post(pattern(100))
		t.say(c, text[:40])
		l := t.lend(k, c)
		t.meanwhile(k, 5)
		t.say(c, text[40:])
		t.want(t.hear(c, "POST"), 200, pattern(100))
		t.put(l)
	}},
	{Name: "clients/gone-in-head", Requires: "A client that goes in the middle of a request's head: the lease ends with CLOSE.", Rule: ruleClient, run: func(t *T) {
		t.gone("GET /bytes?n=10 HTTP/1.1\r\nHost:", func(c *connection) { _ = c.tcp.Close() })
	}},
	{Name: "clients/gone-in-body", Requires: "A client that goes in the middle of a request's body: the lease ends with CLOSE.", Rule: ruleClient, run: func(t *T) {
		t.gone(request("POST", "/echo", "Content-Length: 1000")+"only this", func(c *connection) { _ = c.tcp.Close() })
	}},
	{Name: "clients/reset-in-body", Requires: "A client that resets its connection: the lease ends with CLOSE.", Rule: ruleClient, run: func(t *T) {
		t.gone(request("POST", "/echo", "Content-Length: 1000")+"only this", func(c *connection) { c.abort() })
	}},
	{Name: "clients/gone-in-response", Requires: "A client that goes in the middle of a response: the lease ends, and the host lives.", Rule: ruleClient, run: func(t *T) {
		k, c := t.link(), t.connectWindow(smallWindow)
		t.say(c, request("GET", "/bytes?n=8000000"))
		l := t.lend(k, c)
		_ = c.tcp.SetReadDeadline(time.Now().Add(t.opts.Timeout))
		if _, err := io.CopyN(io.Discard, c.in, 1000); err != nil {
			t.failf("no response: %v", err)
		}
		c.abort()
		t.answered(l, handoff.TypeClose, handoff.TypeFinish)
		t.works(t.link(), t.connect())
	}},
	{Name: "clients/half-closed", Requires: "A client that has sent its request and its end (FIN) gets the response, or the server takes it for gone and says CLOSE.", Rule: ruleClient, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/bytes?n=5000"))
		_ = c.tcp.CloseWrite()
		l := t.lend(k, c)
		if f := t.answered(l, handoff.TypePut, handoff.TypeClose, handoff.TypeFinish); f.Type != handoff.TypeClose {
			t.want(t.hear(c, "GET"), 200, pattern(5000))
		}
		t.works(t.link(), t.connect())
	}},
	{Name: "clients/gone-before", Requires: "A client that has gone before the host looks: the lease ends with CLOSE or PUT.", Rule: ruleClient, run: func(t *T) {
		k, c := t.link(), t.connect()
		c.abort()
		l := t.lend(k, c)
		t.answered(l, handoff.TypeClose, handoff.TypePut, handoff.TypeNack)
		t.works(k, t.connect())
	}},
}

// gone lends a connection whose client sends the beginning of a request and then goes.
func (t *T) gone(beginning string, leave func(*connection)) {
	k, c := t.link(), t.connect()
	t.say(c, beginning)
	l := t.lend(k, c)
	t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read the beginning of a request")
	leave(c)
	t.answered(l, handoff.TypeClose)
	t.works(t.link(), t.connect())
}

// meanwhile serves others while the host has a lease that takes its time: on the same link if it takes more than one.
func (t *T) meanwhile(busy *link, n int) {
	for range n {
		k := busy
		if !t.holds(func() bool { return k.leases < k.capacity }) {
			k = t.room()
		}
		t.works(k, t.connect())
	}
}
