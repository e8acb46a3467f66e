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
	var joined []*pool
	m.policy.reviewPools(func(to *pool, was PoolService) {
		if to.service != was {
			changed = append(changed, to.service)
		}
		if m.settled {
			m.warnUnserved(to)
			if to.joined {
				to.joined = false
				joined = append(joined, to)
			}
		}
	})
	for _, to := range joined {
		m.warnAstray(to)
	}
	service := m.policy.service()
	if service != m.service || changed != nil {
		m.service = service
		m.config.OnService(service, changed)
	}
}

// warnUnserved says at Info that a listener's pool waits for its first host. It warns once when a pool
// that was served is not any more, or its hosts do not serve it, and once that a request waits for a
// host. It says when the pool is served.
func (m *Manager) warnUnserved(to *pool) {
	e := &to.unserved
	state := to.service.State
	switch {
	case state == Serving:
		m.endEpisode(to)
	case to.service.Fed && state == NoHost && !to.served && e.warned == 0:
		m.beginEpisode(e, state)
		m.log.Info("waiting for hosts", "pool", to.name,
			"listeners", m.namesOfListeners(to), "hint", m.howToAttach(to))
	case to.service.Fed && state != e.warned && (state == NoHost || state == Hung || state == Paused):
		m.beginEpisode(e, state)
		m.log.Warn(unservedWords[state]+", so its listeners' requests wait", "pool", to.name,
			"listeners", m.namesOfListeners(to), "hint", m.howToAttach(to))
	}
	if state == NoHost && to.queue.len > 0 && !e.waiting {
		e.waiting = true
		m.beginEpisode(e, state)
		m.log.Warn("a request waits for a host to attach", "pool", to.name,
			"listeners", m.namesOfListeners(to), "waits", m.policy.limits.QueueTimeout, "hint", m.howToAttach(to))
	}
}

var unservedWords = map[ServiceState]string{
	NoHost: "no host is attached to a pool",
	Hung:   "every host of a pool is hung",
	Paused: "every host of a pool is paused",
}

// endEpisode says that a pool is served, if the log has said that it was not.
func (m *Manager) endEpisode(to *pool) {
	words := "a pool is served"
	if to.served {
		words = "a pool is served again"
	}
	if to.unserved.warned != 0 {
		m.log.Info(words, "pool", to.name,
			"after", time.Duration(m.policy.now-to.unserved.since).Round(time.Millisecond))
	}
	to.unserved, to.served = episode{}, true
}

// warnAstray warns once of a pool that a host has joined and no listener feeds, while a pool that
// listeners feed has no host: one of the two names may be a mistake. Private pools are left out, for
// their hosts bring their own connections.
func (m *Manager) warnAstray(to *pool) {
	if to.astray || to.private || to.service.Fed || len(to.hosts) == 0 || m.policy.fed[NoHost] == 0 {
		return
	}
	to.astray = true
	m.log.Warn("a host has attached to a pool that no listener feeds, while a pool with listeners has no host",
		"pool", to.name, "without_host", m.namesOfHostless(),
		"hint", "a host names its pool by ANTEROOM_POOL, a listener by ?pool=")
}

// namesOfHostless names the pools that listeners feed and no host serves.
func (m *Manager) namesOfHostless() string {
	names := []string{}
	for to := range m.policy.eachPool {
		if to.service.Fed && to.service.State == NoHost {
			names = append(names, to.name)
		}
	}
	return strings.Join(names, ", ")
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
		sockets = append(sockets, strings.TrimPrefix(e.listener.String(), "unix://")) // as ANTEROOM_HANDOFF takes it
	}
	hint := fmt.Sprintf("a host attaches at %s (ANTEROOM_HANDOFF) and names the pool %s (ANTEROOM_POOL)", strings.Join(sockets, ", "), to.name)
	if n := len(m.policy.hosts); n > 0 {
		hint += fmt.Sprintf("; the attached hosts, %d, are in other pools: anteroom hosts shows which", n)
	}
	return hint
}
