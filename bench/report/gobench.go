package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// higherIsBetter lists the metrics of which more is better, which benchstat cannot know.
var higherIsBetter = []Metric{Rate, Throughput}

// GoBench writes every sample as a line of Go's benchmark format, so that benchstat compares two runs:
//
//	BenchmarkLoad/load=100B-64/of=nginx-1 114215 57107 req/s 17512 front-ns/req …
func (r *Run) GoBench(w io.Writer) {
	fmt.Fprintf(w, "goos: linux\npkg: github.com/anteroom-io/anteroom/bench\ncpu: %s\ncommit: %s\n", r.Machine.CPU, r.Machine.Commit)
	for _, m := range higherIsBetter {
		fmt.Fprintf(w, "Unit %s better=higher\n", m)
	}
	for _, s := range r.Samples {
		fmt.Fprintf(w, "BenchmarkLoad/load=%s/of=%s %d%s\n", s.Load, s.Arrangement, max(s.Requests, 1), benchValues(s.Metrics))
	}
}

func benchValues(metrics map[Metric]float64) string {
	var values strings.Builder
	for _, m := range slices.Sorted(maps.Keys(metrics)) {
		fmt.Fprintf(&values, " %.6g %s", metrics[m], m)
	}
	return values.String()
}
