package manager

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// What operators see. Everything is read in the loop, between two turns, so that it fits together.

// Counts returns how many connections are where, and the totals since New. Its lists may be another
// caller's, too: do not change them.
func (m *Manager) Counts(ctx context.Context) (Counts, error) {
	answer := make(chan result[Counts], 1)
	if m.counting.join(answer) {
		m.post(func() { m.counting.answer(m.count()) })
	}
	return await(ctx, m, answer)
}

func (m *Manager) count() Counts {
	m.reviewService() // what has come in this turn counts
	p := m.policy
	return Counts{
		States: p.states.public(), Totals: *p.totals, Uptime: time.Duration(p.now),
		Running: !p.stopped, State: p.service(), Successions: p.memory.head.successions,
		Listeners: m.listenerCounts(), Pools: p.poolCounts(), Hosts: p.hostInfos(),
		Helpers: HelperCounts{Busy: m.helpers.Working(), Stuck: m.helpers.Stuck(), Waiting: m.helpers.Waiting()},
	}
}

// counting is the callers who wait for the counts. All that wait at the same time get the same, so
// that many cost the loop no more than one.
type counting struct {
	mu      sync.Mutex
	waiting []chan<- result[Counts] // mu
}

// join reports whether the caller is the first, who has to have the loop count.
func (c *counting) join(answer chan<- result[Counts]) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, answer)
	return len(c.waiting) == 1
}

func (c *counting) answer(counts Counts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, answer := range c.waiting {
		answer <- result[Counts]{value: counts}
	}
	c.waiting = nil
}

func (m *Manager) listenerCounts() []ListenerCounts {
	list := []ListenerCounts{}
	for _, e := range m.doors {
		d := e.door
		c := ListenerCounts{
			ID: d.id, Name: d.name, Address: e.listener.String(), Pool: d.pool.name, States: d.states.public(), Accepted: d.accepted,
			Paused: !m.accepting(), Service: d.pool.service.State,
		}
		if d.host != nil {
			c.Host = d.host.id
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b ListenerCounts) int { return int(a.ID) - int(b.ID) })
	return list
}

func (p *policy) poolCounts() []PoolCounts {
	list := []PoolCounts{}
	for _, to := range p.pools {
		if to != nil {
			list = append(list, PoolCounts{
				Name: to.name, Private: to.private, Fed: to.doors > 0, Service: to.service.State,
				Hosts: len(to.hosts), States: to.states.public(),
			})
		}
	}
	return list
}

func (p *policy) hostInfos() []HostInfo {
	list := []HostInfo{}
	for _, h := range p.hosts {
		list = append(list, HostInfo{
			ID: h.id, Name: h.name, Pool: h.pool.name, Agent: h.agent, PID: h.peer.PID, UID: h.peer.UID, Features: h.features,
			Capacity: h.capacity, Leased: h.leases.len, Draining: h.draining, Hung: h.hung, Service: h.service(), Attached: time.Duration(p.now - h.attached),
			Leases: h.total, Nacks: h.nacks, Stale: h.stale, Violations: h.violations,
		})
	}
	slices.SortFunc(list, func(a, b HostInfo) int { return int(a.ID) - int(b.ID) })
	return list
}

// Capacity returns how many connections may be kept between requests.
func (m *Manager) Capacity(ctx context.Context) (Capacity, error) {
	return ask(ctx, m, func() (Capacity, error) {
		limit, used := m.policy.keepLimit(), m.policy.kept
		return Capacity{Limit: limit, InUse: used, CanAdd: used < limit && !m.policy.stopped}, nil
	})
}

// HoldsHungFiles reports whether files whose file system does not answer may be open here, as all
// helpers that could close them are stuck. A program that is started would close them too
// (execve(2)), and hang.
func (m *Manager) HoldsHungFiles(ctx context.Context) (bool, error) {
	return ask(ctx, m, func() (bool, error) { return !m.helpers.FilesLeft(), nil })
}

// Connection returns one connection. Error: ErrNotFound.
func (m *Manager) Connection(ctx context.Context, id ConnID) (Connection, error) {
	return ask(ctx, m, func() (Connection, error) {
		r := m.policy.table.find(id)
		if r == nil {
			return Connection{}, ErrNotFound
		}
		return m.describe(id, r), nil
	})
}

// Connections returns one page of the connections that are selected. Between two pages, and while
// one is made, connections come and go; one that stays all the while is on exactly one page. Each
// is described as it is at one moment. Errors: ErrBadPeer, ErrBusy.
func (m *Manager) Connections(ctx context.Context, q Query) (Page, error) {
	match, err := m.matcher(q.Selection)
	if err != nil {
		return Page{}, err
	}
	limit := min(max(q.Limit, 0), MaxPage)
	if limit == 0 {
		limit = DefaultPage
	}
	page := &Page{}
	if err := m.askJob(ctx, m.eachSelected(q.After, q.Selection, func(id ConnID, r *record) (cost int, stop bool) {
		switch {
		case !match(id, r):
			return 0, false
		case len(page.Connections) == limit:
			page.Next = page.Connections[limit-1].ID
			return 0, true
		}
		page.Connections = append(page.Connections, m.describe(id, r))
		return costDescribe, false
	})); err != nil {
		return Page{}, err // page may still be written to
	}
	return *page, nil
}

// describe puts together what the table and the kernel know.
func (m *Manager) describe(id ConnID, r *record) Connection {
	p := m.policy
	inState := time.Duration(p.now - p.leasedSince(r, id.slot()))
	c := Connection{
		ID: id, State: r.state, Pool: p.pools[r.pool].name, Host: r.host, Fresh: r.marks&fresh != 0, Sticky: r.marks&sticky != 0,
		Peer: p.peerOf(r, id.slot()), Requests: r.requests, InState: inState,
		Age: max(time.Duration(p.now)-time.Duration(r.created)*time.Second, inState),
	}
	if h := p.hosts[r.host]; h != nil {
		c.HostName = h.name
	}
	if d := p.listeners[r.listener]; d.index != 0 {
		c.Listener = d.name
	}
	if info, err := unix.GetsockoptTCPInfo(int(r.fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		c.RTT = time.Duration(info.Rtt) * time.Microsecond
		c.BytesReceived, c.BytesSent = info.Bytes_received, info.Bytes_acked
	}
	return c
}
