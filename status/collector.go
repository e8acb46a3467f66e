package status

import (
	"context"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/anteroom-io/anteroom/logqueue"
	"github.com/anteroom-io/anteroom/manager"
)

// registry holds the sidecar's metrics, those of its process and those of the Go runtime.
func registry(s Source, version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		&collector{source: s, hosts: newTally(), listeners: newTally()},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "anteroom_build_info",
			Help:        "Always 1; the labels say what runs.",
			ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
		}, func() float64 { return 1 }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "anteroom_log_lines_dropped_total",
			Help: "Lines of the log that this process dropped, because standard error was not read fast enough.",
		}, func() float64 { return float64(logqueue.Stderr.Dropped()) }),
	)
	return r
}

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("anteroom_"+name, help, labels, nil)
}

// The metrics. Labels are bounded: a host is named as it names itself, hosts of one name count together, and all private pools are one.
var (
	running     = metric("running", "1 while connections are accepted and lent, 0 between Stop and Start.")
	state       = metric("state", "1 for the state of the whole: serving, or why requests are not served.", "state")
	successions = metric("successions_total", "Times a process has taken over from another, after its death or in an upgrade.")
	connections = metric("connections", "Connections now, by state.", "state")
	keepLimit   = metric("keep_alive_limit", "Connections that may be kept between requests.")
	keepInUse   = metric("keep_alive_in_use", "Connections kept between requests, or promised to be.")

	helpers     = metric("helpers", "Helper processes: busy with a system call, or stuck in one and not to be ended.", "state")
	helperCalls = metric("helper_calls_waiting", "System calls that wait for a helper process.")

	listenerConnections = metric("listener_connections", "Connections now, by listener, pool and state.", "listener", "pool", "state")
	listenerAccepted    = metric("listener_accepted_total", "Connections accepted, by listener and pool.", "listener", "pool")
	listenerPaused      = metric("listener_paused", "Listening sockets that accept nothing now: stopped, at a limit, or out of descriptors.", "listener", "pool")

	poolConnections = metric("pool_connections", "Connections now, by pool and state.", "pool", "state")
	poolHosts       = metric("pool_hosts", "Hosts attached, by pool.", "pool")
	poolState       = metric("pool_state", "Pools in a state: serving, or why their requests are not served.", "pool", "state")

	hostHung       = metric("host_hung", "Hosts that give no sign of life and get no leases, by host and pool.", "host", "pool")
	hostDraining   = metric("host_draining", "Hosts that are leaving and get no leases, by host and pool.", "host", "pool")
	hostLeased     = metric("host_leased", "Leases now, by host and pool.", "host", "pool")
	hostCapacity   = metric("host_capacity", "Leases taken at once, by host and pool.", "host", "pool")
	hostLeases     = metric("host_leases_total", "Leases, by host and pool.", "host", "pool")
	hostNacks      = metric("host_nacks_total", "Leases that a host could not take, by host and pool.", "host", "pool")
	hostStale      = metric("host_stale_answers_total", "Answers ignored because their lease was over, by host and pool.", "host", "pool")
	hostViolations = metric("host_nonblock_violations_total", "Connections found with O_NONBLOCK cleared, by host and pool.", "host", "pool")

	closed     = metric("connections_closed_total", "Connections closed, by reason.", "reason")
	answers    = metric("answers_total", "Requests that the sidecar itself answered, by status.", "status")
	leaseWaits = metric("lease_wait_seconds", "Time from when a request was there until a host got it.")
)

