package handoff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// MaxQueued is how many bytes of frames may wait for a host that does not read them; beyond it the host is TOO_SLOW.
const MaxQueued = 1 << 20

// ErrOutboxFull means that frames were added for which there was no room, and are lost: the stream cannot go on.
var ErrOutboxFull = errors.New("handoff: more frames wait to be sent than there is room for")

// Outbox queues frames for a socket and sends them in as few system calls as the protocol allows: plain frames together, a frame with a
// descriptor by itself. It is for one goroutine. The zero value is ready, and grows.
type Outbox struct {
	*outboxMemory
	marks []mark       // a ring, by number
	buf   []byte       // a ring, by position; its size is a power of two
	fixed bool         // the rings cannot grow
	full  bool         // a frame was lost
	frame []byte       // being added
	drop  func(fd int) // closes duplicates; nil: close(2)
}

// outboxMemory is where an Outbox stands: positions in the stream of bytes, and numbers of marks, that are counted on until it is empty. It may lie in memory
// that outlives the process: each step is one store, and what a system call was doing when the process died can be told from its message.
type outboxMemory struct {
	sent  atomic.Uint64 // bytes that are gone
	end   atomic.Uint64 // bytes that were added
	next  uint64        // first mark that is not gone
	added atomic.Uint64 // marks that were added
	last  uint64        // where the frame that was added last begins
	msg   message
}

// mark is a descriptor that travels with the frame that begins at offset and ends at end.
type mark struct {
	offset, end uint64
	fd          int32 // bits turned around: a duplicate of ours, to be closed once sent. One word, so that nobody finds one without the other
	_           int32
}

func (m *mark) own() bool { return m.fd < 0 }

func (m *mark) descriptor() int {
	if m.own() {
		return int(^m.fd)
	}
	return int(m.fd)
}

const (
	outboxStart = 16 << 10  // bytes of a growing ring at first
	outboxRoom  = MaxQueued // bytes of a fixed one
	marksStart  = 64
	marksRoom   = 2 * MaxCapacity // leases are what carries descriptors
)

// OutboxSize is how many bytes of memory a fixed Outbox needs. Pages of it that are not written to cost nothing.
const OutboxSize = int(unsafe.Sizeof(outboxMemory{})+marksRoom*unsafe.Sizeof(mark{})) + outboxRoom

// OutboxAt makes an Outbox in memory of at least OutboxSize bytes, aligned to 8. Zeroed memory is
// an empty Outbox; what an Outbox in another process has left in it goes on where that has been.
// drop, unless it is nil, closes duplicates in the place of close(2), which may wait.
func OutboxAt(memory []byte, drop func(fd int)) Outbox {
	state, rest := memory[:unsafe.Sizeof(outboxMemory{})], memory[unsafe.Sizeof(outboxMemory{}):OutboxSize]
	ring := marksRoom * int(unsafe.Sizeof(mark{}))
	o := Outbox{
		outboxMemory: (*outboxMemory)(unsafe.Pointer(unsafe.SliceData(state))),
		marks:        unsafe.Slice((*mark)(unsafe.Pointer(unsafe.SliceData(rest))), marksRoom),
		buf:          rest[ring:],
		fixed:        true,
		drop:         drop,
	}
	o.recover()
	return o
}

// recover ends what another process has begun.
func (o *Outbox) recover() {
	moved := 0
	if o.msg.at == o.sent.Load() {
		moved = int(o.msg.moved)
	}
	if o.Len() > 0 {
		o.progress(moved) // and releases what had gone before and was not released
	}
	if o.Len() == 0 {
		o.reset()
		return
	}
	for n := o.added.Load(); n > 0 && o.mark(n-1).offset >= o.end.Load(); n-- {
		o.added.Store(n - 1) // its frame was not added any more
	}
}

func (o *Outbox) mark(n uint64) *mark { return &o.marks[n%uint64(len(o.marks))] }

// Add queues a frame without a descriptor.
func (o *Outbox) Add(f *Frame) {
	f.Flags &^= FlagFD
	if o.makeRoom(f) {
		o.append(f)
	}
}

// AddFD queues a frame with a descriptor, which is only borrowed: it must stay open until the next Flush. What that Flush cannot send it
// duplicates, so a caller that flushes before it closes anything has nothing else to keep in mind.
func (o *Outbox) AddFD(f *Frame, fd int) {
	f.Flags |= FlagFD
	if !o.makeRoom(f) || !o.makeRoomForMark() {
		return
	}
	offset, n := o.end.Load(), o.added.Load()
	*o.mark(n) = mark{offset: offset, end: offset + uint64(HeaderSize+len(f.Payload)), fd: int32(fd)}
	o.added.Store(n + 1)
	o.append(f)
}

func (o *Outbox) append(f *Frame) {
	o.frame = f.Append(o.frame[:0])
	end := o.end.Load()
	o.last = end
	at := end % uint64(len(o.buf))
	n := copy(o.buf[at:], o.frame)
	copy(o.buf, o.frame[n:])
	o.end.Store(end + uint64(len(o.frame)))
}

// Len is the number of bytes that wait.
func (o *Outbox) Len() int {
	if o.outboxMemory == nil {
		return 0
	}
	sent, end := o.sent.Load(), o.end.Load()
	return int(end - min(sent, end)) // reset stores one before the other
}

// makeRoom sees to it that the frame fits; false if it cannot.
func (o *Outbox) makeRoom(f *Frame) bool {
	need := o.Len() + HeaderSize + len(f.Payload)
	switch {
	case o.full:
		return false
	case need <= len(o.buf):
		return true
	case o.fixed:
		o.full = true
		return false
	}
	if o.outboxMemory == nil {
		o.outboxMemory = new(outboxMemory)
	}
	o.grow(need)
	return true
}

