package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// Answers wait for others before they are sent to the sidecar, but not beyond one of these: a long response takes time to write, in which the sidecar could
// lend the next connection already.
const (
	batch      = 64
	batchBytes = 2 << 20 // of responses
)

type hostOptions struct {
	name, pool string
	capacity   int
}

// hosted serves the connections that a sidecar lends. It keeps their descriptors (the feature "cache"), and speaks the protocol's frames
// itself, so that what is measured is the sidecar and the protocol, not an SDK.
type hosted struct {
	loop *loop
	sock int
	in   handoff.Inbox
	out  handoff.Outbox
	held map[uint64]*connection // by connection id

	frame   handoff.Frame // what is being read, kept here so that it need not be allocated
	reply   handoff.Frame
	answers int  // in out, not yet flushed
	written int  // bytes of their responses
	blocked bool // the sidecar must read before more can be sent
}

func serveHosted(l *loop, path string, o hostOptions) error {
	sock, err := dial(path)
	if err != nil {
		return err
	}
	h := &hosted{loop: l, sock: sock, held: map[uint64]*connection{}}
	if err := h.attach(o); err != nil {
		return err
	}
	if err := l.add(sock, unix.EPOLLIN); err != nil {
		return err
	}
	fmt.Println("ready")
	if err := h.takeFrames(); err != nil { // those that came with the WELCOME
		return err
	}
	return l.run(h)
}

func dial(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, &net.OpError{Op: "connect", Net: "unix", Addr: &net.UnixAddr{Name: path}, Err: err}
	}
	return fd, nil
}

// attach says HELLO and waits for the WELCOME.
func (h *hosted) attach(o hostOptions) error {
	hello := handoff.Hello{Name: o.name, Pool: o.pool, Capacity: o.capacity, Features: []string{handoff.FeatureCache}, Agent: "bench/worker"}
	first := hello.Frame()
	h.out.Add(&first)
	if err := h.out.Flush(h.sock); err != nil {
		return fmt.Errorf("HELLO: %w", err)
	}
	if err := h.receive(5 * time.Second); err != nil {
		return fmt.Errorf("waiting for WELCOME: %w", err)
	}
	if _, _, err := h.in.Next(&h.frame); err != nil {
		return err
	}
	_, err := handoff.WelcomeOf(&h.frame)
	return err
}

// receive waits for bytes of the sidecar's.
func (h *hosted) receive(patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for {
		err := h.in.Recv(h.sock)
		if !errors.Is(err, handoff.ErrAgain) {
			return err
		}
		left := time.Until(deadline).Milliseconds()
		if left <= 0 {
			return fmt.Errorf("nothing came within %v", patience)
		}
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(h.sock), Events: unix.POLLIN}}, int(left)); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
	}
}

func (h *hosted) ready(fd int, events uint32) error {
	if fd == h.sock {
		return h.linkReady(events)
	}
	if c := h.loop.conns[fd]; c != nil && c.leased {
		return h.serve(c)
	}
	return nil
}

func (h *hosted) linkReady(events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		h.answers = 1 // what is left of an earlier flush
	}
	if events&^uint32(unix.EPOLLOUT) == 0 {
		return nil
	}
	if err := h.in.Recv(h.sock); err != nil && !errors.Is(err, handoff.ErrAgain) {
		return err
	}
	return h.takeFrames()
}

func (h *hosted) takeFrames() error {
	for {
		fd, ok, err := h.in.Next(&h.frame)
		if err != nil && !errors.Is(err, handoff.ErrDescriptorLost) {
			return err
		}
		if !ok {
			return nil
		}
		if err := h.take(&h.frame, fd, err != nil); err != nil {
			return err
		}
	}
}

// take acts on one frame. What a host that only serves need not know is skipped.
func (h *hosted) take(f *handoff.Frame, fd int, lost bool) error {
	switch f.Type {
	case handoff.TypeLease:
		return h.lease(f, fd, lost)
	case handoff.TypeForget:
		return h.forget(f.Conn)
	case handoff.TypePing:
		return h.say(handoff.Frame{Type: handoff.TypePong, A: f.A})
	case handoff.TypeError:
		return handoff.FaultOf(f)
	default:
		return closeStray(fd)
	}
}

// closeStray closes a descriptor that came with a frame which is skipped.
func closeStray(fd int) error {
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

func (h *hosted) lease(f *handoff.Frame, fd int, lost bool) error {
	if lost {
		return h.say(handoff.Frame{Type: handoff.TypeNack, Seq: f.Seq, Conn: f.Conn, A: handoff.NackNoDescriptor})
	}
	if fd >= 0 {
		if err := h.hold(f.Conn, fd); err != nil {
			return err
		}
	}
	c := h.held[f.Conn]
	if c == nil {
		return h.say(handoff.Frame{Type: handoff.TypeNack, Seq: f.Seq, Conn: f.Conn, A: handoff.NackUnknown})
	}
	c.seq, c.leased, c.last = f.Seq, true, f.Flags&handoff.FlagLast != 0
	if f.Flags&handoff.FlagSilent != 0 {
		return h.end(c, handoff.CloseTooSlow)
	}
	return h.serve(c)
}

// hold keeps a connection's descriptor, in place of an older one of the same connection.
func (h *hosted) hold(id uint64, fd int) error {
	if err := h.forget(id); err != nil {
		return err
	}
	c := &connection{fd: fd, id: id}
	h.held[id] = c
	h.loop.keep(c)
	return nil
}

func (h *hosted) forget(id uint64) error {
	c := h.held[id]
	if c == nil {
		return nil
	}
	delete(h.held, id)
	return h.loop.drop(c)
}

func (h *hosted) serve(c *connection) error {
	switch c.serve(h.loop.buf[:]) {
	case wantRead:
		return h.loop.arm(c, unix.EPOLLIN)
	case wantWrite:
		return h.loop.arm(c, unix.EPOLLOUT)
	case gone:
		return h.end(c, handoff.CloseClient)
	case served:
		if c.last {
			return h.end(c, handoff.CloseDone)
		}
	}
	return h.put(c)
}

func (h *hosted) put(c *connection) error {
	if err := h.loop.arm(c, 0); err != nil {
		return err
	}
	c.leased = false
	h.written += c.size
	return h.say(handoff.Frame{Type: handoff.TypePut, Seq: c.seq, Conn: c.id, B: 1})
}

// end has the sidecar close the connection.
func (h *hosted) end(c *connection, why uint64) error {
	if err := h.forget(c.id); err != nil {
		return err
	}
	h.written += c.size
	return h.say(handoff.Frame{Type: handoff.TypeClose, Seq: c.seq, Conn: c.id, A: why, B: 1})
}

func (h *hosted) say(f handoff.Frame) error {
	h.reply = f
	h.out.Add(&h.reply)
	h.answers++
	if h.answers >= batch || h.written >= batchBytes {
		return h.flush()
	}
	return nil
}

func (h *hosted) flush() error {
	if h.answers == 0 {
		return nil
	}
	h.answers, h.written = 0, 0
	err := h.out.Flush(h.sock)
	switch {
	case errors.Is(err, handoff.ErrAgain):
		return h.block(true)
	case err != nil:
		return err
	}
	return h.block(false)
}

// block watches for room to send while there is none.
func (h *hosted) block(blocked bool) error {
	if h.blocked == blocked {
		return nil
	}
	h.blocked = blocked
	event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(h.sock)}
	if blocked {
		event.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(h.loop.epoll, unix.EPOLL_CTL_MOD, h.sock, &event); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}
