package host

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// conn is a lent connection as net/http's server sees it: an ordinary net.Conn that lives through many leases. The server never holds a byte
// beyond its present request, because Read follows the requests (framer) and keeps what lies behind one for later. So when the server asks for
// the next request the connection is idle, and Read puts it: the goroutine stays in Read until the next lease, if the descriptor is kept, else
// Read returns io.EOF and the next lease is a new connection.
//
// It rests on three habits of net/http, which the tests hold on to: between the end of a request and its response it reads one byte at a time, to
// notice that the client has gone; it asks for more only when it wants the next request; it calls SetDeadline only to hijack.
//
// Read has one caller at a time; Close, Write and the deadlines may come from others meanwhile.
type conn struct {
	*socket
	c     *connection
	lease Lease // the reader's
	peer  net.Addr
	here  net.Addr

	framer framer
	rest   []byte // read past the present request
	look   bool   // a lease has come, nothing was read in it yet
	kick   chan struct{}
	timer  *time.Timer

	served   atomic.Int32          // requests done in this lease
	touched  atomic.Bool           // another has begun
	watching atomic.Bool           // Read waits for what is no byte
	parked   atomic.Bool           // put
	hungUp   atomic.Bool           // the client has ended its side
	own      atomic.Bool           // detached: the sidecar has forgotten it
	spill    atomic.Pointer[spill] // what the client has not taken of the response
	why      atomic.Uint64
	closed   atomic.Bool
}

// newConn makes a server's connection of a lease.
func newConn(l Lease) *conn {
	c := &conn{socket: l.c.sock, c: l.c, lease: l, peer: l.RemoteAddr(), here: l.LocalAddr(), look: true, kick: make(chan struct{}, 1)}
	k := l.c.link
	k.mu.Lock()
	defer k.mu.Unlock()
	l.c.owner = c
	return c
}

// wake makes a waiting Read look again.
func (c *conn) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Read gives the server bytes of its present request. Asked for the next one, it puts the connection and waits for its lease.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for !c.own.Load() {
		if c.framer.stage == stageComplete {
			if len(p) == 1 {
				return 0, c.watch()
			}
			if err := c.nextRequest(); err != nil {
				return 0, err
			}
		}
		n, err := c.readRequest(p)
		if n > 0 || err != nil {
			return n, c.note(err)
		}
	}
	return c.readOwn(p)
}

// readOwn passes everything on, first what was read too far.
func (c *conn) readOwn(p []byte) (int, error) {
	if len(c.rest) > 0 {
		return c.takeRest(p, func(p []byte) int { return len(p) }), nil
	}
	return c.read(p)
}

// nextRequest is between two requests.
func (c *conn) nextRequest() error {
	c.served.Add(1)
	c.touched.Store(false)
	c.rest = c.rest[blank(c.rest):]
	if c.framer.final || c.hungUp.Load() || c.lease.Last && len(c.rest) == 0 {
		return io.EOF
	}
	c.framer.next()
	return nil
}

// readRequest reads on in the present request. Without a byte and an error the caller tries again.
func (c *conn) readRequest(p []byte) (int, error) {
	if c.framer.stage == stageStart {
		c.rest = c.rest[blank(c.rest):]
	}
	switch {
	case len(c.rest) > 0:
		return c.takeRest(p, c.framer.scan), nil
	case c.framer.stage != stageStart:
		return c.readOn(p)
	case !c.look:
		return 0, c.park()
	}
	return c.readFirst(p)
}

// takeRest gives out what was read before, as far as claim says.
func (c *conn) takeRest(p []byte, claim func([]byte) int) int {
	n := min(len(p), len(c.rest))
	n = claim(c.rest[:n])
	copy(p, c.rest[:n])
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n
}

// readOn reads more of a request that has begun; of a body no more than is due.
func (c *conn) readOn(p []byte) (int, error) {
	if c.framer.stage == stageBody || c.framer.stage == stageData {
		p = p[:min(int64(len(p)), max(c.framer.need, 1))]
	}
	n, err := c.read(p)
	return c.sort(p[:n]), err
}

