package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/anteroom-io/anteroom/handoff"
)

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := struct {
				Version  string `json:"version"`
				Protocol int    `json:"handoffProtocol"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{version, handoff.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if asJSON {
				return printer{out: cmd.OutOrStdout()}.value(v)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// versionLine is what version and --version print.
func versionLine() string {
	return fmt.Sprintf("anteroom %s (handoff protocol %d, %s, %s/%s)", version, handoff.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
