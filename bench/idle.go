package main

import (
	"context"
	"errors"
	"time"

	"github.com/anteroom-io/anteroom/bench/gauge"
	"github.com/anteroom-io/anteroom/bench/report"
)

// settle is how long connections that have just been opened, or closed, may occupy the front before its memory is read.
const settle = time.Second

// restWithIdle measures what connections cost that do nothing: memory, and processor time over a while.
func restWithIdle(count int, rest time.Duration) measurement {
	return func(m *moment) (report.Sample, error) {
		before, err := m.holdings()
		if err != nil {
			return report.Sample{}, err
		}
		held, err := m.clients().Hold(m.ctx, m.url("/100"), count)
		if err != nil {
			return report.Sample{}, err
		}
		after, used, err := m.restFor(rest)
		lost, releaseErr := held.Release()
		if err := errors.Join(err, releaseErr); err != nil {
			return report.Sample{}, err
		}
		grown := after.own.Data - before.own.Data
		return report.Sample{Requests: count, Errors: lost, Metrics: map[report.Metric]float64{
			report.BaseMemory:   float64(after.own.PSS - grown), // parts of the program that were read in meanwhile belong to it
			report.IdleMemory:   float64(grown) / float64(count),
			report.KernelMemory: float64(after.kernel.Slab+after.kernel.Buffers-before.kernel.Slab-before.kernel.Buffers) / float64(count),
			report.RestCPU:      100 * used.Seconds() / rest.Seconds(),
		}}, nil
	}
}

// holdings is memory, of the front and of the kernel.
type holdings struct {
	own    gauge.Memory
	kernel gauge.Kernel
}

// holdings reads the memory of a front that has worked already, so that what it needs anyway is not counted to the connections to come.
func (m *moment) holdings() (h holdings, err error) {
	if err := m.warmUp("/100", connections); err != nil {
		return h, err
	}
	return m.settled()
}

func (m *moment) settled() (h holdings, err error) {
	if err := pause(m.ctx, settle); err != nil {
		return h, err
	}
	pids, err := trees(m.FrontPIDs())
	if err != nil {
		return h, err
	}
	if h.own, err = gauge.MemoryOf(pids); err != nil {
		return h, err
	}
	h.kernel, err = gauge.KernelMemory()
	return h, err
}

// restFor reads the memory and then waits, doing nothing, to see what the front does.
func (m *moment) restFor(d time.Duration) (h holdings, used time.Duration, err error) {
	if h, err = m.settled(); err != nil {
		return h, 0, err
	}
	before, err := m.cpu()
	if err != nil {
		return h, 0, err
	}
	if err := pause(m.ctx, d); err != nil {
		return h, 0, err
	}
	after, err := m.cpu()
	return h, after.front - before.front, err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
