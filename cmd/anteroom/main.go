// Command anteroom is the sidecar and the operators' tool for it. docs/cli.md is its manual.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-io/anteroom/logqueue"
)

// version is set by the build; scripts and the Makefile know how.
var version = "devel"

func main() {
	code := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)
	logqueue.Stderr.Flush(flushTimeout)
	os.Exit(code)
}

// flushTimeout bounds how long a process that has queued its last words waits for their reader.
const flushTimeout = 500 * time.Millisecond

// run is the whole program: results go to out, everything else to errOut. It returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !started {
		err = &usageError{err} // cobra complained before the command ran
	}
	fmt.Fprintln(root.ErrOrStderr(), describe(cmd, err))
	return codeOf(err)
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "anteroom",
		Short: "Keeps the clients' connections, so that app servers only ever hold requests",
		Long: `Anteroom is a sidecar that keeps the clients' connections. When a request has arrived on one, it lends that connection to an app process (a host),
which answers on the client's own socket and puts the connection back.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without a command there is nothing to do; showing how to use it is a courtesy, not a success.
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(cmd.ErrOrStderr())
			return errors.Join(cmd.Help(), &usageError{errNoCommand})
		},
	}
	root.AddGroup(
		&cobra.Group{ID: groupSidecar, Title: "Running a sidecar:"},
		&cobra.Group{ID: groupOperator, Title: "Looking at one and steering it:"},
		&cobra.Group{ID: groupAuthor, Title: "Writing a host for it:"},
	)
	root.AddCommand(group(groupSidecar, serveCommand(), checkCommand(), demoCommand())...)
	root.AddCommand(group(groupOperator,
		statusCommand(), connsCommand(), connCommand(), clientsCommand(), hostsCommand(), watchCommand(), putCommand(), revokeCommand(), closeCommand(),
		upgradeCommand(), reloadCommand(), stopCommand(), startCommand(), limitsCommand(), healthcheckCommand())...)
	root.AddCommand(group(groupAuthor, conformanceCommand(), nodeBridgeCommand())...)
	root.AddCommand(versionCommand(), exitCodesTopic())
	root.SetVersionTemplate(versionLine() + "\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCommand(root))
	completionCommand(root)
	return root
}

const (
	groupSidecar  = "sidecar"
	groupOperator = "operator"
	groupAuthor   = "author"
)

func group(id string, commands ...*cobra.Command) []*cobra.Command {
	for _, c := range commands {
		c.GroupID = id
	}
	return commands
}
