package polyglot

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// client is one TCP connection, which is never replaced: that all its requests are answered proves that it was kept.
type client struct {
	net.Conn
	in *bufio.Reader
}

// exchange is a request and the answer that it must get.
type exchange struct {
	method, path string
	body         string // of the request
	chunked      bool   // the request
	status       int    // 200 if it is 0
	want         string // the answer's body
	streamed     bool   // the answer comes in chunks
}

// What may become of a request, if not the right answer.
var (
	errWrong = errors.New("a wrong answer")           // never right, whatever dies
	errLost  = errors.New("the request is lost")      // what may happen when its host dies
	errLast  = errors.New("the connection is closed") // after the right answer
)

func dial(address string) (*client, error) {
	conn, err := net.DialTimeout("tcp", address, processes.Patience)
	if err != nil {
		return nil, err
	}
	return &client{conn, bufio.NewReader(conn)}, nil
}

// dial connects a client, which hangs up when the test ends.
func (st *stage) dial() *client {
	st.t.Helper()
	return mustDial(st.t, st.sidecar)
}

func mustDial(t testing.TB, s *processes.Sidecar) *client {
	t.Helper()
	c, err := dial(s.Web[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// do sends a request and judges its answer.
func (c *client) do(x exchange) error {
	echo, err := c.send(x)
	if err != nil {
		return err
	}
	return c.receive(x, echo)
}

// must is do where the test ends with a failure.
func (c *client) must(t testing.TB, x exchange) {
	t.Helper()
	if err := c.do(x); err != nil {
		t.Fatal(err)
	}
}

var sent atomic.Uint64

// send sends a request whose answer is to repeat the number returned. No two have the same.
func (c *client) send(x exchange) (echo string, err error) {
	request, err := http.NewRequest(x.method, "http://app.example"+x.path, strings.NewReader(x.body))
	if err != nil {
		return "", err
	}
	if x.chunked {
		request.ContentLength = -1
	}
	echo = strconv.FormatUint(sent.Add(1), 10)
	request.Header.Set("X-Echo", echo)
	if err := errors.Join(c.SetDeadline(time.Now().Add(processes.Patience)), request.Write(c)); err != nil {
		return "", fmt.Errorf("%v: %w", x, ended(err))
	}
	return echo, nil
}

// receive judges the answer to a request that was sent.
func (c *client) receive(x exchange, echo string) error {
	a, err := c.answer(x.method)
	if err != nil {
		return fmt.Errorf("%v: %w", x, err)
	}
	switch {
	case a.status != cmp.Or(x.status, http.StatusOK):
		return fmt.Errorf("%w: %v: status %d, %.60q", errWrong, x, a.status, a.body)
	case a.echo != echo:
		return fmt.Errorf("%w: %v: X-Echo is %q, want %q", errWrong, x, a.echo, echo)
	case a.body != x.want:
		return fmt.Errorf("%w: %v: %d bytes %.60q, want %d bytes %.60q", errWrong, x, len(a.body), a.body, len(x.want), x.want)
	case x.streamed && !a.streamed:
		return fmt.Errorf("%w: %v: it is not chunked", errWrong, x)
	case a.last:
		return fmt.Errorf("%w: %v", errLast, x)
	}
	return nil
}

func (x exchange) String() string { return x.method + " " + x.path }

// answer is what came.
type answer struct {
	status   int
	body     string
	echo     string
	streamed bool
	last     bool // it says "Connection: close"
}

// answer reads the next answer. One by which the sidecar says that the host has died is a lost request.
func (c *client) answer(method string) (answer, error) {
	response, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		return answer{}, ended(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, ended(err)
	}
	if response.StatusCode == http.StatusBadGateway && response.Close {
		return answer{}, fmt.Errorf("%w: its host has died", errLost)
	}
	return answer{response.StatusCode, string(body), response.Header.Get("X-Echo"), slices.Contains(response.TransferEncoding, "chunked"), response.Close}, nil
}

// ended: an end of the connection is a lost request, silence is wrong.
func ended(err error) error {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%w: none within %v", errWrong, processes.Patience)
	}
	return fmt.Errorf("%w: %w", errLost, err)
}

// get is the body of an answer that nobody can foresee.
func (c *client) get(t testing.TB, path string) string {
	t.Helper()
	if _, err := c.send(exchange{method: "GET", path: path}); err != nil {
		t.Fatal(err)
	}
	a, err := c.answer("GET")
	if err != nil || a.status != http.StatusOK || a.last {
		t.Fatalf("GET %s: %+v, %v", path, a, err)
	}
	return strings.TrimSpace(a.body)
}

// held is the length of the body of a held request: longer than what the sidecar waits for, so that a host gets the request with its head.
const held = 1 << 19

// hold sends a request whose host waits for its body, until release sends that.
func (c *client) hold() error {
	_, err := fmt.Fprintf(c, "POST /echo HTTP/1.1\r\nHost: app.example\r\nContent-Length: %d\r\n\r\n", held)
	return errors.Join(c.SetDeadline(time.Now().Add(processes.Patience)), err)
}

func (c *client) release() error {
	body := strings.Repeat("x", held)
	if _, err := io.WriteString(c, body); err != nil {
		return err
	}
	return c.receive(exchange{method: "POST", path: "/echo", want: body}, "")
}

// letters are what the app says at /bytes and /stream.
func letters(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz"
	return strings.Repeat(alphabet, n/len(alphabet)+1)[:n]
}
