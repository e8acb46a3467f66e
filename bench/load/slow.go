package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is how many clients of each kind slow has.
type crowd struct {
	Silent int // connect and say nothing
	Head   int // send a byte of a request's head per second
	Body   int // post 64 kB at 1 kB/s
	Read   int // read a response of 1 MB at 10 kB/s
}

func (c crowd) size() int { return c.Silent + c.Head + c.Body + c.Read }

// maxSlow is what one process has descriptors for, where the usual limit is 20,000.
const maxSlow = 15_000

// SlowResult is what slow prints at its end. A connection that has ended, whoever ended it, is at once replaced by another.
type SlowResult struct {
	Clients  int     `json:"clients"`
	Open     int     `json:"open"`     // clients with a connection at the end
	Opened   int     `json:"opened"`   // connections, over all the time
	Ended    int     `json:"ended"`    // by the server, before their request was answered with success
	Answered int     `json:"answered"` // requests
	Seconds  float64 `json:"seconds"`
	Behind   float64 `json:"behind"` // seconds by which the last turn was late: the clients were slower still than they should be
}

// slowKind is one way to be slow: what a client does once a second.
type slowKind struct {
	request []byte // all that the client would say
	atOnce  int    // bytes of it sent when it connects
	send    int    // bytes of it sent per second afterwards
	read    int    // bytes read per second
	options []socketOption
}

// slowClient is one client, with a connection at almost any time.
type slowClient struct {
	kind     *slowKind
	fd       int // -1: none
	sent     int
	response response
}

// slowCrowd takes each client's turn once a second, all in one thread; the turns are spread over the second.
type slowCrowd struct {
	target  *target
	clients []slowClient
	buf     []byte
	result  SlowResult
}

// distant makes a slow reader look like one on an Ethernet, with a small receive buffer. Over loopback with its segments of 64 kB, Linux has
// the server's socket take 2.6 MB that nobody reads, so 1 MB would keep nobody waiting.
var distant = []socketOption{{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460}, {unix.SOL_SOCKET, unix.SO_RCVBUF, 8 << 10}}

const (
	plentyToRead = 64 << 10 // by who is not slow in reading
	slowBody     = 64 << 10
	slowHead     = 8 << 10 // at a byte per second, no end to be seen
)

// slow keeps slow clients until its standard input ends, or for -for. Once all have connected it prints "ready".
func slow(o options) (any, error) {
	if n := o.crowd.size(); n < 1 || n > maxSlow {
		return nil, fmt.Errorf("%d slow clients; there must be 1 to %d: give -silent, -head, -body or -read", n, maxSlow)
	}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that counts
		close(over)
	}()
	c := newSlowCrowd(o)
	defer c.closeAll()
	return &c.result, c.run(o.duration, over, func() { fmt.Println("ready") })
}

func newSlowCrowd(o options) *slowCrowd {
	c := &slowCrowd{target: &o.target, buf: make([]byte, plentyToRead), result: SlowResult{Clients: o.crowd.size()}}
	ask := func(method, path, fields string) []byte {
		return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", method, path, o.target.host, fields)
	}
	head := ask("GET", "/100", "X-Slow: "+strings.Repeat("x", slowHead)+"\r\n")
	post := ask("POST", "/100", fmt.Sprintf("Content-Length: %d\r\n", slowBody))
	read := ask("GET", "/1m", "")
	c.add(o.crowd.Silent, &slowKind{read: plentyToRead})
	c.add(o.crowd.Head, &slowKind{request: head, send: 1, read: plentyToRead})
	c.add(o.crowd.Body, &slowKind{request: append(post, make([]byte, slowBody)...), atOnce: len(post), send: 1000, read: plentyToRead})
	c.add(o.crowd.Read, &slowKind{request: read, atOnce: len(read), read: 10_000, options: distant})
	// All kinds at any time, instead of one after the other.
	rand.New(rand.NewPCG(o.seed, 0)).Shuffle(len(c.clients), func(i, j int) { c.clients[i], c.clients[j] = c.clients[j], c.clients[i] })
	return c
}

func (c *slowCrowd) add(n int, kind *slowKind) {
	for range n {
		c.clients = append(c.clients, slowClient{kind: kind, fd: -1})
	}
}

// doze is the shortest sleep: clients that are due within it have their turns together.
const doze = 10 * time.Millisecond

// run takes turns until it is over. ready is called when everybody has had one.
func (c *slowCrowd) run(d time.Duration, over <-chan struct{}, ready func()) error {
	n := len(c.clients)
	begin := time.Now()
	end := time.After(d)
	for turn := 0; ; turn++ {
		if turn == n {
			ready()
		}
		wait := time.Until(begin.Add(time.Duration(turn) * time.Second / time.Duration(n)))
		c.result.Seconds, c.result.Behind = time.Since(begin).Seconds(), max(0, -wait.Seconds())
		if wait > doze {
			select {
			case <-over:
				return nil
			case <-end:
				return nil
			case <-time.After(wait):
			}
		} else if turn%n == 0 && ended(over, end) { // one that never has time to sleep ends as well
			return nil
		}
		if err := c.takeTurn(turn % n); err != nil {
			return err
		}
	}
}

func ended(over <-chan struct{}, end <-chan time.Time) bool {
	select {
	case <-over:
		return true
	case <-end:
		return true
	default:
		return false
	}
}

// takeTurn has a client do its part of this second, on a new connection if the last one has ended.
func (c *slowCrowd) takeTurn(i int) error {
	client := &c.clients[i]
	if client.fd >= 0 {
		done, err := c.advance(client)
		switch {
		case err != nil:
			c.result.Ended++
		case done:
			c.result.Answered++
		default:
			return nil
		}
		c.close(client)
	}
	return c.open(i, client)
}

// open connects, and says what the client says at once. A server that does not accept is not waited for.
func (c *slowCrowd) open(i int, client *slowClient) error {
	fd, err := c.target.dial(i, unix.SOCK_NONBLOCK, client.kind.options...)
	if err != nil {
		return fmt.Errorf("client %d: %w", i+1, err)
	}
	*client = slowClient{kind: client.kind, fd: fd}
	c.result.Opened++
	c.result.Open++
	_ = client.say(client.kind.atOnce) // if the connection has failed, its next turn will see that
	return nil
}

func (c *slowCrowd) close(client *slowClient) {
	_ = unix.Close(client.fd) // nothing is left to be lost
	client.fd = -1
	c.result.Open--
}

// closeAll leaves the count of open ones as it was.
func (c *slowCrowd) closeAll() {
	for i := range c.clients {
		if fd := c.clients[i].fd; fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// advance sends and reads what one second allows. done says that the request has been answered; an error, that the connection has ended.
func (c *slowCrowd) advance(client *slowClient) (done bool, err error) {
	if err := client.say(max(client.kind.atOnce, client.sent+client.kind.send)); err != nil {
		return false, err
	}
	for left := client.kind.read; left > 0 && !done; {
		n, err := unix.Read(client.fd, c.buf[:left])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("read: %w", err)
		case n == 0:
			return false, io.ErrUnexpectedEOF
		}
		left -= n
		if done, err = client.response.take(c.buf[:n]); err != nil {
			return false, err
		}
	}
	return done, nil
}

// say sends the request up to a number of its bytes. What the kernel does not take is sent at another turn.
func (client *slowClient) say(upTo int) error {
	upTo = min(upTo, len(client.kind.request))
	if upTo <= client.sent {
		return nil
	}
	n, err := unix.Write(client.fd, client.kind.request[client.sent:upTo])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil
	}
	client.sent += max(n, 0)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}
