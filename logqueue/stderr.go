package logqueue

import (
	"errors"
	"fmt"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stderr = 2
	// piece is what a pipe that poll(2) calls writable takes without blocking (PIPE_BUF, pipe(7)).
	piece = 4096
	// crashPatience bounds each write(2) of the Go runtime's report of a crash to a socket.
	crashPatience = 10 * time.Millisecond
)

// GuardStderr prepares standard error for a reader that stalls or goes away. Call it before
// anything is logged.
//
//   - SIGPIPE is ignored: the Go runtime would end the process by it (os/signal).
//   - A pipe or terminal becomes non-blocking for this process and its children alone, by a new open file description (proc_pid_fd(5)), and
//     writes to a socket get a time limit: the Go runtime writes its report of a crash by plain write(2), and would never come to its end.
//
// Where that cannot be done the error says so; then only the report of a crash may block.
func GuardStderr() error {
	signal.Ignore(unix.SIGPIPE)
	return unblock(stderr)
}

// unblock makes writes to fd return although its reader stalls.
func unblock(fd int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("fstat of standard error: %w", err)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFCHR:
		return reopen(fd)
	case unix.S_IFSOCK:
		limit := unix.NsecToTimeval(int64(crashPatience))
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
			return fmt.Errorf("setsockopt(SO_SNDTIMEO) on standard error: %w", err)
		}
	}
	return nil
}

// reopen puts a non-blocking open file description of the same file in the place of fd.
func reopen(fd int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("fcntl(F_GETFL) of standard error: %w", err)
	}
	if flags&unix.O_NONBLOCK != 0 {
		return nil
	}
	flags = flags&(unix.O_ACCMODE|unix.O_APPEND) | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	again, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
	if err != nil {
		return fmt.Errorf("open standard error again, non-blocking: %w", err)
	}
	defer func() { _ = unix.Close(again) }()
	if err := unix.Dup3(again, fd, 0); err != nil {
		return fmt.Errorf("dup3 of standard error: %w", err)
	}
	return nil
}

// standardError waits for the reader of standard error, whether that is non-blocking or not.
type standardError struct{}

// Write returns how much was written, and why not all of it.
func (standardError) Write(b []byte) (int, error) { return write(stderr, b) }

func write(fd int, b []byte) (written int, err error) {
	for written < len(b) {
		if err := awaitRoom(fd); err != nil {
			return written, err
		}
		n, err := unix.Write(fd, b[written:min(written+piece, len(b))])
		switch {
		case err == nil:
			written += n
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return written, fmt.Errorf("write: %w", err)
		}
	}
	return written, nil
}

// awaitRoom waits until a write will not block, or fails.
func awaitRoom(fd int) error {
	for {
		watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if _, err := unix.Poll(watched, -1); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
