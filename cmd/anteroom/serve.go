package main

import (
	"context"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/keeper"
	"github.com/anteroom-io/anteroom/logqueue"
	"github.com/anteroom-io/anteroom/sidecar"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar",
		Long: `Runs the sidecar until SIGTERM or SIGINT. Then it drains: nothing new is accepted, leases have --drain-timeout to come back, every connection
is closed properly. A second signal, half a second later or more, cuts that short. SIGUSR2 starts the program that is now in this one's place, which takes over everything (anteroom upgrade).
SIGHUP has it read its configuration again, in the same way (anteroom reload).

With --supervise the sidecar runs as a child of this process, beside a keeper that shares its descriptors. If the sidecar dies, whatever of, the keeper
becomes its successor and goes on with every connection and host. This process stands for whichever of them serves: signals go there.

Every flag is also an environment variable (--log-level is ANTEROOM_LOG_LEVEL) and a key of the file that --config names (log-level). A flag
wins over a variable, that over the file. In flags and variables, lists are separated by commas.`,
		Example: `  anteroom serve --listen tcp://127.0.0.1:8080
  anteroom serve --listen 'tcp://[::]:80?pool=web' --listen 'unix:///run/app.sock?pool=internal' --metrics tcp://127.0.0.1:9464
  anteroom serve --config /etc/anteroom.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := sidecar.LoadOrInherit(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			config.Args = os.Args[2:]          // behind serve
			cmd.Root().SetErr(logqueue.Stderr) // a reader of the log that stalls does not keep this process from ending
			return serve(cmd.Context(), config)
		},
	}
	sidecar.Flags(cmd.Flags())
	return cmd
}

func serve(ctx context.Context, config sidecar.Config) error {
	if config.Supervise && !sidecar.Supervised() && !sidecar.Succeeds() {
		return supervise(config)
	}
	ctx, abort, stop := untilSignal(ctx)
	defer stop()
	config.Version, config.Abort = version, abort
	config.Upgrades, config.Reloads = each(unix.SIGUSR2), each(unix.SIGHUP)
	return sidecar.Run(ctx, config)
}

// supervise stands for the sidecar towards whoever has started this process.
func supervise(config sidecar.Config) error {
	status, err := sidecar.Supervise(config)
	if err == nil {
		os.Exit(status)
	}
	return err
}

// each passes on each of a signal.
func each(sig os.Signal) <-chan struct{} {
	signals, wanted := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, sig)
	go func() {
		for range signals {
			wanted <- struct{}{}
		}
	}()
	return wanted
}

// untilSignal returns a context that the first SIGTERM or SIGINT ends, and a channel that is closed
// when somebody does not want to wait any longer: by a second signal (keeper.Ending), or,
// supervised, by keeper.HurrySignal.
func untilSignal(parent context.Context) (ctx context.Context, hurry <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	signals, hurried, done := make(chan os.Signal, 2), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	if sidecar.Supervised() {
		signal.Notify(signals, keeper.HurrySignal)
	}
	go func() {
		defer signal.Stop(signals)
		for ending, hasty := new(keeper.Ending), false; !hasty; {
			select {
			case received := <-signals:
				cancel()
				hasty = isHasty(received, ending)
			case <-done:
				return
			}
		}
		close(hurried)
		<-done
	}()
	return ctx, hurried, func() {
		cancel()
		close(done)
	}
}

// isHasty reports whether a signal asks for the end at once.
func isHasty(received os.Signal, ending *keeper.Ending) bool {
	if sidecar.Supervised() {
		return received == keeper.HurrySignal
	}
	return ending.Judge(time.Now()) == keeper.AtOnce
}
