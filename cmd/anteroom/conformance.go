package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/conformance"
)

// judge is one run of anteroom conformance.
type judge struct {
	printer
	conformance.Options
	name    string
	only    string
	list    bool
	verbose bool
}

func conformanceCommand() *cobra.Command {
	j := new(judge)
	cmd := &cobra.Command{
		Use:   "conformance [flags] -- COMMAND [ARGUMENT...]",
		Short: "Play the sidecar against a host program, and say what it gets right",
		Long: `Starts COMMAND, which runs the conformance app (docs/hosts.md) behind the host to be judged, lends it connections and checks what it does with them,
case by case. COMMAND finds the socket by ANTEROOM_HANDOFF; ANTEROOM_POOL, ANTEROOM_NAME and ANTEROOM_CAPACITY are set too. It is started anew for some
cases, and killed with all that it has started at the end.

The last line is "goal NAME PASSED TOTAL ok", or short instead of ok; then the exit code is 1. A case that asks for a feature which the host does not
ask for is skipped and does not count.`,
		Example: "  anteroom conformance --name go -- host/conformance/run",
		RunE: func(cmd *cobra.Command, args []string) error {
			j.out = cmd.OutOrStdout()
			return j.run(cmd.Context(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&j.name, "name", "host", "what the last line calls the host")
	f.StringVar(&j.only, "run", "", "only the cases whose names match this regular expression")
	f.BoolVar(&j.list, "list", false, "list the cases, and run nothing")
	f.BoolVarP(&j.verbose, "verbose", "v", false, "show what the program printed during cases that fail")
	f.BoolVar(&j.json, "json", false, "print JSON; the last line is there all the same")
	f.IntVar(&j.Capacity, "capacity", 4, "how many leases at once the program is told to take, at least 2")
	f.DurationVar(&j.Timeout, "timeout", 10*time.Second, "how long each wait for the host lasts")
	f.DurationVar(&j.StartTimeout, "start-timeout", time.Minute, "how long the program may take to say HELLO, building included")
	return cmd
}

func (j *judge) run(ctx context.Context, command []string) error {
	if j.list {
		return j.listCases()
	}
	if len(command) == 0 {
		return usage("there is no program to judge; give its command behind --")
	}
	only, err := regexp.Compile(j.only)
	if err != nil {
		return usage("--run: %w", err)
	}
	if !slices.ContainsFunc(conformance.Cases(), func(c conformance.Case) bool { return only.MatchString(c.Name) }) {
		return usage("--run %q: no case has such a name; --list shows them", j.only)
	}
	if j.Capacity < 2 {
		return usage("--capacity %d: use at least 2", j.Capacity)
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return usage("%w", err)
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	j.Command, j.Only = command, only
	if !j.json {
		j.Observe = j.show
	}
	report, err := conformance.Run(ctx, j.Options)
	if err != nil {
		return err
	}
	return j.conclude(report)
}

func (j *judge) listCases() error {
	if j.json {
		return j.value(conformance.Cases())
	}
	t := j.table("CASE", "REQUIRES", "RULE")
	for _, c := range conformance.Cases() {
		t.row(c.Name, c.Requires, c.Rule)
	}
	return t.end()
}

// show prints a case as it ends.
func (j *judge) show(r conformance.Result) {
	fmt.Fprintf(j.out, "%s  %-32s %5.1f s\n", r.Outcome, r.Name, r.Took.Seconds())
	if r.Outcome != conformance.Pass {
		fmt.Fprintf(j.out, "      %s\n", indentBy(6, printableText(r.Reason)))
	}
	if r.Outcome == conformance.Fail {
		fmt.Fprintf(j.out, "      Required: %s (%s)\n", r.Requires, r.Rule)
		if j.verbose && r.Output != "" {
			fmt.Fprintf(j.out, "      It printed:\n      | %s\n", strings.ReplaceAll(printableText(strings.TrimRight(r.Output, "\n")), "\n", "\n      | "))
		}
	}
}

// errShort: the host does not do all that is asked of it.
var errShort = errors.New("the host falls short")

// conclude prints the end of the report.
func (j *judge) conclude(r conformance.Report) error {
	if j.json {
		if err := j.value(r); err != nil {
			return err
		}
	}
	verdict := "ok"
	if !r.OK() {
		verdict = "short"
	}
	fmt.Fprintf(j.out, "goal %s %d %d %s\n", j.name, r.Passed, r.Total, verdict)
	if !r.OK() {
		return fmt.Errorf("%w: %d of %d cases passed", errShort, r.Passed, r.Total)
	}
	return nil
}

func indentBy(n int, text string) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", n))
}

// printableText is printable for text of several lines.
func printableText(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = printable(lines[i])
	}
	return strings.Join(lines, "\n")
}
