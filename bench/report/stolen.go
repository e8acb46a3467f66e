package report

import "fmt"

// StolenText says how much of the machine its host gave to others during the measurements, and in which one most: what loses processors compares badly
// with what needs fewer at once. Of a run in which that was not measured it returns "".
func (r *Run) StolenText() string {
	var all []float64
	var most Sample
	for _, s := range r.Samples {
		if stolen, ok := s.Metrics[Stolen]; ok {
			if len(all) == 0 || stolen > most.Metrics[Stolen] {
				most = s
			}
			all = append(all, stolen)
		}
	}
	if len(all) == 0 {
		return ""
	}
	s := SpreadOf(all)
	return fmt.Sprintf("Stolen from this machine by its host meanwhile: %s %% of its processors (median), at most %s %% (%s, %s, round %d).",
		quantity(s.Median), quantity(s.High), most.Load, most.Arrangement, most.Round)
}
