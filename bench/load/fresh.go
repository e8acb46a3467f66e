package main

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// FreshResult is what fresh prints: requests answered, each on a connection of its own that has been followed to the server's FIN.
type FreshResult struct {
	Requests int     `json:"requests"`
	Errors   int     `json:"errors"`
	Seconds  float64 `json:"seconds"`
}

// freshClient keeps a number of connections going in one thread: connect, ask, read up to the end, again.
type freshClient struct {
	poll    *poll
	target  *target
	request []byte
	conns   []freshConn
	dialled int
	result  FreshResult
}

type freshConn struct {
	fd       int
	asked    bool
	done     bool // the response is complete, the FIN is not here
	response response
}

func fresh(o options) (any, error) {
	results := make(chan FreshResult, o.threads)
	failures := make(chan error, o.threads)
	for thread := range o.threads {
		go func() {
			result, err := freshThread(o, thread)
			results <- result
			failures <- err
		}()
	}
	var total FreshResult
	var errs []error
	for range o.threads {
		result := <-results
		errs = append(errs, <-failures)
		total.Requests += result.Requests
		total.Errors += result.Errors
		total.Seconds = max(total.Seconds, result.Seconds)
	}
	return &total, errors.Join(errs...)
}

// freshThread does one thread's share of the connections.
func freshThread(o options, thread int) (FreshResult, error) {
	runtime.LockOSThread()
	p, err := newPoll()
	if err != nil {
		return FreshResult{}, err
	}
	share := max(o.connections/o.threads, 1)
	c := &freshClient{poll: p, target: &o.target, request: o.target.request("close"), conns: make([]freshConn, share), dialled: thread}
	for i := range c.conns {
		if err := c.begin(i); err != nil {
			return FreshResult{}, err
		}
	}
	begin := time.Now()
	for time.Since(begin) < o.duration {
		if err := c.step(); err != nil {
			return FreshResult{}, err
		}
	}
	c.result.Seconds = time.Since(begin).Seconds()
	return c.result, nil
}

// begin opens the next connection in place i.
func (c *freshClient) begin(i int) error {
	fd, err := c.target.dial(c.dialled, unix.SOCK_NONBLOCK)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	c.dialled++
	c.conns[i] = freshConn{fd: fd}
	return c.poll.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLOUT, i)
}

func (c *freshClient) step() error {
	events, err := c.poll.wait(10)
	if err != nil {
		return err
	}
	for i := range events {
		if err := c.advance(int(events[i].Fd)); err != nil {
			return err
		}
	}
	return nil
}

func (c *freshClient) advance(i int) error {
	conn := &c.conns[i]
	ended, err := c.advanceConn(i, conn)
	switch {
	case err != nil:
		c.result.Errors++
	case ended:
		c.result.Requests++
	default:
		return nil
	}
	_ = unix.Close(conn.fd) // nothing is left to be lost
	return c.begin(i)
}

func (c *freshClient) advanceConn(i int, conn *freshConn) (ended bool, err error) {
	if !conn.asked {
		conn.asked = true
		if _, err := unix.Write(conn.fd, c.request); err != nil {
			return false, err
		}
		return false, c.poll.watch(unix.EPOLL_CTL_MOD, conn.fd, unix.EPOLLIN, i)
	}
	p, ok, err := c.poll.read(conn.fd)
	if err != nil || !ok {
		return false, err
	}
	return conn.take(p)
}

func (conn *freshConn) take(p []byte) (ended bool, err error) {
	switch {
	case len(p) == 0 && conn.done:
		return true, nil
	case len(p) == 0:
		return false, errors.New("the server hung up before its response was complete")
	}
	conn.done, err = conn.response.take(p)
	return false, err
}
