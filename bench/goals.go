package main

import (
	"slices"
	"strings"

	"github.com/anteroom-io/anteroom/bench/report"
)

// peerGoals are what Anteroom must reach beside its peers, as ratios taken within each round. Where a peer was measured both with one thread and
// with one for each processor, processor time is compared with both; rates are compared like with like, one loop with one process.
func peerGoals(r *report.Run) []report.Goal {
	return slices.Concat(cpuGoals(r), rateGoals(r), bodyGoals(r), latencyGoals(r), idleGoals(r), cherootGoals(r))
}

func quickGoals(r *report.Run) []report.Goal {
	return append(peerGoals(r), failureGoal(r))
}

func fullGoals(r *report.Run) []report.Goal {
	return append(peerGoals(r), slowGoals(r)...)
}

func of(load, arrangement string, m report.Metric) report.Of {
	return report.Of{Load: load, Arrangement: arrangement, Metric: m}
}

// least is a goal that Anteroom's ratio to another arrangement must reach.
func least(r *report.Run, name, load, other string, m report.Metric, wanted float64) report.Goal {
	ours := of(load, anteroom, m)
	return report.AtLeast(name+"/"+other, r.Ratio(ours, of(load, other, m)), wanted, "").Under(ours)
}

// most is one that it must not exceed.
func most(r *report.Run, name, load, other string, m report.Metric, wanted float64) report.Goal {
	ours := of(load, anteroom, m)
	return report.AtMost(name+"/"+other, r.Ratio(ours, of(load, other, m)), wanted, "").Under(ours)
}

func cpuGoals(r *report.Run) []report.Goal {
	var list []report.Goal
	for _, peer := range []struct {
		one, many string
		wanted    float64
	}{{nginx, onCores("nginx"), 1. / 6}, {haproxy, onCores("haproxy"), 1. / 5}} {
		list = append(list, most(r, "front-cpu", keepAlive64, peer.one, report.FrontCPU, peer.wanted))
		if many := most(r, "front-cpu", keepAlive64, peer.many, report.FrontCPU, peer.wanted); many.Measured != nil && peer.many != peer.one {
			list = append(list, many)
		}
	}
	return list
}

func rateGoals(r *report.Run) []report.Goal {
	return []report.Goal{
		least(r, "requests", keepAlive64, nginx, report.Rate, 2),
		least(r, "requests", keepAlive64, haproxy, report.Rate, 2),
		least(r, "requests", keepAlive64, workerAlone, report.Rate, 0.9),
	}
}

func bodyGoals(r *report.Run) []report.Goal {
	return []report.Goal{
		most(r, "1MB-front-cpu", body1m, nginx, report.FrontPerGB, 1./25),
		most(r, "10MB-front-cpu", body10m, nginx, report.FrontPerGB, 1./50),
		least(r, "1MB-throughput", body1m, workerAlone, report.Throughput, 0.9),
		least(r, "10MB-throughput", body10m, workerAlone, report.Throughput, 0.9),
		least(r, "1MB-throughput", body1m, nginx, report.Throughput, 3),
		least(r, "10MB-throughput", body10m, nginx, report.Throughput, 3),
	}
}

func latencyGoals(r *report.Run) []report.Goal {
	ours := of(keepAlive1, anteroom, report.P50)
	added := r.Difference(ours, of(keepAlive1, workerAlone, report.P50))
	added.Median /= 1000
	return []report.Goal{
		most(r, "half-load-p99", halfNginx, nginx, report.P99, 1),
		report.AtMost("added-median-latency", added, 25, "µs").Under(ours),
	}
}

func idleGoals(r *report.Run) []report.Goal {
	ours := of(idleMany, anteroom, report.BaseMemory)
	base := r.Spread(ours)
	base.Median /= 1e6
	return []report.Goal{
		most(r, "idle-memory", idleMany, nginx, report.IdleMemory, 1./4),
		report.AtMost("idle-memory-each", r.Spread(of(idleMany, anteroom, report.IdleMemory)), 64, "B").Under(ours),
		report.AtMost("base-memory", base, 25, "MB").Under(ours),
		report.AtMost("idle-cpu", r.Spread(of(idleMany, anteroom, report.RestCPU)), 0.5, "%").Under(ours),
	}
}

// cherootGoals compare with cheroot as it is by default. The report shows it also with room for all connections.
func cherootGoals(r *report.Run) []report.Goal {
	compare := func(name, load string, wanted float64) report.Goal {
		ours := of(load, cherootAnteroom, report.Rate)
		return report.AtLeast(name, r.Ratio(ours, of(load, cherootAlone, report.Rate)), wanted, "").Under(ours)
	}
	return []report.Goal{
		compare("cheroot-requests/alone", cherootBusy, 1),
		compare("cheroot-beside-idle-requests/alone", cherootIdle, 1.5),
	}
}

func failureGoal(r *report.Run) report.Goal {
	return report.AtMost("failed-requests", failedRequests(r), 0, "")
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
