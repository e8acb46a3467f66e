package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/anteroom-io/anteroom/bench/gauge"
	"github.com/anteroom-io/anteroom/bench/report"
)

// explain measures once more, with a profiler beside it, what the goals are about that are short.
func (s *session) explain(ctx context.Context) {
	for _, g := range s.run.Goals {
		if g.Reached() || g.Measured == nil || g.Load == "" || ctx.Err() != nil {
			continue
		}
		same := func(p report.Profile) bool { return p.Load == g.Load && p.Arrangement == g.Arrangement }
		if i := slices.IndexFunc(s.run.Why, same); i >= 0 {
			s.run.Why[i].Goals = append(s.run.Why[i].Goals, g.Name)
			continue
		}
		text := "Not looked into, to be quick; the full plan does."
		if len(s.run.Why) < s.plan.profiles {
			fmt.Fprintf(os.Stderr, "why is %s short?\n", g.Name)
			text = s.why(ctx, g)
		}
		s.run.Why = append(s.run.Why, report.Profile{Load: g.Load, Arrangement: g.Arrangement, Goals: []string{g.Name}, Text: text})
	}
}

func (s *session) why(ctx context.Context, g report.Goal) string {
	text, err := s.profile(ctx, g.Load, g.Arrangement)
	if err != nil {
		return "No profile: " + err.Error()
	}
	return text
}

// profile takes a binary of the sidecar that still has its symbols. Of the workers there is only the one.
func (s *session) profile(ctx context.Context, load, arrangement string) (text string, err error) {
	l := s.plan.load(load)
	if l == nil || !slices.Contains(l.arrangements, arrangement) {
		return "", fmt.Errorf("%s was not to be measured under %s", arrangement, load)
	}
	programs := s.programs
	programs.Anteroom = filepath.Join(programs.Directory, "anteroom")
	_, err = s.measureOne(ctx, programs, s.plan.rounds, arrangement, func(m *moment) (report.Sample, error) {
		front, err := trees(m.FrontPIDs())
		if err != nil {
			return report.Sample{}, err
		}
		workers, err := trees(m.WorkerPIDs())
		if err != nil {
			return report.Sample{}, err
		}
		profiler, err := gauge.StartProfiler(m.ctx, slices.Concat(front, workers), front)
		if err != nil {
			return report.Sample{}, err
		}
		sample, measureErr := l.measure(m)
		memory, memoryErr := gauge.Mappings(front)
		text, err = profiler.End(m.ctx, sample.Requests)
		text += "\n\nMemory of the front:\n" + memory
		return sample, errors.Join(measureErr, memoryErr, err)
	})
	return text, err
}
