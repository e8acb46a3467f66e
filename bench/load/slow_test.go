package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// observer is a server that notes how much of each client's request it has read, and whom it answers.
type observer struct {
	mu       sync.Mutex
	accepted int
	read     map[net.Conn]*strings.Builder
}

// observe accepts until the test ends, and reads what comes.
func observe(t *testing.T) (*observer, target) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{read: map[net.Conn]*strings.Builder{}}
	var readers sync.WaitGroup
	readers.Go(func() { o.accept(l, &readers) })
	t.Cleanup(func() {
		_ = l.Close()
		readers.Wait()
	})
	where, err := parseTarget("http://" + l.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	return o, where
}

func (o *observer) accept(l net.Listener, readers *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		text := &strings.Builder{}
		o.mu.Lock()
		o.accepted++
		o.read[conn] = text
		o.mu.Unlock()
		readers.Go(func() { o.follow(conn, text) })
	}
}

func (o *observer) follow(conn net.Conn, text *strings.Builder) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		o.mu.Lock()
		text.Write(buf[:n])
		o.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// texts is what all clients of a method, or all that are silent, have said.
func (o *observer) texts(beginning string) (said []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, text := range o.read {
		if s := text.String(); strings.HasPrefix(s, beginning) && (beginning != "" || s == "") {
			said = append(said, s)
		}
	}
	return said
}

// runCrowd has a crowd take its turns for a while.
func runCrowd(t *testing.T, o options) SlowResult {
	t.Helper()
	c := newSlowCrowd(o)
	defer c.closeAll()
	ready := false
	if err := c.run(o.duration, nil, func() { ready = true }); err != nil {
		t.Fatal(err)
	}
	if !ready && o.duration > time.Second {
		t.Error("they were never ready")
	}
	return c.result
}

func TestSlowClientsSayLittle(t *testing.T) {
	t.Parallel()
	server, where := observe(t)
	result := runCrowd(t, options{target: where, duration: 2300 * time.Millisecond, crowd: crowd{Silent: 3, Head: 4, Body: 5}})
	if result.Open != 12 || result.Opened != 12 || result.Ended != 0 || result.Answered != 0 {
		t.Fatalf("%+v", result)
	}
	if silent := server.texts(""); len(silent) != 3 {
		t.Errorf("%d were silent", len(silent))
	}
	// A head's first byte comes with the second turn; a machine that is busy may have seen fewer turns, never more.
	heads := server.texts("G")
	if len(heads) != 4 {
		t.Errorf("%d send heads", len(heads))
	}
	for _, said := range heads {
		if len(said) > 2 {
			t.Errorf("a head of %d bytes after two turns: %q", len(said), said)
		}
	}
	bodies := server.texts("POST /100 HTTP/1.1\r\n")
	if len(bodies) != 5 {
		t.Errorf("%d post", len(bodies))
	}
	for _, said := range bodies {
		_, body, found := strings.Cut(said, "\r\n\r\n")
		if !found || len(body)%1000 != 0 || len(body) > 2000 {
			t.Errorf("a body of %d bytes after two turns", len(body))
		}
	}
}

// What a slow reader does not take, its server cannot send: the response is not done.
func TestSlowReadersReadLittle(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	where, err := parseTarget("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newSlowCrowd(options{target: where, crowd: crowd{Read: 1}})
	defer c.closeAll()
	if err := c.takeTurn(0); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// With a buffer as small as the client's, what is in flight is known: far less than the response.
	if err := conn.(*net.TCPConn).SetWriteBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	sent, err := conn.Write(append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"), make([]byte, 1<<20)...))
	if err == nil || sent > 256<<10 {
		t.Errorf("%d bytes were taken from the server at once (%v)", sent, err)
	}
	before := c.clients[0].response.body
	for range 2 {
		if err := c.takeTurn(0); err != nil {
			t.Fatal(err)
		}
		if left := c.clients[0].response.body; before-left > 10_000 {
			t.Errorf("%d bytes in one turn", before-left)
		} else {
			before = left
		}
	}
	if c.result.Open != 1 || c.result.Ended != 0 || c.result.Answered != 0 || before == 0 || before == 1<<20 {
		t.Errorf("%+v, %d bytes to come", c.result, before)
	}
}

// A server that ends slow connections has them back at once: the pressure stays.
func TestSlowClientsComeBack(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() { // ends with the listening socket
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
		}
	})
	where, err := parseTarget("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	result := runCrowd(t, options{target: where, duration: 2300 * time.Millisecond, crowd: crowd{Silent: 4, Head: 4}})
	_ = l.Close()
	done.Wait()
	if result.Open != 8 || result.Opened != 8+result.Ended || result.Ended < 8 || result.Answered != 0 {
		t.Errorf("%+v", result)
	}
}

func TestAnsweredSlowClientsAskAnew(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("short")) }))
	defer s.Close()
	where, err := parseTarget(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	result := runCrowd(t, options{target: where, duration: 1500 * time.Millisecond, crowd: crowd{Read: 3}})
	if result.Answered < 1 || result.Opened != result.Answered+3 || result.Ended != 0 {
		t.Errorf("%+v", result)
	}
}

func TestASlowCrowdIsBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []crowd{{}, {Silent: maxSlow, Read: 1}} {
		if _, err := slow(options{crowd: c}); err == nil {
			t.Errorf("no error for %+v", c)
		}
	}
}
