package hosttest

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

type clientState int

const (
	idle clientState = iota
	ready
	leased
	finishing // the rest of its response is being sent
	lingering // closed for writing, until the client has closed too
)

// client is an accepted connection. The sidecar's own descriptor stays open while it is leased.
type client struct {
	id       uint64
	fd       int
	seq      uint32
	state    clientState
	pool     string
	host     *link // that has it, or put it last
	held     bool  // host keeps a descriptor of it
	fresh    bool
	deadline time.Time // of idleness, or of lingering
	rest     remainder // while finishing
}

// remainder is what a FINISH has left to the sidecar.
type remainder struct {
	file         int
	offset, left int64
	last         bool
	timeout      time.Duration // keep-alive, once all is sent
}

// door is a listening socket.
type door struct {
	fd   int
	id   uint64
	pool string
	from *link
}

// lingerTime is how long a closed connection may take to be closed by its client.
const lingerTime = time.Second

func (s *Sidecar) acceptClients(d *door) {
	for {
		fd, _, err := unix.Accept4(d.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		s.counts.Accepted++
		s.add(fd, d.pool)
	}
}

func (s *Sidecar) add(fd int, pool string) *client {
	s.ids++
	c := &client{id: s.ids, fd: fd, pool: pool, fresh: true}
	s.clients[c.id], s.byFD[fd] = c, c
	s.rest(c, 0)
	return c
}

// rest makes a connection idle.
func (s *Sidecar) rest(c *client, timeout time.Duration) {
	if timeout == 0 {
		timeout = s.keepAlive
	}
	c.state, c.deadline = idle, time.Now().Add(timeout)
	s.watch(c.fd, unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLONESHOT)
}

// clientReady: something has arrived, or the client has gone.
func (s *Sidecar) clientReady(c *client) {
	var b [4096]byte
	switch c.state {
	case idle:
		n, _, err := unix.Recvfrom(c.fd, b[:1], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if n > 0 {
			c.state = ready
			s.ready = append(s.ready, c)
		} else if !errors.Is(err, unix.EAGAIN) {
			s.forget(c, handoff.ForgetHungUp)
			s.remove(c)
		}
	case lingering:
		if n, err := unix.Read(c.fd, b[:]); n <= 0 && !errors.Is(err, unix.EAGAIN) {
			s.remove(c)
		}
	case finishing:
		s.sendRest(c)
	case ready, leased: // disarmed: a stale event
	}
}

// finish takes over the rest of a response, and with it the connection.
func (s *Sidecar) finish(l *link, f *handoff.Frame, file int) error {
	c := s.clients[f.Conn]
	switch {
	case !s.finishes || file < 0 || f.B == 0:
		return handoff.Faultf(handoff.CodeNotAgreed, "FINISH that was not agreed, without a descriptor or of nothing")
	case c == nil || c.state != leased || c.seq != f.Seq || c.host != l:
		s.counts.Stale++
		return unix.Close(file)
	}
	how, fault := handoff.FinishOf(f)
	if fault != nil {
		return errors.Join(fault, unix.Close(file))
	}
	l.leases--
	s.counts.Finishes++
	s.checkNonblock(c)
	last := f.Flags&handoff.FlagClose != 0
	c.state, c.held = finishing, l.cache && !last
	c.rest = remainder{file: file, offset: int64(f.A), left: int64(f.B), last: last, timeout: time.Duration(how.KeepAliveTimeoutMS) * time.Millisecond}
	s.watch(c.fd, unix.EPOLLOUT)
	return nil
}

// sendRest sends what the client takes now.
func (s *Sidecar) sendRest(c *client) {
	n, err := unix.Sendfile(c.fd, c.rest.file, &c.rest.offset, int(min(c.rest.left, 1<<20)))
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	c.rest.left -= int64(max(n, 0))
	if c.rest.left > 0 && n > 0 {
		return
	}
	_ = unix.Close(c.rest.file)
	switch {
	case c.rest.left > 0 || err != nil:
		s.forget(c, handoff.ForgetFailed)
		s.remove(c)
	case c.rest.last:
		s.end(c)
	default:
		s.rest(c, c.rest.timeout)
	}
}

// end closes a connection properly: what is written reaches the client, then its end.
func (s *Sidecar) end(c *client) {
	s.ready = slices.DeleteFunc(s.ready, func(x *client) bool { return x == c })
	c.state, c.deadline, c.host = lingering, time.Now().Add(lingerTime), nil
	_ = unix.Shutdown(c.fd, unix.SHUT_WR)
	s.watch(c.fd, unix.EPOLLIN|unix.EPOLLRDHUP)
}

// remove closes the sidecar's descriptor.
func (s *Sidecar) remove(c *client) {
	s.ready = slices.DeleteFunc(s.ready, func(x *client) bool { return x == c })
	s.unwatch(c.fd)
	delete(s.clients, c.id)
	delete(s.byFD, c.fd)
	_ = unix.Close(c.fd)
}

// forget tells the host that has a connection, holds or tracks it, that it is no longer its own.
func (s *Sidecar) forget(c *client, why uint64) {
	l := c.host
	if l == nil || !c.held && c.state != leased && !l.hello.Has(handoff.FeatureTrack) {
		return
	}
	if c.state == leased {
		l.leases--
	}
	s.counts.Forgotten++
	c.held, c.host = false, nil
	l.send(&handoff.Frame{Type: handoff.TypeForget, Conn: c.id, A: why})
}

// lend leases what is ready, in order, as far as hosts have room.
func (s *Sidecar) lend() {
	s.ready = slices.DeleteFunc(s.ready, func(c *client) bool {
		l := s.choose(c)
		if l != nil {
			s.lease(c, l)
		}
		return l != nil
	})
}

// choose takes the host that holds the connection if it has room, else the one with the most.
func (s *Sidecar) choose(c *client) *link {
	var best *link
	for _, l := range s.links {
		if l.hello == nil || l.pool != c.pool || l.draining || l.leases >= l.capacity {
			continue
		}
		if l == c.host && c.held {
			return l
		}
		if best == nil || l.capacity-l.leases > best.capacity-best.leases {
			best = l
		}
	}
	return best
}

func (s *Sidecar) lease(c *client, l *link) {
	if c.host != l {
		s.forget(c, handoff.ForgetMoved)
	}
	s.unwatch(c.fd)
	c.seq++
	f := handoff.Frame{Type: handoff.TypeLease, Seq: c.seq, Conn: c.id}
	if c.fresh {
		f.Flags |= handoff.FlagFresh
	}
	if s.last {
		f.Flags |= handoff.FlagLast
	}
	held := c.held && c.host == l
	c.state, c.host, c.fresh, c.held = leased, l, false, false
	l.leases++
	s.counts.Leases++
	if held {
		l.send(&f)
		return
	}
	s.counts.WithDescriptor++
	l.sendFD(&f, c.fd)
}

// expire closes what has been idle, or lingering, for too long.
func (s *Sidecar) expire(now time.Time) {
	for _, c := range s.clients {
		if c.state != idle && c.state != lingering || now.Before(c.deadline) {
			continue
		}
		if c.state == lingering {
			s.remove(c)
			continue
		}
		s.forget(c, handoff.ForgetExpired)
		s.end(c)
	}
}

// untilExpiry is for epoll_wait: milliseconds, -1 for ever.
func (s *Sidecar) untilExpiry() int {
	wait := time.Duration(-1)
	for _, c := range s.clients {
		if c.state != idle && c.state != lingering {
			continue
		}
		if left := max(time.Until(c.deadline), 0); wait < 0 || left < wait {
			wait = left
		}
	}
	if wait < 0 {
		return -1
	}
	return int((wait + time.Millisecond - 1) / time.Millisecond)
}
