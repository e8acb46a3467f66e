package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
)

// threeRounds has two arrangements whose machine slows down by half in the second round.
func threeRounds() *Run {
	r := &Run{Title: "A test", Rounds: 3}
	for i, v := range []struct{ ours, theirs float64 }{{300, 100}, {160, 50}, {310, 100}} {
		r.Add(Sample{Round: i + 1, Load: "small", Arrangement: "ours", Requests: 10, Metrics: map[Metric]float64{Rate: v.ours, FrontCPU: 2000, WorkerCPU: 5000}})
		r.Add(Sample{Round: i + 1, Load: "small", Arrangement: "theirs", Requests: 10, Errors: i, Metrics: map[Metric]float64{Rate: v.theirs, FrontCPU: 18000, WorkerCPU: 5500}})
	}
	return r
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   Spread
	}{
		{nil, Spread{}},
		{[]float64{7}, Spread{7, 7, 7, 1}},
		{[]float64{9, 1, 4}, Spread{4, 1, 9, 3}},
		{[]float64{9, 1, 4, 6}, Spread{5, 1, 9, 4}},
	} {
		if got := SpreadOf(test.values); got != test.want {
			t.Errorf("SpreadOf(%v) = %+v, want %+v", test.values, got, test.want)
		}
	}
}

func TestRatiosAreTakenWithinRounds(t *testing.T) {
	r := threeRounds()
	ours, theirs := Of{"small", "ours", Rate}, Of{"small", "theirs", Rate}
	if got, want := r.Ratio(ours, theirs), (Spread{3.1, 3, 3.2, 3}); got != want {
		t.Errorf("Ratio = %+v, want %+v", got, want)
	}
	if got, want := r.Difference(ours, theirs), (Spread{200, 110, 210, 3}); got != want {
		t.Errorf("Difference = %+v, want %+v", got, want)
	}
	if got := r.Ratio(ours, Of{"small", "nobody", Rate}); got.N != 0 {
		t.Errorf("a ratio to what was not measured: %+v", got)
	}
}

func TestWhatIsStolenIsSaid(t *testing.T) {
	r := threeRounds()
	if got := r.StolenText(); got != "" {
		t.Errorf("of no measurement: %q", got)
	}
	for i, stolen := range []float64{0, 0.5, 12, 3} {
		r.Samples[i].Metrics[Stolen] = stolen
	}
	want := "Stolen from this machine by its host meanwhile: 1.75 % of its processors (median), at most 12.0 % (small, ours, round 2)."
	if got := r.StolenText(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	var out strings.Builder
	r.Markdown(&out, nil, nil, nil)
	if !strings.Contains(out.String(), "\n* "+want+"\n") {
		t.Errorf("it is not in the report:\n%s", out.String())
	}
}

func TestGoals(t *testing.T) {
	three := SpreadOf([]float64{3})
	for _, test := range []struct {
		goal Goal
		line string
	}{
		{AtLeast("requests/nginx", three, 2, ""), "goal requests/nginx 3.00 >=2.00 ok"},
		{AtLeast("requests/nginx", three, 3, ""), "goal requests/nginx 3.00 >=3.00 ok"},
		{AtLeast("requests/nginx", three, 3.5, ""), "goal requests/nginx 3.00 >=3.50 short"},
		{AtMost("added-latency", three, 25, "µs"), "goal added-latency 3.00µs <=25.0µs ok"},
		{AtMost("added-latency", three, 2, "µs"), "goal added-latency 3.00µs <=2.00µs short"},
		{AtMost("added-latency", Spread{}, 2, "µs"), "goal added-latency unmeasured <=2.00µs short"},
	} {
		var out strings.Builder
		all := PrintGoals(&out, []Goal{test.goal})
		if out.String() != test.line+"\n" || all != strings.HasSuffix(test.line, "ok") {
			t.Errorf("printed %q, all reached %v, want %q", out.String(), all, test.line)
		}
	}
}

var section = Section{
	Title: "Small", Text: "A load.", Load: "small",
	Columns: []Column{{Title: "rate", Metric: Rate}, {Title: "rate", Metric: Rate, Over: "theirs"}, {Title: "front", Metric: FrontCPU}, {Title: "worker", Metric: WorkerCPU}},
	Charts:  []Chart{{"small-rate.svg", []Metric{Rate}}, {"small-cpu.svg", []Metric{FrontCPU, WorkerCPU}}},
}

func TestMarkdown(t *testing.T) {
	r := threeRounds()
	r.Goals = []Goal{AtLeast("rate", SpreadOf([]float64{3}), 2, "")}
	var out bytes.Buffer
	r.Markdown(&out, nil, []Section{section, {Title: "Unmeasured", Load: "other"}}, []string{"theirs", "ours", "nobody"})
	for _, want := range []string{
		"# A test\n",
		"| rate | 3.00 | >=2.00 | ok |\n",
		"|  | rate, thousand requests/s | rate ÷ theirs | front, µs | worker, µs |\n",
		"| ours | 0.3 (0.16–0.31) | 3.10 (3.00–3.20) | 2.00 (2.00–2.00) | 5.00 (5.00–5.00) |\n",
		"![Small](small-cpu.svg)\n",
		"* small, theirs, round 3: 2 failed, 10 answered\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not hold %q; it is\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "nobody") || strings.Contains(out.String(), "Unmeasured") {
		t.Errorf("the report speaks of what was not measured:\n%s", out.String())
	}
}

func TestChartsAreWellFormed(t *testing.T) {
	r := threeRounds()
	for _, chart := range section.Charts {
		var out bytes.Buffer
		r.SVG(&out, section, chart, []string{"ours", "theirs"})
		bars := 0
		for decoder := xml.NewDecoder(&out); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", chart.File, err)
			}
			if element, ok := token.(xml.StartElement); ok && element.Name.Local == "rect" {
				bars++
			}
		}
		if want := 3 * len(chart.Metrics); bars != want { // two bars and one of the legend, each
			t.Errorf("%s has %d rectangles, want %d", chart.File, bars, want)
		}
	}
}

