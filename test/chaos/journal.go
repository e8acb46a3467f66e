package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A journal is what a host writes down, line by line, straight into a file: who is killed has written what it has done.
const (
	lineRead  = "read"  // the request is here
	lineBegun = "begun" // its response is about to be written
	lineDone  = "done"  // it was written
)

func journalPath(dir, host string) string { return filepath.Join(dir, "journal-"+host) }

// journals reads what hosts have written. Killed ones stay.
type journals struct {
	dir string

	mu     sync.Mutex
	killed map[string]bool
}

// killing notes that a host is killed, before it is.
func (j *journals) killing(host string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.killed[host] = true
}

// of is the furthest that a killed host came with a request; empty if none had read it.
func (j *journals) of(seq uint64) (furthest string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	want := fmt.Sprintf(" %d", seq)
	for host := range j.killed {
		file, err := os.Open(journalPath(j.dir, host))
		if err != nil {
			continue // killed before it wrote anything
		}
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if line, ok := strings.CutSuffix(lines.Text(), want); ok {
				furthest = later(furthest, line)
			}
		}
		_ = file.Close()
	}
	return furthest
}

func later(a, b string) string {
	order := map[string]int{"": 0, lineRead: 1, lineBegun: 2, lineDone: 3}
	if order[b] > order[a] {
		return b
	}
	return a
}
