package host

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// What a connection does with a response that its client does not take at once, see spill.

// spillable reports whether the rest of a response may be left to the sidecar.
func (c *conn) spillable() bool {
	return !c.own.Load() && c.c.link.agreed(handoff.FeatureFinish)
}

// writeOrSpill sends what the client takes at once and puts the rest aside; where there is no room for it, it waits.
func (c *conn) writeOrSpill(p []byte) (sent int, err error) {
	if s := c.spill.Load(); s != nil {
		if c.writeBy.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		if added, err := s.add(p); added && err == nil {
			return len(p), nil
		} else if err != nil {
			return 0, c.opError("write", err)
		}
		if err := c.unspill(); err != nil {
			return 0, err
		}
	}
	if c.closed.Load() { // and what was put aside is with whoever has closed it
		return 0, net.ErrClosed
	}
	if sent, err = c.writeNow(p); !errors.Is(err, errAgain) {
		return sent, err
	}
	if c.spillable() {
		if s := newSpill(c.c.link.host.room, c.socket, p[sent:]); s != nil {
			return len(p), c.keep(s)
		}
	}
	n, err := c.write(p[sent:])
	return sent + n, err
}

// keep makes s what is put aside of the response, unless the connection was closed meanwhile.
func (c *conn) keep(s *spill) error {
	c.spill.Store(s)
	if c.closed.Load() {
		c.dropSpill()
		return net.ErrClosed
	}
	return nil
}

// dropSpill forgets what was put aside.
func (c *conn) dropSpill() {
	if s := c.spill.Swap(nil); s != nil {
		s.close()
	}
}

// unspill sends what was put aside, as a write that waits.
func (c *conn) unspill() error {
	s := c.spill.Swap(nil)
	if s == nil {
		return nil
	}
	defer s.close()
	return c.opError("write", s.drain(c.writeBy.time()))
}

// finish leaves to the sidecar what was put aside, and with it the lease. done is false if there is nothing to leave: the lease is to be answered otherwise.
// Without a sidecar it sends the rest itself.
func (c *conn) finish(lease Lease, last bool, timeout time.Duration) (done, kept bool, err error) {
	s := c.spill.Swap(nil)
	if s == nil {
		return false, false, nil
	}
	defer s.close()
	at, left, err := s.stop()
	if left == 0 || err != nil {
		return false, false, err
	}
	kept, err = lease.finish(s.file, at, left, last, timeout)
	switch {
	case err == nil && s.room != nil:
		c.c.link.countRest(c.c, s.pass())
	case errors.Is(err, ErrLinkLost):
		_ = s.drain(c.writeBy.time()) // there is no one to tell
	}
	return true, kept, err
}

// fileOrSpill is writeOrSpill for a part of a regular file, limited unless limit is nil.
func (c *conn) fileOrSpill(f *os.File, limit *io.LimitedReader) (sent int64, err error) {
	if err := c.unspill(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	left := int64(1) << 62
	if limit != nil {
		left = limit.N
	}
	defer func() {
		if limit != nil {
			limit.N -= sent
		}
	}()
	if !c.spillable() {
		return c.sendfile(f, left)
	}
	sent, err = c.sendfileNow(f, left)
	if !errors.Is(err, errAgain) {
		return sent, err
	}
	if n, err := c.spillFile(f, left-sent); n > 0 || err != nil {
		return sent + n, err
	}
	n, err := c.sendfile(f, left-sent)
	return sent + n, err
}

// spillFile leaves at most left bytes of the file, from where it stands, to the pump or the sidecar. It returns how many, 0 if that cannot be.
func (c *conn) spillFile(f *os.File, left int64) (int64, error) {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, nil //nolint:nilerr // it is sent by a road that needs no offset
	}
	st, err := f.Stat()
	if err != nil || st.Size() <= at {
		return 0, nil //nolint:nilerr // so is one whose end is not known
	}
	left = min(left, st.Size()-at)
	s := newFileSpill(c.socket, f, at, at+left)
	if s == nil {
		return 0, nil
	}
	_, _ = f.Seek(left, io.SeekCurrent)
	return left, c.keep(s)
}
