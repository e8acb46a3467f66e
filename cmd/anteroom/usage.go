package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// What the command line itself gets wrong, in words that say what would be right.

// noArguments is for commands that take flags alone.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments, but %q is given", cmd.Name(), args[0])
	}
	return nil
}

// oneID is for commands about one connection.
func oneID(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes the id of one connection; anteroom conns shows them", cmd.Name())
	}
	return nil
}

// someIDs is for commands about connections.
func someIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("%s takes ids of connections; anteroom conns shows them", cmd.Name())
	}
	return nil
}

// atLeast is the error of a number or a time below the least that makes sense, nil otherwise.
func atLeast[T int | int64](cmd *cobra.Command, flag string, value, least T, instead string) error {
	if cmd.Flags().Changed(flag) && value < least {
		return usage("--%s %v: %s", flag, cmd.Flags().Lookup(flag).Value, instead)
	}
	return nil
}

// flagError says which values a flag takes.
func flagError(_ *cobra.Command, err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	return fmt.Errorf("--%s: %q is %s", bad.GetFlag().Name, bad.GetValue(), wrongFor(bad.GetFlag().Value.Type()))
}

func wrongFor(kind string) string {
	switch {
	case kind == "duration":
		return "not a time; give a number with a unit, such as 500ms, 30s or 1h"
	case kind == "bool":
		return "neither true nor false"
	case strings.HasPrefix(kind, "uint"):
		return "not a whole number of 0 or more"
	case strings.HasPrefix(kind, "int"):
		return "not a whole number"
	}
	return "not a value of it"
}

// helpCommand shows how to use a command. It fails if there is no such command, which cobra's own does not.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show how to use a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err == nil && len(rest) == 0 {
				cmd.InitDefaultHelpFlag()
				return cmd.Help()
			}
			return usage("there is no command %q%s", strings.Join(args, " "), perhaps(root, args[0]))
		},
	}
}

// perhaps names the commands that may have been meant.
func perhaps(root *cobra.Command, name string) string {
	if near := root.SuggestionsFor(name); len(near) > 0 {
		return "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return ""
}

// completionCommand is cobra's, which takes an unknown shell for a question.
func completionCommand(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				return usage("completion takes the name of a shell: bash, zsh, fish or powershell")
			}
			cmd.Args = cobra.ArbitraryArgs
		}
	}
}
