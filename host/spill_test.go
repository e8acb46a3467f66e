package host_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
)

// large is more than the kernel takes for a client that reads nothing.
var large = bytes.Repeat([]byte("0123456789abcdef"), 1<<19)

// serveFinishing is serve with a sidecar that finishes responses.
func serveFinishing(t testing.TB, handler http.HandlerFunc, o host.Options) *served {
	t.Helper()
	checkLeaks(t)
	s := hosttest.Start(t)
	s.AgreeToFinish()
	return serveOn(t, s, &http.Server{Handler: handler, ErrorLog: discardLog()}, o)
}

// dialSlow is a client whose kernel takes little.
func dialSlow(t testing.TB, addr string) *client {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<10) })
		return err
	}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return newClient(t, c)
}

// wantLarge reads a response whose body is large.
func (c *client) wantLarge() answer {
	c.t.Helper()
	got := c.answer("GET")
	if got.status != http.StatusOK || got.body != string(large) {
		c.t.Errorf("%d and %d bytes, want 200 and %d bytes", got.status, len(got.body), len(large))
	}
	return got
}

func (s *served) waitFinishing(t testing.TB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d connections are finished by the sidecar", n), func() bool { return s.sidecar.Counts().Finishing == n })
}

// sendLarge answers with large in many writes.
func sendLarge(w http.ResponseWriter) {
	w.Header().Set("Content-Length", strconv.Itoa(len(large)))
	for rest := large; len(rest) > 0; {
		n, err := w.Write(rest[:min(len(rest), 100_000)])
		if err != nil {
			return
		}
		rest = rest[n:]
	}
}

func TestASlowClientCostsNothingOnceItsResponseIsMade(t *testing.T) {
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			sendLarge(w)
		}
	}, host.Options{Capacity: 1})
	slow := dialSlow(t, s.addr)
	slow.send(get("/large"))
	s.waitFinishing(t, 1)
	other := dial(t, s.addr)
	other.send(get("/other")) // there is capacity for it, though the other client has read nothing
	other.want("GET", "")
	slow.wantLarge()
	slow.send(get("/again")) // and the connection goes on
	slow.want("GET", "")
	if n := s.sidecar.Counts(); n.Finishes != 1 {
		t.Errorf("%d responses were finished by the sidecar, want 1", n.Finishes)
	}
}

// TestManySlowClients: as many as there is capacity for several times over, by memory and by file, and each gets all of its response.
func TestManySlowClients(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, large, 0o600); err != nil {
		t.Fatal(err)
	}
	checkLeaks(t)
	s := serveOn(t, hosttest.Launch(t), &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/memory":
			sendLarge(w)
		case "/file":
			http.ServeFile(w, r, name)
		}
	})}, host.Options{Capacity: 2})
	var slow []*client
	for range 5 {
		for _, path := range []string{"/memory", "/file"} {
			c := dialSlow(t, s.addr)
			c.send(get(path))
			slow = append(slow, c)
		}
	}
	for range 10 {
		other := dial(t, s.addr)
		other.send(get("/other"))
		other.want("GET", "")
	}
	for _, c := range slow {
		c.wantLarge()
		c.send(get("/again"))
		c.want("GET", "")
	}
}

func TestAResponseThatEndsItsConnectionIsFinishedToo(t *testing.T) {
	s := serveFinishing(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		sendLarge(w)
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send(get("/"))
	s.waitFinishing(t, 1)
	c.wantLarge()
	c.wantEnd()
}

func TestFilesAreLeftToTheSidecarWithoutMemory(t *testing.T) {
	name := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(name, large, 0o600); err != nil {
		t.Fatal(err)
	}
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) }, host.Options{Spill: -1})
	c := dialSlow(t, s.addr)
	c.send(get("/"))
	s.waitFinishing(t, 1)
	c.wantLarge()
	c.send("GET / HTTP/1.1\r\nHost: test\r\nRange: bytes=5-" + strconv.Itoa(len(large)-4) + "\r\n\r\n")
	s.waitFinishing(t, 1)
	if got := c.answer("GET"); got.status != http.StatusPartialContent || got.body != string(large[5:len(large)-3]) {
		t.Errorf("%d and %d bytes of a range", got.status, len(got.body))
	}
}

