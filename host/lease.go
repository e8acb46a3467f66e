package host

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// Errors of a lease's answers.
var (
	ErrLeaseOver = errors.New("host: this lease is over, it was answered or taken back")
	ErrLinkLost  = errors.New("host: the sidecar that gave this lease is gone")
)

// Lease is a connection lent to this host: read the request from it, write the response to it, then answer with exactly one of Put, Close,
// Detach, Nack or Finish. It is a value, free to copy. Its reads and writes are those of a non-blocking TCP connection with deadlines, and
// return net.ErrClosed once the lease is over.
type Lease struct {
	Conn   uint64        // the connection's id, the same in all its leases
	Seq    uint32        // the number of this lease of it
	Fresh  bool          // the connection's first request
	Last   bool          // answer with "Connection: close", then Close
	Silent bool          // the client has sent nothing in time: answer 408, then Close
	Head   int           // bytes of the request's head, 0 if not known
	Length int           // bytes of the whole request if all of it has arrived, else 0
	Waited time.Duration // from the request's arrival until the lease
	Peer   string        // the client's address if it is not the socket's (PROXY protocol), else empty

	// Served is for the host to set before it answers: the requests it has served in this lease, if more than one.
	Served int

	c *connection
}

// leaseOf reads a LEASE frame.
func leaseOf(c *connection, f *handoff.Frame) Lease {
	l := Lease{
		Conn: f.Conn, Seq: f.Seq, c: c,
		Fresh: f.Flags&handoff.FlagFresh != 0, Last: f.Flags&handoff.FlagLast != 0, Silent: f.Flags&handoff.FlagSilent != 0,
		Head: int(uint32(f.A)), Length: int(f.A >> 32), Waited: time.Duration(f.B) * time.Microsecond,
	}
	if len(f.Payload) > 0 {
		var more struct{ Peer string }
		_ = json.Unmarshal(f.Payload, &more) // a payload from a later version may be anything
		l.Peer = more.Peer
	}
	return l
}

// Read reads what the client has sent, io.EOF if it has ended the connection.
func (l Lease) Read(p []byte) (int, error) { return l.c.sock.read(p) }

// Write sends all of p to the client unless it fails.
func (l Lease) Write(p []byte) (int, error) { return l.c.sock.write(p) }

// SetReadDeadline and SetWriteDeadline are those of a net.Conn.
func (l Lease) SetReadDeadline(t time.Time) { l.c.sock.setReadDeadline(t) }

// SetWriteDeadline is SetReadDeadline for writing.
func (l Lease) SetWriteDeadline(t time.Time) { l.c.sock.setWriteDeadline(t) }

// FD is the connection's descriptor, for system calls of your own: non-blocking, and it must stay so. It belongs to the host and is valid
// until the lease is answered.
func (l Lease) FD() int { return l.c.sock.fd }

// RemoteAddr is the client's address: Peer if that is known.
func (l Lease) RemoteAddr() net.Addr {
	if at, err := netip.ParseAddrPort(l.Peer); err == nil {
		return net.TCPAddrFromAddrPort(at)
	}
	return l.c.sock.remote()
}

// LocalAddr is the address that the client has connected to.
func (l Lease) LocalAddr() net.Addr { return l.c.sock.local() }

// Put gives the connection back, idle: the response is written, the request's body is read, nothing is left in a buffer. timeout is how long it
// may stay idle this time; 0 is the pool's own keep-alive timeout.
func (l Lease) Put(timeout time.Duration) error {
	_, err := l.put(timeout)
	return err
}

// put also reports whether the descriptor was kept for the connection's next lease.
func (l Lease) put(timeout time.Duration) (kept bool, err error) {
	f := handoff.Frame{Type: handoff.TypePut, A: milliseconds(timeout), B: uint64(l.Served)}
	k := l.c.link
	k.mu.Lock()
	if err := k.answerLocked(l, &f); err != nil {
		k.mu.Unlock()
		return false, err
	}
	kept = k.holdLocked(l.c)
	k.flushSoonUnlock()
	if !kept {
		l.c.sock.close()
	}
	return kept, nil
}

