package sidecar

import (
	"context"
	"sync"
	"time"

	"github.com/anteroom-io/anteroom/manager"
)

// fake is a connections that answers what it is told to, and remembers what it was asked. It keeps the interface's promises that the service
// relies on: calls from any goroutine, ErrStopped once ended, a watch's channel closed by Close and at the end.
type fake struct {
	mu      sync.Mutex
	asked   []any // arguments of the calls that change something or select
	err     error // the answer to every call, if set
	counts  manager.Counts
	page    manager.Page
	clients manager.ClientList
	limits  manager.Limits
	report  manager.StopReport
	closed  int
	keep    manager.Capacity
	sources []*fakeSource
}

type fakePut struct {
	ID      manager.ConnID
	Timeout time.Duration
}

func (f *fake) ask(what any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	return f.err
}

func (f *fake) last() any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		return nil
	}
	return f.asked[len(f.asked)-1]
}

func (f *fake) Put(_ context.Context, id manager.ConnID, timeout time.Duration) error {
	return f.ask(fakePut{id, timeout})
}

type fakeRevoke struct{ IDs []manager.ConnID }

func (f *fake) Revoke(_ context.Context, ids []manager.ConnID) (int, error) {
	return len(ids), f.ask(fakeRevoke{ids})
}

func (f *fake) Stop(_ context.Context, grace time.Duration) (manager.StopReport, error) {
	return f.report, f.ask(grace)
}

func (f *fake) Start(context.Context) error { return f.ask("start") }

func (f *fake) Close(_ context.Context, s manager.Selection) (int, error) { return f.closed, f.ask(s) }

func (f *fake) Counts(context.Context) (manager.Counts, error) { return f.counts, f.err }

func (f *fake) Capacity(context.Context) (manager.Capacity, error) { return f.keep, f.err }

func (f *fake) Limits(context.Context) (manager.Limits, error) { return f.limits, f.err }

func (f *fake) SetLimits(_ context.Context, change manager.Limits) (manager.Limits, error) {
	return f.limits, f.ask(change)
}

func (f *fake) Connections(_ context.Context, q manager.Query) (manager.Page, error) {
	return f.page, f.ask(q)
}

func (f *fake) Connection(_ context.Context, id manager.ConnID) (manager.Connection, error) {
	return manager.Connection{ID: id, State: manager.Idle}, f.ask(id)
}

func (f *fake) Clients(_ context.Context, q manager.ClientQuery) (manager.ClientList, error) {
	return f.clients, f.ask(q)
}

func (f *fake) Watch(buffer int, kinds ...manager.EventKind) eventSource {
	s := &fakeSource{events: make(chan manager.Event, buffer), kinds: kinds}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources = append(f.sources, s)
	return s
}

// watching are the sources that were not closed.
func (f *fake) watching() (open []*fakeSource) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.sources {
		if !s.isClosed() {
			open = append(open, s)
		}
	}
	return open
}

type fakeSource struct {
	mu     sync.Mutex
	events chan manager.Event
	kinds  []manager.EventKind
	closed bool
}

func (s *fakeSource) Events() <-chan manager.Event { return s.events }

func (s *fakeSource) Err() error {
	if s.isClosed() {
		return manager.ErrStopped
	}
	return nil
}

func (s *fakeSource) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.events)
	}
}

func (s *fakeSource) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
