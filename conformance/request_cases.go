package conformance

import (
	"fmt"
	"strings"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const (
	ruleApp  = "hosts.md, the conformance app"
	ruleIdle = "PROTOCOL.md, rule 5"
)

var requestCases = []Case{
	{Name: "requests/get", Requires: "A GET is answered, and then the connection is put.", Rule: "PROTOCOL.md, PUT", run: func(t *T) {
		k, c := t.link(), t.connect()
		a := t.get(k, c, "/")
		if a.status != 200 || !strings.HasPrefix(string(a.body), "hello from ") || !strings.HasSuffix(string(a.body), "\n") {
			t.failf("%d %s, want 200 and hello from LANGUAGE", a.status, excerpt(a.body))
		}
		if !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") {
			t.failf("Content-Type %q, want text/plain", a.header.Get("Content-Type"))
		}
		if a.close {
			t.failf("the response ends the connection; it should stay")
		}
	}},
	{Name: "requests/lengths", Requires: "A LEASE may say how long the request and its head are.", Rule: "PROTOCOL.md, LEASE a", run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, text := range []string{request("GET", "/bytes?n=5"), post("five!")} {
			t.say(c, text)
			l, f := c.begin(k, 0)
			head := strings.Index(text, "\r\n\r\n") + 4
			f.A, f.B = uint64(head)|uint64(len(text))<<32, 1500
			t.deliver(k, l, f)
			a := t.hear(c, "GET")
			if a.status != 200 || len(a.body) != 5 {
				t.failf("%d %s, want 200 and five bytes", a.status, excerpt(a.body))
			}
			t.put(l)
			t.forget(c, handoff.ForgetMoved)
		}
	}},
	{Name: "requests/echo-header", Requires: "The header X-Echo is repeated in the response.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, path := range []string{"/", "/nothing-here"} {
			a := t.exchange(k, c, "GET", request("GET", path, "X-Echo: one two"))
			if got := a.header.Get("X-Echo"); got != "one two" {
				t.failf("%s: X-Echo %q, want \"one two\"", path, got)
			}
		}
	}},
	{Name: "requests/not-found", Requires: "An unknown path gets 404, and the connection stays.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		if a := t.get(k, c, "/nothing-here"); a.status != 404 {
			t.failf("status %d, want 404", a.status)
		}
	}},
	{Name: "requests/head", Requires: "HEAD gets the head alone, and the connection stays.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, path := range []string{"/bytes?n=1000", "/stream?n=1000", "/file?n=1000"} {
			t.want(t.exchange(k, c, "HEAD", request("HEAD", path)), 200, "")
			t.works(k, c) // a body would stand before this response
		}
	}},
	{Name: "requests/long-head", Requires: "A request may have a head of 6 kB.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for range 2 {
			t.want(t.exchange(k, c, "GET", request("GET", "/bytes?n=10", "Cookie: a="+pattern(6000))), 200, pattern(10))
		}
	}},
	{Name: "requests/expect", Requires: "A client that waits for 100 (Continue) before it sends its body gets it, or its body is read without.", Rule: "RFC 9110, 10.1.1", run: func(t *T) {
		k, c := t.link(), t.connect()
		body := pattern(5000)
		t.say(c, request("POST", "/echo", "Expect: 100-continue", fmt.Sprintf("Content-Length: %d", len(body))))
		l := t.lend(k, c)
		_ = c.tcp.SetReadDeadline(time.Now().Add(expectTime))
		_, err := c.in.Peek(1)
		t.say(c, body)
		a := t.hear(c, "POST")
		if err == nil && a.status == 100 {
			a = t.hear(c, "POST")
		}
		t.want(a, 200, body)
		t.put(l)
		t.works(k, c)
	}},
	{Name: "requests/status", Requires: "Any status is sent; 204 and 304 have no body, and the connection stays.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, code := range []int{200, 201, 204, 304, 404, 500, 503} {
			a := t.get(k, c, fmt.Sprintf("/status?code=%d", code))
			body := fmt.Sprintf("%d\n", code)
			if code == 204 || code == 304 {
				body = ""
			}
			t.want(a, code, body)
		}
	}},
	{Name: "requests/bytes", Requires: "A response of known length arrives whole, also one of 3 MB.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, n := range []int{0, 1, 26, 1000, 65536, 3_000_000} {
			a := t.get(k, c, fmt.Sprintf("/bytes?n=%d", n))
			t.want(a, 200, pattern(n))
			if got := a.header.Get("Content-Length"); got != fmt.Sprint(n) {
				t.failf("Content-Length %q, want %d", got, n)
			}
		}
	}},
	{Name: "requests/file", Requires: "A file is sent whole, by whichever road.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, n := range []int{1, 70_000, 3_000_000} {
			t.want(t.get(k, c, fmt.Sprintf("/file?n=%d", n)), 200, pattern(n))
		}
	}},
	{Name: "requests/stream", Requires: "A response of unknown length is chunked in HTTP/1.1, and the connection stays.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, n := range []int{0, 5, 100_000} {
			a := t.get(k, c, fmt.Sprintf("/stream?n=%d", n))
			t.want(a, 200, pattern(n))
			if a.close {
				t.failf("the response ends the connection; it should be chunked")
			}
		}
	}},
	{Name: "requests/post", Requires: "A request with Content-Length is read to its end, also one of 300 kB.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, n := range []int{0, 1, 5000, 300_000} {
			t.echo(k, c, post(pattern(n)), n)
		}
		t.echo(k, c, strings.Replace(post(pattern(9)), "POST", "PUT", 1), 9)
	}},
	{Name: "requests/post-chunked", Requires: "A chunked request is read to its end, the last chunk and the trailer included.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		for _, tail := range []string{"0\r\n\r\n", "0\r\nX-Trailer: yes\r\n\r\n"} {
			body := pattern(30)
			text := request("POST", "/echo", "Transfer-Encoding: chunked") +
				"a\r\n" + body[:10] + "\r\n" + "A;name=value\r\n" + body[10:20] + "\r\n" + "00a\r\n" + body[20:] + "\r\n" + tail
			t.echo(k, c, text, 30)
		}
	}},
	{Name: "requests/in-pieces", Requires: "A head and a body that arrive over time are waited for.", Rule: "PROTOCOL.md, LISTEN ready (bytes)", run: func(t *T) {
		k := t.link()
		text := post(pattern(2000))
		for _, cut := range []int{1, 10, strings.Index(text, "\r\n\r\n") + 2, strings.Index(text, "\r\n\r\n") + 4, len(text) - 1} {
			c := t.connect()
			t.say(c, text[:cut])
			l := t.lend(k, c)
			t.poll(func() bool { return t.holds(func() bool { return unreadHere(c.fd) == 0 || l.answer != nil }) }, "read the beginning of a request")
			t.say(c, text[cut:])
			t.want(t.hear(c, "POST"), 200, pattern(2000))
			t.put(l)
		}
	}},
	{Name: "requests/chunked-in-pieces", Requires: "A chunked body that arrives over time is waited for.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("POST", "/echo", "Transfer-Encoding: chunked"))
		l := t.lend(k, c)
		for _, piece := range []string{"5", "\r\nab", "cde\r", "\n5\r\nfghij\r\n0\r\n", "\r\n"} {
			time.Sleep(5 * time.Millisecond) // so that the pieces are not read as one; it may happen, and does no harm
			t.say(c, piece)
		}
		t.want(t.hear(c, "POST"), 200, pattern(10))
		t.put(l)
		t.works(k, c)
	}},
	{Name: "requests/http10", Requires: "HTTP/1.0 without keep-alive: answered, then CLOSE.", Rule: "PROTOCOL.md, CLOSE", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, "GET /bytes?n=50 HTTP/1.0\r\n\r\n")
		l := t.lend(k, c)
		t.want(t.hear(c, "GET"), 200, pattern(50))
		t.ended(l)
	}},
	{Name: "requests/http10-keep-alive", Requires: "HTTP/1.0 with keep-alive: the response says so and the connection is put, or it is closed.", Rule: "PROTOCOL.md, PUT", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, "GET /bytes?n=50 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		l := t.lend(k, c)
		a := t.hear(c, "GET")
		t.want(a, 200, pattern(50))
		if a.close {
			t.ended(l)
			return
		}
		t.put(l)
		t.works(k, c)
	}},
	{Name: "requests/http10-stream", Requires: "In HTTP/1.0 a response of unknown length goes until the connection ends, without chunks.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, "GET /stream?n=5000 HTTP/1.0\r\n\r\n")
		l := t.lend(k, c)
		a := t.hear(c, "GET")
		t.want(a, 200, pattern(5000))
		if a.header.Get("Transfer-Encoding") != "" {
			t.failf("it was chunked, which HTTP/1.0 does not know")
		}
		t.ended(l)
	}},
	{Name: "requests/close-asked", Requires: "Connection: close in a request: the response says so, then CLOSE, and no shutdown.", Rule: "PROTOCOL.md, rule 4", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/bytes?n=50", "Connection: close"))
		l := t.lend(k, c)
		a := t.hear(c, "GET")
		t.want(a, 200, pattern(50))
		if !a.close {
			t.failf("the response lacks Connection: close")
		}
		t.ended(l)
	}},
	{Name: "requests/close-told", Requires: "Connection: close in a response: CLOSE, and no shutdown.", Rule: "PROTOCOL.md, rule 4", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/close"))
		l := t.lend(k, c)
		a := t.hear(c, "GET")
		t.want(a, 200, "bye\n")
		if !a.close {
			t.failf("the response lacks Connection: close")
		}
		t.ended(l)
	}},
	{Name: "requests/last", Requires: "A lease with LAST is answered with Connection: close, then CLOSE.", Rule: "PROTOCOL.md, flag LAST", run: func(t *T) {
		k := t.link()
		for range 2 { // the first lease of a connection, then the second of another
			c := t.connect()
			t.say(c, request("GET", "/bytes?n=50"))
			l := t.lendFlags(k, c, handoff.FlagLast)
			a := t.hear(c, "GET")
			t.want(a, 200, pattern(50))
			if !a.close {
				t.failf("the response lacks Connection: close")
			}
			t.ended(l)
		}
	}},
	{Name: "requests/last-after-put", Requires: "LAST may come with a later lease of a connection.", Rule: "PROTOCOL.md, flag LAST", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.works(k, c)
		t.say(c, request("GET", "/stream?n=50"))
		l := t.lendFlags(k, c, handoff.FlagLast)
		a := t.hear(c, "GET")
		t.want(a, 200, pattern(50))
		if !a.close {
			t.failf("the response lacks Connection: close")
		}
		t.ended(l)
	}},
	{Name: "requests/pipelined-2", Requires: "Two requests at once are answered in order, and nothing is lost.", Rule: ruleIdle, run: func(t *T) { t.pipeline(2) }},
	{Name: "requests/pipelined-5", Requires: "Five requests at once, one with a body, are answered in order; PUT says how many.", Rule: ruleIdle, run: func(t *T) { t.pipeline(5) }},
	{Name: "requests/pipelined-part", Requires: "A host that has read the beginning of the next request waits for its end, or leaves it unread.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		first, second := request("GET", "/bytes?n=11"), request("GET", "/bytes?n=22")
		t.say(c, first+second[:20])
		l := t.lend(k, c)
		t.want(t.hear(c, "GET"), 200, pattern(11))
		t.say(c, second[20:])
		served := t.serveRest(l, 2, func(int) { t.want(t.hear(c, "GET"), 200, pattern(22)) }, 1)
		if served != 2 {
			t.failf("PUT counts %d requests (b), 2 were served", served)
		}
	}},
	{Name: "requests/pipelined-close", Requires: "A request behind one that ends the connection gets no response.", Rule: "PROTOCOL.md, CLOSE", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/close")+request("GET", "/bytes?n=22"))
		l := t.lend(k, c)
		t.want(t.hear(c, "GET"), 200, "bye\n")
		t.ended(l)
	}},
	{Name: "requests/blank-line", Requires: "A bare CRLF behind a request's body does no harm.", Rule: ruleIdle, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, post("with a line behind it")+"\r\n")
		l := t.lend(k, c)
		t.want(t.hear(c, "POST"), 200, "with a line behind it")
		t.put(l)
		t.works(k, c)
	}},
	{Name: "requests/peer", Requires: "The app sees the client's address.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.want(t.get(k, c, "/peer"), 200, "127.0.0.1\n")
	}},
	{Name: "requests/peer-told", Requires: "With the feature address, the app sees the address in the LEASE.", Rule: "PROTOCOL.md, feature address", run: func(t *T) {
		k := t.link()
		t.need(k, handoff.FeatureAddress)
		for told, want := range map[string]string{"192.0.2.7:1234": "192.0.2.7\n", "[2001:db8::7]:1234": "2001:db8::7\n"} {
			c := t.connect()
			t.say(c, request("GET", "/peer"))
			l, f := c.begin(k, 0)
			f.Payload = fmt.Appendf(nil, `{"unknown":{"a":[1]},"peer":%q}`, told)
			t.deliver(k, l, f)
			t.want(t.hear(c, "GET"), 200, want)
			t.put(l)
		}
	}},
	{Name: "requests/garbage", Requires: "What is no HTTP gets 400 (or another 4xx, or 505), then CLOSE.", Rule: ruleApp, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, "what is this\r\nno header\r\n\r\n")
		l := t.lend(k, c)
		if a := t.hear(c, "GET"); (a.status < 400 || a.status >= 500) && a.status != 505 {
			t.failf("status %d, want 400", a.status)
		}
		t.closed(l)
		t.works(k, t.connect())
	}},
	{Name: "requests/silent", Requires: "A lease with SILENT is answered with 408, then CLOSE.", Rule: "PROTOCOL.md, flag SILENT", run: func(t *T) {
		k := t.link()
		asked := t.holds(func() bool {
			for _, l := range k.listens {
				if l.Silent == handoff.SilentLease {
					return true
				}
			}
			return false
		})
		if !asked {
			t.skipf("the host has no listener that asked for it")
		}
		c := t.connect()
		l := t.lendFlags(k, c, handoff.FlagSilent)
		if a := t.hear(c, "GET"); a.status != 408 {
			t.failf("status %d, want 408", a.status)
		}
		t.closed(l)
	}},
	{Name: "requests/capacity", Requires: "As many leases as HELLO offers are served at the same time.", Rule: "PROTOCOL.md, HELLO capacity", run: func(t *T) {
		t.warm()
		var took time.Duration
		for range 3 { // a machine that is busy with something else can make it look worse, never better
			if took = t.naps(); took < 2*napTime {
				return
			}
		}
		t.failf("%d requests of %v each took %v: they were served one after the other", t.opts.Capacity, napTime, took.Round(time.Millisecond))
	}},
}

