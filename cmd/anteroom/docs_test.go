package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-io/anteroom/conformance"
)

// TestTheManualHasEveryCommandAndExitCode: docs/cli.md lists each of them.
func TestTheManualHasEveryCommandAndExitCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	manual := string(text)
	for _, c := range rootCommand().Commands() {
		if c.Runnable() && !strings.Contains(manual, "| `anteroom "+c.Name()) {
			t.Errorf("anteroom %s is not in docs/cli.md", c.Name())
		}
	}
	for _, c := range exitCodes {
		if row := fmt.Sprintf("| %d | %s |", c.code, c.meaning); !strings.Contains(manual, row) {
			t.Errorf("docs/cli.md lacks %q", row)
		}
	}
}

var update = flag.Bool("update", false, "write the table of cases into docs/hosts.md")

// TestHostsHasTheTableOfCases: docs/hosts.md shows what anteroom conformance --list does.
func TestHostsHasTheTableOfCases(t *testing.T) {
	const page, head, end = "../../docs/hosts.md", "| case | what is required | from |\n|---|---|---|\n", "<!-- end of the table -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), head)
	got, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table of cases", page)
	}
	var want strings.Builder
	for _, c := range conformance.Cases() {
		fmt.Fprintf(&want, "| `%s` | %s | %s |\n", c.Name, c.Requires, c.Rule)
	}
	switch {
	case got == want.String():
	case *update:
		if err := os.WriteFile(page, []byte(before+head+want.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table of cases in %s is not what the cases say; go test ./cmd/anteroom -run Cases -update writes it", page)
	}
}