// totals are the counters without labels.
var totals = []struct {
	desc  *prometheus.Desc
	value func(*manager.Totals) uint64
}{
	{metric("connections_accepted_total", "Connections accepted on listeners."), func(t *manager.Totals) uint64 { return t.Accepted }},
	{metric("connections_adopted_total", "Connections that hosts brought."), func(t *manager.Totals) uint64 { return t.Adopted }},
	{metric("leases_total", "Connections handed to hosts."), func(t *manager.Totals) uint64 { return t.Leases }},
	{metric("puts_total", "Connections that came back idle."), func(t *manager.Totals) uint64 { return t.Puts }},
	{metric("requests_total", "Requests answered, as hosts report."), func(t *manager.Totals) uint64 { return t.Requests }},
	{metric("leases_redelivered_total", "Leases tried again because a host could not take them."), func(t *manager.Totals) uint64 { return t.Redelivered }},
	{metric("expiries_crossed_total", "Expiries given up because a request had just arrived."), func(t *manager.Totals) uint64 { return t.Crossed }},
	{metric("requests_refused_total", "Requests that the sidecar itself answered, with an error."), func(t *manager.Totals) uint64 { return t.Answered }},
	{metric("responses_finished_total", "Responses whose rest a host has left to the sidecar."), func(t *manager.Totals) uint64 { return t.Finished }},
	{metric("stale_answers_total", "Hosts' answers ignored because their lease was over."), func(t *manager.Totals) uint64 { return t.Stale }},
	{metric("nonblock_violations_total", "Connections found with O_NONBLOCK cleared."), func(t *manager.Totals) uint64 { return t.Violations }},
	{metric("hosts_attached_total", "Hosts attached."), func(t *manager.Totals) uint64 { return t.HostsAttached }},
	{metric("hosts_refused_total", "Hosts not welcomed: wrong user, version, limits."), func(t *manager.Totals) uint64 { return t.HostsRefused }},
	{metric("hosts_failed_total", "Hosts hung up on because of an error of theirs."), func(t *manager.Totals) uint64 { return t.HostsFailed }},
	{metric("hosts_hung_total", "Times a host gave no sign of life in time."), func(t *manager.Totals) uint64 { return t.HostsHung }},
	{metric("leases_overdue_total", "Leases that were out for longer than lease-warn."), func(t *manager.Totals) uint64 { return t.Overdue }},
	{metric("clients_unlimited_total", "Connections not limited by their client's address, since as many addresses were known as may be."), func(t *manager.Totals) uint64 { return t.ClientsUnlimited }},
	{metric("accept_pauses_total", "Times accepting paused at a limit or out of descriptors."), func(t *manager.Totals) uint64 { return t.AcceptPauses }},
}

// collector asks the source anew for each scrape.
type collector struct {
	source    Source
	hosts     *tally
	listeners *tally
}

// Describe says nothing, which makes the collector an unchecked one: which series there are depends on who is attached.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect fails the scrape if the manager does not answer: no numbers are better than wrong ones.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	counts, err := c.source.Counts(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(connections, err)
		return
	}
	capacity, err := c.source.Capacity(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(keepLimit, err)
		return
	}
	s := scrape{out: out, pools: poolLabels(counts.Pools)}
	s.whole(&counts, capacity)
	s.byPool(counts.Pools)
	s.byListener(counts.Listeners, c.listeners)
	s.byHost(counts.Hosts, c.hosts)
}

// poolLabels gives private pools one label together: each host that attaches makes a new one.
func poolLabels(pools []manager.PoolCounts) map[string]string {
	labels := make(map[string]string, len(pools))
	for _, p := range pools {
		labels[p.Name] = p.Name
		if p.Private {
			labels[p.Name] = "(private)" // no name that a host may give
		}
	}
	return labels
}

// scrape is one collection.
type scrape struct {
	out   chan<- prometheus.Metric
	pools map[string]string // label by name
}

