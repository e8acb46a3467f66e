package report

import (
	"fmt"
	"io"
	"strings"
)

// Profile says where processor time goes in an arrangement under a load: why goals fall short.
type Profile struct {
	Load        string   `json:"load"`
	Arrangement string   `json:"arrangement"`
	Goals       []string `json:"goals"` // their names
	Text        string   `json:"text"`  // tables of other tools, as they print them
}

// writeWhy has a section for what falls short, if anything does.
func (r *Run) writeWhy(w io.Writer) {
	if len(r.Why) == 0 {
		return
	}
	fmt.Fprint(w, "## Why short\n\nMeasured once more after the rounds, with a profiler beside it: no figure above is from these runs.\n\n")
	for _, p := range r.Why {
		fmt.Fprintf(w, "### %s, %s\n\nGoals: %s.\n\n```\n%s\n```\n\n", p.Load, p.Arrangement, strings.Join(p.Goals, ", "), p.Text)
	}
}
