package polyglot

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-io/anteroom/test/processes"
)

// load is clients who ask without pause, each on one connection for as long as that is kept.
type load struct {
	address string
	mix     []exchange
	ended   chan struct{}
	crew    sync.WaitGroup
	right   atomic.Uint64

	mu     sync.Mutex
	lost   []error // mu
	closed []error // mu: connections, with a right answer
	wrong  []error // mu
}

func (st *stage) load(clients int) *load {
	st.t.Helper()
	l := &load{address: st.sidecar.Web[0], ended: make(chan struct{})}
	l.mix = []exchange{
		{method: "GET", path: "/", want: "hello from " + st.server.word() + "\n"},
		{method: "POST", path: "/echo", body: "what is sent", want: "what is sent"},
		{method: "GET", path: "/sleep?ms=10", want: "slept\n"},
		{method: "GET", path: "/bytes?n=50000", want: letters(50_000)},
		{method: "GET", path: "/stream?n=500", want: letters(500)},
	}
	st.t.Cleanup(l.end)
	for i := range clients {
		l.crew.Go(func() { l.run(i) })
	}
	return l
}

// end may be called again.
func (l *load) end() {
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
	l.crew.Wait()
}

// awaitMore waits for so many right answers more.
func (l *load) awaitMore(t testing.TB, answers uint64) {
	t.Helper()
	want := l.right.Load() + answers
	processes.Eventually(t, "clients are answered", func() bool { return l.right.Load() >= want })
}

func (l *load) run(turn int) {
	var c *client
	for ; !l.hasEnded(); turn++ {
		if c == nil {
			var err error
			if c, err = dial(l.address); err != nil {
				l.complain(err)
				return
			}
		}
		if err := c.do(l.mix[turn%len(l.mix)]); err != nil {
			l.complain(err)
			_ = c.Close()
			c = nil
			continue
		}
		l.right.Add(1)
	}
	if c != nil {
		_ = c.Close()
	}
}

func (l *load) hasEnded() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

func (l *load) complain(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, errLost):
		l.lost = append(l.lost, err)
	case errors.Is(err, errLast):
		l.closed = append(l.closed, err)
	default:
		l.wrong = append(l.wrong, err)
	}
}

// judge ends the load. So many requests may have been lost; no connection may have been closed with its answer.
func (l *load) judge(t testing.TB, lost int) {
	t.Helper()
	l.end()
	l.mu.Lock()
	defer l.mu.Unlock()
	t.Logf("%d right answers, %d requests lost, %d connections closed", l.right.Load(), len(l.lost), len(l.closed))
	complaints := slices.Concat(l.wrong, l.closed)
	if len(l.lost) > lost {
		complaints = append(complaints, l.lost...)
	}
	for _, err := range complaints[:min(len(complaints), 10)] {
		t.Error(err)
	}
}
