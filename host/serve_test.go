package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
)

// httpClient keeps at most n connections, all alive, to be closed with the test.
func httpClient(t testing.TB, n int) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxConnsPerHost: n, MaxIdleConnsPerHost: n}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func TestAKeepAliveConnectionGoesBackBetweenRequests(t *testing.T) {
	for _, test := range []struct {
		name            string
		hold            int
		withDescriptors int
	}{{"keeping descriptors", 0, 1}, {"keeping none", -1, 3}} {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, &http.Server{Handler: echo}, host.Options{Hold: test.hold})
			c := dial(t, s.addr)
			for i := range 3 {
				c.send(get(fmt.Sprint("/", i)))
				c.want("GET", fmt.Sprint("GET /", i, " "))
				eventually(t, "put", func() bool { return s.sidecar.Counts().Puts == i+1 })
			}
			if n := s.sidecar.Counts(); n.Accepted != 1 || n.Leases != 3 || n.WithDescriptor != test.withDescriptors || n.Idle != 1 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestAThousandRequestsOverTwentyConnections(t *testing.T) {
	checkLeaks(t)
	s := serveOn(t, hosttest.Launch(t), &http.Server{Handler: echo}, host.Options{})
	c := httpClient(t, 20)
	var group sync.WaitGroup
	for worker := range 20 {
		group.Go(func() {
			for i := range 50 {
				path := fmt.Sprintf("/%d/%d", worker, i)
				res, err := c.Post("http://"+s.addr+path, "text/plain", strings.NewReader(path))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if want := "POST " + path + " " + path; err != nil || string(body) != want {
					t.Errorf("got %q, %v, want %q", body, err, want)
				}
			}
		})
	}
	group.Wait()
	if s.sidecar != nil {
		// Connections may be more than 20: net/http's client now and then dials one that it then does not use.
		if n := s.sidecar.Counts(); n.Requests < 1000-20 || n.Closes > 0 || n.WithDescriptor > n.Accepted {
			t.Errorf("%+v", n)
		}
	}
}

// scripts are what a raw client may send, and the bodies of the answers it must get. Each is sent as a whole and cut in two at many places.
var scripts = []struct {
	name  string
	send  string
	want  []string
	final bool // the server ends the connection
}{
	{"two pipelined requests", get("/1") + get("/2"), []string{"GET /1 ", "GET /2 "}, false},
	{"pipelined behind a body", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + get("/2"), []string{"POST /1 abc", "GET /2 "}, false},
	{
		"pipelined behind chunks with a trailer",
		"POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: 1\r\n\r\n" + get("/2"),
		[]string{"POST /1 abcde", "GET /2 "}, false,
	},
	{"empty lines around requests", "\r\n" + get("/1") + "\r\n\r\n" + get("/2") + "\r\n", []string{"GET /1 ", "GET /2 "}, false},
	{"HTTP/1.0", "GET /1 HTTP/1.0\r\n\r\n", []string{"GET /1 "}, true},
	{"HTTP/1.0 kept alive", "GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /2 HTTP/1.0\r\n\r\n", []string{"GET /1 ", "GET /2 "}, true},
	{"the client wants to close", "GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", []string{"GET /1 "}, true},
	{
		"the same length twice: no one may guess what follows",
		"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", []string{"POST /1 abc"}, true,
	},
	{
		"both lengths", "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
		[]string{"POST /1 a"}, true,
	},
	{"folding", "GET /1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", []string{"GET /1 "}, true},
	{"a refused CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", []string{"CONNECT  "}, true},
	{"nonsense", "nonsense\r\n\r\n", []string{"400 Bad Request"}, true},
	{"a bad chunk", "POST /1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", nil, true},
}

func TestWhatClientsSend(t *testing.T) {
	checkLeaks(t)
	s := serveOn(t, hosttest.Launch(t), &http.Server{Handler: echo}, host.Options{})
	for _, test := range scripts {
		t.Run(test.name, func(t *testing.T) {
			for cut := 0; cut < len(test.send); cut += 5 {
				c := dial(t, s.addr)
				c.send(test.send[:cut])
				c.send(test.send[cut:])
				for _, want := range test.want {
					if got := c.answer("GET").body; got != want {
						t.Fatalf("cut at %d: got %q, want %q", cut, got, want)
					}
				}
				if test.final {
					c.wantEnd()
				} else {
					c.send(get("/last"))
					c.want("GET", "GET /last ")
				}
				c.Close()
			}
		})
	}
}

func TestPipelinedRequestsAreServedInOneLease(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/1") + get("/2") + get("/3")[:10])
	c.want("GET", "GET /1 ")
	c.want("GET", "GET /2 ")
	c.send(get("/3")[10:])
	c.want("GET", "GET /3 ")
	eventually(t, "put", func() bool { return s.sidecar.Counts().Puts == 1 })
	if n := s.sidecar.Counts(); n.Leases != 1 || n.Requests != 3 {
		t.Errorf("%+v", n)
	}
}

func TestHeadAndExpect(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	c := dial(t, s.addr)
	c.send("HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n")
	c.want("HEAD", "")
	c.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = c.r.ReadString('\n')
	c.send("abc")
	c.want("POST", "POST /2 abc")
	c.send(get("/3"))
	c.want("GET", "GET /3 ")
}

func TestUploadsAndDownloads(t *testing.T) {
	const size = 6 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, data) {
			t.Errorf("%d bytes came up, %v", len(body), err)
		}
		_, _ = w.Write(body)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	checkLeaks(t)
	s := serveOn(t, hosttest.Launch(t), &http.Server{Handler: mux}, host.Options{})
	c := httpClient(t, 1)
	do := func(method, path string, body io.Reader) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.addr+path, body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(&slowReader{res.Body}); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came down, %v", len(got), err)
		}
	}
	for range 2 {
		do("POST", "/echo", bytes.NewReader(data))
		do("POST", "/echo", io.MultiReader(bytes.NewReader(data))) // of unknown length: chunked
		do("GET", "/file", nil)
	}
	if s.sidecar != nil && s.sidecar.Counts().Accepted != 1 {
		t.Errorf("%+v", s.sidecar.Counts())
	}
}