// milliseconds rounds up: a timeout that is not zero stays so.
func milliseconds(d time.Duration) uint64 {
	return uint64((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}

// Reason says why a host ends a connection; it is for the sidecar's statistics.
type Reason uint64

// The reasons.
const (
	Done     = Reason(handoff.CloseDone)     // the response ended the connection
	Client   = Reason(handoff.CloseClient)   // the client went, or sent nonsense
	TooSlow  = Reason(handoff.CloseTooSlow)  // the client was too slow
	App      = Reason(handoff.CloseApp)      // the app failed
	Overload = Reason(handoff.CloseOverload) // there is too much to do
)

// Close ends the connection. The sidecar does it, properly: what is written still reaches the client.
func (l Lease) Close(why Reason) error {
	return l.end(&handoff.Frame{Type: handoff.TypeClose, A: uint64(why), B: uint64(l.Served)})
}

// Nack gives the lease back unserved, to be leased again, to another host where there is one. Nothing of the request may have been read.
func (l Lease) Nack() error {
	return l.end(&handoff.Frame{Type: handoff.TypeNack, A: handoff.NackOverload})
}

// end answers with f and lets the descriptor go.
func (l Lease) end(f *handoff.Frame) error {
	k := l.c.link
	k.mu.Lock()
	if err := k.answerLocked(l, f); err != nil {
		k.mu.Unlock()
		return err
	}
	k.forgetLocked(l.c)
	k.flushUnlock()
	l.c.sock.close()
	return nil
}

// Detach takes the connection for good, as for a WebSocket or a tunnel: the sidecar forgets it. The net.Conn owns it from then on.
func (l Lease) Detach() (net.Conn, error) {
	if err := l.detach(); err != nil {
		return nil, err
	}
	return &detached{socket: l.c.sock, peer: l.RemoteAddr()}, nil
}

func (l Lease) detach() error {
	k := l.c.link
	k.mu.Lock()
	if err := k.answerLocked(l, &handoff.Frame{Type: handoff.TypeDetach, B: uint64(l.Served)}); err != nil {
		k.mu.Unlock()
		return err
	}
	k.forgetLocked(l.c)
	k.flushUnlock()
	return nil
}

// Finish leaves the rest of the response to the sidecar: length bytes of file from offset on. The lease is over at once; the connection is put,
// or closed if last is set, when the client has taken the rest. The file is only borrowed. It fails unless the sidecar has agreed to the feature "finish".
func (l Lease) Finish(file *os.File, offset, length int64, last bool) error {
	if !l.c.link.agreed(handoff.FeatureFinish) {
		return errors.New("host: the sidecar does not finish responses (feature \"finish\"): write the rest yourself")
	}
	_, err := l.finish(file, offset, length, last, 0)
	return err
}

// finish is Finish with the time that Put takes. It also reports whether the descriptor was kept for the connection's next lease.
func (l Lease) finish(file *os.File, offset, length int64, last bool, timeout time.Duration) (kept bool, err error) {
	f := handoff.Finish{KeepAliveTimeoutMS: milliseconds(timeout)}.Frame(offset, length)
	if last {
		f.Flags |= handoff.FlagClose
	}
	dup, err := duplicate(file)
	if err != nil {
		return false, err
	}
	f.Conn, f.Seq = l.Conn, l.Seq
	kept, err = l.c.link.finish(l, &f, dup)
	if err == nil && !kept {
		l.c.sock.close()
	}
	return kept, err
}

// finish answers with a descriptor, which it owns.
func (k *link) finish(l Lease, f *handoff.Frame, dup int) (kept bool, err error) {
	k.mu.Lock()
	if err := k.checkLocked(l); err != nil {
		k.mu.Unlock()
		closeFD(dup)
		return false, err
	}
	k.addFDLocked(f, dup)
	k.leases--
	if f.Flags&handoff.FlagClose != 0 {
		k.forgetLocked(l.c)
	} else {
		kept = k.holdLocked(l.c)
	}
	k.flushUnlock()
	return kept, nil
}

// detached is a connection that is only ours.
type detached struct {
	*socket
	peer net.Addr
}

// Read reads what the client has sent, io.EOF if it has ended the connection.
func (d *detached) Read(p []byte) (int, error) { return d.read(p) }

// Write sends all of p to the client unless it fails.
func (d *detached) Write(p []byte) (int, error) { return d.write(p) }

// Close ends the connection, since no one else has it any more.
func (d *detached) Close() error { d.close(); return nil }

// CloseWrite tells the client that nothing more comes.
func (d *detached) CloseWrite() error { return d.shutdownWrite() }

// RemoteAddr is the client's address.
func (d *detached) RemoteAddr() net.Addr { return d.peer }

// LocalAddr is the address that the client has connected to.
func (d *detached) LocalAddr() net.Addr { return d.local() }

// SetReadDeadline bounds reading.
func (d *detached) SetReadDeadline(t time.Time) error { d.setReadDeadline(t); return nil }

// SetWriteDeadline bounds writing.
func (d *detached) SetWriteDeadline(t time.Time) error { d.setWriteDeadline(t); return nil }

// SetDeadline bounds both.
func (d *detached) SetDeadline(t time.Time) error {
	d.setReadDeadline(t)
	d.setWriteDeadline(t)
	return nil
}
