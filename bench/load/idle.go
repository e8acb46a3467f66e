package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// IdleResult is what idle prints at its end.
type IdleResult struct {
	Connections int `json:"connections"`
	Lost        int `json:"lost"` // closed by the server meanwhile
}

// idle opens connections, has one request answered on each, prints "ready", and keeps them until its standard input ends.
func idle(o options) (any, error) {
	conns := make([]int, 0, o.connections)
	buf := make([]byte, 64<<10)
	request := o.target.request("keep-alive")
	for i := range o.connections {
		fd, err := o.target.dial(i, 0)
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", i+1, err)
		}
		conns = append(conns, fd)
		if err := askOnce(fd, request, buf); err != nil {
			return nil, fmt.Errorf("connection %d: %w", i+1, err)
		}
	}
	fmt.Println("ready")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return nil, err
	}
	return &IdleResult{Connections: len(conns), Lost: countLost(conns)}, nil
}

func askOnce(fd int, request, buf []byte) error {
	limit := unix.Timeval{Sec: 10}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("setsockopt: %w", err)
	}
	if _, err := unix.Write(fd, request); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	var r response
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) { // Go's own signals interrupt a socket that has a timeout, whatever SA_RESTART says (signal(7))
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if done, err := r.take(buf[:n]); done || err != nil {
			return err
		}
	}
}

// countLost counts the connections on which something has come: it can only be their end.
func countLost(conns []int) int {
	lost := 0
	for _, fd := range conns {
		n, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if n >= 0 || err != unix.EAGAIN {
			lost++
		}
	}
	return lost
}
