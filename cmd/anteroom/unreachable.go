package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unreachable is the error of a call that was not answered.
type unreachable struct {
	control string
	cause   error
}

func (e *unreachable) Unwrap() error { return e.cause }
func (e *unreachable) explained()    {}

func (e *unreachable) Error() string {
	return fmt.Sprintf("cannot reach the sidecar at %s: %s\nHint: %s", e.control, e.reason(), e.hint())
}

// reason is what went wrong, without the words of gRPC around it.
func (e *unreachable) reason() string {
	s := status.Convert(e.cause)
	text := s.Message()
	for _, before := range []string{
		"Error while dialing: ", "error reading server preface: ", "failed to write client preface: ", "authentication handshake failed: ",
	} {
		if _, behind, found := strings.Cut(text, before); found {
			return strings.TrimSuffix(behind, `"`)
		}
	}
	if s.Code() == codes.DeadlineExceeded || errors.Is(e.cause, context.DeadlineExceeded) {
		return "no answer came in time"
	}
	return text
}

func (e *unreachable) hint() string {
	path := strings.TrimPrefix(e.control, "unix://")
	switch {
	case strings.Contains(path, "://"):
		return "is the sidecar running with control-tcp there, and do both sides trust each other's certificate?"
	case strings.HasPrefix(path, "@"):
		return "is the sidecar running, and does its setting control name this socket?"
	}
	return e.hintOfPath(path)
}

// hintOfPath looks at the socket's file.
func (e *unreachable) hintOfPath(path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "there is no such socket. Is the sidecar running? --control or ANTEROOM_CONTROL says where its control socket is."
	case errors.Is(err, os.ErrPermission):
		return "this user may not enter the socket's folder. Use the sidecar's own user or root, or see control-allow-uid."
	case err == nil && info.Mode().Type() != os.ModeSocket:
		return "this is not a socket. --control or ANTEROOM_CONTROL says where the sidecar's control socket is."
	case unix.Access(path, unix.W_OK) != nil:
		return "this user may not write the socket. Use the sidecar's own user or root, or see control-allow-uid and control-mode."
	case strings.Contains(e.reason(), unix.ECONNREFUSED.Error()):
		return "nothing listens there any more: the sidecar has ended. Start it again, or look at its log."
	case e.hungUp():
		return "it hung up. The sidecar lets in its own user, root, and whom control-allow-uid and control-allow-gid name."
	case strings.Contains(e.reason(), "http2"):
		return "what answers there does not speak gRPC. Is this the control socket, and not the one for hosts?"
	}
	return "is it busy, or stopped by a signal (SIGSTOP)? The sidecar's log may tell."
}

// hungUp reports whether the other side accepted the connection and ended it.
func (e *unreachable) hungUp() bool {
	reason := e.reason()
	for _, sign := range []string{unix.ECONNRESET.Error(), unix.EPIPE.Error(), "EOF"} {
		if strings.Contains(reason, sign) {
			return true
		}
	}
	return false
}

// failed is the error of a call that the sidecar answered with one: its words, without gRPC's around
// them, and with the names that things have on the command line.
type failed struct{ cause error }

func (e *failed) Unwrap() error { return e.cause }
func (e *failed) explained()    {}

func (e *failed) Error() string {
	text := status.Convert(e.cause).Message()
	for _, w := range contractWords {
		text = strings.ReplaceAll(text, w.contract, w.here)
	}
	return text
}

// contractWords are names in the sidecar's errors, and what the command line calls them.
var contractWords = []struct{ contract, here string }{
	{"ListConnections shows", "anteroom conns shows"},
	{"GetConnection shows", "anteroom conn shows"},
	{"call Start again", "run anteroom start again"},
	{"call again:", "run the command again:"},
	{"keep_alive_timeout: ", "--timeout: "},
	{"grace: ", "--grace: "},
	{"selection.connection_ids", "ids"},
	{"connection_ids", "ids"},
	{"selection.", "--"},
	{"filter.", "--"},
	{"limits.", ""},
}
