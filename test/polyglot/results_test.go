package polyglot

import (
	"fmt"
	"os"
	"strings"
)

// result is what came of one server.
type result struct {
	server  server
	version string
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

type table []*result

// results are in the order of the servers. Each is written to by its own test alone.
var results = func() (all table) {
	for _, s := range servers {
		all = append(all, &result{server: s})
	}
	return all
}()

func (t table) of(s server) *result {
	for _, r := range t {
		if r.server.name == s.name {
			return r
		}
	}
	panic(s.name + " is not in the list")
}

// write writes the table in Markdown. Servers that were not tried are left out.
func (t table) write(path string) error {
	var text strings.Builder
	fmt.Fprintln(&text, "| language | server | version | scenarios passed |\n|---|---|---|---|")
	for _, r := range t {
		if r.passed+len(r.failed) == 0 {
			continue
		}
		passed := fmt.Sprintf("%d of %d", r.passed, len(scenarios))
		if len(r.failed) > 0 {
			passed += "; not: " + strings.Join(r.failed, ", ")
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", r.server.language, r.server.server, r.version, passed)
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}
