package sidecar

import (
	"os"
	"strings"
	"testing"
)

// TestTheManualHasEverySetting: docs/configuration.md lists each key, with its default.
func TestTheManualHasEverySetting(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if key, rest, found := strings.Cut(strings.TrimPrefix(line, "| `"), "` |"); found {
			rows[key] = strings.ReplaceAll(rest, "`", "")
		}
	}
	for _, s := range settings {
		standard, _, _ := strings.Cut(s.standard, ":") // "none: …" in help, where there is no table around it
		if strings.HasPrefix(s.standard, "unix:") {
			standard = s.standard
		}
		if row, there := rows[s.key]; !there || !strings.Contains(row, "| "+standard) {
			t.Errorf("%s with its default %q is not in docs/configuration.md: %q", s.key, standard, row)
		}
	}
}
