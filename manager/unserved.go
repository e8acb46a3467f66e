package manager

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What an operator is told when a pool is not served.

// episode is the time for which a pool is not served, and what the log has said of it.
type episode struct {
	since   int64
	warned  ServiceState // the last state warned about; 0: none
	waiting bool         // that a request waits for a host
}

// reviewService tells the configuration which pools' states have changed, and the log which
// listeners' requests are not served.
func (m *Manager) reviewService() {
	var changed []PoolService
	m.policy.reviewPools(func(to *pool, was PoolService) {
		if to.service != was {
			changed = append(changed, to.service)
		}
		m.warnUnserved(to)
	})
	service := m.policy.service()
	if service != m.service || changed != nil {
		m.service = service
		m.config.OnService(service, changed)
	}
}

// warnUnserved warns once that a listener's pool is not served, and once that a request waits for a
// host. It says when the pool is served again.
func (m *Manager) warnUnserved(to *pool) {
	e := &to.unserved
	state := to.service.State
	switch {
	case state == Serving && e.warned != 0:
		m.log.Info("a pool is served again", "pool", to.name,
			"after", time.Duration(m.policy.now-e.since).Round(time.Millisecond))
		fallthrough
	case state == Serving:
		*e = episode{}
	case to.service.Fed && state != e.warned && (state == NoHost || state == Hung || state == Paused):
		m.beginEpisode(e, state)
		m.log.Warn(unservedWords[state]+", so its listeners' requests wait", "pool", to.name,
			"listeners", m.namesOfListeners(to), "hint", m.howToAttach(to))
	}
	if state == NoHost && to.queue.len > 0 && !e.waiting {
		e.waiting = true
		m.beginEpisode(e, state)
		m.log.Warn("a request waits for a host to attach", "pool", to.name,
			"waits", m.policy.limits.QueueTimeout, "hint", m.howToAttach(to))
	}
}

var unservedWords = map[ServiceState]string{
	NoHost: "no host is attached to a pool",
	Hung:   "every host of a pool is hung",
	Paused: "every host of a pool is paused",
}

func (m *Manager) beginEpisode(e *episode, state ServiceState) {
	if e.warned == 0 {
		e.since = m.policy.now
	}
	e.warned = state
}

func (m *Manager) namesOfListeners(to *pool) string {
	names := []string{}
	for _, e := range m.doors {
		if e.door.pool == to {
			names = append(names, e.door.name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// howToAttach says how a host comes into a pool, and where those are that are attached elsewhere:
// to have named another pool, or none, is the usual mistake.
func (m *Manager) howToAttach(to *pool) string {
	if len(to.hosts) > 0 {
		return fmt.Sprintf("anteroom hosts shows the pool's %d hosts", len(to.hosts))
	}
	sockets := []string{}
	for _, e := range m.handoffs {
		sockets = append(sockets, e.listener.String())
	}
	hint := fmt.Sprintf("a host attaches at %s (ANTEROOM_HANDOFF) and names the pool %s (ANTEROOM_POOL)", strings.Join(sockets, ", "), to.name)
	if n := len(m.policy.hosts); n > 0 {
		hint += fmt.Sprintf("; the attached hosts, %d, are in other pools: anteroom hosts shows which", n)
	}
	return hint
}
