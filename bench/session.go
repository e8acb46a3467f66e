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

// measure does all rounds: in each, all loads; under each load, all its arrangements, one after the other. What cannot be measured is noted,
// and the rest goes on.
func (s *session) measure(ctx context.Context) {
	s.run.Begin = time.Now()
	for round := 1; round <= s.plan.rounds; round++ {
		for _, l := range s.plan.loads {
			s.measureAll(ctx, round, l)
		}
	}
	s.run.Took = time.Since(s.run.Begin).Round(time.Second).String()
	if s.plan.goals != nil {
		s.run.Goals = s.plan.goals(&s.run)
	}
}

// measureAll begins each round with another arrangement, so that none always follows the same one.
func (s *session) measureAll(ctx context.Context, round int, l load) {
	n := len(l.arrangements)
	for i := range n {
		name := l.arrangements[(i+round-1)%n]
		if ctx.Err() != nil || !l.measures(name, round) {
			continue
		}
		begin := time.Now()
		sample, err := s.measureOne(ctx, s.programs, round, name, l.measure)
		if ctx.Err() != nil { // interrupted: whatever came of it means nothing
			return
		}
		if err != nil {
			s.miss(report.Failure{Round: round, Load: l.name, Arrangement: name, Error: err.Error()})
			continue
		}
		sample.Round, sample.Load, sample.Arrangement, sample.Begin = round, l.name, name, begin
		s.run.Add(sample)
		s.tell(sample)
	}
}

// patience is how long one measurement may take, its start and its end included.
const patience = 3 * time.Minute

// measureOne starts an arrangement, measures it, and stops it.
func (s *session) measureOne(ctx context.Context, programs arrange.Programs, round int, name string, measure measurement) (report.Sample, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took more than %v", patience))
	defer cancel()
	running, err := programs.Start(ctx, arrangementOf(name))
	if err != nil {
		return report.Sample{}, err
	}
	sample, err := measure(&moment{Running: running, session: s, ctx: ctx, round: round})
	return sample, errors.Join(err, running.Alive(), running.Stop())
}

// miss notes what could not be measured.
func (s *session) miss(f report.Failure) {
	s.run.Failures = append(s.run.Failures, f)
	fmt.Fprintf(os.Stderr, "round %d/%d  %-20s %-22s  FAILED: %s\n", f.Round, s.plan.rounds, f.Load, f.Arrangement, f.Error)
}

// tell shows progress.
func (s *session) tell(sample report.Sample) {
	fmt.Fprintf(os.Stderr, "round %d/%d  %-20s %-22s", sample.Round, s.plan.rounds, sample.Load, sample.Arrangement)
	for _, m := range []report.Metric{report.Rate, report.FrontCPU, report.WorkerCPU, report.P50, report.P99, report.IdleMemory, report.RestCPU,
		report.Kept, report.Leases} {
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
