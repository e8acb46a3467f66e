package conformance

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// Case is one thing that is asked of a host.
type Case struct {
	Name     string `json:"name"`
	Requires string `json:"requires"` // one sentence
	Rule     string `json:"rule"`     // where PROTOCOL.md or docs/hosts.md say so

	run func(*T)
	own bool // the case starts and ends the program itself
}

// T is a case that runs. Its methods end the case when what they want does not come, as those of testing.TB do.
type T struct {
	*session
	conns []*connection // of this case
}

// stop is what a case panics with to end itself.
type stop struct {
	outcome Outcome
	reason  string
}

func (t *T) failf(format string, args ...any) { panic(stop{Fail, fmt.Sprintf(format, args...)}) }
func (t *T) skipf(format string, args ...any) { panic(stop{Skip, fmt.Sprintf(format, args...)}) }

// need skips the case unless the host has asked for the feature.
func (t *T) need(k *link, feature string) {
	if !k.agreed(feature) {
		t.skipf("the host did not ask for the feature %q", feature)
	}
}

// must ends the case with an error that is none of the host's.
func must[V any](v V, err error) V {
	if err != nil {
		panic(stop{Fail, "the kit itself: " + err.Error()})
	}
	return v
}

// await waits for a condition, which is looked at with the sidecar's mutex held. what completes the sentence "the host has not …".
func (t *T) await(ok func() bool, what string, args ...any) {
	switch err := t.sidecar.wait(t.opts.Timeout, t.process.ended, ok); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		t.failf("after %v the host has not %s", t.opts.Timeout, fmt.Sprintf(what, args...))
	case err != nil && !t.holds(ok):
		t.failf("the program ended (%s) and has not %s", t.process.result, fmt.Sprintf(what, args...))
	}
}

// holds looks at a condition now.
func (t *T) holds(ok func() bool) bool {
	t.sidecar.mu.Lock()
	defer t.sidecar.mu.Unlock()
	return ok()
}

// poll is await for what nothing announces: what /proc and the kernel's queues show.
func (t *T) poll(ok func() bool, what string, args ...any) {
	for until := time.Now().Add(t.opts.Timeout); !ok(); time.Sleep(pollPause) {
		if time.Now().After(until) {
			t.failf("after %v the host has not %s", t.opts.Timeout, fmt.Sprintf(what, args...))
		}
	}
}

const pollPause = 5 * time.Millisecond

// link is a host that serves: the first that is attached, once there is one.
func (t *T) link() (k *link) {
	t.await(func() bool {
		if live := t.sidecar.liveLocked(); len(live) > 0 {
			k = live[0]
		}
		return k != nil
	}, "attached")
	return k
}

// room is a host that may be given one more lease.
func (t *T) room() (k *link) {
	t.await(func() bool {
		for _, l := range t.sidecar.liveLocked() {
			if l.leases < l.capacity {
				k = l
			}
		}
		return k != nil
	}, "room for one more lease")
	return k
}

// connect makes a client's connection.
func (t *T) connect() *connection { return t.connectWindow(0) }

func (t *T) connectWindow(window int) *connection {
	c := must(t.sidecar.connect(window))
	t.conns = append(t.conns, c)
	return c
}

// lend leases a connection to a host: with its descriptor, unless the host keeps that.
func (t *T) lend(k *link, c *connection) *lease { return t.lendFlags(k, c, 0) }

func (t *T) lendFlags(k *link, c *connection, flags handoff.Flags) *lease {
	held := t.holds(func() bool { return c.holder == k })
	if held {
		t.barrier(k) // a DROPPED that is on its way must count
		held = t.holds(func() bool { return c.holder == k })
	}
	l, f := c.begin(k, flags)
	if held {
		k.send(&f)
		return l
	}
	t.deliver(k, l, f)
	return l
}

// deliver sends a LEASE with the descriptor.
func (t *T) deliver(k *link, l *lease, f handoff.Frame) {
	f.Flags |= handoff.FlagFD
	k.write(f.Append(nil), l.c.fd)
}

// barrier waits until the host has taken all that was sent, and said all that it says at once. A host that is busy need not answer in time.
func (t *T) barrier(k *link) {
	const mark = 1<<40 + 7
	n := 0
	before := func() bool { n = len(k.pongs); return true }
	t.holds(before)
	k.send(&handoff.Frame{Type: handoff.TypePing, A: mark})
	_ = t.sidecar.wait(barrierTime, t.process.ended, func() bool { return len(k.pongs) > n || k.gone })
}

const barrierTime = 500 * time.Millisecond

// settle has every host say what it says at once beyond what the case waited for: while the case is there, it is this case's fault.
func (t *T) settle() {
	var live []*link
	t.holds(func() bool { live = t.sidecar.liveLocked(); return true })
	for _, k := range live {
		t.barrier(k)
	}
}

// say sends what a client says.
func (t *T) say(c *connection, text string) {
	_ = c.tcp.SetWriteDeadline(time.Now().Add(t.opts.Timeout))
	if _, err := c.tcp.Write([]byte(text)); err != nil {
		t.failf("the client cannot send: %v", err)
	}
}

// hear reads a response.
func (t *T) hear(c *connection, method string) answer {
	a, err := c.response(method, t.opts.Timeout)
	if err != nil {
		t.failf("to %s: %v%s", c.asked(), err, t.ending())
	}
	return a
}

