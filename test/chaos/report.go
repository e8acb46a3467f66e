package main

import (
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
)

// report counts what happened.
type report struct {
	sent, answered, badGateways, broken, unput, redelivered, evicted, successions atomic.Uint64

	mu       sync.Mutex
	done     map[string]int // deeds by name
	kills    int
	losses   []string
	puzzling []string
}

func newReport() *report { return &report{done: map[string]int{}} }

func (r *report) did(deed string, kills int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done[deed]++
	r.kills += kills
}

// lost: a connection ended that nobody had a reason to end.
func (r *report) lost(seq uint64, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.losses = append(r.losses, fmt.Sprintf("request %d: %v", seq, why))
}

func (r *report) unexplained(what string, seq uint64, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.puzzling = append(r.puzzling, fmt.Sprintf("%s: request %d: %v", what, seq, why))
}

// print says what happened, and ends with the goals; 1 if one is short.
func (r *report) print(kills int) (code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, deed := range sortedKeys(r.done) {
		fmt.Printf("%-44s %d\n", deed, r.done[deed])
	}
	for _, line := range []struct {
		name  string
		count uint64
	}{
		{"processes taken over from", r.successions.Load()},
		{"requests sent", r.sent.Load()},
		{"requests answered", r.answered.Load()},
		{"requests redelivered", r.redelivered.Load()},
		{"502, a killed host had read", r.badGateways.Load()},
		{"broken off, a killed host had read", r.broken.Load()},
		{"answered, but not put back by a killed host", r.unput.Load()},
		{"closed while idle, when the table was full", r.evicted.Load()},
	} {
		fmt.Printf("%-44s %d\n", line.name, line.count)
	}
	for _, list := range [][]string{r.losses, r.puzzling} {
		for i, line := range list {
			if i == 20 {
				fmt.Printf("… and %d more\n", len(list)-i)
				break
			}
			fmt.Println(line)
		}
	}
	for _, goal := range []struct {
		name           string
		measured, want int
		ok             bool
	}{
		{"kills", r.kills, kills, r.kills >= kills},
		{"connections-lost", len(r.losses), 0, len(r.losses) == 0},
		{"unexplained-errors", len(r.puzzling), 0, len(r.puzzling) == 0},
	} {
		verdict := "ok"
		if !goal.ok {
			verdict, code = "short", 1
		}
		fmt.Printf("goal %s %d %d %s\n", goal.name, goal.measured, goal.want, verdict)
	}
	return code
}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