// slowReader lets the kernel's buffers fill up, so that the server must wait.
type slowReader struct{ r io.Reader }

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(20 * time.Microsecond)
	return s.r.Read(p[:min(len(p), 64<<10)])
}

func TestAfterWaitingTheConnectionLeavesThePoller(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
	eventually(t, "waiting in the poller", func() bool { return socketCopies(t) == 3 }) // the sidecar's, the host's, its duplicate
	c.send("bc")
	c.want("POST", "POST / abc")
	eventually(t, "out of the poller", func() bool { return socketCopies(t) == 2 && s.sidecar.Counts().Idle == 1 })
}

// socketCopies counts this process's descriptors of the socket that it has most of: the only client's server end, the fake sidecar's copy among them.
func socketCopies(t testing.TB) int {
	t.Helper()
	own := map[string]int{}
	for _, what := range openDescriptors(t) {
		if strings.HasPrefix(what, "socket:") {
			own[what]++
		}
	}
	most := 0
	for _, n := range own {
		most = max(most, n)
	}
	return most
}

func TestHijackedConnectionsAreDetached(t *testing.T) {
	hijack := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		line, err := rw.ReadString('\n')
		for err == nil {
			_, _ = io.WriteString(c, strings.ToUpper(line))
			line, err = rw.ReadString('\n')
		}
	})
	s := serve(t, &http.Server{Handler: hijack}, host.Options{})
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwith the head\n")
	exchange := func(want string) {
		t.Helper()
		if line, err := c.r.ReadString('\n'); err != nil || line != want {
			t.Errorf("%q, %v, want %q", line, err, want)
		}
	}
	for _, line := range []string{"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", ""} {
		exchange(line + "\r\n")
	}
	exchange("WITH THE HEAD\n")
	eventually(t, "detached", func() bool { return s.sidecar.Counts().Detaches == 1 })
	s.sidecar.Kill() // it has nothing to do with this connection any more
	c.send("later\n")
	exchange("LATER\n")
	if end, ok := c.Conn.(interface{ CloseWrite() error }); !ok || end.CloseWrite() != nil {
		t.Fatal("the client could not end")
	}
	c.wantEnd()
}

