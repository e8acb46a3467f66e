package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/gauge"
	"github.com/anteroom-io/anteroom/bench/report"
)

// The arrangements that are measured beside slow clients: cheroot with its ten threads, which keeps all connections in each of them.
const (
	slowAlone    = "slow-cheroot"
	slowNginx    = "slow-cheroot-nginx"
	slowAnteroom = "slow-cheroot-anteroom"
)

// cherootThreads is how many requests a cheroot works on at once, by default.
const cherootThreads = 10

var slowArrangements = []arrange.Arrangement{
	{Name: slowAlone, Front: arrange.Alone, Worker: arrange.CherootKeep, OneProcessor: true},
	{Name: slowNginx, Front: arrange.Nginx, Threads: 1, Worker: arrange.CherootKeep, Workers: 1, Spools: true, OneProcessor: true},
	{Name: slowAnteroom, Front: arrange.Anteroom, Threads: 1, Worker: arrange.CherootKeep, Workers: 1, Ready: "request", OneProcessor: true},
}

// attack is a crowd of slow clients.
type attack struct {
	name  string // of the load
	title string
	what  string
	needs []string // programs
	begin func(m *moment) (drive.Crowd, error)
}

var attacks = []attack{
	ownAttack("slow-silent", "Silent clients", drive.Mix{Silent: 1000}),
	ownAttack("slow-heads", "Slow heads", drive.Mix{Head: 1000}),
	ownAttack("slow-bodies", "Slow bodies", drive.Mix{Body: 500}),
	ownAttack("slow-readers", "Slow readers", drive.Mix{Read: 500}),
	ownAttack(slowAll, "All slow clients together", drive.Mix{Silent: 1000, Head: 1000, Body: 500, Read: 500}),
	slowhttptest("H", "/100", "slow heads", 1000),
	slowhttptest("B", "/100", "slow bodies", 500),
	slowhttptest("X", "/1m", "slow readers", 200),
}

// slowAll is the load that has all kinds of slow clients at once.
const slowAll = "slow-all"

func ownAttack(name, title string, mix drive.Mix) attack {
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{mix.Silent, "that say nothing"}, {mix.Head, "that send a byte of a head per second"}, {mix.Body, "that post 64 kB at 1 kB/s"},
		{mix.Read, "that read 1 MB at 10 kB/s"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return attack{name: name, title: title, what: "slow clients: " + strings.Join(parts, ", "),
		begin: func(m *moment) (drive.Crowd, error) { return m.clients().Slow(m.ctx, m.url("/"), mix) }}
}

func slowhttptest(mode, path, what string, connections int) attack {
	return attack{name: "slowhttptest-" + mode, title: "slowhttptest: " + what, needs: []string{"slowhttptest"},
		what: fmt.Sprintf("slowhttptest -%s with %d connections", mode, connections),
		begin: func(m *moment) (drive.Crowd, error) {
			return m.clients().Slowhttptest(m.ctx, m.url(path), mode, connections)
		}}
}

func slowPlan() plan {
	return plan{title: "Beside slow clients", rounds: 4, loads: slowLoads(5*time.Second, map[string]int{slowAlone: 1, slowNginx: 2}),
		goals: slowGoals, profiles: everyTime}
}

// quickSlowPlan leaves out cheroot alone, and nginx but for one load.
func quickSlowPlan() plan {
	p := plan{title: "Beside slow clients, a quick look", rounds: 1, goals: quickSlowGoals, profiles: 1}
	for _, a := range ownAttacks() {
		of := []string{slowAnteroom}
		if a.name == slowAll {
			of = []string{slowNginx, slowAnteroom}
		}
		p.loads = append(p.loads, slowLoad(a, 2*time.Second, of))
	}
	return p
}

func ownAttacks() []attack {
	return slices.DeleteFunc(slices.Clone(attacks), func(a attack) bool { return len(a.needs) > 0 })
}

// slowLoads are all attacks, each arrangement in so many of the first rounds. cheroot alone needs but one, for it answers next to nothing.
func slowLoads(d time.Duration, rounds map[string]int) (loads []load) {
	for _, a := range attacks {
		l := slowLoad(a, d, []string{slowAlone, slowNginx, slowAnteroom})
		l.roundsOf = rounds
		loads = append(loads, l)
	}
	return loads
}

func slowLoad(a attack, d time.Duration, of []string) load {
	return load{
		name: a.name, arrangements: of, needs: a.needs,
		what: fmt.Sprintf("cheroot with %d threads on one processor; wrk, %d keep-alive connections, 100 bytes, %v, undisturbed and, the same again, beside %s",
			cherootThreads, connections, d, a.what),
		measure: besideSlow(a, d),
	}
}

// besideSlow measures the same load twice in one run of an arrangement, undisturbed and beside slow clients. Which of them comes first
// changes with the round.
func besideSlow(a attack, d time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		if err := m.warmUp("/100", connections); err != nil {
			return report.Sample{}, err
		}
		var undisturbed drive.Result
		var beside disturbed
		phases := []func() error{
			func() (err error) { undisturbed, err = m.normalLoad(d); return err },
			func() error { return pause(m.ctx, settle/2) },
			func() (err error) { beside, err = m.besideCrowd(a, d); return err },
		}
		if m.round%2 == 0 {
			slices.Reverse(phases)
		}
		for _, phase := range phases {
			if err := phase(); err != nil {
				return report.Sample{}, err
			}
		}
		return beside.sample(undisturbed, len(m.FrontPIDs()) > 0)
	}
}

