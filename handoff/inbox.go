package handoff

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inboxSize holds at least two frames of full length, and some 500 short ones: what one recvmsg may bring.
const inboxSize = 2 * (HeaderSize + MaxPayload)

// maxRights is SCM_MAX_FD: the most descriptors Linux lets one message carry (unix(7)).
const maxRights = 253

// lost stands for a descriptor that did not arrive. It keeps its place: the next descriptor may be here before its frame is complete.
const lost = -1

// Errors of Inbox.
var (
	ErrAgain = errors.New("handoff: nothing to do now")
	// ErrDescriptorLost: this process was out of descriptors when one arrived (MSG_CTRUNC); the frame came without it.
	ErrDescriptorLost = errors.New("handoff: a descriptor was lost, this process has no room for it")
)

// Inbox reads frames from a socket and pairs each with its descriptor. It owns the descriptors that have arrived until Next gives them
// out. It is for one goroutine. The zero value is ready.
type Inbox struct {
	*inboxMemory
	now    cursor // as far as Next has given out; taken as far as that once it is called again
	filled bool   // the last Recv took all the room there was

	// Drop, if set, closes descriptors in the place of close(2), which may wait for whatever the
	// peer has sent.
	Drop func(fd int)
}

// inboxMemory is all that is known of a stream of frames. It may lie in memory that outlives the process: where it stands is changed by one
// store, and what a system call was doing when the process died can be told from its message.
type inboxMemory struct {
	word atomic.Uint64 // a cursor: what has not been taken
	msg  message
	oob  [oobSize]byte
	fds  [rightsKept]int32 // arrived, not yet claimed, in order; lost in the place of one that was due and will not come
	buf  [inboxSize]byte
}

// cursor says which part of an inbox is not taken yet: of its bytes, and of its descriptors, which are counted on and on.
type cursor struct{ start, end, firstFD, endFD uint16 }

func (c cursor) pack() uint64 {
	return uint64(c.start) | uint64(c.end)<<16 | uint64(c.firstFD)<<32 | uint64(c.endFD)<<48
}

func unpack(w uint64) cursor {
	return cursor{uint16(w), uint16(w >> 16), uint16(w >> 32), uint16(w >> 48)}
}

const (
	oobSize    = 1032 // CMSG_SPACE for four times maxRights bytes
	rightsKept = 256  // one with a frame that has begun, and those of one message
)

func (m *inboxMemory) fd(n uint16) *int32 { return &m.fds[n%rightsKept] }

// InboxSize is how many bytes of memory an Inbox needs.
const InboxSize = int(unsafe.Sizeof(inboxMemory{}))

// InboxAt makes an Inbox in memory of at least InboxSize bytes, aligned to 8. Zeroed memory is an empty Inbox; what an Inbox in another process
// has left in it goes on where that has been: what Next had given out there last comes once more.
func InboxAt(memory []byte) (Inbox, error) {
	m := (*inboxMemory)(unsafe.Pointer(unsafe.SliceData(memory[:InboxSize])))
	in := Inbox{inboxMemory: m, now: unpack(m.word.Load())}
	if n := int(m.msg.moved); n > 0 && uint64(in.now.end) == m.msg.at {
		if err := in.arrived(n, int(m.msg.header.controlLen)); err != nil {
			return in, err
		}
	}
	return in, nil
}

// Recv does one recvmsg(2) on the socket, without blocking, whatever the socket's flags. It returns io.EOF when the peer has hung up, ErrAgain
// when nothing is there, a Fault when the message broke the rules of descriptor passing, else the system call's error.
func (in *Inbox) Recv(sock int) error {
	in.makeRoom()
	room := in.buf[in.now.end:]
	n, oobn, err := in.msg.recv(sock, room, in.oob[:], uint64(in.now.end))
	if err != nil {
		return err
	}
	in.filled = n == len(room)
	if err := in.arrived(n, oobn); err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	return nil
}

// makeRoom moves what is left to the front where it has to, so that a frame that has begun has room to end. The two places do not overlap, so that
// the bytes are in one of them at any moment.
func (in *Inbox) makeRoom() {
	if in.inboxMemory == nil {
		in.inboxMemory = new(inboxMemory)
	}
	left := in.now.end - in.now.start
	if left == 0 || in.now.start >= inboxSize/2 {
		copy(in.buf[:], in.Pending())
		in.now.start, in.now.end = 0, left
	}
	in.take()
}

