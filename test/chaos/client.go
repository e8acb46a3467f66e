package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// client sends request after request on one connection and checks each response.
type client struct {
	place *place
	name  string
	rand  *rand.Rand
	pace  time.Duration // between requests, at most

	conn   net.Conn
	r      *bufio.Reader
	served int    // on this connection
	last   uint64 // number of the last request that was served on it
}

// answerTime is how long a response may take. A client that waits longer has lost its connection.
const answerTime = 20 * time.Second

var lastSeq atomic.Uint64

// errEnded: not a byte of a response came before the end of the connection.
var errEnded = errors.New("the connection ended")

func newClient(p *place, n int, seed int64) *client {
	return &client{place: p, name: "c" + strconv.Itoa(n), rand: rand.New(rand.NewSource(seed)), pace: []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond}[n%4]}
}

func (c *client) run(ctx context.Context) {
	defer c.drop()
	for ctx.Err() == nil {
		if c.conn == nil && !c.dial() {
			continue
		}
		c.exchange()
		time.Sleep(time.Duration(c.rand.Int63n(int64(c.pace) + 1)))
		if c.rand.Intn(500) == 0 {
			c.drop() // new connections, too
		}
	}
}

func (c *client) dial() bool {
	conn, err := net.DialTimeout("tcp", c.place.address, answerTime)
	if err != nil {
		c.place.report.unexplained("dial", 0, err)
		time.Sleep(100 * time.Millisecond)
		return false
	}
	c.conn, c.r, c.served, c.last = conn, bufio.NewReader(conn), 0, 0
	return true
}

func (c *client) drop() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// exchange sends one request and judges what comes back.
func (c *client) exchange() {
	seq := lastSeq.Add(1)
	size := []int{0, 10, 1000, 100_000}[c.rand.Intn(4)]
	sent := []int{0, 0, 100, maxBody}[c.rand.Intn(4)]
	report := c.place.report
	report.sent.Add(1)
	_ = c.conn.SetDeadline(time.Now().Add(answerTime))
	response, body, err := c.ask(seq, size, sent) //nolint:bodyclose // ask has closed it
	switch {
	case err != nil:
		c.place.brokenOff(seq, c.last, fmt.Errorf("%s, request %d of its connection: %w", c.name, c.served+1, err))
		c.drop()
	case response.StatusCode == http.StatusBadGateway:
		c.place.badGateway(seq, fmt.Sprintf("%s at %v", c.name, c.conn.LocalAddr()))
		c.drop()
	case response.StatusCode != http.StatusOK:
		report.unexplained("status", seq, fmt.Errorf("%s: %s: %s", c.name, response.Status, body))
		c.drop()
	case response.Header.Get("X-Seq") != strconv.FormatUint(seq, 10) || response.Header.Get("X-Client") != c.name:
		report.unexplained("another's response", seq, fmt.Errorf("%s got that of %s to %s", c.name, response.Header.Get("X-Client"), response.Header.Get("X-Seq")))
		c.drop()
	case !bytes.Equal(body, content(seq, size)):
		report.unexplained("body", seq, fmt.Errorf("%s: %d bytes of %d, or others", c.name, len(body), size))
		c.drop()
	default:
		report.answered.Add(1)
		c.served, c.last = c.served+1, seq
		if response.Close {
			c.drop()
		}
	}
}

func (c *client) ask(seq uint64, size, sent int) (*http.Response, []byte, error) {
	head := fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: chaos\r\nX-Seq: %d\r\nX-Client: %s\r\nX-Size: %d\r\nX-Pause: %d\r\nContent-Length: %d\r\n\r\n",
		seq, seq, c.name, size, c.rand.Intn(6), sent)
	request := append([]byte(head), content(seq, sent)...)
	for len(request) > 0 { // sometimes in pieces
		n := len(request)
		if c.rand.Intn(10) == 0 {
			n = 1 + c.rand.Intn(n)
		}
		if _, err := c.conn.Write(request[:n]); errors.Is(err, unix.EPIPE) {
			return nil, nil, errEnded
		} else if err != nil {
			return nil, nil, err
		}
		if request = request[n:]; len(request) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if _, err := c.r.Peek(1); errors.Is(err, io.EOF) {
		return nil, nil, errEnded
	}
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(response.Body)
	return response, body, errors.Join(err, response.Body.Close())
}