// napTime is how long each of the requests takes that are to be served at the same time.
const napTime = 700 * time.Millisecond

// naps fills the capacity with requests that take a while, and returns how long all of them took.
func (t *T) naps() time.Duration {
	var leases []*lease
	began := time.Now()
	for range t.opts.Capacity {
		c := t.connect()
		t.say(c, request("GET", fmt.Sprintf("/sleep?ms=%d", napTime.Milliseconds())))
		leases = append(leases, t.lend(t.room(), c))
	}
	for _, l := range leases {
		t.want(t.hear(l.c, "GET"), 200, "slept\n")
		t.put(l)
	}
	return time.Since(began)
}

// expectTime is how long a client waits for 100 (Continue) before it sends its body all the same, as curl does.
const expectTime = time.Second

// echo checks that a body of n pattern bytes comes back.
func (t *T) echo(k *link, c *connection, text string, n int) {
	t.say(c, text[:min(len(text), 60_000)])
	l := t.lend(k, c)
	t.say(c, text[min(len(text), 60_000):])
	t.want(t.hear(c, "POST"), 200, pattern(n))
	t.put(l)
}

// ended waits until a lease was closed, and checks that the client hears no more than its end.
func (t *T) ended(l *lease) {
	t.closed(l)
	rest, err := l.c.drain(t.opts.Timeout)
	if err != nil || len(rest) > 0 {
		t.failf("after the last response the client got %s (%v), it should hear the end", excerpt(rest), err)
	}
}

