package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/report"
)

// What several loops in one sidecar could win at most is what several sidecars win: they share nothing. So one sidecar with all workers and
// clients is compared with two, each with half of both.
var loopArrangements = []arrange.Arrangement{
	{Name: "one-sidecar-2-workers", Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 2, Ready: "head"},
	{Name: "two-sidecars-2-workers", Front: arrange.Anteroom, Threads: 1, Fronts: 2, Worker: arrange.Worker, Workers: 2, Ready: "head"},
	{Name: "one-sidecar-4-workers", Front: arrange.Anteroom, Threads: 1, Worker: arrange.Worker, Workers: 4, Ready: "head"},
	{Name: "two-sidecars-4-workers", Front: arrange.Anteroom, Threads: 1, Fronts: 2, Worker: arrange.Worker, Workers: 4, Ready: "head"},
}

func loopsPlan() plan { return loopsOver(9, 3*time.Second) }

func quickLoopsPlan() plan { return loopsOver(2, time.Second) }

// loopsOver has a load for each number of workers and each kind of clients.
func loopsOver(rounds int, d time.Duration) plan {
	p := plan{title: "One sidecar or two", rounds: rounds}
	for i := 0; i < len(loopArrangements); i += 2 {
		of := namesOf(loopArrangements[i : i+2])
		for _, c := range loopClients(d) {
			p.loads = append(p.loads, load{name: c.name + "-" + strconv.Itoa(loopArrangements[i].Workers) + "-workers", arrangements: of,
				what: c.what, measure: inHalves(c.run)})
		}
	}
	return p
}

// runHalf runs a client at a URL.
type runHalf func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error)

// halfClient is one of two clients that make a load together.
type halfClient struct {
	name string
	what string // both of them
	run  runHalf
}

func loopClients(d time.Duration) []halfClient {
	keepAlive := func(n int) halfClient {
		return halfClient{fmt.Sprintf("loops-100B-%d", n), fmt.Sprintf("two wrk with a thread and %d keep-alive connections each, 100 bytes, %v", n/2, d),
			func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error) {
				return c.Wrk(ctx, url, n/2, 1, d)
			}}
	}
	return []halfClient{keepAlive(64), keepAlive(1000),
		{"loops-fresh", fmt.Sprintf("two clients with a thread and %d connections each, every request on a new one, 100 bytes, %v", connections/2, d),
			func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error) {
				return c.Fresh(ctx, url, connections/2, 1, d)
			}}}
}

// inHalves has two clients at once, each at its own front if there are two.
func inHalves(run runHalf) measurement {
	return func(m *moment) (report.Sample, error) {
		urls := []string{m.url("/100"), m.url("/100")}
		for i, address := range m.Further {
			urls[i+1] = "http://" + address + "/100"
		}
		for _, url := range urls {
			if err := m.warmUpAt(url, connections/2); err != nil {
				return report.Sample{}, err
			}
		}
		return m.under(100, func() (drive.Result, error) { return m.atOnce(run, urls) })
	}
}

// atOnce runs a client for each URL and takes their results together.
func (m *moment) atOnce(run runHalf, urls []string) (drive.Result, error) {
	type outcome struct {
		result drive.Result
		err    error
	}
	outcomes := make(chan outcome, len(urls))
	for _, url := range urls {
		go func() {
			result, err := run(m.ctx, m.clients(), url)
			outcomes <- outcome{result, err}
		}()
	}
	var results []drive.Result
	var errs []error
	for range urls {
		o := <-outcomes
		results, errs = append(results, o.result), append(errs, o.err)
	}
	return together(results), errors.Join(errs...)
}

// together adds up what ran at the same time. Of latencies it keeps the worst.
func together(results []drive.Result) (all drive.Result) {
	var raw []string
	for _, r := range results {
		all.Requests += r.Requests
		all.Errors += r.Errors
		all.Client += r.Client
		all.Duration, all.P50, all.P99 = max(all.Duration, r.Duration), max(all.P50, r.P50), max(all.P99, r.P99)
		raw = append(raw, r.Raw)
	}
	all.Raw = strings.Join(raw, "\n")
	return all
}

// loopsSections are the tables, by load.
func loopsSections() map[string]report.Section {
	sections := map[string]report.Section{}
	for _, l := range loopsPlan().loads {
		one := l.arrangements[0]
		sections[l.name] = report.Section{Title: l.name, Columns: []report.Column{rate, over("rate", report.Rate, one), frontCPU,
			over("front CPU", report.FrontCPU, one), workerCPU, p50, p99, idle}}
	}
	return sections
}