// readFirst reads the beginning of a request, which is here, since the lease is. If it is not, or is but empty lines, the connection is still idle.
func (c *conn) readFirst(p []byte) (int, error) {
	c.look = false
	n, err := c.readNow(p)
	if errors.Is(err, errAgain) {
		return 0, nil
	}
	p = p[:n]
	return c.sort(p[:copy(p, p[blank(p):])]), c.opError("read", err)
}

// sort divides what was read: what belongs to the request is given out, the rest is kept.
func (c *conn) sort(p []byte) int {
	if len(p) == 0 {
		return 0
	}
	c.touched.Store(true)
	n := c.framer.scan(p)
	if n < len(p) {
		c.rest = slices.Clone(p[n:])
	}
	if c.framer.stage == stageForeign {
		c.detach()
	}
	return n
}

// park puts the connection and waits for its next lease. A read deadline, such as http.Server.IdleTimeout, becomes its keep-alive timeout.
func (c *conn) park() error {
	left, limited := c.readBy.left()
	if !limited {
		left = 0
	} else if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	c.parked.Store(true)
	c.lease.Served = int(c.served.Load())
	kept, err := c.putOrFinish(left)
	if err != nil || !kept {
		return io.EOF
	}
	return c.await()
}

// putOrFinish answers the lease whose responses are all made.
func (c *conn) putOrFinish(timeout time.Duration) (kept bool, err error) {
	done, kept, err := c.finish(c.lease, false, timeout)
	if done || err != nil {
		return kept, err
	}
	if c.closed.Load() { // and what was put aside is with whoever has closed it
		return false, net.ErrClosed
	}
	return c.lease.put(timeout)
}

// await returns when the connection is leased again, or with io.EOF when it is no longer ours.
func (c *conn) await() error {
	for range c.kick {
		lease, state := c.c.begin()
		switch state {
		case stateLeased:
			c.lease, c.look = lease, true
			c.served.Store(0)
			c.parked.Store(false)
			return nil
		case stateGone:
			return io.EOF
		case stateIdle, stateQueued: // woken for something that is over
		}
	}
	return io.EOF
}

// begin is look for the goroutine that was woken.
func (c *connection) begin() (Lease, connState) {
	k := c.link
	k.mu.Lock()
	k.begunLocked(c)
	lease, state := c.lease, c.state
	if k.lateLocked() {
		k.flushUnlock() // before a handler runs for who knows how long
	} else {
		k.mu.Unlock()
	}
	return lease, state
}

func (c *connection) look() (Lease, connState) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.lease, c.state
}

// hangUpWatch is how long a handler runs before its client is watched for hanging up. Most are done sooner, and watching costs some system calls.
const hangUpWatch = 50 * time.Millisecond

// watch waits as net/http does beside a handler: until its deadline passes, the connection is closed, or the client hangs up.
func (c *conn) watch() error {
	c.watching.Store(true)
	defer c.watching.Store(false)
	watched := len(c.rest) > 0 // a client that has sent its next request is not gone
	for began := time.Now(); ; {
		switch {
		case c.users.Load()&closing != 0:
			return net.ErrClosed
		case c.readBy.passed():
			return os.ErrDeadlineExceeded
		case !watched && time.Since(began) >= hangUpWatch:
			if err := c.waitHangUp(); err != nil {
				c.lost(err)
				return err
			}
			watched = true
		default:
			c.waitKick(watched, began)
		}
	}
}

// lost: a client that hangs up while its request is served sends no other.
func (c *conn) lost(err error) {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		c.hungUp.Store(true)
	}
}

// waitKick waits for wake, the read deadline, or the time to watch the client.
func (c *conn) waitKick(watched bool, began time.Time) {
	wait, limited := c.readBy.left()
	if !watched {
		if left := hangUpWatch - time.Since(began); !limited || left < wait {
			wait, limited = left, true
		}
	}
	if !limited {
		<-c.kick
		return
	}
	if c.timer == nil {
		c.timer = time.NewTimer(wait)
	} else {
		c.timer.Reset(wait)
	}
	defer c.timer.Stop()
	select {
	case <-c.kick:
	case <-c.timer.C:
	}
}

