package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func watchCommand() *cobra.Command {
	var kinds []string
	var most int
	cmd := operatorCommand(&cobra.Command{
		Use:   "watch",
		Short: "Show events as they happen, until Ctrl-C",
		Long:  `Shows events as they happen, until Ctrl-C or, with --count, so many have come. With --json each is one line.`,
		Args:  cobra.NoArgs,
	}, func(ctx context.Context, o *operator, _ []string) error {
		wanted, err := eventKinds(kinds)
		if err != nil {
			return err
		}
		return o.watch(ctx, wanted, most)
	})
	cmd.Flags().StringSliceVar(&kinds, "kind", nil, "only these kinds: accepted, leased, put, expired, closed, detached, host_attached, host_gone, host_hung, host_alive, lease_overdue, stopped, started")
	cmd.Flags().IntVar(&most, "count", 0, "end after so many events; 0 goes on")
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

func (o *operator) watch(ctx context.Context, kinds []pb.EventKind, most int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.Watch(ctx, &pb.WatchRequest{Kinds: kinds})
	if err != nil {
		return err
	}
	for n := 0; most == 0 || n < most; n++ {
		answer, err := stream.Recv()
		if err != nil {
			return endOfWatch(err)
		}
		if err := o.showEvent(answer.GetEvent()); err != nil {
			return err
		}
	}
	return nil
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
