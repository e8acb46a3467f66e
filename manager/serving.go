package manager

// Whether requests are served. A pool is served while one of its hosts would take a request that
// arrives now, or as soon as it has answered others. The sidecar is serving while every pool that a
// listener feeds is served.

// ServiceState says whether the sidecar, a pool or a host serves requests, and why it does not. The
// same words stand in logs, metrics, the status page, gRPC and the command line.
type ServiceState uint8

// The states. A host is in one of the first four but NoHost.
const (
	Serving  ServiceState = iota + 1
	Paused                // every host that could serve takes no requests for now (CAPACITY 0)
	Draining              // every host leaves, or the sidecar is ending
	Hung                  // hosts are there, and none that could serve gives a sign of life
	NoHost                // no host is attached
	Stopping              // an operator's Stop waits for leases
	Stopped               // until Start
	serviceStateCount
)

var serviceStateNames = [serviceStateCount]string{"", "serving", "paused", "draining", "hung", "no_host", "stopping", "stopped"}

func (s ServiceState) String() string { return serviceStateNames[s] }

// ServiceStates lists the states.
func ServiceStates() []ServiceState {
	return []ServiceState{Serving, Paused, Draining, Hung, NoHost, Stopping, Stopped}
}

// PoolService is a pool's state.
type PoolService struct {
	Pool  string
	State ServiceState // 0: there is no such pool any more
	Fed   bool         // a listener feeds it
}

// serviceCounts counts pools by state.
type serviceCounts [serviceStateCount]int

// worst is the state that an operator has to know first, NoHost if nothing is counted.
func (c *serviceCounts) worst() ServiceState {
	for s := NoHost; s >= Serving; s-- {
		if c[s] > 0 {
			return s
		}
	}
	return NoHost
}

// service is a host's state.
func (h *host) service() ServiceState {
	switch {
	case h.hung:
		return Hung
	case h.draining:
		return Draining
	case h.capacity == 0:
		return Paused
	}
	return Serving
}

// ending is the state of everything while the sidecar ends or is stopped, else 0.
func (p *policy) ending() ServiceState {
	switch {
	case p.draining:
		return Draining
	case p.stop != nil:
		return Stopping
	case p.stopped:
		return Stopped
	}
	return 0
}

// serviceOf is a pool's state. It is the one place that says what serves a pool.
func (p *policy) serviceOf(to *pool) ServiceState {
	if s := p.ending(); s != 0 {
		return s
	}
	var hosts serviceCounts
	for _, h := range to.hosts {
		hosts[h.service()]++
	}
	if hosts[Serving] > 0 {
		return Serving
	}
	return hosts.worst()
}

// service is the state of the whole: of the pools that listeners feed or, if there is no listener,
// of the pools there are, one of which suffices.
func (p *policy) service() ServiceState {
	switch s := p.ending(); {
	case s != 0:
		return s
	case p.fed != (serviceCounts{}):
		return p.fed.worst()
	case p.unfed[Serving] > 0:
		return Serving
	}
	return p.unfed.worst()
}

// reconsider marks a pool whose state may have changed, for reviewPools.
func (p *policy) reconsider(to *pool) {
	if !to.unsure {
		to.unsure = true
		p.unsure = append(p.unsure, to)
	}
}

// reconsiderAll marks every pool.
func (p *policy) reconsiderAll() {
	for to := range p.eachPool {
		p.reconsider(to)
	}
}

// reviewPools finds the states of the marked pools and yields each pool with what it was before.
func (p *policy) reviewPools(yield func(to *pool, was PoolService)) {
	for _, to := range p.unsure {
		to.unsure = false
		was := to.service
		p.countService(was, -1)
		to.service = PoolService{Pool: to.name}
		if p.poolNames[to.name] == to {
			to.service.State, to.service.Fed = p.serviceOf(to), to.doors > 0
		}
		p.countService(to.service, +1)
		yield(to, was)
	}
	p.unsure = p.unsure[:0]
}

// countService counts a pool in its state; one that has none is not counted.
func (p *policy) countService(s PoolService, by int) {
	switch {
	case s.State == 0:
	case s.Fed:
		p.fed[s.State] += by
	default:
		p.unfed[s.State] += by
	}
}
