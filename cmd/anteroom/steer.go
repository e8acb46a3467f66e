package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
	"github.com/anteroom-io/anteroom/sidecar"
)

func putCommand() *cobra.Command {
	var timeout time.Duration
	cmd := operatorCommand(&cobra.Command{
		Use:   "put ID",
		Short: "Make a leased connection idle, as if its host had put it",
		Long: `Makes a leased connection idle, as if its host had put it. Meant for connections whose host has gone astray: a host that is still writing
would share the connection with the next one.`,
		Args: oneID,
	}, func(ctx context.Context, o *operator, args []string) error {
		id, err := connectionID(args[0])
		if err != nil {
			return err
		}
		request := &pb.PutRequest{ConnectionId: id}
		if timeout != 0 {
			request.KeepAliveTimeout = durationpb.New(timeout)
		}
		answer, err := call(ctx, 0, o.Put, request)
		if err != nil {
			return err
		}
		return o.say(answer, "connection %d is idle", id)
	})
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long it may stay idle this time (default: the limit keep-alive-timeout)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return atLeast(cmd, "timeout", int64(timeout), int64(manager.MinTimeout), "give a time such as 30s, or leave it out for the limit keep-alive-timeout")
	}
	return cmd
}

func revokeCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "revoke ID...",
		Short: "Take leases back from hosts that do not answer them",
		Long: `Takes leases back, now, and ends their connections: by a 504 where requests are looked at and nothing was answered, else by a reset.
Their hosts are told to let go. Connections that are not leased stay as they are.`,
		Args: someIDs,
	}, func(ctx context.Context, o *operator, args []string) error {
		ids, err := connectionIDs(args)
		if err != nil {
			return err
		}
		answer, err := call(ctx, 0, o.Revoke, &pb.RevokeRequest{ConnectionIds: ids})
		if err != nil {
			return err
		}
		return o.say(answer, "revoked %s", counted(answer.GetRevoked(), "lease"))
	})
}

func upgradeCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "upgrade",
		Short: "Replace the sidecar's process by one of the program that is now in its place",
		Long: `Starts the program that is now where the sidecar's was started from. The new process takes over every connection and host; clients see no more than a
short pause. If the new program cannot run with the sidecar's configuration, does not start or cannot take over, nothing changes and the old process goes on.`,
		Args: noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		answer, err := call(ctx, upgradePatience, o.Upgrade, &pb.UpgradeRequest{})
		if err != nil {
			return err
		}
		return o.say(answer, "process %d serves now", answer.GetPid())
	})
}

func reloadCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "reload",
		Short: "Have the sidecar read its configuration again",
		Long: `Checks the configuration and, if there is no mistake in it, replaces the sidecar's process by one of the same program that runs with it. The new process
takes over every connection and host. Limits that were set at run time stay, but for those whose configured value has changed. If there is a mistake, or the new
process cannot open what is configured, nothing changes. SIGHUP does the same.`,
		Args: cobra.NoArgs,
	}, func(ctx context.Context, o *operator, _ []string) error {
		answer, err := call(ctx, upgradePatience, o.Reload, &pb.ReloadRequest{})
		if err != nil {
			return err
		}
		if o.json {
			return o.message(answer)
		}
		if len(answer.GetChanges()) == 0 {
			fmt.Fprintln(o.out, "no setting has changed")
		}
		for _, c := range answer.GetChanges() {
			fmt.Fprintf(o.out, "%s: %s (before: %s)\n", c.GetKey(), printable(c.GetNow()), printable(c.GetBefore()))
		}
		return o.say(answer, "process %d serves now", answer.GetPid())
	})
}

// upgradePatience is for the new program to start, beside the usual.
const upgradePatience = 30 * time.Second

func closeCommand() *cobra.Command {
	var selected selectionFlags
	var all bool
	cmd := operatorCommand(&cobra.Command{
		Use:   "close [ID...]",
		Short: "Close connections: by id, state, pool, host or client, or all",
		Long: `Closes connections that match everything given. Unless ids or states say otherwise, that is idle and ready ones: a leased connection
is closed only if its id or --state leased asks for it. To close every idle and ready connection, say --all.`,
		Example: `  anteroom close 16777217 33554434
  anteroom close --peer 192.0.2.0/24
  anteroom close --all`,
	}, func(ctx context.Context, o *operator, args []string) error {
		selection, err := selected.selection(args)
		switch {
		case err != nil:
			return err
		case selection == nil && !all:
			return usage("close what? Name ids, or give --state, --pool, --host or --peer; --all closes every idle and ready connection")
		case selection != nil && all:
			return usage("--all contradicts the ids and filters; leave one of them out")
		}
		answer, err := call(ctx, 0, o.Close, &pb.CloseRequest{Selection: selection, All: all})
		if err != nil {
			return err
		}
		return o.say(answer, "closing %s", counted(answer.GetClosed(), "connection"))
	})
	selected.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every idle and ready connection")
	return cmd
}

func stopCommand() *cobra.Command {
	var grace time.Duration
	cmd := operatorCommand(&cobra.Command{
		Use:   "stop",
		Short: "Stop accepting and lending, and wait until no host has a connection",
		Long:  `Stops accepting and lending, and returns when no host has a connection any more. The sidecar stays; anteroom start goes on.`,
		Args:  noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		answer, err := call(ctx, max(grace, 0), o.Stop, &pb.StopRequest{Grace: durationpb.New(grace)})
		if err != nil {
			return err
		}
		return o.say(answer, "stopped: %s came back, %d cut", counted(answer.GetFinished(), "lease"), answer.GetCut())
	})
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "how long leases may take to come back before they are cut")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		return atLeast(cmd, "grace", int64(grace), 0, "give a time such as 30s, or 0s to cut at once")
	}
	return cmd
}

func startCommand() *cobra.Command {
	return operatorCommand(&cobra.Command{
		Use:   "start",
		Short: "Accept and lend again after a stop",
		Args:  noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		answer, err := call(ctx, 0, o.Start, &pb.StartRequest{})
		if err != nil {
			return err
		}
		return o.say(answer, "running")
	})
}

func limitsCommand() *cobra.Command {
	var changes []string
	cmd := operatorCommand(&cobra.Command{
		Use:     "limits",
		Short:   "Show the limits in force, or change them",
		Example: `  anteroom limits --set keep-alive-limit=5000 --set keep-alive-timeout=30s`,
		Args:    noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		limits, err := o.limits(ctx, changes)
		if err != nil {
			return err
		}
		if o.json {
			return o.message(limits)
		}
		return o.showLimits(limits)
	})
	cmd.Flags().StringArrayVar(&changes, "set", nil, "KEY=VALUE, with the keys and values of the configuration (several may be given); all are set or none")
	return cmd
}

// limits returns those in force, after the changes.
func (o *operator) limits(ctx context.Context, changes []string) (*pb.Limits, error) {
	if len(changes) == 0 {
		answer, err := call(ctx, 0, o.GetLimits, &pb.GetLimitsRequest{})
		return answer.GetLimits(), err
	}
	change, err := sidecar.ParseLimits(changes)
	if err != nil {
		return nil, err
	}
	answer, err := call(ctx, 0, o.SetLimits, &pb.SetLimitsRequest{Limits: change})
	return answer.GetLimits(), err
}

func (o *operator) showLimits(limits *pb.Limits) error {
	t := o.table("LIMIT", "VALUE")
	for _, l := range sidecar.ShowLimits(limits) {
		t.row(l.Key, l.Value)
	}
	return t.end()
}
