package hosttest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// link is a host's socket.
type link struct {
	fd       int
	in       handoff.Inbox
	out      handoff.Outbox
	hello    *handoff.Hello // nil before it
	pool     string
	capacity int
	leases   int
	cache    bool
	draining bool
}

func (l *link) send(f *handoff.Frame) { l.out.Add(f) }

// sendFD sends at once: the descriptor is only borrowed.
func (l *link) sendFD(f *handoff.Frame, fd int) {
	l.out.AddFD(f, fd)
	_ = l.out.Flush(l.fd)
}

// flush sends what is queued; epoll tells when there is room for the rest.
func (s *Sidecar) flush() {
	for _, l := range s.links {
		if l.out.Len() == 0 {
			continue
		}
		if err := l.out.Flush(l.fd); errors.Is(err, handoff.ErrAgain) {
			s.watch(l.fd, unix.EPOLLIN|unix.EPOLLOUT)
		} else {
			s.watch(l.fd, unix.EPOLLIN)
		}
	}
}

func (s *Sidecar) acceptHosts() {
	for {
		fd, _, err := unix.Accept4(s.handoffFD, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		s.links[fd] = &link{fd: fd}
		s.watch(fd, unix.EPOLLIN)
	}
}

func (s *Sidecar) receive(l *link) {
	for {
		err := l.in.Recv(l.fd)
		if err == nil {
			err = s.obeyAll(l)
		}
		switch {
		case err == nil:
		case errors.Is(err, handoff.ErrAgain):
			return
		case errors.Is(err, io.EOF):
			s.hangUp(l)
			return
		default:
			s.refuse(l, err)
			return
		}
	}
}

// refuse tells a host what it did wrong, and hangs up.
func (s *Sidecar) refuse(l *link, err error) {
	s.fault("%v", err)
	var fault *handoff.Fault
	if !errors.As(err, &fault) {
		fault = handoff.Faultf(handoff.CodeBadFrame, "%v", err)
	}
	f := fault.Frame(handoff.TypeError, 0)
	l.send(&f)
	_ = l.out.Flush(l.fd)
	s.hangUp(l)
}

func (s *Sidecar) obeyAll(l *link) error {
	for {
		var f handoff.Frame
		fd, ok, err := l.in.Next(&f)
		if !ok {
			return errors.Join(err, l.in.Settled())
		}
		if err := s.obey(l, &f, fd); err != nil {
			return err
		}
		if l.draining && l.leases == 0 {
			_ = l.out.Flush(l.fd)
			return io.EOF
		}
	}
}

func (s *Sidecar) obey(l *link, f *handoff.Frame, fd int) error {
	if l.hello == nil {
		return s.welcome(l, f)
	}
	switch f.Type {
	case handoff.TypePut, handoff.TypeClose, handoff.TypeDetach, handoff.TypeNack:
		return s.answer(l, f)
	case handoff.TypeFinish:
		return s.finish(l, f, fd)
	case handoff.TypeAdopt:
		c := s.add(fd, l.pool)
		s.counts.Adopted++
		l.send(&handoff.Frame{Type: handoff.TypeAdopted, Seq: f.Seq, Conn: c.id})
	case handoff.TypeListen:
		return s.listen(l, f, fd)
	case handoff.TypeUnlisten:
		s.unlisten(l, f)
	case handoff.TypeCapacity:
		l.capacity = int(f.A)
	case handoff.TypeDropped:
		s.counts.Dropped++
		if c := s.clients[f.Conn]; c != nil && c.host == l {
			c.held = false
		}
	case handoff.TypeDrain:
		s.drain(l, f)
	case handoff.TypePong:
		s.counts.Pongs++
	default:
		return handoff.Faultf(handoff.CodeBadFrame, "%s", f.Type)
	}
	return nil
}

func (s *Sidecar) welcome(l *link, f *handoff.Frame) error {
	hello, fault := handoff.HelloOf(f)
	if fault != nil {
		return fault
	}
	s.hosts++
	s.counts.Attached++
	l.hello, l.pool, l.capacity, l.cache = hello, hello.Pool, hello.Capacity, hello.Has(handoff.FeatureCache)
	if l.pool == "" {
		l.pool = fmt.Sprintf("private-%d", s.hosts)
	}
	agreed := slices.DeleteFunc(slices.Clone(hello.Features), func(name string) bool { return name == handoff.FeatureFinish && !s.finishes })
	answer := handoff.Welcome{
		Host: s.hosts, Pool: l.pool, Capacity: l.capacity, Features: agreed, KeepAliveTimeoutMS: s.keepAlive.Milliseconds(), Epoch: "test",
	}.Frame()
	l.send(&answer)
	return nil
}

// answer ends a lease.
func (s *Sidecar) answer(l *link, f *handoff.Frame) error {
	c := s.clients[f.Conn]
	if c == nil || c.state != leased || c.seq != f.Seq {
		s.counts.Stale++
		return nil
	}
	if c.host != l {
		return handoff.Faultf(handoff.CodeNotYours, "%s of connection %d", f.Type, f.Conn)
	}
	l.leases--
	if f.Type != handoff.TypeNack {
		s.counts.Requests += int(max(f.B, 1))
	}
	switch f.Type {
	case handoff.TypePut:
		s.put(c, l, time.Duration(f.A)*time.Millisecond)
	case handoff.TypeClose:
		s.counts.Closes++
		s.end(c)
	case handoff.TypeDetach:
		s.counts.Detaches++
		s.remove(c)
	case handoff.TypeNack:
		s.counts.Nacks++
		c.state, c.host = ready, nil
		s.ready = append([]*client{c}, s.ready...)
	default:
		return handoff.Faultf(handoff.CodeBadFrame, "%s is no answer", f.Type)
	}
	return nil
}

func (s *Sidecar) put(c *client, l *link, timeout time.Duration) {
	s.counts.Puts++
	s.checkNonblock(c)
	c.held = l.cache
	s.rest(c, timeout)
}

func (s *Sidecar) checkNonblock(c *client) {
	if flags, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		s.fault("connection %d came back without O_NONBLOCK (%v)", c.id, err)
	}
}

