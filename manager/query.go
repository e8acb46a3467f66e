package manager

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What operators see. Everything is read in the loop, between two turns, so that it fits together.

// Counts returns how many connections are where, and the totals since New.
func (m *Manager) Counts(ctx context.Context) (Counts, error) {
	return ask(ctx, m, func() (Counts, error) {
		p := m.policy
		return Counts{
			States: p.states.public(), Totals: *p.totals, Uptime: time.Duration(p.now), Running: !p.stopped, Successions: p.memory.head.successions,
			Listeners: m.listenerCounts(), Pools: p.poolCounts(), Hosts: p.hostInfos(),
		}, nil
	})
}

func (m *Manager) listenerCounts() []ListenerCounts {
	list := []ListenerCounts{}
	for _, e := range m.doors {
		d := e.door
		c := ListenerCounts{
			ID: d.id, Name: d.name, Address: e.listener.String(), Pool: d.pool.name, States: d.states.public(), Accepted: d.accepted,
			Paused: !m.accepting(),
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
			list = append(list, PoolCounts{Name: to.name, Private: to.private, Hosts: len(to.hosts), States: to.states.public()})
		}
	}
	return list
}

func (p *policy) hostInfos() []HostInfo {
	list := []HostInfo{}
	for _, h := range p.hosts {
		list = append(list, HostInfo{
			ID: h.id, Name: h.name, Pool: h.pool.name, Agent: h.agent, PID: h.peer.PID, UID: h.peer.UID, Features: h.features,
			Capacity: h.capacity, Leased: h.leases.len, Draining: h.draining, Hung: h.hung, Attached: time.Duration(p.now - h.attached),
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

// slotsPerTurn is how many slots one command looks through, so that a long listing does not hold up requests.
const slotsPerTurn = 4096

// Connections returns one page of the connections that are selected. Between two pages connections come and go; one that stays all the while is
// on exactly one page. Error: ErrBadPeer.
func (m *Manager) Connections(ctx context.Context, q Query) (Page, error) {
	match, err := m.matcher(q.Selection)
	if err != nil {
		return Page{}, err
	}
	limit := min(max(q.Limit, 0), MaxPage)
	if limit == 0 {
		limit = DefaultPage
	}
	var page Page
	slot := uint32(0)
	if q.After != 0 {
		slot = q.After.slot() + 1
	}
	for {
		found, err := ask(ctx, m, func() (found, error) { return m.find(slot, limit-len(page.Connections), match), nil })
		if err != nil {
			return Page{}, err
		}
		page.Connections = append(page.Connections, found.connections...)
		if found.end || len(page.Connections) == limit {
			page.Next = nextAfter(page.Connections, found.end)
			return page, nil
		}
		slot = found.slot
	}
}

func nextAfter(list []Connection, end bool) ConnID {
	if end {
		return 0
	}
	return list[len(list)-1].ID
}

// found is what one look at a part of the table has brought.
type found struct {
	connections []Connection
	slot        uint32 // where to look next
	end         bool
}

func (m *Manager) find(slot uint32, limit int, match func(ConnID, *record) bool) found {
	t := &m.policy.table
	var f found
	for f.slot = slot; f.slot < t.fresh && f.slot < slot+slotsPerTurn; f.slot++ {
		r := t.at(f.slot)
		id := makeID(r.generation, f.slot)
		if r.state == Free || !match(id, r) {
			continue
		}
		if len(f.connections) == limit {
			return f
		}
		f.connections = append(f.connections, m.describe(id, r))
	}
	f.end = f.slot >= t.fresh
	return f
}

// describe puts together what the table and the kernel know.
func (m *Manager) describe(id ConnID, r *record) Connection {
	p := m.policy
	c := Connection{
		ID: id, State: r.state, Pool: p.pools[r.pool].name, Host: r.host, Fresh: r.marks&fresh != 0, Sticky: r.marks&sticky != 0,
		Peer: p.peerOf(r, id.slot()), Requests: r.requests, InState: time.Duration(p.now - r.since),
		Age: max(time.Duration(p.now)-time.Duration(r.created)*time.Second, time.Duration(p.now-r.since)),
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