// normalLoad is what the slow clients must not slow down.
func (m *moment) normalLoad(d time.Duration) (drive.Result, error) {
	return m.clients().Wrk(m.ctx, m.url("/100"), connections, 2, d)
}

// disturbed is what was found beside slow clients.
type disturbed struct {
	result  drive.Result
	used    usage
	metrics map[report.Metric]float64 // what there is only beside slow clients
	raw     string                    // what the slow clients printed
}

// besideCrowd measures the normal load beside a crowd of slow clients, then looks at the front while only they are left, and sends them away.
func (m *moment) besideCrowd(a attack, d time.Duration) (found disturbed, err error) {
	leases, err := m.watchLeases()
	if err != nil {
		return found, err
	}
	crowd, err := a.begin(m)
	if err != nil {
		return found, errors.Join(err, leases.end())
	}
	found.metrics = map[report.Metric]float64{}
	from, err := m.measureBeside(crowd, leases, &found, d)
	if err == nil {
		err = m.lookAtFront(found.metrics)
	}
	err = errors.Join(err, leases.end())
	leases.tell(from, found.metrics)
	raw, dismissErr := crowd.Dismiss()
	found.raw = raw
	return found, errors.Join(err, dismissErr)
}

// measureBeside returns from which answer on the watch has seen the slow clients only.
func (m *moment) measureBeside(crowd drive.Crowd, leases *leaseWatch, found *disturbed, d time.Duration) (from int, err error) {
	if err := m.awaitCalm(); err != nil {
		return 0, err
	}
	crowdBefore, errBefore := gauge.CPU([]int{crowd.PID()})
	if found.result, found.used, err = m.observe(func() (drive.Result, error) { return m.normalLoad(d) }); err != nil {
		return 0, err
	}
	// slowhttptest ends by itself if the server has ended all its connections.
	if crowdAfter, err := gauge.CPU([]int{crowd.PID()}); err == nil && errBefore == nil {
		found.metrics[report.CrowdCPU] = 100 * (crowdAfter - crowdBefore).Seconds() / d.Seconds()
	}
	// The normal load's last requests are still to be answered.
	if err := pause(m.ctx, settle/2); err != nil {
		return 0, err
	}
	from = leases.answers()
	return from, pause(m.ctx, settle/2)
}

// When an arrangement is calm: it uses less than this share of a processor, over such a time. It is waited for so long.
const (
	calmShare   = 0.2
	calmTime    = settle / 2
	calmTimeout = 10 * time.Second
)

// awaitCalm waits until the crowd's first requests, which come all at once, have been dealt with: what slow readers ask for takes a while to
// produce and to put aside. A crowd that keeps the servers busy is measured as it is.
func (m *moment) awaitCalm() error {
	for deadline := time.Now().Add(calmTimeout); time.Now().Before(deadline); {
		before, err := m.cpu()
		if err != nil {
			return err
		}
		if err := pause(m.ctx, calmTime); err != nil {
			return err
		}
		after, err := m.cpu()
		if err != nil {
			return err
		}
		if used := after.front + after.workers - before.front - before.workers; used.Seconds() < calmShare*calmTime.Seconds() {
			return nil
		}
	}
	return nil
}