// ending says so if the program has ended.
func (t *T) ending() string {
	if t.process.running() {
		return ""
	}
	return fmt.Sprintf(" (the program ended: %s)", t.process.result)
}

func (c *connection) asked() string { return fmt.Sprintf("the request on connection %d", c.id) }

// answered waits for the answer to a lease, which must be of one of these types.
func (t *T) answered(l *lease, want ...handoff.Type) *handoff.Frame {
	t.await(func() bool { return l.answer != nil || l.link.gone }, "answered the lease of connection %d (%s)", l.c.id, either(want))
	f := l.answer
	if f == nil {
		t.failf("the host hung up and has not answered the lease of connection %d (%s)", l.c.id, either(want))
	}
	for _, w := range want {
		if f.Type == w {
			return f
		}
	}
	t.failf("the lease of connection %d was answered with %s (a=%d), not with %s", l.c.id, f.Type, f.A, either(want))
	return nil
}

func either(types []handoff.Type) string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = t.String()
	}
	return strings.Join(names, " or ")
}

// put waits until a lease whose response was read has been put, and checks that the put came no sooner than it may.
func (t *T) put(l *lease) *handoff.Frame {
	f := t.answered(l, handoff.TypePut, handoff.TypeFinish)
	if f.Type == handoff.TypeFinish {
		if f.Flags&handoff.FlagClose != 0 {
			t.failf("the lease of connection %d was answered with FINISH and CLOSE, not put", l.c.id)
		}
		t.await(func() bool { return l.restDone }, "left a file to FINISH that can be sent")
	}
	if l.written+l.rest < l.c.consumed {
		t.failf("connection %d was put when the kernel had %d bytes of its responses, the client has read %d: write all of it before PUT",
			l.c.id, l.written+l.rest, l.c.consumed)
	}
	return f
}

// closed waits until a lease was closed.
func (t *T) closed(l *lease) {
	f := t.answered(l, handoff.TypeClose, handoff.TypeFinish)
	if f.Type == handoff.TypeFinish && f.Flags&handoff.FlagClose == 0 {
		t.failf("the lease of connection %d was answered with FINISH without CLOSE, it should be closed", l.c.id)
	}
}

// get asks for a path; its lease ends with a put.
func (t *T) get(k *link, c *connection, path string) answer {
	return t.exchange(k, c, "GET", request("GET", path))
}

// exchange is a whole request and its lease, which ends with a put.
func (t *T) exchange(k *link, c *connection, method, text string) answer {
	t.say(c, text)
	l := t.lend(k, c)
	a := t.hear(c, method)
	t.put(l)
	return a
}

// request is one without a body.
func request(method, path string, fields ...string) string {
	return method + " " + path + " HTTP/1.1\r\nHost: conformance.test\r\n" + strings.Join(append(fields, "", ""), "\r\n")
}

// post is a request to echo a body of known length.
func post(body string) string {
	return request("POST", "/echo", fmt.Sprintf("Content-Length: %d", len(body))) + body
}

// want checks a response.
func (t *T) want(a answer, status int, body string) {
	if a.status != status {
		t.failf("status %d, want %d (body %s)", a.status, status, excerpt(a.body))
	}
	if string(a.body) != body {
		t.failf("body %s, want %s", excerpt(a.body), excerpt([]byte(body)))
	}
}

func excerpt(b []byte) string {
	if len(b) > 60 {
		return fmt.Sprintf("%q… (%d bytes)", b[:60], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// pattern is what /bytes answers.
func pattern(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = 'a' + byte(i%26)
	}
	return string(b)
}

// works serves a plain request, to show that all is well.
func (t *T) works(k *link, c *connection) {
	a := t.get(k, c, "/bytes?n=10")
	t.want(a, 200, pattern(10))
}

// forget tells the holder of a connection that it is no longer its own, and is what the sidecar does before anyone else may have it.
func (t *T) forget(c *connection, why uint64) {
	var k *link
	t.holds(func() bool {
		if k = c.holder; c.holder != nil {
			c.holder = nil
		} else if c.lease != nil && c.lease.open() {
			k = c.lease.link
			c.lease.takenBack = true
			k.leases--
		}
		return true
	})
	if k != nil {
		k.send(&handoff.Frame{Type: handoff.TypeForget, Conn: c.id, A: why})
	}
}

// hostHas are the descriptors of a connection in the program's processes.
func (t *T) hostHas(c *connection) (list []descriptor) {
	for _, d := range descriptors(t.process.pid()) {
		if d.to == c.inode {
			list = append(list, d)
		}
	}
	return list
}

// release ends what a case has left over; it reports whether the host owes it nothing.
func (t *T) release() (clean bool) {
	clean = true
	for _, c := range t.conns {
		if t.holds(func() bool { return c.lease != nil && c.lease.open() }) {
			clean = false
		}
		t.forget(c, handoff.ForgetHungUp)
		c.ended.Store(true)
		c.sending.Wait()
		t.holds(func() bool {
			if c.fd >= 0 {
				_ = unix.Close(c.fd)
			}
			delete(t.sidecar.conns, c.id)
			return true
		})
		_ = c.tcp.Close()
	}
	return clean
}