func TestAnUpgradeThatIsDeclinedGoesBack(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	c := dial(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
	c.want("GET", "GET / ")
	eventually(t, "put", func() bool { return s.sidecar.Counts().Puts == 1 })
}

func TestHTTP2WithoutTLSIsDetached(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := serve(t, &http.Server{Handler: echo, Protocols: protocols}, host.Options{})
	only2 := new(http.Protocols)
	only2.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: only2}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr}
	for range 2 {
		res, err := c.Get("http://" + s.addr + "/x")
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); err != nil || string(body) != "GET /x " || res.ProtoMajor != 2 {
			t.Errorf("%s %q, %v", res.Proto, body, err)
		}
		res.Body.Close()
	}
	if n := s.sidecar.Counts(); n.Detaches != 1 {
		t.Errorf("%+v", n)
	}
}

func TestHandlersThatPanicEndTheirConnection(t *testing.T) {
	for name, with := range map[string]any{"abort": http.ErrAbortHandler, "panic": "expected"} {
		t.Run(name, func(t *testing.T) {
			srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(with) }), ErrorLog: discardLog()}
			s := serve(t, srv, host.Options{})
			c := dial(t, s.addr)
			c.send(get("/"))
			c.wantEnd()
			if n := s.sidecar.Counts(); n.Closes != 1 || n.Puts != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestBodiesThatNobodyReads(t *testing.T) {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "no thanks") })}
	s := serve(t, srv, host.Options{})
	c := dial(t, s.addr)
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345")
	c.want("POST", "no thanks")
	c.send(get("/"))
	c.want("GET", "no thanks")
	c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n") // more than net/http reads to save a connection
	if !c.want("POST", "no thanks").close {
		t.Error("the connection should have been closed")
	}
	c.wantEnd()
}

func TestTheLastLeaseEndsTheConnection(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	s.sidecar.SetLast(true)
	c := dial(t, s.addr)
	c.send(get("/1") + get("/2"))
	if c.want("GET", "GET /1 ").close {
		t.Error("what was read too is to be served first")
	}
	if !c.want("GET", "GET /2 ").close {
		t.Error("the answer does not say Connection: close")
	}
	c.wantEnd()
	if n := s.sidecar.Counts(); n.Closes != 1 || n.Puts != 0 || n.Requests != 2 {
		t.Errorf("%+v", n)
	}
}

func TestIdleTimeoutIsToldToTheSidecar(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo, IdleTimeout: 50 * time.Millisecond}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	c.want("GET", "GET / ")
	began := time.Now()
	c.wantEnd()
	if took := time.Since(began); took < 20*time.Millisecond || took > patience/2 {
		t.Errorf("the idle connection ended after %v", took)
	}
	if n := s.sidecar.Counts(); n.Forgotten != 1 || n.Closes != 0 {
		t.Errorf("the sidecar should have ended it: %+v", n)
	}
}

func TestReadTimeouts(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo, ReadHeaderTimeout: 50 * time.Millisecond, IdleTimeout: time.Minute}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	c.want("GET", "GET / ")
	c.send("GET / HTTP/1.1\r\nHost:")
	c.wantEnd()
	if n := s.sidecar.Counts(); n.Closes != 1 {
		t.Errorf("%+v", n)
	}
}

func TestWriteTimeout(t *testing.T) {
	failed := make(chan error, 1)
	s := serve(t, &http.Server{WriteTimeout: 50 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var err error
		for chunk := make([]byte, 1<<20); err == nil; {
			_, err = w.Write(chunk)
		}
		failed <- err
	})}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v, want a timeout", err)
	}
}

func TestAClientThatHangsUpCancelsTheRequest(t *testing.T) {
	cancelled := make(chan struct{})
	s := serve(t, &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(cancelled)
	})}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	eventually(t, "leased", func() bool { return s.sidecar.Counts().Leased == 1 })
	c.Close()
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Error("the handler was not told")
	}
	eventually(t, "closed", func() bool { return s.sidecar.Counts().Closes == 1 })
}

func TestALeaseThatIsTakenBackCancelsTheRequest(t *testing.T) {
	begun, cancelled := make(chan struct{}), make(chan error, 1)
	s := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		_, err := w.Write(make([]byte, 64<<10))
		cancelled <- err
	})}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	<-begun
	s.sidecar.CloseLeased()
	if err := <-cancelled; err == nil {
		t.Error("writing should fail")
	}
	c.wantEnd()
	if n := s.sidecar.Counts(); n.Stale != 0 {
		t.Errorf("a lease that was taken back needs no answer: %+v", n)
	}
}

