package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// RateResult is what rate prints. Latencies are in nanoseconds, from when a request was due, not from when it was sent: a server (or this
// client) that falls behind makes later requests late, and that is counted ("coordinated omission" would leave it out).
type RateResult struct {
	Requests int         `json:"requests"`
	Errors   int         `json:"errors"`
	Seconds  float64     `json:"seconds"`
	Latency  percentiles `json:"latency"`
	SendLag  percentiles `json:"send_lag"` // how late this client was with a request whose connection was free
}

// patience is how long the last responses may take once no more requests are due.
const patience = 2 * time.Second

// rateClient offers requests at random times (a Poisson process), which are the same for every server. Connections take turns; a
// request whose connection is busy waits for it, its clock running. The thread never sleeps, so that no wake-up of its own is measured.
type rateClient struct {
	poll     *poll
	request  []byte
	conns    []*rateConn
	begin    time.Time
	lat, lag []time.Duration
	open     int // requests that are due and not answered
	failed   int
}

type rateConn struct {
	fd       int
	response response
	due      []time.Duration // of the requests that are not answered, the first of them is sent
}

func rate(o options) (any, error) {
	runtime.LockOSThread()
	c, err := newRateClient(o)
	if err != nil {
		return nil, err
	}
	c.begin = time.Now()
	if err := c.offer(o); err != nil {
		return nil, err
	}
	if err := c.finish(); err != nil {
		return nil, err
	}
	return &RateResult{Requests: len(c.lat), Errors: c.failed + c.open, Seconds: o.duration.Seconds(), Latency: percentilesOf(c.lat),
		SendLag: percentilesOf(c.lag)}, nil
}

func newRateClient(o options) (*rateClient, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	expected := int(o.rate*o.duration.Seconds()*1.2) + 1000
	c := &rateClient{poll: p, request: o.target.request("keep-alive"), lat: make([]time.Duration, 0, expected), lag: make([]time.Duration, 0, expected)}
	for i := range o.connections {
		fd, err := o.target.dial(i, 0)
		if err != nil {
			return nil, fmt.Errorf("connecting: %w", err)
		}
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
		c.conns = append(c.conns, &rateConn{fd: fd})
		if err := p.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, i); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *rateClient) offer(o options) error {
	random := rand.New(rand.NewPCG(o.seed, 0))
	gap := float64(time.Second) / o.rate
	next := time.Duration(0)
	for turn := 0; ; turn++ {
		next += time.Duration(random.ExpFloat64() * gap)
		if next >= o.duration {
			return nil
		}
		if err := c.collectUntil(next); err != nil {
			return err
		}
		c.ask(c.conns[turn%len(c.conns)], next)
	}
}

// collectUntil takes responses until a time, at least once.
func (c *rateClient) collectUntil(until time.Duration) error {
	for {
		if err := c.collect(); err != nil {
			return err
		}
		if time.Since(c.begin) >= until {
			return nil
		}
	}
}

// finish waits for the last responses.
func (c *rateClient) finish() error {
	deadline := time.Now().Add(patience)
	for c.open > 0 && time.Now().Before(deadline) {
		if err := c.collect(); err != nil {
			return err
		}
	}
	return nil
}

func (c *rateClient) ask(conn *rateConn, due time.Duration) {
	if conn.fd < 0 {
		c.failed++
		return
	}
	c.open++
	conn.due = append(conn.due, due)
	if len(conn.due) == 1 {
		c.lag = append(c.lag, time.Since(c.begin)-due)
		c.send(conn)
	}
}

func (c *rateClient) send(conn *rateConn) {
	if n, err := unix.Write(conn.fd, c.request); err != nil || n != len(c.request) {
		c.fail(conn)
	}
}

func (c *rateClient) collect() error {
	events, err := c.poll.wait(0)
	if err != nil {
		return err
	}
	for i := range events {
		if conn := c.conns[events[i].Fd]; conn.fd >= 0 {
			c.receive(conn)
		}
	}
	return nil
}

func (c *rateClient) receive(conn *rateConn) {
	p, ok, err := c.poll.read(conn.fd)
	if err == nil && !ok {
		return
	}
	done := false
	if err == nil {
		done, err = conn.take(p)
	}
	switch {
	case err != nil:
		c.fail(conn)
	case done:
		c.answered(conn)
	}
}

func (conn *rateConn) take(p []byte) (bool, error) {
	if len(p) == 0 || len(conn.due) == 0 {
		return false, errors.New("the server hung up, or answered what nobody asked")
	}
	return conn.response.take(p)
}

func (c *rateClient) answered(conn *rateConn) {
	c.lat = append(c.lat, time.Since(c.begin)-conn.due[0])
	conn.due = conn.due[:copy(conn.due, conn.due[1:])]
	c.open--
	if len(conn.due) > 0 {
		c.send(conn)
	}
}

// fail gives a connection up, with all that waits for it.
func (c *rateClient) fail(conn *rateConn) {
	c.failed += len(conn.due)
	c.open -= len(conn.due)
	_ = unix.Close(conn.fd)
	conn.fd, conn.due = -1, nil
}
