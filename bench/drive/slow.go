package drive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Crowd is a number of slow clients that go on until they are dismissed.
type Crowd interface {
	// PID is their process.
	PID() int
	// Dismiss ends them. It returns what they printed, and an error if they had ended because of one.
	Dismiss() (raw string, err error)
}

// Mix is how many slow clients there are of each kind (bench/load, slow).
type Mix struct{ Silent, Head, Body, Read int }

// Size is how many there are of all kinds.
func (m Mix) Size() int { return m.Silent + m.Head + m.Body + m.Read }

// slowLimit ends a crowd that nobody dismisses.
const slowLimit = time.Minute

// Slow starts slow clients of our own, and returns once all have connected.
func (c *Clients) Slow(ctx context.Context, url string, mix Mix) (Crowd, error) {
	h, err := startHolder(c.command(ctx, c.Load, "slow", "-silent", strconv.Itoa(mix.Silent), "-head", strconv.Itoa(mix.Head),
		"-body", strconv.Itoa(mix.Body), "-read", strconv.Itoa(mix.Read), "-for", slowLimit.String(), url))
	if err != nil {
		return nil, err
	}
	if err := h.awaitReady(); err != nil {
		return nil, err
	}
	return ownCrowd{h}, nil
}

type ownCrowd struct{ *holder }

// PID is Crowd's.
func (o ownCrowd) PID() int { return o.command.Process.Pid }

// Dismiss is Crowd's.
func (o ownCrowd) Dismiss() (string, error) {
	var result struct{ Clients int }
	return o.release(&result)
}

// Slowhttptest starts slowhttptest(1) in one of its modes, H, B or X (slow heads, bodies and readers), and returns once its connections are
// open. It does not open others for those that end.
func (c *Clients) Slowhttptest(ctx context.Context, url, mode string, connections int) (Crowd, error) {
	n := strconv.Itoa(connections)
	s := &slowhttptest{ended: make(chan struct{}), command: c.command(ctx, "slowhttptest", "-"+mode, "-u", url, "-c", n, "-r", n,
		"-i", "1", // something each second
		"-s", "65536", // the length of a body
		"-n", "1", "-z", "512", "-w", "512", "-y", "1024", "-k", "3", // readers: 512 bytes each second, of 3 responses, so that not all of it fits into the kernel's buffers
		"-l", strconv.Itoa(int(slowLimit.Seconds())), "-v", "1")}
	s.command.Stdout, s.command.Stderr = &s.output, &s.output
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.failure = s.command.Wait()
		close(s.ended)
	}()
	if err := s.awaitConnections(ctx, connections); err != nil {
		_ = s.command.Process.Kill() // it may have ended, which is what is wanted
		<-s.ended
		return nil, err
	}
	return s, nil
}

// slowhttptest is a process of that program.
type slowhttptest struct {
	command *exec.Cmd
	output  bytes.Buffer // to be read once it has ended
	ended   chan struct{}
	failure error
}

// How long slowhttptest may take to open its connections, and to end.
const (
	openTimeout = 10 * time.Second
	endTimeout  = 3 * time.Second
)

// PID is Crowd's.
func (s *slowhttptest) PID() int { return s.command.Process.Pid }

// awaitConnections waits until the process has as many sockets.
func (s *slowhttptest) awaitConnections(ctx context.Context, connections int) error {
	deadline := time.After(openTimeout)
	for {
		n, err := sockets(s.PID())
		if n >= connections {
			return nil
		}
		select {
		case <-s.ended:
			return errors.Join(fmt.Errorf("slowhttptest has ended at once; it said:\n%s", s.said()), s.failure)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return errors.Join(fmt.Errorf("slowhttptest has opened %d of %d connections in %v", n, connections, openTimeout), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sockets counts the sockets that a process has.
func sockets(pid int) (n int, err error) {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0, err
	}
	for _, entry := range entries {
		if where, err := os.Readlink(folder + "/" + entry.Name()); err == nil && strings.HasPrefix(where, "socket:") {
			n++
		}
	}
	return n, nil
}

// Dismiss interrupts it, upon which it prints its result.
func (s *slowhttptest) Dismiss() (string, error) {
	_ = s.command.Process.Signal(os.Interrupt) // it may have ended because all its connections had
	select {
	case <-s.ended:
	case <-time.After(endTimeout):
		_ = s.command.Process.Signal(syscall.SIGKILL) // it may just have ended
		<-s.ended
	}
	return s.said(), nil
}

// colours are terminals' control sequences.
var colours = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

func (s *slowhttptest) said() string { return colours.ReplaceAllString(s.output.String(), "") }
