package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/anteroom-io/anteroom/bench/arrange"
	"github.com/anteroom-io/anteroom/bench/drive"
	"github.com/anteroom-io/anteroom/bench/gauge"
	"github.com/anteroom-io/anteroom/bench/report"
)

// moment is one arrangement, running, in one round.
type moment struct {
	*arrange.Running
	session *session
	ctx     context.Context
	round   int
}

// measurement measures the arrangement that runs.
type measurement func(m *moment) (report.Sample, error)

func (m *moment) url(path string) string { return "http://" + m.Address + path }

func (m *moment) clients() *drive.Clients { return &m.session.clients }

// warmUp lets an arrangement open its connections to workers, grow its buffers and fill its caches: twice as many requests as there are
// connections, in a fifth of a second.
func (m *moment) warmUp(path string, connections int) error {
	return m.warmUpAt(m.url(path), connections)
}

func (m *moment) warmUpAt(url string, connections int) error {
	const d = time.Second / 5
	_, err := m.clients().Rate(m.ctx, url, connections, 2*float64(connections)/d.Seconds(), d)
	return err
}

// saturate has wrk ask for bodies of a size as fast as they come.
func saturate(path string, size, connections int, d time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		if err := m.warmUp(path, connections); err != nil {
			return report.Sample{}, err
		}
		return m.under(size, func() (drive.Result, error) {
			return m.clients().Wrk(m.ctx, m.url(path), connections, 2, d)
		})
	}
}

// offerHalf offers half of the requests per second that an arrangement answered in this round at saturation.
func offerHalf(of func(*moment) string, d time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		full, ok := m.session.run.Value(m.round, keepAlive64, of(m), report.Rate)
		if !ok {
			return report.Sample{}, fmt.Errorf("half of what %s answers under %s is not known: measure that too", of(m), keepAlive64)
		}
		return offer(full/2, d)(m)
	}
}

// offer offers requests per second, at random times.
func offer(rate float64, d time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		if err := m.warmUp("/100", connections); err != nil {
			return report.Sample{}, err
		}
		return m.under(100, func() (drive.Result, error) {
			return m.clients().Rate(m.ctx, m.url("/100"), connections, rate, d)
		})
	}
}

// freshConnections measures connections that carry one request each.
func freshConnections(d time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		if err := m.warmUp("/100", connections); err != nil {
			return report.Sample{}, err
		}
		return m.under(100, func() (drive.Result, error) {
			return m.clients().Fresh(m.ctx, m.url("/100"), connections, 2, d)
		})
	}
}

// besideIdle is saturate with further connections that stay idle meanwhile.
func besideIdle(idle int, d time.Duration) measurement {
	return func(m *moment) (sample report.Sample, err error) {
		held, err := m.clients().Hold(m.ctx, m.url("/100"), idle)
		if err != nil {
			return sample, err
		}
		sample, err = saturate("/100", 100, connections, d)(m)
		lost, releaseErr := held.Release()
		sample.Errors += lost
		return sample, errors.Join(err, releaseErr)
	}
}

// under measures what a client finds and what it costs the servers.
func (m *moment) under(size int, client func() (drive.Result, error)) (report.Sample, error) {
	result, used, err := m.observe(client)
	if err != nil {
		return report.Sample{}, err
	}
	if result.Requests == 0 {
		return report.Sample{}, fmt.Errorf("no request was answered; the client printed:\n%s", result.Raw)
	}
	return sampleOf(result, size, used, len(m.FrontPIDs()) > 0), nil
}

// usage is what a client's run took from the machine.
type usage struct {
	cpu
	gauge.Shares
}

// observe runs a client.
func (m *moment) observe(client func() (drive.Result, error)) (result drive.Result, used usage, err error) {
	ticks, err := gauge.ReadTicks()
	if err != nil {
		return result, used, err
	}
	before, err := m.cpu()
	if err != nil {
		return result, used, err
	}
	if result, err = client(); err != nil {
		return result, used, err
	}
	after, err := m.cpu()
	if err != nil {
		return result, used, err
	}
	now, err := gauge.ReadTicks()
	return result, usage{cpu{after.front - before.front, after.workers - before.workers}, now.Since(ticks)}, err
}

// cpu is the processor time used so far.
type cpu struct{ front, workers time.Duration }

func (m *moment) cpu() (c cpu, err error) {
	if c.front, err = treeCPU(m.FrontPIDs()); err != nil {
		return c, err
	}
	c.workers, err = treeCPU(m.WorkerPIDs())
	return c, err
}

func treeCPU(roots []int) (time.Duration, error) {
	pids, err := trees(roots)
	if err != nil {
		return 0, err
	}
	return gauge.CPU(pids)
}

func trees(roots []int) (pids []int, err error) {
	for _, root := range roots {
		tree, err := gauge.Tree(root)
		if err != nil {
			return nil, err
		}
		pids = append(pids, tree...)
	}
	return pids, nil
}

// largeBody is the size from which on figures per byte say something.
const largeBody = 10_000

func sampleOf(result drive.Result, size int, used usage, hasFront bool) report.Sample {
	sample := report.Sample{Requests: result.Requests, Errors: result.Errors, Raw: result.Raw, Metrics: map[report.Metric]float64{
		report.Rate:        float64(result.Requests) / result.Duration.Seconds(),
		report.MachineIdle: used.Idle,
		report.Stolen:      used.Stolen,
	}}
	if result.Requests > 0 {
		addPerRequest(sample.Metrics, result, size, used, hasFront)
	}
	return sample
}

func addPerRequest(metrics map[report.Metric]float64, result drive.Result, size int, used usage, hasFront bool) {
	requests := float64(result.Requests)
	gibibytes := requests * float64(size) / (1 << 30)
	metrics[report.ClientCPU] = float64(result.Client.Nanoseconds()) / requests
	if size >= largeBody {
		metrics[report.Throughput] = gibibytes * 1024 / result.Duration.Seconds()
	}
	if hasFront {
		metrics[report.FrontCPU] = float64(used.front.Nanoseconds()) / requests
	}
	if hasFront && size >= largeBody {
		metrics[report.FrontPerGB] = used.front.Seconds() / gibibytes
	}
	if used.workers > 0 {
		metrics[report.WorkerCPU] = float64(used.workers.Nanoseconds()) / requests
	}
	if result.P50 > 0 {
		metrics[report.P50], metrics[report.P99] = float64(result.P50.Nanoseconds()), float64(result.P99.Nanoseconds())
	}
}
