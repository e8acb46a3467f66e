package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/sidecar"
)

func watchCommand() *cobra.Command {
	var kinds []string
	var most int
	var cmd *cobra.Command
	cmd = operatorCommand(&cobra.Command{
		Use:   "watch",
		Short: "Show events as they happen, until Ctrl-C",
		Long: `Shows events as they happen, until Ctrl-C or, with --count, so many have come. With --json each is one line.
When another process takes over (an upgrade, a crash), it goes on with that one; events in between are missing.`,
		Args: noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		wanted, err := eventKinds(kinds)
		if err != nil {
			return err
		}
		return o.watch(ctx, wanted, most, cmd.ErrOrStderr())
	})
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds: accepted, leased, put, expired, closed, detached, host_attached, host_gone, host_hung, host_alive, lease_overdue, stopped, started")
	cmd.Flags().IntVar(&most, "count", 0, "end after so many events; 0 goes on")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return atLeast(cmd, "count", most, 0, "give 1 or more, or 0 to go on")
	}
	return cmd
}

func eventKinds(words []string) (kinds []pb.EventKind, err error) {
	for _, word := range words {
		kind, ok := pb.EventKind_value["EVENT_KIND_"+strings.ToUpper(strings.ReplaceAll(word, "-", "_"))]
		if !ok || kind == 0 {
			return nil, usage("--kind: there is no kind %q; anteroom help watch lists them", word)
		}
		kinds = append(kinds, pb.EventKind(kind))
	}
	return kinds, nil
}

// watch shows events. If the process it talks to is replaced, or dies and is succeeded, it goes on
// with the next one.
func (o *operator) watch(ctx context.Context, kinds []pb.EventKind, most int, errOut io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &pb.WatchRequest{Kinds: kinds}
	stream, err := o.openWatch(ctx, request)
	for n := 0; err == nil && (most == 0 || n < most); {
		answer, failure := stream.Recv()
		switch {
		case failure == nil:
			err = o.showEvent(answer.GetEvent())
			n++
		case status.Code(failure) == codes.Unavailable:
			if stream, err = o.watchNext(ctx, request); err == nil {
				fmt.Fprintln(errOut, "anteroom: another process serves now; events in between are missing")
			}
		default:
			err = failure
		}
	}
	return endOfWatch(err)
}

// openWatch returns a watch that is in place.
func (o *operator) openWatch(ctx context.Context, r *pb.WatchRequest) (grpc.ServerStreamingClient[pb.WatchResponse], error) {
	stream, err := o.Watch(ctx, r)
	if err != nil {
		return nil, err
	}
	headers, err := stream.Header()
	if err == nil && headers == nil { // it has ended without any
		_, err = stream.Recv()
	}
	return stream, err
}

const (
	// successionPatience bounds the wait for a process that takes over; clients wait less.
	successionPatience = 10 * time.Second
	successionPause    = 50 * time.Millisecond
)

// watchNext watches the process that takes over: the one before it may still answer for a moment,
// and says that it was replaced.
func (o *operator) watchNext(ctx context.Context, r *pb.WatchRequest) (grpc.ServerStreamingClient[pb.WatchResponse], error) {
	for end := time.Now().Add(successionPatience); ; time.Sleep(successionPause) {
		stream, err := o.openWatch(ctx, r)
		if !isReplaced(err) || time.Now().After(end) {
			return stream, err
		}
	}
}

// isReplaced reports whether a call came to a process that another has taken over from.
func isReplaced(err error) bool { return hasReason(err, sidecar.ReasonReplaced) }

// hasReason reports whether the sidecar has given this reason, in a google.rpc.ErrorInfo.
func hasReason(err error, reason string) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetReason() == reason {
			return true
		}
	}
	return false
}

// endOfWatch: whoever presses Ctrl-C has got what was wanted.
func endOfWatch(err error) error {
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
		return nil
	}
	return err
}

func (o *operator) showEvent(e *pb.Event) error {
	if o.json {
		text, err := marshal(e)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.out, "%s\n", text)
		return err
	}
	_, err := fmt.Fprintln(o.out, eventLine(e))
	return err
}

func eventLine(e *pb.Event) string {
	parts := []string{e.GetTime().AsTime().Local().Format("15:04:05.000"), fmt.Sprintf("%-13s", enumWord(e.GetKind(), "EVENT_KIND_"))}
	part := func(key string, shown bool, v any) {
		if shown {
			parts = append(parts, key+"="+printable(fmt.Sprint(v)))
		}
	}
	part("conn", e.GetConnectionId() != 0, e.GetConnectionId())
	part("host", e.GetHostId() != 0, e.GetHostId())
	part("name", e.GetHostName() != "", e.GetHostName())
	part("pool", e.GetPool() != "", e.GetPool())
	part("peer", e.GetPeer() != "", e.GetPeer())
	part("reason", e.GetReason() != 0, enumWord(e.GetReason(), "CLOSE_REASON_"))
	part("detail", e.GetDetail() != "", e.GetDetail())
	part("lost", e.GetLost() != 0, e.GetLost())
	return strings.Join(parts, "  ")
}
