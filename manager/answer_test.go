package manager

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

func TestConfiguredAnswers(t *testing.T) {
	answers := Answers{400: {Body: "<p>No.", ContentType: "text/html", Headers: []Header{{"Cache-Control", "no-store"}, {"X-A", "b"}}, RetryAfter: 7}}
	r := newRig(t, Config{Answers: answers})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
	for method, body := range map[string]string{"GET": "<p>No.", "HEAD": ""} {
		c := r.dial()
		c.send(method + " / HTTP/1.1\r\nContent-Length: x\r\n\r\n")
		text, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		head, rest, _ := strings.Cut(string(text), "\r\n\r\n")
		for _, line := range []string{
			"HTTP/1.1 400 Bad Request", "Content-Type: text/html", "Cache-Control: no-store", "X-A: b", "Retry-After: 7", "Connection: close",
		} {
			if !strings.Contains(head+"\r\n", line+"\r\n") {
				t.Errorf("%s: the head lacks %q: %q", method, line, head)
			}
		}
		if rest != body {
			t.Errorf("%s: the body is %q", method, rest)
		}
		_ = c.Close()
	}
	r.eventually("they are counted", func(c Counts) bool { return c.Totals.Answers[0] == 2 && c.Totals.Answered == 2 })
}

// The sidecar's own answer to a HEAD has the fields of the one to a GET, its Content-Length
// included, and no body, also behind empty lines; the answer to a GET has its body, also if a host
// has read the request.
func TestEveryAnswerToHEADIsBodiless(t *testing.T) {
	const body = "configured"
	limits := Limits{Head: 100, QueueTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second}
	for status, c := range map[int]struct {
		request string
		then    func(r *rig)
	}{
		400: {request: " / HTTP/1.1\r\nA : b\r\n\r\n"},
		408: {request: " / HTTP/1.1\r\n", then: func(r *rig) { r.leap(10 * time.Second) }},
		431: {request: " / HTTP/1.1\r\nA: " + strings.Repeat("a", 100)},
		502: {request: " / HTTP/1.1\r\n\r\n", then: func(r *rig) {
			h := r.attach(handoff.Hello{})
			_, fd := h.want(handoff.TypeLease)
			readSome(t, fd, 18)
			closeFD(fd)
			h.close()
		}},
		503: {request: " / HTTP/1.1\r\n\r\n", then: func(r *rig) { r.leap(10 * time.Second) }},
		504: {request: " / HTTP/1.1\r\n\r\n", then: func(r *rig) {
			h := r.attach(handoff.Hello{})
			lease, fd := h.want(handoff.TypeLease)
			readSome(t, fd, 18)
			closeFD(fd)
			if _, err := r.Revoke(context.Background(), []ConnID{ConnID(lease.Conn)}); err != nil {
				t.Error(err)
			}
		}},
	} {
		for _, begin := range []string{"HEAD", "\r\nHEAD", "GET", "\r\nGET"} {
			t.Run(fmt.Sprintf("%d to %q", status, begin), func(t *testing.T) {
				r := newRig(t, Config{Limits: limits, Answers: Answers{status: {Body: body}}})
				r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest})
				client := r.dial()
				client.send(begin + c.request)
				if c.then != nil {
					r.eventually("it has been looked at", func(Counts) bool { return r.peekedAny() })
					c.then(r)
				}
				want := body
				if strings.HasSuffix(begin, "HEAD") {
					want = ""
				}
				client.wantAnswer(status, want)
			})
		}
	}
}

// wantAnswer reads an answer of the sidecar's whose Content-Length is 10, and the end.
func (c *client) wantAnswer(status int, body string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	text, err := io.ReadAll(c)
	if err != nil {
		c.t.Fatal(err)
	}
	head, got, _ := strings.Cut(string(text), "\r\n\r\n")
	begin, length := "HTTP/1.1 "+strconv.Itoa(status)+" ", "\r\nContent-Length: 10"
	if !strings.HasPrefix(head, begin) || !strings.Contains(head, length) || got != body {
		c.t.Errorf("%q, body %q; want %d and %q", head, got, status, body)
	}
}

// peekedAny reports whether the loop has looked at anything.
func (r *rig) peekedAny() bool {
	n, err := ask(context.Background(), r.Manager, func() (int, error) { return r.peeked, nil })
	return err == nil && n > 0
}

