package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/report"
)

// plan is what is measured, and how often.
type plan struct {
	title  string
	rounds int
	loads  []load
	goals  func(*report.Run) []report.Goal // nil: none

	// profiles is how often at most to look for why goals are short, which takes as long as a measurement and a little more.
	profiles int
}

// everyTime has every goal looked into that is short.
const everyTime = math.MaxInt

// load is one kind of load, and who is measured under it.
type load struct {
	name         string
	what         string
	arrangements []string
	rounds       int            // only in so many of the first rounds; 0: in all
	roundsOf     map[string]int // the same for some of the arrangements
	needs        []string       // programs, beside wrk and what the arrangements need
	measure      measurement
}

// The names of arrangements that goals and other loads speak of.
const (
	workerAlone     = "worker"
	anteroom        = "anteroom-1"
	anteroomBytes   = "anteroom-1-bytes"
	nginx           = "nginx-1"
	haproxy         = "haproxy-1"
	apache          = "apache-file"
	cherootAlone    = "cheroot"
	cherootKeep     = "cheroot-keep"
	cherootAnteroom = "cheroot-anteroom"
	cherootNginx    = "cheroot-nginx"
)

// cores names the variants of peers that have a thread for each processor.
var cores = runtime.NumCPU()

func onCores(name string) string { return name + "-" + strconv.Itoa(cores) }

// arrangements lists all there are, in the order of tables. The number in a name is that of the front's processes or threads; Anteroom's is
// that of its hosts. Anteroom waits for a request's whole head, as a proxy does, and with "bytes" for its first byte only.
var arrangements = slices.Concat(peers, slowArrangements, loopArrangements)

var peers = []arrange.Arrangement{
	{Name: workerAlone, Front: arrange.Alone, Worker: arrange.Worker},
	{Name: anteroom, Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 1, Ready: "head"},
	{Name: anteroomBytes, Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 1, Ready: "bytes"},
	{Name: "anteroom-2", Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 2, Ready: "head"},
	{Name: "anteroom-4", Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 4, Ready: "head"},
	{Name: nginx, Front: arrange.Nginx, Threads: 1, Worker: arrange.Worker, Workers: 1},
	{Name: onCores("nginx"), Front: arrange.Nginx, Threads: cores, Worker: arrange.Worker, Workers: 1},
	{Name: onCores("nginx") + "-2-workers", Front: arrange.Nginx, Threads: cores, Worker: arrange.Worker, Workers: 2},
	{Name: haproxy, Front: arrange.Haproxy, Threads: 1, Worker: arrange.Worker, Workers: 1},
	{Name: onCores("haproxy"), Front: arrange.Haproxy, Threads: cores, Worker: arrange.Worker, Workers: 1},
	{Name: onCores("haproxy") + "-2-workers", Front: arrange.Haproxy, Threads: cores, Worker: arrange.Worker, Workers: 2},
	{Name: "nginx-return-1", Front: arrange.Alone, Threads: 1, Worker: arrange.NginxReturn},
	{Name: onCores("nginx-return"), Front: arrange.Alone, Threads: cores, Worker: arrange.NginxReturn},
	{Name: apache, Front: arrange.Alone, Worker: arrange.ApacheFile},
	{Name: "nethttp", Front: arrange.Alone, Worker: arrange.NetHTTP},
	{Name: cherootAlone, Front: arrange.Alone, Worker: arrange.Cheroot},
	{Name: cherootKeep, Front: arrange.Alone, Worker: arrange.CherootKeep},
	{Name: cherootAnteroom, Front: arrange.Anteroom, Threads: 1, Worker: arrange.CherootKeep, Workers: 1},
	{Name: cherootNginx, Front: arrange.Nginx, Threads: 1, Worker: arrange.CherootKeep, Workers: 1},
}

func arrangementNames() []string { return namesOf(arrangements) }

