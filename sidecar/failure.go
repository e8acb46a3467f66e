package sidecar

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/anteroom-io/anteroom/manager"
)

// failures is the one table from errors to gRPC codes, each with what to do about it. What is not in it is INTERNAL.
var failures = []struct {
	err  error
	code codes.Code
	hint string
}{
	{manager.ErrNotFound, codes.NotFound, "it may have closed meanwhile; ListConnections shows those there are"},
	{ErrMisconfigured, codes.FailedPrecondition, "correct it and ask again; until then this process goes on"},
	{ErrNotUpgraded, codes.FailedPrecondition, "mend what the message says and ask again; until then this process goes on"},
	{manager.ErrNotLeased, codes.FailedPrecondition, "only a leased connection can be put or revoked; GetConnection shows its state"},
	{manager.ErrStopping, codes.FailedPrecondition, "call Start again then"},
	{manager.ErrBusy, codes.ResourceExhausted, "try again when some of them are answered"},
	{manager.ErrReplaced, codes.Unavailable, "call again: the new process answers at the same address"},
	{manager.ErrStopped, codes.Unavailable, "the sidecar is shutting down; try again when it is back"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "what was asked for may have happened; look before trying again"},
	{context.Canceled, codes.Canceled, "what was asked for may have happened; look before trying again"},
}

// failure turns an error of a call into gRPC's.
func failure(err error) error {
	if limits, ok := errors.AsType[*manager.LimitsError](err); ok {
		return limitViolations(limits).err()
	}
	for _, f := range failures {
		if errors.Is(err, f.err) {
			return explained(status.New(f.code, withHint(err.Error(), f.hint)), err)
		}
	}
	// Nil and what has a code already stay as they are; the rest becomes UNKNOWN here and says so.
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	return status.Error(codes.Internal, err.Error())
}

// withHint is a text with what to do about it, on a line of its own if the text has several.
func withHint(text, hint string) string {
	if strings.Contains(text, "\n") {
		return text + "\n" + strings.ToUpper(hint[:1]) + hint[1:] + "."
	}
	return text + ": " + hint
}

// ReasonMisconfigured in a google.rpc.ErrorInfo of the details says that there are mistakes in the
// configuration.
const ReasonMisconfigured = "MISCONFIGURED"

// ReasonReplaced in a google.rpc.ErrorInfo of the details says that another process has taken over,
// which answers when called again.
const ReasonReplaced = "REPLACED"

// explained adds the details that programs look at.
func explained(s *status.Status, err error) error {
	var reason string
	switch {
	case errors.Is(err, manager.ErrReplaced):
		reason = ReasonReplaced
	case errors.Is(err, ErrMisconfigured):
		reason = ReasonMisconfigured
	default:
		return s.Err()
	}
	if detailed, err := s.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "anteroom"}); err == nil {
		s = detailed
	}
	return s.Err()
}

// err is nil if there are no violations, else INVALID_ARGUMENT with all of them in the message and in the details.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	sentences := make([]string, len(v))
	for i, bad := range v {
		sentences[i] = bad.Field + ": " + bad.Description
	}
	s := status.New(codes.InvalidArgument, strings.Join(sentences, "\n"))
	if detailed, err := s.WithDetails(&errdetails.BadRequest{FieldViolations: v}); err == nil {
		s = detailed
	}
	return s.Err()
}

// limitViolations names the limits as the contract does.
func limitViolations(e *manager.LimitsError) (v violations) {
	for _, bad := range e.Violations {
		v.add("limits."+limitOf(bad.Field).field(), "%s", bad.Reason)
	}
	return v
}

func unaryFailures(ctx context.Context, req any, _ *grpc.UnaryServerInfo, call grpc.UnaryHandler) (any, error) {
	answer, err := call(ctx, req)
	if err != nil {
		return nil, failure(err)
	}
	return answer, nil
}

func streamFailures(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, call grpc.StreamHandler) error {
	return failure(call(srv, stream))
}