func TestAnswersThatCannotBe(t *testing.T) {
	for name, a := range map[string]Answers{
		"a status of hosts":     {200: {}},
		"a body too long":       {503: {Body: strings.Repeat("x", MaxAnswerBody+1)}},
		"headers too long":      {503: {Headers: []Header{{"A", strings.Repeat("x", MaxAnswerHeaders)}}}},
		"a header that is ours": {503: {Headers: []Header{{"content-Length", "1"}}}},
		"another head":          {503: {Headers: []Header{{"A", "b\r\n\r\n"}}}},
		"no header":             {503: {Headers: []Header{{"A b", "c"}}}},
		"no content type":       {503: {ContentType: "text/html\n"}},
		"a wait too long":       {503: {RetryAfter: MaxRetryAfter + 1}},
	} {
		if err := a.Check(); err == nil {
			t.Errorf("%s: it is taken", name)
		}
		if _, err := New(Config{Answers: a}); err == nil {
			t.Errorf("%s: a manager takes it", name)
		}
	}
}

func TestEveryStatusIsCounted(t *testing.T) {
	if n := len(Totals{}.Answers); n != len(answerStatuses) {
		t.Fatalf("there is room for %d statuses, and there are %d", n, len(answerStatuses))
	}
	for _, why := range Reasons() {
		if status := statusFor(why); status != 0 && http.StatusText(status) == "" {
			t.Errorf("%v: status %d", why, status)
		}
	}
}

const upload11 = "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n"

func continuing(t *testing.T) *rig {
	r := newRig(t, Config{})
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{Ready: ReadyRequest, Continue: true})
	return r
}

// The client is told to go on, once, and the worker sees a whole request.
func TestAClientThatAsksBeforeItsBody(t *testing.T) {
	r := continuing(t)
	h := r.attach(handoff.Hello{})
	c := r.dial()
	for range 2 {
		c.send(upload11)
		c.want("HTTP/1.1 100 Continue\r\n\r\n")
		h.wantQuiet()
		c.send("he")
		r.settled("he")
		h.wantQuiet()
		c.send("llo")
		lease, fd := h.want(handoff.TypeLease)
		if lease.A>>32 != uint64(len(upload11)+5) {
			t.Errorf("the request is %d bytes long", lease.A>>32)
		}
		h.answer(lease, fd, upload11+"hello", "ok")
		c.want("ok")
	}
}

func TestWhoIsNotToldToGoOn(t *testing.T) {
	r := continuing(t)
	h := r.attach(handoff.Hello{Capacity: 8})
	for name, request := range map[string]string{
		"the body is there": upload11 + "hello",
		"it will be long":   "POST / HTTP/1.1\r\nContent-Length: 1000000000\r\nExpect: 100-continue\r\n\r\n",
		"something else":    "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: more\r\n\r\n",
		"two expectations":  "POST / HTTP/1.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\nExpect: more\r\n\r\n",
	} {
		c := r.dial()
		c.send(request)
		lease, fd := h.want(handoff.TypeLease)
		h.answer(lease, fd, request, "ok")
		c.want("ok") // and nothing before it
		_ = name
	}
	begun := r.dial()
	begun.send(upload11 + "hel")
	r.settled("hel")
	h.wantQuiet()
	begun.send("lo")
	lease, fd := h.want(handoff.TypeLease)
	h.answer(lease, fd, upload11+"hello", "ok")
	begun.want("ok")
}

// By default such a request goes to its host with its head: a client that waits must not stall.
func TestExpectIsHandedOver(t *testing.T) {
	r := readyRig(t, Limits{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send(upload11)
	lease, fd := h.want(handoff.TypeLease)
	if lease.A != uint64(len(upload11)) {
		t.Errorf("lengths %x", lease.A)
	}
	closeFD(fd)
}

func TestLeaseWaitsAreCounted(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, 30 * time.Second, time.Minute} {
		h.add(d)
	}
	if h.Buckets[0] != 2 || h.Buckets[1] != 1 || h.Buckets[16] != 1 || h.Buckets[17] != 1 || h.Sum != 90*time.Second+201*time.Microsecond {
		t.Errorf("%+v", h)
	}
	if len(h.Buckets) != len(HistogramBounds())+1 {
		t.Errorf("%d buckets for %d bounds", len(h.Buckets), len(HistogramBounds()))
	}
	r := newRig(t, Config{})
	c := r.dial()
	c.send("x")
	r.eventually("it waits", func(c Counts) bool { return c.States.Ready == 1 })
	r.leap(7 * time.Second)
	_, fd := r.attach(handoff.Hello{}).want(handoff.TypeLease)
	closeFD(fd)
	if w := r.counts().Totals.LeaseWaits; w.Buckets[15] != 1 || w.Sum < 7*time.Second {
		t.Errorf("waits: %+v", w)
	}
}