func (o *Outbox) makeRoomForMark() bool {
	waiting := o.added.Load() - o.next
	switch {
	case waiting < uint64(len(o.marks)):
		return true
	case o.fixed:
		o.full = true
		return false
	}
	bigger := make([]mark, max(marksStart, 2*len(o.marks)))
	for n := o.next; n != o.added.Load(); n++ {
		bigger[n%uint64(len(bigger))] = *o.mark(n)
	}
	o.marks = bigger
	return true
}

func (o *Outbox) grow(need int) {
	size := max(outboxStart, 2*len(o.buf))
	for size < need {
		size *= 2
	}
	bigger := make([]byte, size)
	sent, end := o.sent.Load(), o.end.Load()
	if end > sent {
		p, q := o.piece(sent, end)
		o.buf = bigger
		for _, old := range [2][]byte{p, q} {
			a, b := o.piece(sent, sent+uint64(len(old)))
			copy(b, old[copy(a, old):])
			sent += uint64(len(old))
		}
	}
	o.buf = bigger
}

// piece is the bytes from one position to another: two slices where the ring ends between them.
func (o *Outbox) piece(from, to uint64) (p, q []byte) {
	size := uint64(len(o.buf))
	first, last := from%size, from%size+to-from
	if last <= size {
		return o.buf[first:last], nil
	}
	return o.buf[first:], o.buf[:last-size]
}

// Flush sends what it can without blocking. It returns nil when all is sent, ErrAgain when the peer must read first, io.EOF when the peer
// has hung up, ErrOutboxFull when a frame was lost, else the system call's error.
func (o *Outbox) Flush(sock int) error {
	for o.Len() > 0 {
		from := o.sent.Load()
		upTo, fd := o.chunk(from)
		p, q := o.piece(from, upTo)
		n, err := o.msg.send(sock, p, q, fd, from)
		if err != nil {
			err = o.keep(err)
		}
		if err != nil && o.full {
			err = ErrOutboxFull
		}
		if err != nil {
			return err
		}
		o.progress(n)
	}
	if o.full {
		return ErrOutboxFull
	}
	if o.outboxMemory != nil {
		o.reset()
	}
	return nil
}

// progress: bytes have been sent, and with the first byte of a frame its descriptor.
func (o *Outbox) progress(n int) {
	sent := o.sent.Load() + uint64(n)
	o.sent.Store(sent)
	o.msg.settled()
	for o.next < o.added.Load() && o.mark(o.next).offset < sent {
		o.release()
	}
}

// Close drops what waits and closes the duplicates made for it.
func (o *Outbox) Close() {
	if o.outboxMemory == nil {
		return
	}
	for o.next < o.added.Load() {
		o.release()
	}
	o.full = false
	o.reset()
}

// chunk says how far the next sendmsg goes: up to the next frame with a descriptor, or to the end of that frame, with its descriptor. (The rest of
// a frame that was sent in part follows as plain bytes.)
func (o *Outbox) chunk(from uint64) (upTo uint64, fd int) {
	if o.next == o.added.Load() {
		return o.end.Load(), -1
	}
	m := o.mark(o.next)
	if from < m.offset {
		return m.offset, -1
	}
	return m.end, m.descriptor()
}

// release ends the care for the descriptor that has just gone.
func (o *Outbox) release() {
	m := o.mark(o.next)
	own, fd := m.own(), m.descriptor()
	m.fd = int32(fd)
	o.next++
	switch {
	case own && o.drop != nil:
		o.drop(fd)
	case own:
		_ = unix.Close(fd)
	}
}

// keep prepares for a later Flush: borrowed descriptors are duplicated, since their owner may close them meanwhile.
func (o *Outbox) keep(why error) error {
	for n := o.next; n < o.added.Load(); n++ {
		m := o.mark(n)
		if m.own() {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(m.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			o.added.Store(n) // those behind are still borrowed: none of them may be closed by us
			o.full = true    // and their frames cannot go without them
			return fmt.Errorf("duplicating a descriptor that waits to be sent: %w", err)
		}
		m.fd = ^int32(fd)
	}
	return why
}

// Last decodes the frame that was added last, if it has not all been sent. Its payload is left out.
func (o *Outbox) Last(f *Frame) bool {
	if o.Len() == 0 {
		return false
	}
	var header [HeaderSize]byte
	p, q := o.piece(o.last, min(o.last+HeaderSize, o.end.Load()))
	if copy(header[:], p)+copy(header[len(p):], q) < HeaderSize {
		return false
	}
	binary.LittleEndian.PutUint16(header[2:], 0)
	n, err := Decode(header[:], f)
	return n > 0 && err == nil
}

// Descriptors lists the duplicates that wait to be sent.
func (o *Outbox) Descriptors() []int {
	var fds []int
	if o.outboxMemory == nil {
		return fds
	}
	for n := o.next; n < o.added.Load(); n++ {
		if m := o.mark(n); m.own() {
			fds = append(fds, m.descriptor())
		}
	}
	return fds
}

// outboxKeep is the size an empty growing ring keeps for its next use; a burst's larger one is given back.
const outboxKeep = 64 << 10

// reset begins again at position 0, so that an Outbox that is often empty touches few pages.
func (o *Outbox) reset() {
	if !o.fixed && len(o.buf) > outboxKeep {
		o.buf = nil
	}
	o.end.Store(0)
	o.sent.Store(0)
	o.added.Store(0)
	o.next = 0
}