func (s *Sidecar) listen(l *link, f *handoff.Frame, fd int) error {
	if _, fault := handoff.ListenOf(f); fault != nil {
		_ = unix.Close(fd)
		return fault
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		_ = unix.Close(fd)
		return handoff.Faultf(handoff.CodeBadDescriptor, "LISTEN: not a listening socket")
	}
	_ = unix.SetNonblock(fd, true)
	s.ids++
	s.doors[fd] = &door{fd: fd, id: s.ids, pool: l.pool, from: l}
	s.watch(fd, unix.EPOLLIN)
	l.send(&handoff.Frame{Type: handoff.TypeListening, Seq: f.Seq, A: s.ids})
	return nil
}

func (s *Sidecar) unlisten(l *link, f *handoff.Frame) {
	for _, d := range s.doors {
		if d.id == f.A && d.from == l {
			s.closeDoor(d)
			l.send(&handoff.Frame{Type: handoff.TypeUnlistened, Seq: f.Seq, A: d.id})
			return
		}
	}
	denied := handoff.Faultf(handoff.CodeNotYours, "no such listener").Frame(handoff.TypeDenied, f.Seq)
	l.send(&denied)
}

func (s *Sidecar) closeDoor(d *door) {
	s.unwatch(d.fd)
	delete(s.doors, d.fd)
	_ = unix.Close(d.fd)
}

func (s *Sidecar) closeDoorsOf(l *link, told bool) {
	for _, d := range s.doors {
		if d.from == l {
			s.closeDoor(d)
			if told {
				l.send(&handoff.Frame{Type: handoff.TypeUnlistened, A: d.id})
			}
		}
	}
}

func (s *Sidecar) drain(l *link, f *handoff.Frame) {
	l.draining = true
	s.closeDoorsOf(l, true)
	l.send(&handoff.Frame{Type: handoff.TypeDraining, Seq: f.Seq, A: uint64(l.leases)})
}

// hangUp ends a link. Its leases come back: a request that is still there goes to another host, any other connection is closed.
func (s *Sidecar) hangUp(l *link) {
	s.closeDoorsOf(l, false)
	for _, c := range s.clients {
		if c.host != l {
			continue
		}
		was := c.state
		c.host, c.held = nil, false
		if was == leased {
			s.returned(c)
		}
	}
	s.unwatch(l.fd)
	delete(s.links, l.fd)
	l.in.Close()
	l.out.Close()
	_ = unix.Close(l.fd)
	s.endPool(l)
}

func (s *Sidecar) returned(c *client) {
	var b [1]byte
	if n, _, _ := unix.Recvfrom(c.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); n <= 0 {
		s.end(c)
		return
	}
	c.state = ready
	s.ready = append(s.ready, c)
}

// endPool: a private pool ends with its host.
func (s *Sidecar) endPool(l *link) {
	if l.hello == nil || l.hello.Pool != "" {
		return
	}
	for _, c := range s.clients {
		if c.pool == l.pool && c.state != lingering {
			s.end(c)
		}
	}
}
