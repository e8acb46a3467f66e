package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anteroom-io/anteroom/bench/arrange"
)

// packages is where the Debian packages stand that the bench needs.
const packages = "scripts/debian-packages-bench.txt"

// preflight returns an error that names all programs that the plan needs and that are not there.
func (s *session) preflight(ctx context.Context) error {
	var lacking []string
	for _, program := range s.needed() {
		if _, err := exec.LookPath(program); err != nil {
			lacking = append(lacking, program)
		}
	}
	if s.uses(arrange.Cheroot, arrange.CherootKeep) {
		if out, err := exec.CommandContext(ctx, s.programs.Python, "-c", "import cheroot").CombinedOutput(); err != nil {
			lacking = append(lacking, fmt.Sprintf("cheroot for %s (%s)", s.programs.Python, strings.TrimSpace(string(out))))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return fmt.Errorf("%s: not there; `make bench-programs` builds and installs all, of Debian's packages those in %s", strings.Join(lacking, ", "), packages)
}

// needed lists programs, by name or path.
func (s *session) needed() []string {
	programs := []string{"wrk", s.programs.Anteroom, filepath.Join(s.programs.Directory, "worker"), filepath.Join(s.programs.Directory, "load"),
		filepath.Join(s.programs.Directory, "nethttp")}
	for kind, program := range map[arrange.Kind]string{arrange.Nginx: "nginx", arrange.NginxReturn: "nginx", arrange.Haproxy: "haproxy",
		arrange.ApacheFile: "apache2"} {
		if s.uses(kind) {
			programs = append(programs, program)
		}
	}
	for _, l := range s.plan.loads {
		programs = append(programs, l.needs...)
	}
	onOne := func(name string) bool { return arrangementOf(name).OneProcessor }
	if s.programs.Pin != "" || s.clients.Pin != "" || slices.ContainsFunc(s.usedArrangements(), onOne) {
		programs = append(programs, "taskset")
	}
	slices.Sort(programs)
	return slices.Compact(programs)
}

// uses reports whether one of the plan's arrangements has one of the kinds in front or at work.
func (s *session) uses(kinds ...arrange.Kind) bool {
	return slices.ContainsFunc(s.usedArrangements(), func(name string) bool {
		a := arrangementOf(name)
		return slices.Contains(kinds, a.Front) || slices.Contains(kinds, a.Worker)
	})
}
