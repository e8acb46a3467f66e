package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inOwnNetwork is set for the program once it has moved into a network namespace of its own (network_namespaces(7)).
const inOwnNetwork = "ANTEROOM_BENCH_OWN_NETWORK"

// enterOwnNetwork starts this program again in a new network namespace, where there is nothing but loopback: no packet filter or connection
// tracking of the machine's (which would cost a proxy, with its two connections, twice), and no other program's sockets. It returns false where
// that is not allowed. Where it succeeds it returns only the second time.
func enterOwnNetwork() (bool, error) {
	if os.Getenv(inOwnNetwork) != "" {
		return true, raiseLoopback()
	}
	// A namespace is the thread's, and execve(2) makes this thread the program's only one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	switch err := unix.Unshare(unix.CLONE_NEWNET); {
	case errors.Is(err, unix.EPERM):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("unshare: %w", err)
	}
	program, err := os.Executable()
	if err != nil {
		return false, err
	}
	err = syscall.Exec(program, os.Args, append(os.Environ(), inOwnNetwork+"=1"))
	return false, fmt.Errorf("execve %s: %w", program, err)
}

// raiseLoopback sets the interface lo up, which in a new namespace it is not (netdevice(7)).
func raiseLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, lo); err != nil {
		return fmt.Errorf("reading the state of lo: %w", err)
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	return nil
}
