package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// Sizes of a chart, in pixels.
const (
	chartWidth = 760
	labelWidth = 170
	valueWidth = 120
	barHeight  = 20
	barPitch   = 30
	barsTop    = 56
)

// Colours of the parts of a bar, readable on white and on black.
var partColours = []string{"#d2601a", "#6b8fb5"}

// bar is one arrangement in a chart.
type bar struct {
	label string
	parts []float64 // drawn one after the other
	low   float64   // of all parts together
	high  float64
	text  string
}

func (b *bar) total() (sum float64) {
	for _, v := range b.parts {
		sum += v
	}
	return sum
}

// SVG draws a chart of a section, with a whisker from the least to the greatest where there is but one metric.
func (r *Run) SVG(w io.Writer, s Section, c Chart, order []string) {
	var bars []bar
	for _, name := range r.Arrangements(s.Load, order) {
		bars = append(bars, r.bar(s.Load, c, name))
	}
	writeSVG(w, s.Title, legend(s, c), bars)
}

func (r *Run) bar(load string, c Chart, name string) bar {
	b := bar{label: name}
	var texts []string
	for _, m := range c.Metrics {
		v, scale := r.Spread(Of{load, name, m}), scales[m]
		b.parts = append(b.parts, v.Median/scale.divisor)
		b.low, b.high = v.Low/scale.divisor, v.High/scale.divisor
		if v.N > 0 {
			texts = append(texts, quantity(v.Median/scale.divisor))
		}
	}
	if len(c.Metrics) > 1 { // what the parts' least add up to was never seen together
		b.low, b.high = 0, 0
	}
	b.text = strings.Join(texts, " + ")
	return b
}

// legend says what the parts are, in words of the columns.
func legend(s Section, chart Chart) []string {
	var words []string
	for _, m := range chart.Metrics {
		for _, c := range s.Columns {
			if c.Metric == m && c.Over == "" {
				words = append(words, c.heading())
			}
		}
	}
	return words
}

func writeSVG(w io.Writer, title string, legend []string, bars []bar) {
	height := barsTop + barPitch*len(bars) + 8
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="sans-serif" font-size="13">
<style>text { fill: #1f2328 } .whisker { stroke: #1f2328 } @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .whisker { stroke: #e6edf3 } }</style>
<title>%s</title>
<text x="0" y="18" font-size="15" font-weight="bold">%s</text>
`, chartWidth, height, chartWidth, height, escape(title), escape(title))
	x := 0
	for i, words := range legend {
		fmt.Fprintf(w, `<rect x="%d" y="29" width="12" height="12" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", x, partColours[i], x+18, escape(words))
		x += 40 + 8*len(words)
	}
	perUnit := float64(chartWidth-labelWidth-valueWidth) / greatest(bars)
	for i := range bars {
		writeBar(w, &bars[i], barsTop+barPitch*i, perUnit)
	}
	fmt.Fprintln(w, "</svg>")
}

func writeBar(w io.Writer, b *bar, y int, perUnit float64) {
	fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-8, y+15, escape(b.label))
	x := float64(labelWidth)
	for i, v := range b.parts {
		fmt.Fprintf(w, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", x, y, v*perUnit, barHeight, partColours[i])
		x += v * perUnit
	}
	if b.high > b.low {
		low, high := labelWidth+b.low*perUnit, labelWidth+b.high*perUnit
		fmt.Fprintf(w, `<path class="whisker" d="M%.1f %dV%dM%.1f %dH%.1fM%.1f %dV%d" fill="none"/>`+"\n", low, y+6, y+14, low, y+10, high, high, y+6, y+14)
		x = max(x, high)
	}
	fmt.Fprintf(w, `<text x="%.1f" y="%d">%s</text>`+"\n", x+8, y+15, escape(b.text))
}

// greatest is the longest bar's length, in the bars' unit; 1 if all are zero.
func greatest(bars []bar) float64 {
	longest := 0.0
	for i := range bars {
		longest = max(longest, bars[i].total(), bars[i].high)
	}
	if longest == 0 {
		return 1
	}
	return longest
}

func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a strings.Builder takes everything
	return b.String()
}
