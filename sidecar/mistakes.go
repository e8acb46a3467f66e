package sidecar

import (
	"fmt"
	"strings"
)

// A Mistake is one thing wrong in a configuration.
type Mistake struct {
	Key     string // the setting
	Origin  string // where its value is from: a flag, a variable, a line of a file; may be empty
	Problem string // what is wrong and what would be right
}

func (m Mistake) String() string {
	if m.Origin == "" || m.Origin == "--"+m.Key {
		return fmt.Sprintf("%s: %s", m.Key, m.Problem)
	}
	return fmt.Sprintf("%s (%s): %s", m.Key, m.Origin, m.Problem)
}

// Mistakes is the error that lists all mistakes found.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

// err is nil if there are none.
func (m Mistakes) err() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

func (m *Mistakes) add(key, format string, args ...any) {
	*m = append(*m, Mistake{Key: key, Problem: fmt.Sprintf(format, args...)})
}

// addErr adds an error, or each of several that were joined.
func (m *Mistakes) addErr(key string, err error) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			m.addErr(key, e)
		}
	} else if err != nil {
		*m = append(*m, Mistake{Key: key, Problem: err.Error()})
	}
}

func (m Mistakes) about(key string) bool {
	for _, mistake := range m {
		if mistake.Key == key {
			return true
		}
	}
	return false
}

// unknown says that there is no such thing, and which one was perhaps meant.
func unknown(what, given string, known []string) error {
	if near := nearest(given, known); near != "" {
		return fmt.Errorf("there is no such %s; did you mean %s?", what, near)
	}
	return fmt.Errorf("there is no such %s; there are %s", what, strings.Join(known, ", "))
}

// nearest is the known word with the fewest edits from given, if they are few enough for a slip of the fingers.
func nearest(given string, known []string) string {
	best, least := "", 1+len(given)/3
	given = strings.ReplaceAll(strings.ToLower(given), "_", "-")
	for _, k := range known {
		if d := distance(given, k); d <= least {
			best, least = k, d-1
		}
	}
	return best
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