func namesOf(arrangements []arrange.Arrangement) (names []string) {
	for _, a := range arrangements {
		names = append(names, a.Name)
	}
	return slices.Compact(names) // on a machine with one processor, some are the same
}

func arrangementOf(name string) arrange.Arrangement {
	i := slices.IndexFunc(arrangements, func(a arrange.Arrangement) bool { return a.Name == name })
	return arrangements[i]
}

// Groups of arrangements.
var (
	rivals   = []string{workerAlone, anteroom, nginx, haproxy}
	cheroots = []string{cherootAlone, cherootKeep, cherootAnteroom, cherootNginx}
)

func more(names []string, others ...string) []string { return slices.Concat(names, others) }

func allButCheroots() []string { return without(namesOf(peers), cheroots...) }

func without(names []string, others ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

// The names of loads that goals and sections speak of.
const (
	keepAlive1    = "100B-1"
	keepAlive64   = "100B-64"
	keepAlive1000 = "100B-1000"
	body10k       = "10kB-64"
	body1m        = "1MB-8"
	body10m       = "10MB-8"
	halfNginx     = "half-load"
	halfOwn       = "half-own-load"
	aFew          = "a-few"
	freshEach     = "fresh"
	idleMany      = "idle"
	cherootBusy   = "cheroot"
	cherootIdle   = "cheroot-beside-idle"
)

// connections is how many clients there are where nothing else is said.
const connections = 64

// idleConnections is how many stay idle: most of what a process has descriptors for, where the usual limit is 20,000.
const idleConnections = 15_000

// idleBesideCheroot is how many stay idle beside a load on cheroot.
const idleBesideCheroot = 500

func fullPlan() plan {
	return plan{title: "Anteroom beside its peers", rounds: 5, goals: fullGoals, profiles: everyTime, loads: slices.Concat([]load{
		wrkLoad(keepAlive64, "/100", 100, connections, 2, allButCheroots()),
		wrkLoad(keepAlive1, "/100", 100, 1, 2, more(rivals, onCores("nginx"), onCores("haproxy"), "nethttp")),
		wrkLoad(keepAlive1000, "/100", 100, 1000, 2, without(allButCheroots(), apache)),
		wrkLoad(body10k, "/10k", 10_000, connections, 2, more(rivals, "nethttp")),
		wrkLoad(body1m, "/1m", 1<<20, 8, 2, more(rivals, "nethttp")),
		wrkLoad(body10m, "/10m", 10<<20, 8, 3, more(rivals, "nethttp")),
		halfLoad(halfNginx, 3*time.Second, rivals),
		halfOwnLoad(halfOwn, 3*time.Second, rivals),
		fewLoad(aFew, 4*time.Second, rivals),
		freshLoad(freshEach, 2*time.Second, more(rivals, onCores("nginx"), onCores("haproxy"), "nethttp")),
		cherootLoad(cherootBusy, 0, 3, cheroots),
		cherootLoad(cherootIdle, idleBesideCheroot, 3, cheroots),
		idleLoad(idleMany, 10*time.Second, []string{anteroom, nginx, haproxy}),
	}, slowLoads(4*time.Second, map[string]int{slowAlone: 1, slowNginx: 1, slowAnteroom: 3}))}
}

func quickPlan() plan {
	threesome := []string{workerAlone, anteroom, nginx}
	return plan{title: "Anteroom beside its peers, a quick look", rounds: 3, goals: quickGoals, profiles: 3, loads: []load{
		wrkLoad(keepAlive64, "/100", 100, connections, 1, rivals),
		wrkLoad(keepAlive1, "/100", 100, 1, 1, threesome),
		wrkLoad(body1m, "/1m", 1<<20, 8, 1, threesome),
		wrkLoad(body10m, "/10m", 10<<20, 8, 1, threesome),
		halfLoad(halfNginx, time.Second, []string{anteroom, nginx}),
		cherootLoad(cherootBusy, 0, 1, []string{cherootAlone, cherootAnteroom}),
		cherootLoad(cherootIdle, idleBesideCheroot, 1, []string{cherootAlone, cherootAnteroom}),
		once(idleLoad(idleMany, 4*time.Second, []string{anteroom, nginx})),
	}}
}

func wrkLoad(name, path string, size, connections, seconds int, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("wrk, keep-alive connections: %d, bytes of a body: %d, seconds: %d", connections, size, seconds),
		measure: saturate(path, size, connections, time.Duration(seconds)*time.Second),
	}
}

