//go:build integration

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client is an HTTP client with one TCP connection, which it never replaces: that a request is answered proves that the connection was
// kept. Not safe for more than one goroutine.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

// answer is a response.
type answer struct {
	status int
	body   string
	last   bool // it says "Connection: close"
}

// greeting is what the application says at /.
type greeting struct {
	Host   string // its container, by which the sidecar knows it too
	Client string // the client's address as it sees it: how the sidecar knows the connection
}

// dial connects a client, which hangs up when the test ends.
func (p *project) dial() *client {
	p.t.Helper()
	c, err := p.connect()
	p.ok(err)
	p.t.Cleanup(c.hangUp)
	return c
}

// connect is dial for other goroutines than the test's. The caller hangs up.
func (p *project) connect() (*client, error) {
	conn, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(p.ctx, func() { conn.Close() }) // so that an interrupted test waits for nothing
	return &client{conn, bufio.NewReader(conn)}, nil
}

// greeted connects clients, and has each of them greeted once. Their connections are idle, or about to be.
func (p *project) greeted(n int) ([]*client, []greeting) {
	p.t.Helper()
	clients, greetings := make([]*client, n), make([]greeting, n)
	for i := range clients {
		clients[i] = p.dial()
		greetings[i] = p.greet(clients[i])
	}
	return clients, greetings
}

func (p *project) greet(c *client) greeting {
	p.t.Helper()
	g, err := c.greet()
	p.ok(err)
	return g
}

// get is the answer to a GET, whatever it is.
func (p *project) get(c *client, path string) answer {
	p.t.Helper()
	p.ok(c.send(http.MethodGet, path, ""))
	a, err := c.receive()
	p.ok(err)
	return a
}

// hold sends a request that is answered after a minute, or when release says so.
func (p *project) hold(c *client) {
	p.t.Helper()
	p.ok(c.send(http.MethodGet, "/slow?seconds=60", ""))
	p.t.Cleanup(func() {
		if p.ctx.Err() == nil {
			p.release() // so that nothing need be waited for when the project goes down
		}
	})
}

// release has the application answer what it holds.
func (p *project) release() {
	p.t.Helper()
	p.docker("kill", "--signal", "USR1", p.containers("app")[0])
}

// echo checks that a client gets back what it sends, and not the answer to something else.
func (p *project) echo(c *client, body string) {
	p.t.Helper()
	p.ok(c.echo(body))
}

// mustEnd checks that the other side ends a client's connection properly, with nothing more to read.
func (p *project) mustEnd(c *client) {
	p.t.Helper()
	p.ok(c.awaitEnd())
}

func (c *client) greet() (g greeting, err error) {
	if err := c.send(http.MethodGet, "/", ""); err != nil {
		return g, err
	}
	return c.receiveGreeting()
}

// receiveGreeting is for a connection that goes on after it.
func (c *client) receiveGreeting() (greeting, error) {
	a, err := c.receive()
	if err != nil {
		return greeting{}, err
	}
	if a.last {
		return greeting{}, fmt.Errorf("the answer %+v ends the connection", a)
	}
	return a.greeting()
}

func (a answer) greeting() (g greeting, err error) {
	if a.status != http.StatusOK {
		return g, fmt.Errorf("the greeting is %+v", a)
	}
	return g, json.Unmarshal([]byte(a.body), &g)
}

func (c *client) echo(body string) error {
	if err := c.send(http.MethodPost, "/echo", body); err != nil {
		return err
	}
	a, err := c.receive()
	if want := (answer{status: http.StatusOK, body: body}); err == nil && a != want {
		err = fmt.Errorf("the echo is %+v; want %+v", a, want)
	}
	return err
}

// send sends a request. Nothing of its answer is read.
func (c *client) send(method, path, body string) error {
	request, err := http.NewRequest(method, "http://"+c.conn.RemoteAddr().String()+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	return errors.Join(c.conn.SetDeadline(time.Now().Add(patience)), request.Write(c.conn))
}

func (c *client) receive() (answer, error) {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return answer{}, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(body), response.Close}, err
}

// occupied is the length of the body that occupy announces: more than the sidecar waits for, so that a host gets the request without it.
const occupied = 1 << 19

// occupy sends a request without its body, so that a host has to wait.
func (c *client) occupy() error {
	_, err := fmt.Fprintf(c.conn, "POST /echo HTTP/1.1\r\nHost: app.example\r\nContent-Length: %d\r\n\r\n", occupied)
	return err
}

// freeAgain sends the body, and checks that it comes back.
func (c *client) freeAgain() error {
	body := strings.Repeat("x", occupied)
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c.conn, body); err != nil {
		return err
	}
	a, err := c.receive()
	if err == nil && a != (answer{status: http.StatusOK, body: body}) {
		err = fmt.Errorf("the echo has %d bytes and status %d; want %d bytes, and to go on", len(a.body), a.status, occupied)
	}
	return err
}

// awaitEnd returns nil when the connection has been ended by a FIN, with nothing before it.
func (c *client) awaitEnd() error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	rest, err := io.ReadAll(c.in)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("before the end came %q", rest)
	}
	return err
}

func (c *client) hangUp() { c.conn.Close() }
