package report

import "slices"

// Spread sums up the values of several rounds.
type Spread struct {
	Median, Low, High float64
	N                 int
}

// SpreadOf returns the median, the least and the greatest. Of no values it returns the zero Spread.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Spread{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Low: sorted[0], High: sorted[n-1], N: n}
}

// Of names one metric of one arrangement under one load.
type Of struct {
	Load, Arrangement string
	Metric            Metric
}

// Spread sums up a metric over all rounds.
func (r *Run) Spread(of Of) Spread { return SpreadOf(r.Values(of.Load, of.Arrangement, of.Metric)) }

// Ratio compares two metrics round by round, so that what the machine did to a whole round falls out.
func (r *Run) Ratio(above, below Of) Spread {
	return r.combine(above, below, func(a, b float64) float64 { return a / b })
}

// Difference compares two metrics round by round.
func (r *Run) Difference(of, less Of) Spread {
	return r.combine(of, less, func(a, b float64) float64 { return a - b })
}

func (r *Run) combine(a, b Of, f func(a, b float64) float64) Spread {
	var values []float64
	for round := 1; round <= r.Rounds; round++ {
		x, okA := r.Value(round, a.Load, a.Arrangement, a.Metric)
		y, okB := r.Value(round, b.Load, b.Arrangement, b.Metric)
		if okA && okB && y != 0 {
			values = append(values, f(x, y))
		}
	}
	return SpreadOf(values)
}
