// Command bench measures Anteroom side by side with what else could stand in front of an app server, and writes one report.
//
// Every arrangement gets the same worker, the same clients and the same loads. A round measures each of them once under each load, one at
// a time, those to be compared one after the other; several rounds follow each other, each beginning with another arrangement. Ratios are
// taken within a round, so that what the machine does meanwhile falls out of them. docs/performance.md explains the method.
//
// There are three suites: peers, which is make bench; slow, which is make slow; and loops, which compares one sidecar with two.
//
// It ends with one line for each goal, and with status 1 if one of them falls short or something could not be measured; the report has the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/gauge"
	"github.com/anteroom-io/anteroom/bench/report"
)

// options are the flags.
type options struct {
	suite      string
	quick      bool
	rounds     int
	only       string
	loads      string
	programs   string
	anteroom   string
	serveFlags string
	root       string
	python     string
	out        string
	pinServers string
	pinClients string
	ownNetwork bool
}

// Why bench ends with status 1.
var (
	errShort  = errors.New("a goal falls short")
	errMissed = errors.New("some of it could not be measured; the report says what and why")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, parse())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() (o options) {
	flag.StringVar(&o.suite, "suite", "peers", "what to measure: peers, which is make bench; slow, make slow; or loops, which compares one sidecar with two")
	flag.BoolVar(&o.quick, "quick", false, "the short plan: fewer arrangements, fewer loads, shorter")
	flag.IntVar(&o.rounds, "rounds", 0, "how many rounds; 0: the plan's own number")
	flag.StringVar(&o.only, "only", "", "measure only arrangements whose whole name matches this `regexp`")
	flag.StringVar(&o.loads, "loads", "", "measure only under loads whose whole name matches this `regexp`")
	flag.StringVar(&o.programs, "programs", "bin/bench", "the `directory` of the built worker, load and nethttp")
	flag.StringVar(&o.anteroom, "anteroom", "bin/anteroom", "the sidecar's `binary`")
	flag.StringVar(&o.serveFlags, "serve-flags", "", "more `flags` for anteroom serve, separated by spaces")
	flag.StringVar(&o.root, "root", ".", "the `directory` of the source tree")
	flag.StringVar(&o.python, "python", "/usr/bin/python3", "the Python with cheroot")
	flag.StringVar(&o.out, "out", "bin/bench/report", "the `directory` for the report")
	flag.StringVar(&o.pinServers, "pin-servers", "", "run all that serves on these `processors` (taskset's list) only")
	flag.StringVar(&o.pinClients, "pin-clients", "", "run the clients on these `processors` only")
	flag.BoolVar(&o.ownNetwork, "own-network", true, "run in a network namespace of our own, where that is allowed (it needs root)")
	flag.Parse()
	return o
}

func run(ctx context.Context, o options) error {
	if err := o.enterNetwork(); err != nil {
		return err
	}
	s, err := newSession(ctx, o)
	if err != nil {
		return err
	}
	if err := s.preflight(ctx); err != nil {
		return err
	}
	s.measure(ctx)
	s.explain(ctx)
	if err := s.write(o.out); err != nil {
		return err
	}
	fmt.Printf("report: %s\n", filepath.Join(o.out, reportFile))
	if stolen := s.run.StolenText(); stolen != "" {
		fmt.Println(stolen)
	}
	return s.verdict(ctx)
}

// verdict prints the goals. It returns an error unless all was measured and all are reached.
func (s *session) verdict(ctx context.Context) error {
	reached := report.PrintGoals(os.Stdout, s.run.Goals)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it was interrupted: %w", context.Cause(ctx))
	case len(s.run.Failures) > 0:
		return errMissed
	case !reached:
		return errShort
	}
	return nil
}

// enterNetwork leaves in o whether there is a network of our own.
func (o *options) enterNetwork() (err error) {
	if o.ownNetwork {
		o.ownNetwork, err = enterOwnNetwork()
	}
	return err
}

func newSession(ctx context.Context, o options) (*session, error) {
	p, err := choosePlan(o)
	if err != nil {
		return nil, err
	}
	programs, err := filepath.Abs(o.programs)
	if err != nil {
		return nil, err
	}
	return &session{
		plan: p,
		programs: arrange.Programs{Directory: programs, Anteroom: o.anteroom, ServeFlags: strings.Fields(o.serveFlags), Root: o.root,
			Python: o.python, Pin: o.pinServers},
		clients: drive.Clients{Load: filepath.Join(programs, "load"), Pin: o.pinClients},
		run:     report.Run{Title: p.title, Machine: gauge.ReadMachine(ctx), Settings: settings(o), Rounds: p.rounds, Loads: p.described()},
	}, nil
}

func choosePlan(o options) (plan, error) {
	suite, ok := suites[o.suite]
	if !ok {
		return plan{}, fmt.Errorf("-suite %s: there is none; it must be one of %s", o.suite, strings.Join(slices.Sorted(maps.Keys(suites)), ", "))
	}
	p := suite.full()
	if o.quick {
		p = suite.quick()
	}
	if o.rounds > 0 {
		p.rounds = o.rounds
	}
	return p.filter(o.loads, o.only)
}

// settings says, for readers of the report, what was chosen.
func settings(o options) (sentences []string) {
	if o.pinServers == "" && o.pinClients == "" {
		sentences = append(sentences, "Nothing is pinned, unless a table says so: the kernel places clients, fronts and workers on all processors as it likes, for every arrangement alike.")
	} else {
		sentences = append(sentences, fmt.Sprintf("Pinned: servers on processors %q, clients on %q (empty: anywhere).", o.pinServers, o.pinClients))
	}
	if o.ownNetwork {
		sentences = append(sentences, "All connections are over loopback, in a network namespace of their own: no packet filter, no connection tracking.")
	} else {
		sentences = append(sentences, "All connections are over the machine's own loopback; if it tracks connections (containers make it do so), that costs a proxy twice, and connecting may fail when its table is full.")
	}
	if o.serveFlags != "" {
		sentences = append(sentences, "Further flags of anteroom serve: "+o.serveFlags)
	}
	return sentences
}

// wholeMatch compiles a pattern for a whole name; an empty one matches all.
func wholeMatch(pattern string) (*regexp.Regexp, error) {
	if pattern == "" {
		pattern = ".*"
	}
	return regexp.Compile("^(?:" + pattern + ")$")
}