// take makes it true that what Next has given out is taken.
func (in *Inbox) take() { in.word.Store(in.now.pack()) }

// arrived counts what a message has brought.
func (in *Inbox) arrived(n, oobn int) error {
	var err error
	if oobn > 0 || in.msg.truncated() {
		err = in.takeRights(in.oob[:oobn])
	}
	in.now.end += uint16(n)
	in.take()
	in.msg.settled()
	return err
}

// takeRights queues the descriptor of a message. All descriptors are kept until Close even if the message is refused, so that none leaks.
func (in *Inbox) takeRights(oob []byte) error {
	fds, err := parseRights(oob)
	for _, fd := range fds {
		in.keep(int32(fd))
	}
	switch {
	case err != nil:
		return err
	case len(fds) > 1:
		return Faultf(CodeStrayDescriptor, "%d descriptors in one message, one is allowed", len(fds))
	case in.msg.truncated() && len(fds) == 0:
		in.keep(lost)
	}
	return nil
}

func (in *Inbox) keep(fd int32) {
	*in.fd(in.now.endFD) = fd
	in.now.endFD++
}

// Next takes the next complete frame. fd is its descriptor, -1 if its FD flag is not set; the caller owns it. ok is false when no
// complete frame is left. The frame's payload is valid until the next Recv. An error is final, except ErrDescriptorLost: the frame is
// valid but for its descriptor.
//
// In memory that outlives the process the frame is taken when Next, Settled or Recv is called after it: whoever dies over a frame leaves it.
func (in *Inbox) Next(f *Frame) (fd int, ok bool, err error) {
	if in.inboxMemory == nil {
		return -1, false, nil
	}
	in.take()
	n, err := Decode(in.Pending(), f)
	if n == 0 || err != nil {
		return -1, false, asFault(err)
	}
	in.now.start += uint16(n)
	if f.Flags&FlagFD == 0 {
		return -1, true, nil
	}
	if in.now.firstFD == in.now.endFD {
		return -1, false, Faultf(CodeNoDescriptor, "%s says that a descriptor comes with it, none came", f.Type)
	}
	fd = int(*in.fd(in.now.firstFD))
	in.now.firstFD++
	if fd == lost {
		return -1, true, ErrDescriptorLost
	}
	return fd, true, nil
}

// Full reports whether the last Recv filled all the room there was, so that another may find more at once.
func (in *Inbox) Full() bool { return in.filled }

// Pending returns the bytes of a frame that has begun and not ended.
func (in *Inbox) Pending() []byte {
	if in.inboxMemory == nil {
		return nil
	}
	return in.buf[in.now.start:in.now.end]
}

// Settled checks, when no complete frame is left, that no descriptor waits without a frame that has begun, and no more than one with it.
func (in *Inbox) Settled() error {
	if in.inboxMemory == nil {
		return nil
	}
	in.take()
	switch n := in.now.endFD - in.now.firstFD; {
	case n > 0 && len(in.Pending()) == 0:
		return Faultf(CodeStrayDescriptor, "a descriptor came with no frame whose FD flag is set")
	case n > 1:
		return Faultf(CodeStrayDescriptor, "%d descriptors came with one frame", n)
	}
	return nil
}

// Descriptors lists those that nobody has claimed.
func (in *Inbox) Descriptors() []int {
	var fds []int
	if in.inboxMemory == nil {
		return fds
	}
	for n := in.now.firstFD; n != in.now.endFD; n++ {
		if fd := int(*in.fd(n)); fd != lost {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Close closes the descriptors that nobody has claimed.
func (in *Inbox) Close() {
	for _, fd := range in.Descriptors() {
		if in.Drop != nil {
			in.Drop(fd)
		} else {
			_ = unix.Close(fd)
		}
	}
	in.now.firstFD = in.now.endFD
}

func asFault(err error) error {
	switch {
	case errors.Is(err, ErrTooLong):
		return Faultf(CodeTooLong, "%v", err)
	case errors.Is(err, ErrBadFrame):
		return Faultf(CodeBadFrame, "%v", err)
	}
	return err
}

// parseRights lists the descriptors of every SCM_RIGHTS message in oob. Other kinds of control message are skipped.
func parseRights(oob []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("handoff: control message: %w", err)
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		rights, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("handoff: SCM_RIGHTS: %w", err)
		}
		fds = append(fds, rights...)
	}
	return fds, nil
}