// pipeline sends n requests in one segment and reads the responses.
func (t *T) pipeline(n int) {
	k, c := t.link(), t.connect()
	var text strings.Builder
	for i := range n {
		if i%2 == 1 {
			text.WriteString(post(pattern(i + 1)))
		} else {
			text.WriteString(request("GET", fmt.Sprintf("/bytes?n=%d", i+1)))
		}
	}
	t.say(c, text.String())
	l := t.lend(k, c)
	served := t.serveRest(l, n, func(i int) { t.want(t.hear(c, "GET"), 200, pattern(i+1)) }, 0)
	if served != uint64(n) {
		t.failf("the puts count %d requests (b), %d were served", served, n)
	}
}

// serveRest reads the responses to n requests, from number i on, and leases the connection again whenever it comes back with unread bytes, as the
// sidecar would. It returns how many requests the host has counted.
func (t *T) serveRest(l *lease, n int, next func(int), i int) (served uint64) {
	for ; i < n; i++ {
		for t.cameBackEarly(l) {
			served += max(l.answer.B, 1)
			l = t.lend(l.link, l.c)
		}
		next(i)
	}
	f := t.put(l)
	return served + max(f.B, 1)
}

// cameBackEarly waits for the next response's first byte, or for a put that leaves requests unread.
func (t *T) cameBackEarly(l *lease) (early bool) {
	heard := l.c.in.Buffered() > 0
	t.poll(func() bool {
		early = t.holds(func() bool { return l.answer != nil && l.answer.Type == handoff.TypePut && unreadHere(l.c.fd) > 0 })
		return early || heard || l.c.waiting() > 0
	}, "answered a request behind another, nor given it back unread")
	return early
}

// warm makes every worker of the program do something once.
func (t *T) warm() {
	for range 2 * t.opts.Capacity {
		t.works(t.room(), t.connect())
	}
}
