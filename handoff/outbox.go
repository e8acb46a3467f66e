package handoff

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// MaxQueued is how many bytes of frames may wait for a host that does not read them; beyond it the host is TOO_SLOW.
const MaxQueued = 1 << 20

// Outbox queues frames for a socket and sends them in as few system calls as the protocol allows: plain frames together, a frame with a
// descriptor by itself. It is for one goroutine. The zero value is ready.
type Outbox struct {
	buf   []byte
	sent  int // bytes of buf that are gone
	marks []mark
	next  int // first of marks that is not gone
	msg   message
}

// mark is a descriptor that travels with the frame that begins at offset and ends at end.
type mark struct {
	offset, end int
	fd          int
	own         bool // a duplicate of ours, to be closed once sent
}

// Add queues a frame without a descriptor.
func (o *Outbox) Add(f *Frame) {
	f.Flags &^= FlagFD
	o.buf = f.Append(o.buf)
}

// AddFD queues a frame with a descriptor, which is only borrowed: it must stay open until the next Flush. What that Flush cannot send it
// duplicates, so a caller that flushes before it closes anything has nothing else to keep in mind.
func (o *Outbox) AddFD(f *Frame, fd int) {
	f.Flags |= FlagFD
	offset := len(o.buf)
	o.buf = f.Append(o.buf)
	o.marks = append(o.marks, mark{offset: offset, end: len(o.buf), fd: fd})
}

// Len is the number of bytes that wait.
func (o *Outbox) Len() int { return len(o.buf) - o.sent }

// Flush sends what it can without blocking. It returns nil when all is sent, ErrAgain when the peer must read first, io.EOF when the peer
// has hung up, else the system call's error.
func (o *Outbox) Flush(sock int) error {
	for o.Len() > 0 {
		upTo, fd := o.chunk()
		n, err := o.msg.send(sock, o.buf[o.sent:upTo], fd)
		if err != nil {
			return o.keep(err)
		}
		o.sent += n
		if fd >= 0 {
			o.release()
		}
	}
	o.reset()
	return nil
}

// Close drops what waits and closes the duplicates made for it.
func (o *Outbox) Close() {
	for o.next < len(o.marks) {
		o.release()
	}
	o.reset()
}

// chunk says what the next sendmsg takes: the bytes up to the next frame with a descriptor, or that frame and its descriptor.
func (o *Outbox) chunk() (upTo, fd int) {
	if o.next == len(o.marks) {
		return len(o.buf), -1
	}
	m := o.marks[o.next]
	if o.sent < m.offset {
		return m.offset, -1
	}
	return m.end, m.fd
}

// release ends the care for the descriptor that has just gone. (The rest of a frame that was sent in part follows as plain bytes.)
func (o *Outbox) release() {
	if m := o.marks[o.next]; m.own {
		_ = unix.Close(m.fd)
	}
	o.next++
}

// keep prepares for a later Flush: sent bytes leave, borrowed descriptors are duplicated, since their owner may close them meanwhile.
func (o *Outbox) keep(why error) error {
	n := copy(o.buf, o.buf[o.sent:])
	o.marks = o.marks[:copy(o.marks, o.marks[o.next:])]
	for i := range o.marks {
		m := &o.marks[i]
		m.offset, m.end = m.offset-o.sent, m.end-o.sent
		if m.own {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			o.marks = o.marks[:i] // those behind are still borrowed: none of them may be closed by us
			o.buf, o.sent, o.next = o.buf[:n], 0, 0
			return fmt.Errorf("duplicating a descriptor that waits to be sent: %w", err)
		}
		m.fd, m.own = fd, true
	}
	o.buf, o.sent, o.next = o.buf[:n], 0, 0
	return why
}

// outboxKeep is the capacity an empty outbox keeps for its next use; a burst's larger one is given back.
const outboxKeep = 64 << 10

func (o *Outbox) reset() {
	if cap(o.buf) > outboxKeep {
		o.buf = nil
	}
	o.buf, o.sent, o.marks, o.next = o.buf[:0], 0, o.marks[:0], 0
}
