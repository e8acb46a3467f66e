package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/report"
)

// eachPlan runs a test for every plan there is.
func eachPlan(t *testing.T, test func(t *testing.T, p plan)) {
	for name, suite := range suites {
		t.Run(name, func(t *testing.T) { test(t, suite.full()) })
		t.Run(name+"-quick", func(t *testing.T) { test(t, suite.quick()) })
	}
}

func TestPlansAreWhole(t *testing.T) {
	eachPlan(t, func(t *testing.T, p plan) {
		s := session{plan: p}
		sections := s.sections()
		for i, l := range p.loads {
			for _, name := range l.arrangements {
				if !slices.Contains(arrangementNames(), name) {
					t.Errorf("%s: there is no arrangement %s", l.name, name)
				}
			}
			if sections[i].Title == "" || len(sections[i].Columns) == 0 {
				t.Errorf("%s has no table", l.name)
			}
			if p.load(l.name).what != l.what {
				t.Errorf("there are two loads %s", l.name)
			}
		}
	})
}

// What a goal is about must be measured by the plan that has the goal, to the goal's last round too.
func TestGoalsAreMeasured(t *testing.T) {
	eachPlan(t, func(t *testing.T, p plan) {
		if p.goals == nil {
			return
		}
		names := map[string]bool{}
		for _, g := range p.goals(&report.Run{Rounds: p.rounds}) {
			if names[g.Name] {
				t.Errorf("two goals %s", g.Name)
			}
			names[g.Name] = true
			if g.Reached() {
				t.Errorf("%s is reached by nothing", g.Name)
			}
			if g.Load == "" {
				continue
			}
			if l := p.load(g.Load); l == nil || !slices.Contains(l.arrangements, g.Arrangement) {
				t.Errorf("%s is about %s under %s, which is not measured", g.Name, g.Arrangement, g.Load)
			}
		}
	})
}

func TestRoundsOfALoad(t *testing.T) {
	l := load{rounds: 2, roundsOf: map[string]int{"rare": 1, "always": 0}}
	for _, test := range []struct {
		name  string
		round int
		want  bool
	}{
		{"rare", 1, true}, {"rare", 2, false}, {"always", 9, true}, {"other", 2, true}, {"other", 3, false},
	} {
		if got := l.measures(test.name, test.round); got != test.want {
			t.Errorf("%s in round %d: %v", test.name, test.round, got)
		}
	}
}

// A server that slow clients have stopped answers nothing; that is a finding, and must stand in the report.
func TestNothingAnsweredIsAResult(t *testing.T) {
	d := disturbed{result: drive.Result{Duration: time.Second, Raw: "nothing"}, metrics: map[report.Metric]float64{report.Leases: 10}, raw: "slow"}
	sample, err := d.sample(drive.Result{Requests: 200, Errors: 1, Duration: 2 * time.Second}, true)
	if err != nil {
		t.Fatal(err)
	}
	for metric, want := range map[report.Metric]float64{report.Rate: 0, report.Kept: 0, report.Undisturbed: 100, report.Leases: 10} {
		if got, ok := sample.Metrics[metric]; !ok || got != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
	if sample.Requests != 200 || sample.Errors != 1 || !strings.Contains(sample.Raw, "nothing") || !strings.Contains(sample.Raw, "slow") {
		t.Errorf("%+v", sample)
	}
	if _, err := json.Marshal(sample); err != nil {
		t.Error(err)
	}
	if _, err := d.sample(drive.Result{Duration: time.Second}, true); err == nil {
		t.Error("no error though nothing was answered even undisturbed")
	}
}

func TestSlowGoalsTakeTheWorst(t *testing.T) {
	r := &report.Run{Rounds: 2}
	add := func(round int, load string, kept, leases, held float64, errors int) {
		r.Add(report.Sample{Round: round, Load: load, Arrangement: slowAnteroom, Errors: errors,
			Metrics: map[report.Metric]float64{report.Kept: kept, report.Leases: leases, report.HeldLeases: held}})
	}
	for _, a := range attacks {
		add(1, a.name, 99, 10, 0, 0)
		add(2, a.name, 97, 10, 0, 0)
	}
	verdicts := func() (short []string) {
		for _, g := range slowGoals(r) {
			if !g.Reached() {
				short = append(short, g.Name)
			}
		}
		return short
	}
	if short := verdicts(); short != nil {
		t.Errorf("short: %v", short)
	}
	r.Samples = r.Samples[1:]
	add(1, attacks[0].name, 80, 11, 1, 1)
	want := []string{"kept/" + attacks[0].name, "most-leases", "leases-of-slow-clients", "failed-requests"}
	if short := verdicts(); !slices.Equal(short, want) {
		t.Errorf("short: %v, want %v", short, want)
	}
}

func TestResultsTogether(t *testing.T) {
	all := together([]drive.Result{
		{Requests: 10, Errors: 1, Duration: time.Second, P50: 1, P99: 9, Client: 5, Raw: "a"},
		{Requests: 20, Errors: 2, Duration: 2 * time.Second, P50: 2, P99: 8, Client: 6, Raw: "b"},
	})
	want := drive.Result{Requests: 30, Errors: 3, Duration: 2 * time.Second, P50: 2, P99: 9, Client: 11, Raw: "a\nb"}
	if all != want {
		t.Errorf("%+v, want %+v", all, want)
	}
}