func halfLoad(name string, d time.Duration, of []string) load {
	return load{
		name: name, arrangements: of,
		what: fmt.Sprintf("%d keep-alive connections, 100 bytes, requests at random times (Poisson), for all half as many per second as %s answered in this round under %s; %v",
			connections, nginx, keepAlive64, d),
		measure: offerHalf(func(*moment) string { return nginx }, d),
	}
}

func halfOwnLoad(name string, d time.Duration, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("the same, for each half as many per second as itself answered in this round under %s; %v", keepAlive64, d),
		measure: offerHalf(func(m *moment) string { return m.Name }, d),
	}
}

// few is what a small site has, requests per second.
const few = 200

func fewLoad(name string, d time.Duration, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("%d keep-alive connections, 100 bytes, %d requests per second at random times (Poisson), %v", connections, few, d),
		measure: offer(few, d),
	}
}

func freshLoad(name string, d time.Duration, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("%d clients at once, each request on a new connection that is followed to the server's end of it, 100 bytes, %v", connections, d),
		measure: freshConnections(d),
	}
}

func cherootLoad(name string, idle, seconds int, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("wrk, %d keep-alive connections, 100 bytes, beside %d idle ones, %d s", connections, idle, seconds),
		measure: besideIdle(idle, time.Duration(seconds)*time.Second),
	}
}

func idleLoad(name string, rest time.Duration, of []string) load {
	return load{
		name: name, arrangements: of,
		what:    fmt.Sprintf("%d connections, served once each, then idle; processor time over %v", idleConnections, rest),
		measure: restWithIdle(idleConnections, rest),
	}
}

// once measures what hardly varies, and takes long, in the first round only.
func once(l load) load {
	l.rounds = 1
	return l
}

// filter leaves loads and arrangements out.
func (p plan) filter(loads, only string) (plan, error) {
	loadNames, err := wholeMatch(loads)
	if err != nil {
		return p, fmt.Errorf("-loads: %w", err)
	}
	names, err := wholeMatch(only)
	if err != nil {
		return p, fmt.Errorf("-only: %w", err)
	}
	p.loads = slices.DeleteFunc(p.loads, func(l load) bool { return !loadNames.MatchString(l.name) })
	for i := range p.loads {
		kept := slices.Compact(slices.Clone(p.loads[i].arrangements))
		p.loads[i].arrangements = slices.DeleteFunc(kept, func(name string) bool { return !names.MatchString(name) })
	}
	return p, nil
}

// suites are the plans by name, each in full and in short.
var suites = map[string]struct{ full, quick func() plan }{
	"peers": {fullPlan, quickPlan},
	"slow":  {slowPlan, quickSlowPlan},
	"loops": {loopsPlan, quickLoopsPlan},
}

// measures reports whether an arrangement is measured under the load in a round.
func (l load) measures(name string, round int) bool {
	rounds, ok := l.roundsOf[name]
	if !ok {
		rounds = l.rounds
	}
	return rounds == 0 || round <= rounds
}

// load returns one of the plan's loads; nil if there is none of that name.
func (p plan) load(name string) *load {
	if i := slices.IndexFunc(p.loads, func(l load) bool { return l.name == name }); i >= 0 {
		return &p.loads[i]
	}
	return nil
}

func (p plan) described() (loads []report.Load) {
	for _, l := range p.loads {
		loads = append(loads, report.Load{Name: l.name, What: l.what})
	}
	return loads
}
