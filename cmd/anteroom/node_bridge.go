package main

import (
	"cmp"
	"errors"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/nodebridge"
)

func nodeBridgeCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "node-bridge",
		Short: "Pass connections on to a Node process (the Node SDK starts it)",
		Long: `Passes the frames and descriptors of one link to the sidecar on to the Node process that started it, over Node's IPC channel (NODE_CHANNEL_FD).
The Node SDK runs it where Node itself cannot receive descriptors. It ends when that process or the sidecar hangs up, and with nothing else: signals
to the whole process group, such as Ctrl-C, are for the Node process to obey.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
			err := nodebridge.Run(handoff.SocketPath(cmp.Or(path, os.Getenv(handoff.PathVariable), handoff.DefaultPath)))
			if errors.Is(err, nodebridge.ErrNoChannel) {
				return &usageError{err}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&path, "handoff", "", "the sidecar's handoff socket (default: ANTEROOM_HANDOFF, else "+handoff.DefaultPath+")")
	return cmd
}
