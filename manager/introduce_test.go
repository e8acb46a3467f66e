package manager

import (
	"context"
	"testing"

	"github.com/anteroom-io/anteroom/handoff"
)

const proxyLine = "PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n"

func behindProxies(t *testing.T, networks ...string) *rig {
	r := newRig(t, Config{})
	o := ListenerOptions{Ready: ReadyRequest}
	for _, n := range networks {
		o.Proxies = append(o.Proxies, subnet(n))
	}
	r.web = r.listen("tcp://127.0.0.1:0", o)
	return r
}

func TestATrustedProxyTellsWhoTheClientIs(t *testing.T) {
	r := behindProxies(t, "127.0.0.0/8")
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureAddress}})
	const request = "GET / HTTP/1.1\r\n\r\n"
	for name, parts := range map[string][]string{
		"all at once":          {proxyLine + request},
		"the request behind":   {proxyLine, request},
		"the header in halves": {proxyLine[:9], proxyLine[9:] + request},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.dial()
			for _, part := range parts {
				c.send(part)
				r.settled(part)
			}
			lease, fd := h.want(handoff.TypeLease)
			if string(lease.Payload) != `{"peer":"192.0.2.7:4711"}` {
				t.Errorf("payload %q", lease.Payload)
			}
			h.serve(fd, request, "ok")
			closeFD(fd)
			seen, err := r.Connection(context.Background(), ConnID(lease.Conn))
			if err != nil || seen.Peer != "192.0.2.7:4711" {
				t.Errorf("seen from outside: %+v, %v", seen, err)
			}
			page, err := r.Connections(context.Background(), Query{Selection: Selection{Peer: "192.0.2.0/24"}})
			if err != nil || len(page.Connections) != 1 {
				t.Errorf("chosen by its address: %+v, %v", page, err)
			}
			h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
			c.want("ok")
			c.wantEnd()
			_ = c.Close()
			r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
		})
	}
}

// settled waits until the loop has nothing to do about what was sent.
func (r *rig) settled(string) {
	r.t.Helper()
	before := r.turns()
	r.eventually("the loop has turned", func(Counts) bool { return r.turns() > before+2 })
}

func TestAStrangerIsTakenForTheClientItself(t *testing.T) {
	r := behindProxies(t, "192.0.2.0/24")
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureAddress}})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\n\r\n")
	lease, fd := h.want(handoff.TypeLease)
	closeFD(fd)
	if len(lease.Payload) > 0 {
		t.Errorf("payload %q", lease.Payload)
	}
	liar := r.dial()
	liar.send(proxyLine + "GET / HTTP/1.1\r\n\r\n")
	r.settled(proxyLine)
	page, err := r.Connections(context.Background(), Query{Selection: Selection{Peer: "192.0.2.7"}})
	if err != nil || len(page.Connections) > 0 {
		t.Errorf("a stranger's header is believed: %+v, %v", page, err)
	}
}

func TestAnInvalidProxyHeaderIsRefused(t *testing.T) {
	r := behindProxies(t, "127.0.0.1/32")
	c := r.dial()
	c.send("PROXY TCP4 nobody nowhere 1 2\r\n")
	c.want("HTTP/1.1 400 Bad Request\r\n")
}

// A connection has the place of one that has gone in the table, and not its address.
func TestATrustedProxyThatTellsNothing(t *testing.T) {
	r := behindProxies(t, "127.0.0.1/32")
	h := r.attach(handoff.Hello{Features: []string{handoff.FeatureAddress}})
	for _, c := range []struct{ header, payload string }{{proxyLine, `{"peer":"192.0.2.7:4711"}`}, {"PROXY UNKNOWN\r\n", ""}, {"", ""}} {
		client := r.dial()
		client.send(c.header + get)
		lease, fd := h.want(handoff.TypeLease)
		closeFD(fd)
		if string(lease.Payload) != c.payload {
			t.Errorf("%q: payload %q, want %q", c.header, lease.Payload, c.payload)
		}
		h.send(handoff.Frame{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq})
		_ = client.Close()
		r.eventually("it is gone", func(c Counts) bool { return c.States.Sum() == 0 })
	}
}
