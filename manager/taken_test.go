package manager

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// A host that has kept its descriptor reads from a connection it has put, between two looks of the
// loop at the request there. It can only harm that connection.
func TestAHostReadsFromAConnectionItHasPut(t *testing.T) {
	empty := strings.Repeat("\r\n", 7)
	for name, begun := range map[string]string{
		"head":   empty + "GET / HTTP/1.1\r\nHost: a",
		"chunks": "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"body":   "POST / HTTP/1.1\r\nContent-Length: 50\r\n\r\nhello",
	} {
		t.Run(name, func(t *testing.T) {
			r := readyRig(t, Limits{})
			h := r.attach(handoff.Hello{Capacity: 2})
			c, other := r.dial(), r.dial()
			c.send(get)
			lease, fd := h.want(handoff.TypeLease)
			kept, err := unix.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			h.answer(lease, fd, get, "y")
			c.want("y")
			c.send(begun)
			awaitUnread(t, kept, len(begun))
			r.pass(time.Millisecond) // it has looked
			readAll(t, kept, len(begun)-4)
			c.send("x")
			_ = c.CloseWrite()
			other.send(get)
			for served := false; !served; {
				next, fd := h.want(handoff.TypeLease)
				if served = next.Conn != lease.Conn; served {
					h.answer(next, fd, get, "z")
				} else { // its client has ended: the host gets what there is
					closeFD(fd)
					h.send(handoff.Frame{Type: handoff.TypeClose, Seq: next.Seq, Conn: next.Conn})
				}
			}
			other.want("z")
			closeFD(kept)
			_ = c.Close()
			r.eventually("only the other is left", func(c Counts) bool { return c.States.Sum() == 1 })
		})
	}
}
