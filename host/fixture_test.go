package host_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

// checkLeaks fails the test if it leaves goroutines or descriptors behind. Cleanups run last in, first out: call it first.
func checkLeaks(t testing.TB) {
	t.Helper()
	http.DefaultClient.CloseIdleConnections()
	before, goroutines := openDescriptors(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		if !eventually(t, "no more descriptors and goroutines than before", func() bool {
			return maps.Equal(before, openDescriptors(t)) && runtime.NumGoroutine() <= goroutines
		}) {
			buf := make([]byte, 1<<20)
			t.Logf("before %v\nafter %v\n%s", before, openDescriptors(t), buf[:runtime.Stack(buf, true)])
		}
	})
}

func openDescriptors(t testing.TB) map[string]string {
	t.Helper()
	open := map[string]string{}
	for range 2 { // the first look opens the runtime's poller
		clear(open)
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(to, "/fd") {
				open[e.Name()] = to
			}
		}
	}
	return open
}

// eventually waits for a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) bool {
	t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("after %v: not %s", patience, what)
			return false
		}
	}
	return true
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func listenTCP(t testing.TB) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// served is a net/http server behind a sidecar, with a listening socket of its own.
type served struct {
	sidecar *hosttest.Sidecar // nil if a real one runs
	running hosttest.Running
	host    *host.Host
	addr    string
	stop    func() error // drains
}

// serve attaches a server to a sidecar of its own.
func serve(t testing.TB, srv *http.Server, o host.Options) *served {
	t.Helper()
	checkLeaks(t)
	s := hosttest.Start(t)
	return serveOn(t, s, srv, o)
}

func serveOn(t testing.TB, s hosttest.Running, srv *http.Server, o host.Options) *served {
	t.Helper()
	o.Path, o.Private, o.Logger = s.Path(), true, quiet()
	h, err := host.Attach(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	l := listenTCP(t)
	if _, err := h.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, srv) }()
	stop := func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(patience):
			return fmt.Errorf("Serve has not returned %v after its context ended", patience)
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Serve: %v", err)
		}
		h.Close()
		l.Close()
	})
	fake, _ := s.(*hosttest.Sidecar)
	return &served{sidecar: fake, running: s, host: h, addr: l.Addr().String(), stop: stop}
}

// client is a raw client: one connection, requests as bytes.
type client struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return newClient(t, c)
}

func newClient(t testing.TB, c net.Conn) *client { return &client{c, t, bufio.NewReader(c)} }

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

// answer is a response that was read.
type answer struct {
	status int
	body   string
	close  bool // it says Connection: close
}

// answer reads the response to a request with the given method.
func (c *client) answer(method string) answer {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("response: %v", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("body: %v", err)
	}
	return answer{res.StatusCode, string(body), res.Close}
}

// want reads the response to a request with the given method, which must be 200 with that body.
func (c *client) want(method, body string) answer {
	c.t.Helper()
	got := c.answer(method)
	if got.status != http.StatusOK || got.body != body {
		c.t.Errorf("got %d %q, want 200 %q", got.status, got.body, body)
	}
	return got
}

// wantEnd checks that the server has ended the connection.
func (c *client) wantEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Errorf("%q, %v: the connection should have ended", rest, err)
	}
}

// echo answers with method, path and body.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
})

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n" }

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
