package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/anteroom-io/anteroom/sidecar"
)

// The exit codes. docs/cli.md shows the same table.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitNotFound    = 4
	exitRefused     = 5
)

var exitCodes = []struct {
	code    int
	meaning string
}{
	{exitOK, "done; for serve and demo: ended by a signal, and drained"},
	{exitFailed, "failed while running; for healthcheck: not healthy"},
	{exitUsage, "the command line, the configuration or a value given is wrong; nothing was done"},
	{exitUnreachable, "no sidecar answers at the control socket, or it does not let us in"},
	{exitNotFound, "there is no connection with that id"},
	{exitRefused, "it cannot be done as things are, such as a put of a connection that is not leased"},
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodeTable()}
}

func exitCodeTable() string {
	var b strings.Builder
	b.WriteString("Exit codes of anteroom:\n\n")
	for _, c := range exitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", c.code, c.meaning)
	}
	return b.String()
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

var (
	errNoCommand  = errors.New("no command was given")
	errNotHealthy = errors.New("not healthy")
)

// codeOf finds the exit code of an error.
func codeOf(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[sidecar.Mistakes](err); ok {
		return exitUsage
	}
	if errors.Is(err, errNotHealthy) {
		return exitFailed
	}
	if hasReason(err, sidecar.ReasonMisconfigured) {
		return exitUsage
	}
	return codeOfCall(status.Code(err))
}

func codeOfCall(c codes.Code) int {
	switch c {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Unauthenticated, codes.PermissionDenied:
		return exitUnreachable
	case codes.NotFound:
		return exitNotFound
	case codes.FailedPrecondition, codes.ResourceExhausted:
		return exitRefused
	case codes.InvalidArgument:
		return exitUsage
	default:
		return exitFailed
	}
}

// describe is what people read about an error: what is wrong, then what to do.
func describe(cmd *cobra.Command, err error) string {
	if e, ok := errors.AsType[*usageError](err); ok {
		return fmt.Sprintf("anteroom: %s\nHint: %s", strings.TrimSpace(e.Error()), howToUse(cmd))
	}
	if m, ok := errors.AsType[sidecar.Mistakes](err); ok {
		return fmt.Sprintf("anteroom: %s to correct:\n%s", counted(len(m), "mistake"), indent(m.Error()))
	}
	return "anteroom: " + err.Error()
}

func howToUse(cmd *cobra.Command) string {
	if cmd == nil || !cmd.HasParent() || cmd.Name() == "help" {
		return "anteroom help shows the commands, anteroom help COMMAND how to use one."
	}
	return fmt.Sprintf("anteroom help %s shows how to use it.", cmd.Name())
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
