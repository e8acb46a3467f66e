package manager

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/selector"
)

// sendPerTurn bounds how much one response may take of a turn of the loop, in bytes.
const sendPerTurn = 1 << 20

// hasRoom is edge-triggered: the end of the client's sending, which level-triggered epoll repeats, must not wake the loop again and again.
const hasRoom = selector.Write | selector.EdgeTriggered

func (a *acts) watchRoom(fd int32, id ConnID) error {
	return a.sel.Modify(int(fd), uint64(id), hasRoom)
}

// send moves bytes from the file to the socket within the kernel: sendfile(2) for files and memfds, splice(2) for pipes.
func (a *acts) send(fd int32, id ConnID, rest *remainder) progress {
	for budget := int64(sendPerTurn); budget > 0; {
		n, err := move(fd, rest, int(min(rest.left, budget)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return sendFull
		case err != nil || n == 0: // 0: the file has become shorter
			return sendBroken
		}
		rest.left -= int64(n)
		rest.sent += int64(n)
		budget -= int64(n)
		if rest.left == 0 {
			return sendDone
		}
	}
	if a.watchRoom(fd, id) != nil { // arms the edge again: there is room now
		return sendBroken
	}
	return sendYield
}

func move(fd int32, rest *remainder, n int) (int, error) {
	if !rest.pipe {
		return unix.Sendfile(int(fd), int(rest.file), &rest.offset, n)
	}
	moved, err := unix.Splice(int(rest.file), nil, int(fd), nil, n, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	return int(moved), err
}

func (a *acts) closeFile(file int32) { closeFD(int(file)) }

// remainderOf checks the file of a FINISH: a regular file or memfd that has those bytes, or a pipe that holds them already. It does not
// take the descriptor.
func remainderOf(f *handoff.Frame, fd int) (remainder, *handoff.Fault) {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return remainder{}, handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: %v", err)
	}
	rest := remainder{file: int32(fd), offset: int64(f.A), end: int64(f.A) + int64(f.B), left: int64(f.B)}
	how, fault := handoff.FinishOf(f)
	if fault != nil {
		return rest, fault
	}
	rest.timeout = msDuration(how.KeepAliveTimeoutMS)
	if rest.offset < 0 || rest.left <= 0 {
		return rest, handoff.Faultf(handoff.CodeBadFrame, "FINISH: offset %d, length %d: the length must be at least 1", f.A, f.B)
	}
	var holds int64
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		holds = stat.Size - rest.offset
	case unix.S_IFIFO:
		n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ) // FIONREAD by its other name
		rest.pipe, holds = true, int64(n)
	default:
		return rest, handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: the descriptor is neither a file, a memfd nor a pipe")
	}
	if holds < rest.left {
		return rest, handoff.Faultf(handoff.CodeBadDescriptor, "FINISH: %d bytes are to be sent, the descriptor holds %d", f.B, max(holds, 0))
	}
	return rest, nil
}
