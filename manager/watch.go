package manager

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Watcher receives events.
type Watcher struct {
	m      *Manager
	kinds  [eventKindCount]bool
	events chan Event
	lost   uint64 // not yet told
	err    error  // why events is closed; watchers.mu
}

// DefaultWatchBuffer is how many events wait for a watcher that is slow.
const DefaultWatchBuffer = 1024

// watchers is everybody who watches. The loop sends, others come and go.
type watchers struct {
	some  atomic.Bool   // list is not empty
	kinds atomic.Uint32 // that somebody wants, by bit
	mu    sync.Mutex
	list  []*Watcher // mu
	over  error      // why there are no events any more; nil: there are; mu
}

// Watch returns a stream of events of some kinds, of all if none is named. It never slows the loop: a watcher that has more than buffer events
// (0: DefaultWatchBuffer) to read loses the next ones and is told how many by Event.Lost. Close it.
func (m *Manager) Watch(buffer int, kinds ...EventKind) *Watcher {
	if buffer <= 0 {
		buffer = DefaultWatchBuffer
	}
	w := &Watcher{m: m, events: make(chan Event, buffer)}
	for k := range eventKindCount {
		w.kinds[k] = len(kinds) == 0 || slices.Contains(kinds, k)
	}
	m.watchers.add(w)
	m.updateWatched()
	return w
}

// Events is closed by Close, and when the manager ends.
func (w *Watcher) Events() <-chan Event { return w.events }

// Err is why Events is closed: ErrStopped or ErrReplaced; nil after Close.
func (w *Watcher) Err() error {
	w.m.watchers.mu.Lock()
	defer w.m.watchers.mu.Unlock()
	return w.err
}

// Close ends the watching.
func (w *Watcher) Close() {
	w.m.watchers.remove(w)
	w.m.updateWatched()
}

// updateWatched lets the loop skip making events that nobody wants. It waits for the loop, so that a new watcher misses nothing from now on.
func (m *Manager) updateWatched() {
	_ = m.tell(func() error {
		m.policy.watched = m.watchers.some.Load()
		return nil
	})
}

func (s *watchers) add(w *Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		w.err = s.over
		close(w.events)
		return
	}
	s.list = append(s.list, w)
	s.some.Store(true)
	s.kinds.Store(s.wanted())
}

// wanted is the kinds that somebody wants. The caller holds mu.
func (s *watchers) wanted() (kinds uint32) {
	for _, w := range s.list {
		for kind, wanted := range w.kinds {
			if wanted {
				kinds |= 1 << kind
			}
		}
	}
	return kinds
}

// want reports whether somebody wants events of a kind.
func (s *watchers) want(kind EventKind) bool { return s.kinds.Load()&(1<<kind) != 0 }

func (s *watchers) remove(w *Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.list, w); i >= 0 {
		s.list = slices.Delete(s.list, i, i+1)
		close(w.events)
	}
	s.some.Store(len(s.list) > 0)
	s.kinds.Store(s.wanted())
}

// close ends every stream.
func (s *watchers) close(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.list {
		w.err = why
		close(w.events)
	}
	s.list, s.over = nil, why
	s.some.Store(false)
	s.kinds.Store(0)
}

// tell sends an event to those who want it and have room.
func (s *watchers) tell(e Event) {
	if !s.some.Load() {
		return
	}
	e.Time = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.list {
		if w.kinds[e.Kind] {
			w.offer(e)
		}
	}
}

func (w *Watcher) offer(e Event) {
	e.Lost = w.lost
	select {
	case w.events <- e:
		w.lost = 0
	default:
		w.lost++
	}
}