func TestSlowHandlersSeeNextRequestsAndNoEnd(t *testing.T) {
	release := make(chan struct{})
	s := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			select {
			case <-release:
			case <-r.Context().Done():
				t.Error("cancelled")
			}
		}
		fmt.Fprint(w, r.URL.Path)
	})}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/slow"))
	eventually(t, "leased", func() bool { return s.sidecar.Counts().Leased == 1 })
	c.send(get("/next")) // while the host watches the client, from 50 ms on, or before
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	c.want("GET", "/slow")
	c.want("GET", "/next")
}

func TestForgottenConnectionsAreLetGo(t *testing.T) {
	var told atomic.Uint64
	s := serve(t, &http.Server{Handler: echo}, host.Options{Forgotten: func(conn, reason uint64) { told.Store(conn<<8 | reason) }})
	c := dial(t, s.addr)
	c.send(get("/1"))
	c.want("GET", "GET /1 ")
	eventually(t, "idle", func() bool { return s.sidecar.Counts().Idle == 1 })
	s.sidecar.LeaseElsewhere()
	eventually(t, "told", func() bool { return told.Load()&0xff == 1 })
	c.send(get("/2"))
	c.want("GET", "GET /2 ")
	eventually(t, "idle", func() bool { return s.sidecar.Counts().Idle == 1 })
	s.sidecar.CloseIdle()
	c.wantEnd()
	if n := s.sidecar.Counts(); n.WithDescriptor != 2 || n.Forgotten != 2 || n.Nacks != 0 {
		t.Errorf("%+v", n)
	}
}

func TestOnlySoManyDescriptorsAreKept(t *testing.T) {
	const connections, hold = 20, 5
	s := serve(t, &http.Server{Handler: echo}, host.Options{Hold: hold})
	var clients []*client
	for range connections {
		clients = append(clients, dial(t, s.addr))
	}
	for range 2 {
		for _, c := range clients {
			c.send(get("/"))
			c.want("GET", "GET / ")
			eventually(t, "put", func() bool { return s.sidecar.Counts().Leased == 0 && s.sidecar.Counts().Ready == 0 })
		}
	}
	n := s.sidecar.Counts()
	if n.Accepted != connections || n.Requests != 2*connections || n.Dropped != 2*connections-hold || n.Nacks != 0 {
		t.Errorf("%+v", n)
	}
}

func TestMoreClientsThanCapacity(t *testing.T) {
	var now, most atomic.Int32
	s := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		echo(w, r)
	})}, host.Options{Capacity: 2, Hold: 3})
	var group sync.WaitGroup
	client := httpClient(t, 10)
	for range 10 {
		group.Go(func() {
			for range 20 {
				res, err := client.Get("http://" + s.addr + "/")
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	group.Wait()
	if most.Load() > 2 {
		t.Errorf("%d requests at once", most.Load())
	}
}

func TestABareListenerServesToo(t *testing.T) {
	checkLeaks(t)
	sidecar := hosttest.Start(t)
	h, err := host.Attach(t.Context(), host.Options{Path: sidecar.Path(), Private: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l := listenTCP(t)
	if _, err := h.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- http.Serve(h.Listener(), echo) }()
	c := dial(t, l.Addr().String())
	for range 3 {
		c.send(get("/"))
		c.want("GET", "GET / ")
	}
	sidecar.SetLast(true)
	c.send(get("/"))
	c.want("GET", "GET / ")
	c.wantEnd()
	if err := h.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, host.ErrClosed) {
		t.Errorf("Serve ended with %v", err)
	}
}

func TestShutdownOfTheServerPausesTheHost(t *testing.T) {
	srv := &http.Server{Handler: echo}
	checkLeaks(t)
	sidecar := hosttest.Start(t)
	h, err := host.Attach(t.Context(), host.Options{Path: sidecar.Path(), Private: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l := listenTCP(t)
	if _, err := h.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(context.Background(), srv) }()
	c := dial(t, l.Addr().String())
	c.send(get("/1"))
	c.want("GET", "GET /1 ")
	eventually(t, "idle", func() bool { return sidecar.Counts().Idle == 1 })
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve ended with %v", err)
	}
	c.send(get("/2"))
	eventually(t, "waiting for a host", func() bool { return sidecar.Counts().Ready == 1 })
	go func() { ended <- http.Serve(h.Listener(), echo) }()
	c.want("GET", "GET /2 ")
	_ = h.Close()
	if err := <-ended; !errors.Is(err, host.ErrClosed) {
		t.Errorf("the second Serve ended with %v", err)
	}
}
