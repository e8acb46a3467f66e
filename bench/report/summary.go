package report

import (
	"fmt"
	"io"
)

// Summary is a table of one metric: a row for each load, a column for each arrangement.
type Summary struct {
	Title  string
	Metric Metric
	Loads  []string
}

// writeSummary leaves out loads and arrangements that were not measured.
func (r *Run) writeSummary(w io.Writer, s Summary, order []string) {
	names := r.measured(s.Loads, order)
	if len(names) == 0 {
		return
	}
	fmt.Fprintf(w, "## %s\n\nIn %s.\n\n", s.Title, scales[s.Metric].unit)
	rule := []string{"---"}
	for range names {
		rule = append(rule, "---:")
	}
	writeRow(w, append([]string{""}, names...)...)
	writeRow(w, rule...)
	for _, load := range s.Loads {
		cells := []string{load}
		for _, name := range names {
			cells = append(cells, scales[s.Metric].cell(r.Spread(Of{load, name, s.Metric})))
		}
		if len(r.Arrangements(load, order)) > 0 {
			writeRow(w, cells...)
		}
	}
	fmt.Fprintln(w)
}

// measured returns the arrangements that were measured under any of the loads.
func (r *Run) measured(loads, order []string) (names []string) {
	for _, name := range order {
		for _, load := range loads {
			if len(r.Arrangements(load, []string{name})) > 0 {
				names = append(names, name)
				break
			}
		}
	}
	return names
}
