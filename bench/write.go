package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"

	"github.com/anteroom-io/anteroom/bench/report"
)

// Files of a report.
const (
	reportFile = "report.md"
	jsonFile   = "samples.json" // every sample, with what the client printed
	benchFile  = "bench.txt"    // the same figures in Go's benchmark format, for benchstat
)

// Columns that several tables have.
var (
	rate      = report.Column{Title: "rate", Metric: report.Rate}
	frontCPU  = report.Column{Title: "front, CPU per request", Metric: report.FrontCPU}
	workerCPU = report.Column{Title: "worker, CPU per request", Metric: report.WorkerCPU}
	p50       = report.Column{Title: "p50", Metric: report.P50}
	p99       = report.Column{Title: "p99", Metric: report.P99}
	idle      = report.Column{Title: "nobody's", Metric: report.MachineIdle}
)

func over(title string, m report.Metric, other string) report.Column {
	return report.Column{Title: title, Metric: m, Over: other}
}

// sections are the tables of the report, by load.
func (s *session) sections() (list []report.Section) {
	small := []report.Column{rate, over("rate", report.Rate, nginx), over("rate", report.Rate, workerAlone), frontCPU, workerCPU,
		over("front CPU", report.FrontCPU, nginx), p50, p99}
	large := []report.Column{{Title: "throughput", Metric: report.Throughput}, over("throughput", report.Throughput, nginx),
		over("throughput", report.Throughput, workerAlone), {Title: "front, CPU", Metric: report.FrontPerGB}, over("front CPU", report.FrontPerGB, nginx)}
	timed := []report.Column{p50, over("p50", report.P50, workerAlone), p99, over("p99", report.P99, nginx), frontCPU, workerCPU, rate}
	fresh := []report.Column{rate, over("rate", report.Rate, nginx), frontCPU, workerCPU}
	python := []report.Column{rate, over("rate", report.Rate, cherootAlone), over("rate", report.Rate, cherootKeep), frontCPU, workerCPU, p50, p99}
	costs := report.Chart{File: "cpu", Metrics: []report.Metric{report.FrontCPU, report.WorkerCPU}}

	all := map[string]report.Section{
		keepAlive64:   {Title: "64 connections", Columns: small, Charts: []report.Chart{chartOf(report.Rate), costs}},
		keepAlive1:    {Title: "One connection", Columns: timed, Charts: []report.Chart{chartOf(report.P50)}},
		keepAlive1000: {Title: "1,000 connections", Columns: small, Charts: []report.Chart{chartOf(report.Rate)}},
		body10k:       {Title: "Bodies of 10 kB", Columns: append(small[:len(small):len(small)], large[0]), Charts: []report.Chart{costs}},
		body1m:        {Title: "Bodies of 1 MB", Columns: large, Charts: []report.Chart{chartOf(report.FrontPerGB)}},
		body10m:       {Title: "Bodies of 10 MB", Columns: large, Charts: []report.Chart{chartOf(report.FrontPerGB)}},
		halfNginx:     {Title: "Latency at the same load: half of nginx's", Columns: timed, Charts: []report.Chart{chartOf(report.P99)}},
		halfOwn:       {Title: "Latency at half of each one's own load", Columns: timed, Charts: []report.Chart{chartOf(report.P99)}},
		aFew:          {Title: "A few requests", Columns: append(timed[:len(timed):len(timed)], over("front CPU", report.FrontCPU, nginx)), Charts: []report.Chart{costs}},
		freshEach:     {Title: "A connection for each request", Columns: fresh, Charts: []report.Chart{chartOf(report.Rate)}},
		cherootBusy:   {Title: "cheroot", Columns: python, Charts: []report.Chart{chartOf(report.Rate)}},
		cherootIdle:   {Title: "cheroot beside idle connections", Columns: python, Charts: []report.Chart{chartOf(report.Rate)}},
		idleMany:      {Title: "Idle connections", Columns: idleColumns(), Charts: []report.Chart{chartOf(report.IdleMemory)}},
	}
	maps.Copy(all, slowSections())
	maps.Copy(all, loopsSections())
	for _, l := range s.plan.loads {
		section := all[l.name]
		section.Load, section.Text = l.name, l.what+"."
		for i := range section.Charts {
			section.Charts[i].File = l.name + "-" + section.Charts[i].File + ".svg"
		}
		list = append(list, section)
	}
	return list
}

// chartFiles names a chart's file by its metric, behind the load's name.
var chartFiles = map[report.Metric]string{
	report.Rate: "rate", report.P50: "p50", report.P99: "p99", report.FrontPerGB: "cpu", report.IdleMemory: "memory",
}

func chartOf(m report.Metric) report.Chart {
	return report.Chart{File: chartFiles[m], Metrics: []report.Metric{m}}
}

func idleColumns() []report.Column {
	return []report.Column{
		{Title: "front, memory before", Metric: report.BaseMemory},
		{Title: "front, memory per connection", Metric: report.IdleMemory},
		over("memory per connection", report.IdleMemory, nginx),
		{Title: "kernel, both ends, memory per connection", Metric: report.KernelMemory},
		{Title: "front, CPU", Metric: report.RestCPU},
	}
}

// write puts the report's files into a directory.
func (s *session) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	samples, err := json.MarshalIndent(&s.run, "", " ")
	if err != nil {
		return err
	}
	sections, order := s.sections(), s.usedArrangements()
	files := map[string]func(io.Writer){
		jsonFile:   func(w io.Writer) { _, _ = w.Write(append(samples, '\n')) },
		benchFile:  s.run.GoBench,
		reportFile: func(w io.Writer) { s.run.Markdown(w, []report.Summary{slowSummary()}, sections, order) },
	}
	for _, section := range sections {
		for _, chart := range section.Charts {
			files[chart.File] = func(w io.Writer) { s.run.SVG(w, section, chart, order) }
		}
	}
	return writeFiles(dir, files)
}

// writeFiles has each file made in memory first, where writing cannot fail.
func writeFiles(dir string, files map[string]func(io.Writer)) error {
	for name, fill := range files {
		var content bytes.Buffer
		fill(&content)
		if err := os.WriteFile(filepath.Join(dir, name), content.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