// note remembers why reading failed, for the answer that ends the lease.
func (c *conn) note(err error) error {
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.why.Store(uint64(TooSlow))
	default:
		if !c.parked.Load() && c.framer.stage != stageComplete {
			c.why.Store(uint64(Client))
		}
	}
	return err
}

// Write sends the response.
func (c *conn) Write(p []byte) (int, error) {
	if c.parked.Load() {
		return 0, net.ErrClosed
	}
	c.touched.Store(true)
	return c.writeOrSpill(p)
}

// ReadFrom sends files, or a part of one by io.LimitReader, without copying them, see http.ResponseWriter.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if c.parked.Load() {
		return 0, net.ErrClosed
	}
	f, limit := fileOf(r)
	if f == nil {
		return io.Copy(writerOnly{c}, r)
	}
	c.touched.Store(true)
	return c.fileOrSpill(f, limit)
}

// writerOnly hides ReadFrom from io.Copy.
type writerOnly struct{ c *conn }

func (w writerOnly) Write(p []byte) (int, error) { return w.c.Write(p) }

// Close ends what the server has of the connection. A lent one is closed by the sidecar, or lent again if nothing of its request was read; one
// that is put stays with the sidecar and is only let go here.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if !c.own.Load() && !c.finishLast() {
		c.c.link.closeFor(c)
	}
	c.close()
	c.wake()
	return nil
}

// finishLast leaves to the sidecar what the client has not taken, and then to close the connection; false if all is sent.
func (c *conn) finishLast() bool {
	lease, state := c.c.look()
	if state != stateLeased {
		c.dropSpill()
		return false
	}
	done, _, _ := c.finish(lease, true, 0)
	return done
}

// CloseWrite is what net/http does before it closes a connection whose client may still be sending; the sidecar takes care of that.
func (c *conn) CloseWrite() error {
	if c.own.Load() {
		return c.shutdownWrite()
	}
	return c.Close()
}

func (k *link) closeFor(c *conn) {
	k.mu.Lock()
	defer k.flushUnlock()
	switch c.c.state {
	case stateLeased:
		f := c.lastAnswer()
		if k.answerLocked(c.c.lease, &f) == nil {
			k.forgetLocked(c.c)
		}
	case stateIdle:
		k.releaseLocked(c.c)
	case stateQueued, stateGone: // not the server's
	}
}

// lastAnswer ends a lease: a request of which nothing was read may still be another host's.
func (c *conn) lastAnswer() handoff.Frame {
	served := uint64(c.served.Load())
	switch {
	case c.touched.Load():
		served++
	case served == 0:
		return handoff.Frame{Type: handoff.TypeNack, A: handoff.NackOverload}
	}
	return handoff.Frame{Type: handoff.TypeClose, A: c.why.Load(), B: served}
}

// detach takes the connection for good: hijacked, or not HTTP/1 at all.
func (c *conn) detach() {
	if c.own.Swap(true) {
		return
	}
	_ = c.unspill() // what fails here fails for the next write too
	c.lease.Served = int(c.served.Load()) + 1
	if err := c.lease.detach(); err != nil {
		c.close() // it was taken back meanwhile
	}
}

// SetDeadline is how net/http hijacks, and where a connection stops being the sidecar's.
func (c *conn) SetDeadline(t time.Time) error {
	c.detach()
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline bounds reading within a request, and between requests becomes the connection's keep-alive timeout.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.setReadDeadline(t)
	if c.watching.Load() {
		c.wake()
	}
	return nil
}

// SetWriteDeadline bounds writing.
func (c *conn) SetWriteDeadline(t time.Time) error { c.setWriteDeadline(t); return nil }

// RemoteAddr is the client's address.
func (c *conn) RemoteAddr() net.Addr { return c.peer }

// LocalAddr is the address that the client has connected to.
func (c *conn) LocalAddr() net.Addr { return c.here }

// ends reports whether the response to the present request must end the connection.
func (c *conn) ends() bool {
	return c.framer.final || c.framer.stage == stageOpaque || c.lease.Last && len(c.rest) == 0
}
