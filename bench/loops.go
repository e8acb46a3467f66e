package main

import (
	"context"
	"errors"
	"fmt"
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

// The loads of that comparison.
const (
	loops64    = "loops-100B-64"
	loops1000  = "loops-100B-1000"
	loopsFresh = "loops-fresh"
)

func loopsPlan() plan { return loopsOver(9, 3*time.Second) }

func quickLoopsPlan() plan { return loopsOver(2, time.Second) }

func loopsOver(rounds int, d time.Duration) plan {
	keepAlive := func(n int) sharedClient {
		return func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error) {
			return c.Wrk(ctx, url, n/2, 1, d)
		}
	}
	fresh := func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error) {
		return c.Fresh(ctx, url, connections/2, 1, d)
	}
	return plan{title: "One sidecar or two", rounds: rounds, loads: []load{
		loopsLoad(loops64, fmt.Sprintf("two wrk with a thread and 32 keep-alive connections each, 100 bytes, %v", d), keepAlive(64)),
		loopsLoad(loops1000, fmt.Sprintf("two wrk with a thread and 500 keep-alive connections each, 100 bytes, %v", d), keepAlive(1000)),
		loopsLoad(loopsFresh, fmt.Sprintf("two clients with a thread and 32 connections each, every request on a new one, 100 bytes, %v", d), fresh),
	}}
}

func loopsLoad(name, what string, client sharedClient) load {
	return load{name: name, what: what, arrangements: namesOf(loopArrangements), measure: inHalves(client)}
}

// sharedClient is one of two clients that make a load together.
type sharedClient func(ctx context.Context, c *drive.Clients, url string) (drive.Result, error)

// inHalves has two clients at once, each at its own front if there are two.
func inHalves(client sharedClient) measurement {
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
		return m.under(100, func() (drive.Result, error) { return m.atOnce(client, urls) })
	}
}

// atOnce runs a client for each URL and takes their results together.
func (m *moment) atOnce(client sharedClient, urls []string) (drive.Result, error) {
	type outcome struct {
		result drive.Result
		err    error
	}
	outcomes := make(chan outcome, len(urls))
	for _, url := range urls {
		go func() {
			result, err := client(m.ctx, m.clients(), url)
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
	columns := []report.Column{rate, over("rate", report.Rate, loopArrangements[0].Name), over("rate", report.Rate, loopArrangements[2].Name),
		frontCPU, workerCPU, p50, p99, idle}
	return map[string]report.Section{
		loops64:    {Title: "64 keep-alive connections", Columns: columns},
		loops1000:  {Title: "1,000 keep-alive connections", Columns: columns},
		loopsFresh: {Title: "A connection for each request", Columns: columns},
	}
}
