package listener

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Why there is no descriptor of a peer's process; test with errors.Is.
var (
	// ErrProcessEnded: the process that connected the socket has ended.
	ErrProcessEnded = errors.New("the process that connected the socket has ended")
	// ErrNoProcess: this kernel does not tell which process connected the socket.
	ErrNoProcess = errors.New("the kernel does not tell which process connected the socket")
)

// PeerProcess returns a descriptor of the process that connected the Unix socket fd, close-on-exec
// and the caller's: it becomes readable when that process ends (pidfd_open(2)). From Linux 6.5 on
// the socket knows the process itself (SO_PEERPIDFD), whatever its pid namespace; before that it is
// found by its number. Errors: ErrProcessEnded, ErrNoProcess, ErrOutOfDescriptors.
func PeerProcess(fd int) (int, error) {
	process, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil && (errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EPERM)) {
		process, err = processByNumber(fd)
	}
	switch {
	case err == nil:
		return process, nil
	case errors.Is(err, unix.ESRCH):
		return -1, ErrProcessEnded
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return -1, fmt.Errorf("%w: SO_PEERPIDFD: %w", ErrOutOfDescriptors, err)
	}
	return -1, fmt.Errorf("%w: %w", ErrNoProcess, err)
}

func processByNumber(fd int) (int, error) {
	c, err := PeerCredentials(fd)
	if err != nil {
		return -1, err
	}
	if c.PID <= 0 {
		return -1, ErrNoProcess // it is in another pid namespace
	}
	return unix.PidfdOpen(int(c.PID), 0)
}
