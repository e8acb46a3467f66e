package report

import (
	"fmt"
	"io"
)

// Goal is something that a figure must reach.
type Goal struct {
	Name     string   `json:"name"`
	Measured *float64 `json:"measured"` // nil: it was not
	AtMost   bool     `json:"at_most"`  // else at least
	Wanted   float64  `json:"wanted"`
	Unit     string   `json:"unit,omitempty"`

	// What the goal is about, to look into if it falls short; empty if it is about nothing in particular.
	Load        string `json:"load,omitempty"`
	Arrangement string `json:"arrangement,omitempty"`
}

// Under returns the goal with what it is about.
func (g Goal) Under(of Of) Goal {
	g.Load, g.Arrangement = of.Load, of.Arrangement
	return g
}

// AtMost makes a goal that a spread's median must not exceed.
func AtMost(name string, s Spread, wanted float64, unit string) Goal {
	return Goal{Name: name, Measured: median(s), AtMost: true, Wanted: wanted, Unit: unit}
}

// AtLeast makes a goal that a spread's median must reach.
func AtLeast(name string, s Spread, wanted float64, unit string) Goal {
	return Goal{Name: name, Measured: median(s), Wanted: wanted, Unit: unit}
}

func median(s Spread) *float64 {
	if s.N == 0 {
		return nil
	}
	return &s.Median
}

// Reached reports whether the goal was measured and met.
func (g Goal) Reached() bool {
	switch {
	case g.Measured == nil:
		return false
	case g.AtMost:
		return *g.Measured <= g.Wanted
	default:
		return *g.Measured >= g.Wanted
	}
}

// MeasuredText returns the measured value for people.
func (g Goal) MeasuredText() string {
	if g.Measured == nil {
		return "unmeasured"
	}
	return quantity(*g.Measured) + g.Unit
}

// WantedText returns the wanted value for people.
func (g Goal) WantedText() string {
	if g.AtMost {
		return "<=" + quantity(g.Wanted) + g.Unit
	}
	return ">=" + quantity(g.Wanted) + g.Unit
}

// Verdict is ok or short.
func (g Goal) Verdict() string {
	if g.Reached() {
		return "ok"
	}
	return "short"
}

// PrintGoals prints one line per goal, and reports whether all are reached.
func PrintGoals(w io.Writer, goals []Goal) (all bool) {
	all = true
	for _, g := range goals {
		fmt.Fprintf(w, "goal %s %s %s %s\n", g.Name, g.MeasuredText(), g.WantedText(), g.Verdict())
		all = all && g.Reached()
	}
	return all
}
