package handoff

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// inboxSize holds at least one frame of full length, and some 500 short ones: what one recvmsg may bring.
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
	buf   []byte
	start int   // first byte of buf that Next has not taken
	fds   []int // arrived, not yet claimed, in order; lost in the place of one that was due and will not come
	oob   []byte
	msg   message
}

// Recv does one recvmsg(2) on the socket, without blocking, whatever the socket's flags. It returns io.EOF when the peer has hung up, ErrAgain
// when nothing is there, a Fault when the message broke the rules of descriptor passing, else the system call's error.
func (in *Inbox) Recv(sock int) error {
	in.makeRoom()
	n, oobn, flags, err := in.msg.recv(sock, in.buf[len(in.buf):cap(in.buf)], in.oob)
	if err != nil {
		return err
	}
	in.buf = in.buf[:len(in.buf)+n]
	if oobn > 0 || flags&unix.MSG_CTRUNC != 0 {
		if err := in.takeRights(in.oob[:oobn], flags); err != nil {
			return err
		}
	}
	if n == 0 {
		return io.EOF
	}
	return nil
}

// makeRoom moves what is left to the front, so that a frame that has begun has room to end.
func (in *Inbox) makeRoom() {
	if in.buf == nil {
		in.buf = make([]byte, 0, inboxSize)
		in.oob = make([]byte, unix.CmsgSpace(4*maxRights))
	}
	if in.start > 0 {
		in.buf = in.buf[:copy(in.buf, in.buf[in.start:])]
		in.start = 0
	}
}

// takeRights queues the descriptor of a message. All descriptors are kept until Close even if the message is refused, so that none leaks.
func (in *Inbox) takeRights(oob []byte, flags int) error {
	before := len(in.fds)
	fds, err := parseRights(oob, in.fds)
	in.fds = fds
	switch {
	case err != nil:
		return err
	case len(in.fds) > before+1:
		return Faultf(CodeStrayDescriptor, "%d descriptors in one message, one is allowed", len(in.fds)-before)
	case flags&unix.MSG_CTRUNC != 0 && len(in.fds) == before:
		in.fds = append(in.fds, lost)
	}
	return nil
}

// Next takes the next complete frame. fd is its descriptor, -1 if its FD flag is not set; the caller owns it. ok is false when no
// complete frame is left. The frame's payload is valid until the next Recv. An error is final, except ErrDescriptorLost: the frame is
// valid but for its descriptor.
func (in *Inbox) Next(f *Frame) (fd int, ok bool, err error) {
	n, err := Decode(in.buf[in.start:], f)
	if n == 0 || err != nil {
		return -1, false, asFault(err)
	}
	in.start += n
	if f.Flags&FlagFD == 0 {
		return -1, true, nil
	}
	if len(in.fds) == 0 {
		return -1, false, Faultf(CodeNoDescriptor, "%s says that a descriptor comes with it, none came", f.Type)
	}
	fd = in.fds[0]
	in.fds = in.fds[:copy(in.fds, in.fds[1:])]
	if fd == lost {
		return -1, true, ErrDescriptorLost
	}
	return fd, true, nil
}

// Full reports whether the last Recv filled all the room there was, so that another may find more at once.
func (in *Inbox) Full() bool { return len(in.buf) == cap(in.buf) }

// Pending returns the bytes of a frame that has begun and not ended.
func (in *Inbox) Pending() []byte { return in.buf[in.start:] }

// Settled checks, when no complete frame is left, that no descriptor waits without a frame that has begun, and no more than one with it.
func (in *Inbox) Settled() error {
	switch {
	case len(in.fds) > 0 && len(in.Pending()) == 0:
		return Faultf(CodeStrayDescriptor, "a descriptor came with no frame whose FD flag is set")
	case len(in.fds) > 1:
		return Faultf(CodeStrayDescriptor, "%d descriptors came with one frame", len(in.fds))
	}
	return nil
}

// Close closes the descriptors that nobody has claimed.
func (in *Inbox) Close() {
	for _, fd := range in.fds {
		if fd != lost {
			_ = unix.Close(fd)
		}
	}
	in.fds = nil
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

// parseRights appends the descriptors of every SCM_RIGHTS message in oob to fds. Other kinds of control message are skipped.
func parseRights(oob []byte, fds []int) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fds, fmt.Errorf("handoff: control message: %w", err)
	}
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
