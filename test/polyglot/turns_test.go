package polyglot

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-io/anteroom/test/processes"
)

// All servers are in one pool, each with room for one request, and one TCP connection is served by each of them in turn. Whose turn it is: all others
// are kept busy by requests whose bodies do not come.
func TestTurns(t *testing.T) {
	cast := installed(t)
	if len(cast) < 2 {
		t.Skip("there is nobody to take turns with")
	}
	sidecar := processes.Serve(t, "--listen", "tcp://127.0.0.1:0")
	var programs []*program
	for _, s := range cast {
		programs = append(programs, s.start(t, sidecar, s.name+":1", 1))
	}
	for _, p := range programs {
		p.await(t, sidecar, 1)
	}
	one := mustDial(t, sidecar)
	others := make([]*client, len(cast))
	for i := range others {
		others[i] = mustDial(t, sidecar)
	}
	// Each of the others gets a host, and goes back to it from then on: the one that had a connection last has it again if it has room.
	keepBusy(t, sidecar, others)()

	var said []string
	for range 2 {
		for i := range others {
			release := keepBusy(t, sidecar, slices.Concat(others[:i], others[i+1:]))
			said = append(said, strings.TrimPrefix(one.get(t, "/"), "hello from "))
			release()
		}
	}
	t.Logf("one connection was served by %s", strings.Join(said, ", "))
	want := map[string]int{}
	for _, s := range cast {
		want[s.word()] += 2
	}
	if got := count(said); !maps.Equal(got, want) {
		t.Errorf("one connection was served by %v, want %v", got, want)
	}
	if accepted := sidecar.Counts().Totals.Accepted; accepted != uint64(1+len(others)) {
		t.Errorf("%d connections were accepted, want %d", accepted, 1+len(others))
	}
	for _, p := range programs {
		p.leave(t)
	}
	results.turns = said
}

// installed are the servers that are there. Those that are not fail the test, or are left out if that is wanted.
func installed(t *testing.T) (all []server) {
	t.Helper()
	for _, s := range servers {
		if t.Run(s.name, func(t *testing.T) {
			s.need(t)
			all = append(all, s)
		}); t.Failed() {
			t.FailNow()
		}
	}
	return all
}

// keepBusy has each of the clients occupy a host, until release is called, which waits until all hosts have room again.
func keepBusy(t *testing.T, s *processes.Sidecar, clients []*client) (release func()) {
	t.Helper()
	for _, c := range clients {
		if err := c.hold(); err != nil {
			t.Fatal(err)
		}
	}
	awaitLeased(t, s, len(clients))
	return func() {
		t.Helper()
		for _, c := range clients {
			if err := c.release(); err != nil {
				t.Fatal(err)
			}
		}
		awaitLeased(t, s, 0)
	}
}

func awaitLeased(t testing.TB, s *processes.Sidecar, n int) {
	t.Helper()
	processes.Eventually(t, "hosts have requests", func() bool {
		states := s.Counts().States
		return states.Leased == n && states.Ready == 0
	})
}

func count(words []string) map[string]int {
	times := map[string]int{}
	for _, w := range words {
		times[w]++
	}
	return times
}
