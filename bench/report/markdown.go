package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Markdown writes the report. order is the order of arrangements.
func (r *Run) Markdown(w io.Writer, summaries []Summary, sections []Section, order []string) {
	fmt.Fprintf(w, "# %s\n\n", r.Title)
	r.writeMachine(w)
	r.writeGoals(w)
	for _, s := range summaries {
		r.writeSummary(w, s, order)
	}
	for _, s := range sections {
		if names := r.Arrangements(s.Load, order); len(names) > 0 {
			r.writeSection(w, s, names)
		}
	}
	r.writeWhy(w)
	r.writeErrors(w)
	r.writeFailures(w)
}

func (r *Run) writeMachine(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "%s, %d cores, %d GiB; %s; %s; %s. Commit %s. Begun %s, took %s, %d rounds.\n\n", m.CPU, m.Cores, m.MemoryGiB, m.Kernel, m.System, m.Go,
		m.Commit, r.Begin.UTC().Format("2006-01-02 15:04 UTC"), r.Took, r.Rounds)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(w, "* %s: %s\n", name, m.Versions[name])
	}
	fmt.Fprintln(w)
	for _, sentence := range r.Settings {
		fmt.Fprintf(w, "* %s\n", sentence)
	}
	if stolen := r.StolenText(); stolen != "" {
		fmt.Fprintf(w, "* %s\n", stolen)
	}
	fmt.Fprint(w, "\nEach figure is the median of the rounds, in parentheses the least and the greatest. Ratios are taken within each round, then their median.\n\n")
}

func (r *Run) writeGoals(w io.Writer) {
	if len(r.Goals) == 0 {
		return
	}
	fmt.Fprint(w, "## Goals\n\n")
	writeRow(w, "goal", "measured", "wanted", "")
	writeRow(w, "---", "---:", "---:", "---")
	for _, g := range r.Goals {
		writeRow(w, g.Name, g.MeasuredText(), g.WantedText(), g.Verdict())
	}
	fmt.Fprintln(w)
}

func (r *Run) writeSection(w io.Writer, s Section, names []string) {
	fmt.Fprintf(w, "## %s\n\n%s\n\n", s.Title, s.Text)
	headings, rule := []string{""}, []string{"---"}
	for _, c := range s.Columns {
		headings, rule = append(headings, c.heading()), append(rule, "---:")
	}
	writeRow(w, headings...)
	writeRow(w, rule...)
	for _, name := range names {
		cells := []string{name}
		for _, c := range s.Columns {
			cells = append(cells, c.cell(r, s.Load, name))
		}
		writeRow(w, cells...)
	}
	for _, c := range s.Charts {
		fmt.Fprintf(w, "\n![%s](%s)\n", s.Title, c.File)
	}
	fmt.Fprintln(w)
}

// writeErrors names the samples in which requests failed: their figures are not to be trusted.
func (r *Run) writeErrors(w io.Writer) {
	var lines []string
	for _, s := range r.Samples {
		if s.Errors > 0 {
			lines = append(lines, fmt.Sprintf("* %s, %s, round %d: %d failed, %d answered\n", s.Load, s.Arrangement, s.Round, s.Errors, s.Requests))
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(w, "## Requests that failed\n\n%s\n", strings.Join(lines, ""))
	}
}

// writeFailures names what could not be measured.
func (r *Run) writeFailures(w io.Writer) {
	if len(r.Failures) == 0 {
		return
	}
	fmt.Fprint(w, "## What could not be measured\n\n")
	for _, f := range r.Failures {
		fmt.Fprintf(w, "* %s, %s, round %d:\n\n```\n%s\n```\n", f.Load, f.Arrangement, f.Round, f.Error)
	}
}

func writeRow(w io.Writer, cells ...string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
