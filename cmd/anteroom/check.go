package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/anteroom-io/anteroom/sidecar"
)

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "check",
		Aliases: []string{"validate"},
		Short:   "Check a configuration without running it, and show the values in force",
		Long: `Reads the configuration exactly as serve does, from the same flags, variables and file, and reports every mistake. If there is none it shows each
setting, its value and where that is from, and warns of what will not do what it seems to.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, choices, err := sidecar.Load(cmd.Flags(), os.Getenv)
			if err != nil {
				return err
			}
			for _, warning := range config.Warnings() {
				fmt.Fprintf(cmd.ErrOrStderr(), "anteroom: warning: %s\n", warning)
			}
			return showChoices(printer{cmd.OutOrStdout(), asJSON}, choices)
		},
	}
	sidecar.Flags(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showChoices(p printer, choices []sidecar.Choice) error {
	if p.json {
		return p.value(choices)
	}
	t := p.table("SETTING", "VALUE", "FROM")
	for _, c := range choices {
		t.row(c.Key, c.Value, c.Origin)
	}
	if err := t.end(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.out, "The configuration is right.")
	return err
}
