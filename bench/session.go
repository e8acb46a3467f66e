package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/report"
)

// session carries a plan out.
type session struct {
	plan     plan
	programs arrange.Programs
	clients  drive.Clients
	run      report.Run
}

// measure does all rounds: in each, all loads; under each load, all its arrangements, one after the other.
func (s *session) measure(ctx context.Context) error {
	s.run.Begin = time.Now()
	for round := 1; round <= s.plan.rounds; round++ {
		for _, l := range s.plan.loads {
			if err := s.measureAll(ctx, round, l); err != nil {
				return err
			}
		}
	}
	s.run.Took = time.Since(s.run.Begin).Round(time.Second).String()
	s.run.Goals = goals(&s.run)
	return nil
}

// measureAll begins each round with another arrangement, so that none always follows the same one.
func (s *session) measureAll(ctx context.Context, round int, l load) error {
	n := len(l.arrangements)
	for i := range n {
		name := l.arrangements[(i+round-1)%n]
		if err := s.measureOne(ctx, round, l, name); err != nil {
			return fmt.Errorf("round %d, %s, %s: %w", round, l.name, name, err)
		}
	}
	return nil
}

// measureOne starts an arrangement, measures it, and stops it.
func (s *session) measureOne(ctx context.Context, round int, l load, name string) error {
	if l.rounds > 0 && round > l.rounds {
		return nil
	}
	begin := time.Now()
	running, err := s.programs.Start(ctx, arrangementOf(name))
	if err != nil {
		return err
	}
	sample, err := l.measure(&moment{Running: running, session: s, ctx: ctx, round: round})
	if err := errors.Join(err, running.Alive(), running.Stop()); err != nil {
		return err
	}
	sample.Round, sample.Load, sample.Arrangement, sample.Begin = round, l.name, name, begin
	s.run.Add(sample)
	s.tell(sample)
	return nil
}

// tell shows progress.
func (s *session) tell(sample report.Sample) {
	fmt.Fprintf(os.Stderr, "round %d/%d  %-20s %-22s", sample.Round, s.plan.rounds, sample.Load, sample.Arrangement)
	for _, m := range []report.Metric{report.Rate, report.FrontCPU, report.WorkerCPU, report.P50, report.P99, report.IdleMemory, report.RestCPU} {
		if v, ok := sample.Metrics[m]; ok {
			fmt.Fprintf(os.Stderr, "  %.6g %s", v, m)
		}
	}
	if sample.Errors > 0 {
		fmt.Fprintf(os.Stderr, "  %d ERRORS", sample.Errors)
	}
	fmt.Fprintln(os.Stderr)
}

// usedArrangements returns those the plan measures, in the order of tables.
func (s *session) usedArrangements() (names []string) {
	for _, name := range arrangementNames() {
		if slices.ContainsFunc(s.plan.loads, func(l load) bool { return slices.Contains(l.arrangements, name) }) {
			names = append(names, name)
		}
	}
	return names
}