// TestGoBench reads the lines by the rules of Go's benchmark format: name, count, then pairs of value and unit.
func TestGoBench(t *testing.T) {
	var out strings.Builder
	threeRounds().GoBench(&out)
	lines := 0
	for line := range strings.Lines(out.String()) {
		fields := strings.Fields(line)
		if !strings.HasPrefix(line, "Benchmark") {
			continue
		}
		lines++
		if len(fields)%2 != 0 || fields[1] != "10" {
			t.Errorf("not a benchmark line: %q", line)
		}
		for i := 2; i < len(fields); i += 2 {
			if _, err := strconv.ParseFloat(fields[i], 64); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	}
	if lines != 6 || !strings.Contains(out.String(), "BenchmarkLoad/load=small/of=ours 10 2000 front-ns/req 300 req/s 5000 worker-ns/req\n") {
		t.Errorf("%d lines:\n%s", lines, out.String())
	}
}

func TestSummaryHasARowForEachLoad(t *testing.T) {
	r := threeRounds()
	r.Add(Sample{Round: 1, Load: "large", Arrangement: "ours", Metrics: map[Metric]float64{Rate: 40}})
	var out bytes.Buffer
	r.Markdown(&out, []Summary{{Title: "All", Metric: Rate, Loads: []string{"small", "large", "unmeasured"}}, {Title: "None", Metric: Rate, Loads: []string{"unmeasured"}}},
		nil, []string{"theirs", "ours", "nobody"})
	want := "## All\n\nIn thousand requests/s.\n\n|  | theirs | ours |\n| --- | ---: | ---: |\n" +
		"| small | 0.1 (0.05–0.1) | 0.3 (0.16–0.31) |\n| large | – | 0.04 |\n\n"
	if !strings.Contains(out.String(), want) || strings.Contains(out.String(), "None") {
		t.Errorf("%s\nwant in it\n%s", out.String(), want)
	}
}

func TestWhatIsShortOrMissedStandsInTheReport(t *testing.T) {
	r := threeRounds()
	var out bytes.Buffer
	r.Markdown(&out, nil, nil, nil)
	if strings.Contains(out.String(), "Why") || strings.Contains(out.String(), "could not") || strings.Contains(out.String(), "## Goals") {
		t.Errorf("sections of nothing:\n%s", out.String())
	}
	r.Why = []Profile{{Load: "small", Arrangement: "ours", Goals: []string{"rate", "cpu"}, Text: "90 %  write"}}
	r.Failures = []Failure{{Round: 2, Load: "large", Arrangement: "theirs", Error: "it did not start"}}
	out.Reset()
	r.Markdown(&out, nil, nil, nil)
	for _, want := range []string{"### small, ours\n\nGoals: rate, cpu.\n\n```\n90 %  write\n```", "* large, theirs, round 2:\n\n```\nit did not start\n```"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s\nhas not\n%s", out.String(), want)
		}
	}
}
