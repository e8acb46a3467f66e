package manager

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// readyRig's listener waits for whole requests.
func readyRig(t *testing.T, limits Limits) *rig {
	r := newRig(t, Config{Limits: limits})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	return r
}

func (p *peer) wantQuiet() {
	p.t.Helper()
	if f, _, err := p.read(0); err != errQuiet {
		p.t.Fatalf("got %s %+v, %v; want nothing", f.Type, f, err)
	}
}

func TestAWorkerSeesOnlyWholeRequests(t *testing.T) {
	r := readyRig(t, Limits{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	request := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789"
	head := len(request) - 10
	for i := range len(request) - 1 {
		c.send(request[i : i+1])
		if i%8 == 0 { // the loop has looked at it
			r.eventually("the byte has been looked at", func(Counts) bool { return true })
		}
	}
	h.wantQuiet()
	c.send(request[len(request)-1:])
	lease, fd := h.want(handoff.TypeLease)
	if lease.A != uint64(head)|uint64(len(request))<<32 {
		t.Fatalf("lengths %d, %d; want %d, %d", uint32(lease.A), lease.A>>32, head, len(request))
	}
	h.serve(fd, request, "ok")
	closeFD(fd)
	h.send(put(lease))
	c.want("ok")

	c.send("GET / HTTP/1.1\r\n\r\n") // the low-water mark is not left behind
	lease, fd = h.want(handoff.TypeLease)
	h.serve(fd, "GET / HTTP/1.1\r\n\r\n", "ok")
	closeFD(fd)
	h.send(put(lease))
}

func TestABodyTooLongToWaitForComesWithItsHead(t *testing.T) {
	r := readyRig(t, Limits{WaitBody: 100})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	request := "POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n"
	c.send(request)
	lease, fd := h.want(handoff.TypeLease)
	if lease.A != uint64(len(request)) {
		t.Fatalf("lengths %x", lease.A)
	}
	closeFD(fd)
}

func TestALargeBodyWaitsInTheKernel(t *testing.T) {
	r := readyRig(t, Limits{WaitBody: 1 << 20})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	head := "POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"
	go func() { _, _ = c.Write([]byte(head + strings.Repeat("x", 1000000))) }()
	lease, fd := h.want(handoff.TypeLease)
	if lease.A != uint64(len(head))|uint64(len(head)+1000000)<<32 {
		t.Fatalf("lengths %d, %d", uint32(lease.A), lease.A>>32)
	}
	closeFD(fd)
}

func TestRequestsThatNoHostGets(t *testing.T) {
	const body = "Content-Type: text/plain; charset=utf-8\r\n"
	for _, c := range []struct {
		name, request, status string
		limits                Limits
		reason                Reason
	}{
		{"malformed", "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400 Bad Request", Limits{}, ReasonMalformed},
		{"slow", "GET / HTTP/1.1\r\n", "408 Request Timeout", Limits{RequestTimeout: 50 * time.Millisecond}, ReasonSlow},
		{"body too long", "POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", "413 Request Entity Too Large", Limits{Body: 999}, ReasonBodyTooLong},
		{"head too long", "GET / HTTP/1.1\r\nA: " + strings.Repeat("a", 200), "431 Request Header Fields Too Large", Limits{Head: 100}, ReasonHeadTooLong},
		{"no host in time", "GET / HTTP/1.1\r\n\r\n", "503 Service Unavailable", Limits{QueueTimeout: 20 * time.Millisecond}, ReasonQueueTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := readyRig(t, c.limits)
			client := r.dial()
			client.send(c.request)
			client.want("HTTP/1.1 " + c.status + "\r\n")
			rest := make([]byte, 4096)
			n, _ := client.Read(rest)
			if got := string(rest[:n]); !strings.Contains(got, body) || !strings.HasSuffix(got, "\r\n\r\n"+c.status+"\n") {
				t.Errorf("the rest is %q", got)
			}
			client.wantEnd()
			_ = client.Close()
			r.eventually("it is counted", func(n Counts) bool {
				return n.Totals.ClosedFor(c.reason) == 1 && n.Totals.Answered == 1 && n.States.Sum() == 0
			})
		})
	}
}

func TestAnAnswerToHEADHasNoBody(t *testing.T) {
	r := readyRig(t, Limits{})
	c := r.dial()
	c.send("HEAD / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	if !strings.HasSuffix(string(b[:n]), "\r\n\r\n") {
		t.Errorf("answer %q", b[:n])
	}
	c.wantEnd()
}

func TestAHalfRequestOfAClientThatSendsNoMoreIsHandedOver(t *testing.T) {
	r := readyRig(t, Limits{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("GET / HT")
	r.eventually("it is idle", func(c Counts) bool { return c.States.Idle == 1 })
	_ = c.CloseWrite()
	_, fd := h.want(handoff.TypeLease)
	closeFD(fd)
}

// TestATrickleWakesOncePerArrival would spin if a partial request were watched without a low-water mark, or a Unix socket with a one-shot.
func TestATrickleWakesOncePerArrival(t *testing.T) {
	r := newRig(t, Config{})
	r.attach(handoff.Hello{})
	path := t.TempDir() + "/web.sock"
	if err := r.AddListener(r.open("unix://"+path), ListenerOptions{Ready: ReadyRequest}); err != nil {
		t.Fatal(err)
	}
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	for _, c := range []*client{r.dial(), r.dialUnix(path)} {
		before := r.turns()
		for range 20 {
			c.send("G")
			time.Sleep(time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		if woken := r.turns() - before; woken > 60 {
			t.Errorf("%s: the loop turned %d times for 20 bytes", c.LocalAddr().Network(), woken)
		}
	}
}

// What came together with a request, behind its end, is told no more by the selector: it came before.
func TestARequestBehindAnotherIsFound(t *testing.T) {
	for name, head := range map[string]int{"a short head": 10, "a head too long for its length to be told": 70_000} {
		t.Run(name, func(t *testing.T) {
			r := readyRig(t, Limits{Head: 1 << 17})
			h := r.attach(handoff.Hello{Features: []string{handoff.FeatureCache}})
			c := r.dial()
			first := "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", head) + "\r\n\r\n"
			c.send(first + "GET /2 HTTP/1.1\r\n\r\n")
			lease, fd := h.want(handoff.TypeLease)
			defer closeFD(fd)
			b := make([]byte, len(first))
			if n, _, err := unix.Recvfrom(fd, b, unix.MSG_WAITALL); n != len(b) || err != nil {
				t.Fatal(n, err)
			}
			h.send(put(lease))
			lease, _ = h.want(handoff.TypeLease)
			h.serve(fd, "GET /2 HTTP/1.1\r\n\r\n", "2")
			h.send(put(lease))
			c.want("2")
		})
	}
}
