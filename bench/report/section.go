package report

// Section is one table of a report, and its charts.
type Section struct {
	Title   string
	Text    string // what to keep in mind while reading
	Load    string
	Columns []Column
	Charts  []Chart
}

// Chart shows metrics of which the section's table has columns: a bar for each arrangement, several metrics one after the other in it.
type Chart struct {
	File    string
	Metrics []Metric
}

// Column is one metric of each arrangement, as it is, or divided by another arrangement's in the same round.
type Column struct {
	Title  string
	Metric Metric
	Over   string // the other arrangement; empty: as it is
}

// cell is the column's value for an arrangement.
func (c Column) cell(r *Run, load, arrangement string) string {
	of := Of{load, arrangement, c.Metric}
	if c.Over == "" {
		return scales[c.Metric].cell(r.Spread(of))
	}
	return scale{divisor: 1}.cell(r.Ratio(of, Of{load, c.Over, c.Metric}))
}

// heading is the column's title with its unit.
func (c Column) heading() string {
	if c.Over == "" {
		return c.Title + ", " + scales[c.Metric].unit
	}
	return c.Title + " ÷ " + c.Over
}
