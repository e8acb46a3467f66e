package main

import (
	"strings"

	"github.com/anteroom-io/anteroom/bench/report"
)

// goals are what Anteroom must reach, as ratios taken within each round. Where a peer was measured both with one thread and with one for each
// processor, processor time is compared with both; rates are compared like with like, one loop with one process.
func goals(r *report.Run) []report.Goal {
	var all []report.Goal
	all = append(all, cpuGoals(r)...)
	all = append(all, rateGoals(r)...)
	all = append(all, bodyGoals(r)...)
	all = append(all, latencyGoals(r)...)
	all = append(all, idleGoals(r)...)
	all = append(all, cherootGoals(r)...)
	return append(all, report.AtMost("failed-requests", failedRequests(r), 0, ""))
}

func of(load, arrangement string, m report.Metric) report.Of {
	return report.Of{Load: load, Arrangement: arrangement, Metric: m}
}

// ratio compares Anteroom with another arrangement.
func ratio(r *report.Run, load, other string, m report.Metric) report.Spread {
	return r.Ratio(of(load, anteroom, m), of(load, other, m))
}

func cpuGoals(r *report.Run) []report.Goal {
	var list []report.Goal
	for _, peer := range []struct {
		one, many string
		wanted    float64
	}{{nginx, onCores("nginx"), 1. / 6}, {haproxy, onCores("haproxy"), 1. / 5}} {
		list = append(list, report.AtMost("front-cpu/"+peer.one, ratio(r, keepAlive64, peer.one, report.FrontCPU), peer.wanted, ""))
		if many := ratio(r, keepAlive64, peer.many, report.FrontCPU); many.N > 0 && peer.many != peer.one {
			list = append(list, report.AtMost("front-cpu/"+peer.many, many, peer.wanted, ""))
		}
	}
	return list
}

func rateGoals(r *report.Run) []report.Goal {
	return []report.Goal{
		report.AtLeast("requests/"+nginx, ratio(r, keepAlive64, nginx, report.Rate), 2, ""),
		report.AtLeast("requests/"+haproxy, ratio(r, keepAlive64, haproxy, report.Rate), 2, ""),
		report.AtLeast("requests/"+workerAlone, ratio(r, keepAlive64, workerAlone, report.Rate), 0.9, ""),
	}
}

func bodyGoals(r *report.Run) []report.Goal {
	return []report.Goal{
		report.AtMost("1MB-front-cpu/"+nginx, ratio(r, body1m, nginx, report.FrontPerGB), 1./25, ""),
		report.AtMost("10MB-front-cpu/"+nginx, ratio(r, body10m, nginx, report.FrontPerGB), 1./50, ""),
		report.AtLeast("1MB-throughput/"+workerAlone, ratio(r, body1m, workerAlone, report.Throughput), 0.9, ""),
		report.AtLeast("10MB-throughput/"+workerAlone, ratio(r, body10m, workerAlone, report.Throughput), 0.9, ""),
		report.AtLeast("1MB-throughput/"+nginx, ratio(r, body1m, nginx, report.Throughput), 3, ""),
		report.AtLeast("10MB-throughput/"+nginx, ratio(r, body10m, nginx, report.Throughput), 3, ""),
	}
}

func latencyGoals(r *report.Run) []report.Goal {
	added := r.Difference(of(keepAlive1, anteroom, report.P50), of(keepAlive1, workerAlone, report.P50))
	added.Median /= 1000
	return []report.Goal{
		report.AtMost("half-load-p99/"+nginx, ratio(r, halfNginx, nginx, report.P99), 1, ""),
		report.AtMost("added-median-latency", added, 25, "µs"),
	}
}

func idleGoals(r *report.Run) []report.Goal {
	base := r.Spread(of(idleMany, anteroom, report.BaseMemory))
	base.Median /= 1e6
	return []report.Goal{
		report.AtMost("idle-memory/"+nginx, ratio(r, idleMany, nginx, report.IdleMemory), 1./4, ""),
		report.AtMost("idle-memory-each", r.Spread(of(idleMany, anteroom, report.IdleMemory)), 64, "B"),
		report.AtMost("base-memory", base, 25, "MB"),
		report.AtMost("idle-cpu", r.Spread(of(idleMany, anteroom, report.RestCPU)), 0.5, "%"),
	}
}

// cherootGoals compare with cheroot as it is by default. The report shows it also with room for all connections.
func cherootGoals(r *report.Run) []report.Goal {
	compare := func(load string) report.Spread {
		return r.Ratio(of(load, cherootAnteroom, report.Rate), of(load, cherootAlone, report.Rate))
	}
	return []report.Goal{
		report.AtLeast("cheroot-requests/alone", compare(cherootBusy), 1, ""),
		report.AtLeast("cheroot-beside-idle-requests/alone", compare(cherootIdle), 1.5, ""),
	}
}

// failedRequests counts all that failed with Anteroom in front.
func failedRequests(r *report.Run) report.Spread {
	var sums []float64
	for _, s := range r.Samples {
		if strings.Contains(s.Arrangement, "anteroom") {
			sums = append(sums, float64(s.Errors))
		}
	}
	spread := report.SpreadOf(sums)
	spread.Median = 0
	for _, n := range sums {
		spread.Median += n
	}
	return spread
}