// TestWhatWasPutAsideIsSentWhileTheResponseIsMade: a stream whose client keeps up again gets everything at once.
func TestWhatWasPutAsideIsSentWhileTheResponseIsMade(t *testing.T) {
	read := make(chan struct{})
	s := serveFinishing(t, func(w http.ResponseWriter, _ *http.Request) {
		sendLarge(w)
		<-read
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send(get("/"))
	c.wantLarge()
	close(read)
	eventually(t, "the connection is back", func() bool { return s.sidecar.Counts().Puts == 1 })
}

func TestPipelinedResponsesStayInOrderBehindOneThatWasPutAside(t *testing.T) {
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			sendLarge(w)
			return
		}
		fmt.Fprint(w, r.URL.Path)
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send(get("/large") + get("/second") + get("/large") + get("/last"))
	s.waitFinishing(t, 1)
	c.wantLarge()
	c.want("GET", "/second")
	c.wantLarge()
	c.want("GET", "/last")
}

// TestBeyondTheBoundTheHandlerWaits for its client, and nothing is lost.
func TestBeyondTheBoundTheHandlerWaits(t *testing.T) {
	for _, o := range []host.Options{{Spill: 1 << 20}, {SpillTotal: 1 << 20}, {Spill: -1}} {
		t.Run(fmt.Sprint(o.Spill, o.SpillTotal), func(t *testing.T) {
			s := serveFinishing(t, func(w http.ResponseWriter, _ *http.Request) { sendLarge(w) }, o)
			c := dialSlow(t, s.addr)
			c.send(get("/"))
			c.wantLarge()
			c.send(get("/"))
			c.wantLarge()
		})
	}
}

// TestWithoutASidecarTheHostSendsTheRest itself.
func TestWithoutASidecarTheHostSendsTheRest(t *testing.T) {
	made, goOn := make(chan struct{}), make(chan struct{})
	s := serveFinishing(t, func(w http.ResponseWriter, _ *http.Request) {
		sendLarge(w)
		close(made)
		<-goOn
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send(get("/"))
	<-made
	s.sidecar.Kill()
	eventually(t, "the host has lost its sidecar", func() bool { return s.host.Pool() == "" })
	close(goOn)
	c.wantLarge()
	s.sidecar.Restart()
}

func TestAClientThatGoesEndsWhatWasPutAside(t *testing.T) {
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) {
		sendLarge(w)
		<-r.Context().Done()
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n")
	if _, err := io.ReadFull(c.r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	eventually(t, "the connection is closed", func() bool { n := s.sidecar.Counts(); return n.Leased+n.Finishing+n.Idle == 0 })
}

func TestALeaseThatIsTakenBackDropsWhatWasPutAside(t *testing.T) {
	made := make(chan struct{})
	s := serveFinishing(t, func(w http.ResponseWriter, r *http.Request) {
		sendLarge(w)
		close(made)
		<-r.Context().Done()
	}, host.Options{})
	c := dialSlow(t, s.addr)
	c.send(get("/"))
	<-made
	s.sidecar.CloseLeased()
	if _, err := io.Copy(io.Discard, c.r); err != nil {
		t.Errorf("the client should hear the end: %v", err)
	}
}

// TestClosingWhileWriting: what the client gets is a beginning of the response, whoever wins, and nothing is left over.
func TestClosingWhileWriting(t *testing.T) {
	active := make(chan net.Conn, 1)
	checkLeaks(t)
	sidecar := hosttest.Start(t)
	sidecar.AgreeToFinish()
	s := serveOn(t, sidecar, &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sendLarge(w) }),
		ErrorLog: discardLog(),
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateActive {
				active <- c
			}
		},
	}, host.Options{})
	for range 20 {
		c := dialSlow(t, s.addr)
		c.send(get("/"))
		conn := <-active
		if _, err := c.r.Peek(1); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		got, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(got.Body)
		got.Body.Close()
		if !bytes.HasPrefix(large, body) {
			t.Fatalf("%d bytes that are no beginning of the response", len(body))
		}
	}
}
