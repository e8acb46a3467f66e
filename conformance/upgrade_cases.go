package conformance

import (
	"bufio"
	"io"
	"net/http"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

const ruleDetach = "PROTOCOL.md, DETACH"

var upgradeCases = []Case{
	{Name: "upgrade/echo", Requires: "A connection that is upgraded is the host's for good: DETACH, then nothing more of it.", Rule: ruleDetach, run: func(t *T) {
		k, c := t.link(), t.connect()
		in := t.upgrade(k, c, "")
		for range 3 {
			t.say(c, "ping pong\n")
			if line, err := in.ReadString('\n'); err != nil || line != "ping pong\n" {
				t.failf("the echo of the upgraded connection is %q (%v)", line, err)
			}
		}
		_ = c.tcp.CloseWrite()
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.failf("at its client's end the host should end an upgraded connection: %q, %v", rest, err)
		}
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed the upgraded connection")
		t.works(k, t.connect())
	}},
	{Name: "upgrade/bytes-behind", Requires: "Bytes that came right behind the request for an upgrade belong to the new protocol.", Rule: ruleDetach, run: func(t *T) {
		k, c := t.link(), t.connect()
		in := t.upgrade(k, c, "early bird\n")
		if line, err := in.ReadString('\n'); err != nil || line != "early bird\n" {
			t.failf("the echo of what came with the request is %q (%v)", line, err)
		}
		_ = c.tcp.CloseWrite()
		_, _ = io.ReadAll(in)
	}},
	{Name: "upgrade/frees-capacity", Requires: "An upgraded connection takes no capacity.", Rule: ruleDetach, run: func(t *T) {
		for range 2 * t.opts.Capacity {
			c := t.connect()
			t.upgrade(t.room(), c, "")
		}
		for range t.opts.Capacity {
			t.works(t.room(), t.connect())
		}
	}},
}

// upgrade asks for an echo, and waits for DETACH.
func (t *T) upgrade(k *link, c *connection, behind string) *bufio.Reader {
	t.say(c, request("GET", "/upgrade", "Connection: Upgrade", "Upgrade: echo")+behind)
	l := t.lend(k, c)
	_ = c.tcp.SetReadDeadline(time.Now().Add(t.opts.Timeout))
	res, err := http.ReadResponse(c.in, &http.Request{Method: http.MethodGet})
	if err != nil {
		t.failf("no response: %v", err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode == http.StatusNotImplemented {
		_, _ = io.Copy(io.Discard, res.Body)
		if behind == "" { // else it is the beginning of a next request, whose end the host waits for
			t.answered(l, handoff.TypePut, handoff.TypeClose)
		}
		t.skipf("the app answers 501: it cannot upgrade")
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.failf("status %d, want 101", res.StatusCode)
	}
	t.answered(l, handoff.TypeDetach)
	return c.in
}