// lookAtFront reads what the front holds, if there is one.
func (m *moment) lookAtFront(metrics map[report.Metric]float64) error {
	pids, err := trees(m.FrontPIDs())
	if err != nil || len(pids) == 0 {
		return err
	}
	own, err := gauge.MemoryOf(pids)
	if err != nil {
		return err
	}
	spooled, err := gauge.Spooled(pids)
	metrics[report.FrontRSS], metrics[report.FrontPSS], metrics[report.Spooled] = float64(own.RSS), float64(own.PSS), float64(spooled)
	return err
}

// watchLeases returns nil if there is no sidecar to ask.
func (m *moment) watchLeases() (*leaseWatch, error) {
	if m.Control() == "" {
		return nil, nil
	}
	return watchLeases(m.ctx, m.Control())
}

func (d *disturbed) sample(undisturbed drive.Result, hasFront bool) (report.Sample, error) {
	if undisturbed.Requests == 0 {
		return report.Sample{}, fmt.Errorf("no request was answered though nobody disturbed; the client printed:\n%s", undisturbed.Raw)
	}
	sample := sampleOf(d.result, 100, d.used, hasFront)
	rate := float64(undisturbed.Requests) / undisturbed.Duration.Seconds()
	for metric, value := range d.metrics {
		sample.Metrics[metric] = value
	}
	sample.Metrics[report.Undisturbed] = rate
	sample.Metrics[report.Kept] = 100 * sample.Metrics[report.Rate] / rate
	sample.Metrics[report.UndisturbedP99] = float64(undisturbed.P99.Nanoseconds())
	sample.Requests += undisturbed.Requests
	sample.Errors += undisturbed.Errors
	sample.Raw = fmt.Sprintf("Undisturbed:\n%s\nBeside slow clients:\n%s\nThe slow clients:\n%s\n", undisturbed.Raw, d.result.Raw, d.raw)
	return sample, nil
}

// What must be kept of the undisturbed throughput, in percent. It varies by some percent from one second to the next, which a quick look
// cannot even out.
const (
	keptWanted      = 95
	quickKeptWanted = 80
)

// slowGoals are what Anteroom must reach beside each kind of slow clients.
func slowGoals(r *report.Run) []report.Goal { return goalsBeside(r, attacks, keptWanted) }

func quickSlowGoals(r *report.Run) []report.Goal {
	return goalsBeside(r, ownAttacks(), quickKeptWanted)
}

func goalsBeside(r *report.Run, attacks []attack, wanted float64) (list []report.Goal) {
	var most, held []float64
	for _, a := range attacks {
		of := of(a.name, slowAnteroom, report.Kept)
		list = append(list, report.AtLeast("kept/"+a.name, r.Spread(of), wanted, "%").Under(of))
		most = append(most, r.Values(a.name, slowAnteroom, report.Leases)...)
		held = append(held, r.Values(a.name, slowAnteroom, report.HeldLeases)...)
	}
	return append(list, report.AtMost("most-leases", greatest(most), cherootThreads, ""),
		report.AtMost("leases-of-slow-clients", greatest(held), 0, ""), failureGoal(r))
}

// greatest has the greatest value for its median.
func greatest(values []float64) report.Spread {
	if len(values) == 0 {
		return report.Spread{}
	}
	return report.SpreadOf([]float64{slices.Max(values)})
}

// slowSections are the tables, by load.
func slowSections() map[string]report.Section {
	columns := []report.Column{{Title: "undisturbed", Metric: report.Undisturbed}, rate, {Title: "kept", Metric: report.Kept},
		{Title: "p99 undisturbed", Metric: report.UndisturbedP99}, p99, frontCPU,
		{Title: "front, RSS", Metric: report.FrontRSS}, {Title: "front, PSS", Metric: report.FrontPSS},
		{Title: "front, in files and memfds", Metric: report.Spooled}, {Title: "most leases", Metric: report.Leases},
		{Title: "leases of slow clients", Metric: report.HeldLeases}, {Title: "slow clients, CPU", Metric: report.CrowdCPU}, idle}
	sections := map[string]report.Section{}
	for _, a := range attacks {
		sections[a.name] = report.Section{Title: a.title, Columns: columns}
	}
	return sections
}

// slowSummary is one table of all slow clients.
func slowSummary() report.Summary {
	s := report.Summary{Title: "Beside slow clients: what is kept of the undisturbed throughput", Metric: report.Kept}
	for _, a := range attacks {
		s.Loads = append(s.Loads, a.name)
	}
	return s
}
