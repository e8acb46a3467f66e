package polyglot

import (
	"cmp"
	"fmt"
	"os"
	"strings"
)

// result is what came of one server.
type result struct {
	tried   bool
	version string // empty: it is not installed
	passed  int
	failed  []string
}

func (r *result) note(scenario string, passed bool) {
	if passed {
		r.passed++
	} else {
		r.failed = append(r.failed, scenario)
	}
}

func (r *result) String() string {
	if r.version == "" {
		return "not tried"
	}
	passed := fmt.Sprintf("%d of %d", r.passed, len(scenarios))
	if len(r.failed) > 0 {
		passed += "; not: " + strings.Join(r.failed, ", ")
	}
	return passed
}

type outcome struct {
	servers map[string]*result // by name; each is written to by its own test alone
	turns   []string           // who has served the one connection, by what they call their language
}

var results = func() outcome {
	all := map[string]*result{}
	for _, s := range servers {
		all[s.name] = &result{}
	}
	return outcome{servers: all}
}()

// write writes the table in Markdown. Servers that were not tried are left out.
func (o outcome) write(path string) error {
	var text strings.Builder
	fmt.Fprintln(&text, "| language | server | version | scenarios passed |\n|---|---|---|---|")
	for _, s := range servers {
		if r := o.servers[s.name]; r.tried {
			fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", s.language, s.server, cmp.Or(r.version, "not installed"), r)
		}
	}
	if len(o.turns) > 0 {
		fmt.Fprintf(&text, "\nOne connection was served by %s.\n", strings.Join(o.turns, ", "))
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}
