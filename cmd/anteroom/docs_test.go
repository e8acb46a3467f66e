package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
