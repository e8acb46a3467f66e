package status

import (
	"strings"
	"sync"
)

// labels are what a series of a host or a listener is known by. Several may share them: workers of one app, listeners on one port.
type labels struct{ name, pool string }

// counters are what a host or listener has counted for itself since it came.
type counters struct {
	labels labels
	values [4]uint64
}

// tally adds up the counters of those who share labels, and keeps the sum from falling when one of them leaves: a counter that falls looks like a
// restart to Prometheus, and the next rate would be all of what the others ever counted. What a leaver counted after the last scrape is
// missing. The sum begins anew when nobody with the labels is left, so that names which never come back cost nothing.
type tally struct {
	mu   sync.Mutex
	last map[uint32]counters  // at the last scrape, by number
	gone map[labels][4]uint64 // of those who left
}

func newTally() *tally { return &tally{gone: map[labels][4]uint64{}} }

// sums takes everybody's counters, by a number that is never used again.
func (t *tally) sums(now map[uint32]counters) map[labels][4]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, was := range t.last {
		if _, here := now[id]; !here {
			add(t.gone, was.labels, was.values)
		}
	}
	t.last = now
	all := map[labels][4]uint64{}
	for _, c := range now {
		add(all, c.labels, c.values)
	}
	for key, values := range t.gone {
		if _, here := all[key]; here {
			add(all, key, values)
		} else {
			delete(t.gone, key)
		}
	}
	return all
}

func add(sums map[labels][4]uint64, key labels, values [4]uint64) {
	total := sums[key]
	for i, v := range values {
		total[i] += v
	}
	sums[key] = total
}

// valid makes a label of a name from outside: Prometheus takes only UTF-8.
func valid(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }
