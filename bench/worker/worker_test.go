package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

const request = "GET /100 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"

// pair returns a client's end, as a file, and the worker's, non-blocking.
func pair(t *testing.T) (client *os.File, server int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil {
		t.Fatal(err)
	}
	client = os.NewFile(uintptr(fds[0]), "client")
	t.Cleanup(func() { _ = client.Close() })
	return client, fds[1]
}

// ownedPair is pair, with the worker's end closed when the test is over.
func ownedPair(t *testing.T) (client *os.File, server int) {
	t.Helper()
	client, server = pair(t)
	t.Cleanup(func() { _ = unix.Close(server) })
	return client, server
}

func send(t *testing.T, to io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

// expectAnswer reads a response with a body of 100 bytes, and says whether it announces to be the last.
func expectAnswer(t *testing.T, from *bufio.Reader) (last bool) {
	t.Helper()
	response, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, response.Body)
	response.Body.Close()
	if err != nil || n != 100 || response.StatusCode != http.StatusOK {
		t.Fatalf("%s with %d bytes, error %v, want 200 with 100", response.Status, n, err)
	}
	return response.Close
}

func TestServeInSteps(t *testing.T) {
	client, fd := ownedPair(t)
	c, buf := &connection{fd: fd}, make([]byte, 4096)
	reader := bufio.NewReader(client)
	if got := c.serve(buf); got != wantRead {
		t.Fatalf("with nothing there: %d, want wantRead", got)
	}
	for range 2 {
		send(t, client, request[:20])
		if got := c.serve(buf); got != wantRead {
			t.Fatalf("with half a head: %d, want wantRead", got)
		}
		send(t, client, request[20:])
		if got := c.serve(buf); got != served || c.last {
			t.Fatalf("with a whole head: %d, want served", got)
		}
		expectAnswer(t, reader)
	}
	send(t, client, strings.Replace(request, "keep-alive", "close", 1))
	if got := c.serve(buf); got != served || !c.last {
		t.Fatalf("with Connection: close: %d, last %v", got, c.last)
	}
	if !expectAnswer(t, reader) {
		t.Error("the response does not say that it is the last")
	}
}

func TestServeEndsWithWhatItDoesNotServe(t *testing.T) {
	for name, text := range map[string]string{
		"POST":      strings.Replace(request, "GET", "POST", 1),
		"pipelined": request + request,
		"too long":  "GET /100 HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead),
	} {
		t.Run(name, func(t *testing.T) {
			client, fd := ownedPair(t)
			send(t, client, text)
			if got := (&connection{fd: fd}).serve(make([]byte, 64<<10)); got != gone {
				t.Errorf("serve = %d, want gone", got)
			}
		})
	}
}

func TestServeALargeBody(t *testing.T) {
	client, fd := ownedPair(t)
	c, buf := &connection{fd: fd}, make([]byte, 4096)
	send(t, client, strings.Replace(request, "/100", "/10m", 1))
	step := c.serve(buf)
	if step != wantWrite {
		t.Fatalf("10 MiB at once: %d, want wantWrite", step)
	}
	received := make(chan int64)
	go func() {
		n, _ := io.CopyN(io.Discard, client, int64(len(answers["/10m"].keep)))
		received <- n
	}()
	for ; step == wantWrite; step = c.serve(buf) {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 5000); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-received; step != served || n != int64(len(answers["/10m"].keep)) {
		t.Errorf("step %d, %d bytes received", step, n)
	}
}

func TestServeAllocatesNothing(t *testing.T) {
	client, fd := ownedPair(t)
	c, buf, reply := &connection{fd: fd}, make([]byte, 4096), make([]byte, 4096)
	message := []byte(request)
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = client.Write(message)
		if c.serve(buf) != served {
			t.Error("not served")
		}
		_, _ = client.Read(reply)
	})
	if allocs != 0 {
		t.Errorf("%v allocations per request", allocs)
	}
}

// sidecar is the other end of a hosted worker's socket.
type sidecar struct {
	t    *testing.T
	sock int
	in   handoff.Inbox
	out  handoff.Outbox
}

func newHosted(t *testing.T) (*hosted, *sidecar) {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range []int{l.epoll, fds[0], fds[1]} {
			_ = unix.Close(fd)
		}
	})
	return &hosted{loop: l, sock: fds[0], held: map[uint64]*connection{}}, &sidecar{t: t, sock: fds[1]}
}

// tell sends a frame to the worker and lets it act.
func (s *sidecar) tell(h *hosted, f handoff.Frame, fd int) {
	s.t.Helper()
	if fd >= 0 {
		s.out.AddFD(&f, fd)
	} else {
		s.out.Add(&f)
	}
	if err := s.out.Flush(s.sock); err != nil {
		s.t.Fatal(err)
	}
	if err := h.ready(h.sock, unix.EPOLLIN); err != nil {
		s.t.Fatal(err)
	}
	if err := h.flush(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sidecar) expect(want handoff.Frame) {
	s.t.Helper()
	if err := s.in.Recv(s.sock); err != nil {
		s.t.Fatal(err)
	}
	var got handoff.Frame
	if _, ok, err := s.in.Next(&got); !ok || err != nil {
		s.t.Fatalf("no frame, error %v", err)
	}
	if got.Type != want.Type || got.Conn != want.Conn || got.Seq != want.Seq || got.A != want.A || got.B != want.B {
		s.t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestHostedKeepsTheDescriptor(t *testing.T) {
	h, s := newHosted(t)
	client, fd := pair(t)
	reader := bufio.NewReader(client)

	send(t, client, request)
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Seq: 1, Conn: 7}, fd)
	s.expect(handoff.Frame{Type: handoff.TypePut, Seq: 1, Conn: 7, B: 1})
	expectAnswer(t, reader)

	send(t, client, request)
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Seq: 2, Conn: 7}, -1)
	s.expect(handoff.Frame{Type: handoff.TypePut, Seq: 2, Conn: 7, B: 1})
	expectAnswer(t, reader)

	if err := unix.Close(fd); err != nil { // the sidecar's own descriptor; now only the worker's is left
		t.Fatal(err)
	}
	s.tell(h, handoff.Frame{Type: handoff.TypeForget, Conn: 7, A: handoff.ForgetExpired}, -1)
	if _, err := reader.ReadByte(); err != io.EOF {
		t.Errorf("after FORGET the client read %v, want EOF: the worker's descriptor is not closed", err)
	}
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Seq: 3, Conn: 7}, -1)
	s.expect(handoff.Frame{Type: handoff.TypeNack, Seq: 3, Conn: 7, A: handoff.NackUnknown})
}

func TestHostedEndsConnections(t *testing.T) {
	h, s := newHosted(t)
	client, fd := ownedPair(t)
	reader := bufio.NewReader(client)

	send(t, client, request)
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Flags: handoff.FlagLast, Seq: 1, Conn: 7}, fd)
	s.expect(handoff.Frame{Type: handoff.TypeClose, Seq: 1, Conn: 7, A: handoff.CloseDone, B: 1})
	if !expectAnswer(t, reader) {
		t.Error("LAST was not told to the client")
	}
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Flags: handoff.FlagSilent, Seq: 2, Conn: 8}, fd)
	s.expect(handoff.Frame{Type: handoff.TypeClose, Seq: 2, Conn: 8, A: handoff.CloseTooSlow, B: 1})
	if len(h.held) != 0 {
		t.Errorf("%d connections are still held", len(h.held))
	}
}

func TestHostedWaitsForTheRestOfAHead(t *testing.T) {
	h, s := newHosted(t)
	client, fd := ownedPair(t)

	send(t, client, request[:10])
	s.tell(h, handoff.Frame{Type: handoff.TypeLease, Seq: 1, Conn: 7}, fd)
	c := h.held[7]
	if c.armed != unix.EPOLLIN {
		t.Fatalf("armed for %#x, want EPOLLIN", c.armed)
	}
	send(t, client, request[10:])
	if err := h.ready(c.fd, unix.EPOLLIN); err != nil {
		t.Fatal(err)
	}
	if err := h.flush(); err != nil {
		t.Fatal(err)
	}
	s.expect(handoff.Frame{Type: handoff.TypePut, Seq: 1, Conn: 7, B: 1})
	if c.armed != 0 {
		t.Errorf("after PUT still armed for %#x", c.armed)
	}
	expectAnswer(t, bufio.NewReader(client))
}

func TestAnswersAreWhatTheirPathsSay(t *testing.T) {
	for path, size := range map[string]int{"/100": 100, "/10k": 10_000, "/1m": 1 << 20, "/10m": 10 << 20} {
		for _, response := range [][]byte{answers[path].keep, answers[path].last} {
			_, body, found := bytes.Cut(response, headEnd)
			if !found || len(body) != size {
				t.Errorf("%s has a body of %d bytes, want %d", path, len(body), size)
			}
		}
	}
}