func (s *scrape) gauge(d *prometheus.Desc, v int, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

func (s *scrape) counter(d *prometheus.Desc, v uint64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (s *scrape) states(d *prometheus.Desc, c manager.StateCounts, labels ...string) {
	s.gauge(d, c.Idle, append(labels, manager.Idle.String())...)
	s.gauge(d, c.Ready, append(labels, manager.Ready.String())...)
	s.gauge(d, c.Leased, append(labels, manager.Leased.String())...)
	s.gauge(d, c.Finishing, append(labels, manager.Finishing.String())...)
	s.gauge(d, c.Closing, append(labels, manager.Closing.String())...)
}

func (s *scrape) whole(c *manager.Counts, k manager.Capacity) {
	s.gauge(running, one(c.Running))
	s.gauge(state, 1, c.State.String())
	s.counter(successions, c.Successions)
	s.states(connections, c.States)
	s.gauge(keepLimit, max(k.Limit, 0))
	s.gauge(keepInUse, k.InUse)
	s.gauge(helpers, c.Helpers.Busy, "busy")
	s.gauge(helpers, c.Helpers.Stuck, "stuck")
	s.gauge(helperCalls, c.Helpers.Waiting)
	for _, t := range totals {
		s.counter(t.desc, t.value(&c.Totals))
	}
	for _, r := range manager.Reasons() {
		s.counter(closed, c.Totals.ClosedFor(r), r.String())
	}
	for i, status := range manager.AnswerStatuses() {
		s.counter(answers, c.Totals.Answers[i], strconv.Itoa(status))
	}
	s.histogram(leaseWaits, &c.Totals.LeaseWaits)
}

// histogram adds up the buckets, as Prometheus has them.
func (s *scrape) histogram(d *prometheus.Desc, h *manager.Histogram) {
	upTo, sum := map[float64]uint64{}, uint64(0)
	for i, bound := range manager.HistogramBounds() {
		sum += h.Buckets[i]
		upTo[bound.Seconds()] = sum
	}
	sum += h.Buckets[len(h.Buckets)-1]
	s.out <- prometheus.MustNewConstHistogram(d, sum, h.Sum.Seconds(), upTo)
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func (s *scrape) byPool(pools []manager.PoolCounts) {
	states, hosts, services := map[string]manager.StateCounts{}, map[string]int{}, map[labels]int{}
	for _, p := range pools {
		label := s.pools[p.Name]
		states[label] = sum(states[label], p.States)
		hosts[label] += p.Hosts
		services[labels{p.Service.String(), label}]++
	}
	for key, n := range services {
		s.gauge(poolState, n, key.pool, key.name)
	}
	for label, c := range states {
		s.states(poolConnections, c, label)
		s.gauge(poolHosts, hosts[label], label)
	}
}

func sum(a, b manager.StateCounts) manager.StateCounts {
	return manager.StateCounts{
		Idle: a.Idle + b.Idle, Ready: a.Ready + b.Ready, Leased: a.Leased + b.Leased, Finishing: a.Finishing + b.Finishing, Closing: a.Closing + b.Closing,
	}
}

func (s *scrape) byListener(listeners []manager.ListenerCounts, t *tally) {
	states, paused, accepted := map[labels]manager.StateCounts{}, map[labels]int{}, map[uint32]counters{}
	for _, l := range listeners {
		key := labels{valid(l.Name), s.pools[l.Pool]}
		states[key] = sum(states[key], l.States)
		paused[key] += one(l.Paused)
		accepted[uint32(l.ID)] = counters{labels: key, values: [4]uint64{l.Accepted}}
	}
	for key, c := range states {
		s.states(listenerConnections, c, key.name, key.pool)
		s.gauge(listenerPaused, paused[key], key.name, key.pool)
	}
	for key, v := range t.sums(accepted) {
		s.counter(listenerAccepted, v[0], key.name, key.pool)
	}
}

func (s *scrape) byHost(hosts []manager.HostInfo, t *tally) {
	leased, capacity, counted := map[labels]int{}, map[labels]int{}, map[uint32]counters{}
	hung, draining := map[labels]int{}, map[labels]int{}
	for _, h := range hosts {
		key := labels{valid(h.Name), s.pools[h.Pool]}
		leased[key] += h.Leased
		capacity[key] += h.Capacity
		hung[key] += one(h.Hung)
		draining[key] += one(h.Draining)
		counted[uint32(h.ID)] = counters{labels: key, values: [4]uint64{h.Leases, h.Nacks, h.Stale, h.Violations}}
	}
	for key := range leased {
		s.gauge(hostLeased, leased[key], key.name, key.pool)
		s.gauge(hostHung, hung[key], key.name, key.pool)
		s.gauge(hostDraining, draining[key], key.name, key.pool)
		s.gauge(hostCapacity, capacity[key], key.name, key.pool)
	}
	for key, v := range t.sums(counted) {
		for i, d := range []*prometheus.Desc{hostLeases, hostNacks, hostStale, hostViolations} {
			s.counter(d, v[i], key.name, key.pool)
		}
	}
}
