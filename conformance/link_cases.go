package conformance

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

var linkCases = []Case{
	{Name: "link/hang-up-idle", Requires: "When the sidecar hangs up, the host closes what it keeps without shutdown, and attaches again.", Rule: ruleBackOff, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.works(k, c)
		t.hangUp()
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed what it kept of a sidecar that is gone")
		t.untouched(c)
		t.works(t.link(), c)
	}},
	{Name: "link/hang-up-leased", Requires: "When the sidecar hangs up during a lease, the response is finished all the same.", Rule: ruleBackOff, run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/sleep?ms=600"))
		t.lend(k, c)
		t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read a request")
		t.hangUp()
		t.want(t.hear(c, "GET"), 200, "slept\n")
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed the connection of a sidecar that is gone")
		t.works(t.link(), t.connect())
	}},
	{Name: "link/new-life", Requires: "What the host held in the sidecar's last life means nothing in the next: a LEASE by an old id is NACKed (2).", Rule: "PROTOCOL.md, WELCOME epoch", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.works(k, c)
		t.sidecar.vanish()
		must(0, t.sidecar.listen())
		k = t.link()
		t.say(c, request("GET", "/bytes?n=10"))
		l, f := c.begin(k, 0)
		k.send(&f)
		if a := t.answered(l, handoff.TypeNack); a.A != handoff.NackUnknown {
			t.failf("NACK with a=%d, want 2", a.A)
		}
		l = t.lend(k, c)
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
	}},
	{Name: "link/away", Requires: "A sidecar that is away for a while is found again.", Rule: ruleBackOff, run: func(t *T) {
		t.link()
		t.sidecar.vanish()
		select {
		case <-time.After(awayTime):
		case <-t.process.ended:
			t.failf("the program ended (%s) when the sidecar went away", t.process.result)
		}
		must(0, t.sidecar.listen())
		t.works(t.link(), t.connect())
	}},
	{Name: "link/error", Requires: "Told ERROR and hung up on, the host attaches again.", Rule: "PROTOCOL.md, ERROR", run: func(t *T) {
		k := t.link()
		f := handoff.Faultf(handoff.CodeTooSlow, "over 1 MiB is waiting for you").Frame(handoff.TypeError, 0)
		k.send(&f)
		k.hangUp()
		t.works(t.link(), t.connect())
	}},
	{Name: "link/crash", Requires: "A worker that crashes takes its link with it, and the program, if it lives on, attaches a new one.", Rule: "PROTOCOL.md, rule 6", own: true, run: func(t *T) {
		t.begin(nil)
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/crash"))
		t.lend(k, c)
		err := t.sidecar.wait(t.opts.Timeout, nil, func() bool { return k.gone })
		if err != nil {
			t.failf("the link of a crashed worker has not hung up after %v", t.opts.Timeout)
		}
		select {
		case <-t.process.ended:
			return // one process, and whoever runs it starts it again
		case <-time.After(200 * time.Millisecond):
		}
		t.works(t.link(), t.connect())
	}},
}

// awayTime is how long the sidecar is away.
const awayTime = 1500 * time.Millisecond

// hangUp ends every link; the sidecar goes on listening.
func (t *T) hangUp() {
	t.holds(func() bool {
		for _, k := range t.sidecar.links {
			k.hangUpLocked()
		}
		return true
	})
}

var leavingCases = []Case{
	{Name: "leaving/asked", Requires: "Told DRAINING, the host finishes what it holds and hangs up.", Rule: "PROTOCOL.md, DRAINING", own: true, run: func(t *T) {
		t.begin(nil)
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/sleep?ms=400"))
		l := t.lend(k, c)
		t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read a request")
		k.send(&handoff.Frame{Type: handoff.TypeDraining})
		t.want(t.hear(c, "GET"), 200, "slept\n")
		t.answered(l, handoff.TypePut, handoff.TypeClose, handoff.TypeFinish)
		t.await(func() bool { return k.gone }, "hung up after DRAINING")
	}},
	{Name: "leaving/asked-idle", Requires: "Told DRAINING while it holds nothing, the host hangs up, closes what it keeps without shutdown, and finds the successor.", Rule: "PROTOCOL.md, DRAINING", own: true, run: func(t *T) {
		t.begin(nil)
		k, c := t.link(), t.connect()
		t.works(k, c)
		k.send(&handoff.Frame{Type: handoff.TypeDraining})
		t.await(func() bool { return k.gone }, "hung up after DRAINING")
		t.poll(func() bool { return len(t.hostHas(c)) == 0 }, "closed what it kept")
		t.untouched(c)
		t.works(t.link(), c)
	}},
	{Name: "leaving/term-idle", Requires: "At SIGTERM the program says DRAINING and exits with 0; idle connections stay open.", Rule: ruleApp, own: true, run: func(t *T) {
		t.begin(nil)
		k, c := t.link(), t.connect()
		t.works(k, c)
		t.terminate()
		if _ = t.sidecar.wait(t.opts.Timeout, nil, func() bool { return k.gone }); !t.holds(func() bool { return k.draining }) {
			t.failf("the host left without DRAINING")
		}
		t.untouched(c)
	}},
	{Name: "leaving/term-busy", Requires: "At SIGTERM the program serves what it holds before it exits with 0.", Rule: ruleApp, own: true, run: func(t *T) {
		t.begin(nil)
		k, c := t.link(), t.connect()
		t.say(c, request("GET", "/sleep?ms=800"))
		l := t.lend(k, c)
		t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read a request")
		must(0, unix.Kill(t.process.pid(), unix.SIGTERM))
		t.await(func() bool { return k.draining }, "said DRAINING at SIGTERM")
		t.want(t.hear(c, "GET"), 200, "slept\n")
		t.answered(l, handoff.TypePut, handoff.TypeClose, handoff.TypeFinish)
		t.exits()
	}},
	{Name: "leaving/quiet", Requires: "The program prints nothing on standard output.", Rule: ruleApp, own: true, run: func(t *T) {
		t.begin(nil)
		t.works(t.link(), t.connect())
		t.terminate()
		if n := size(t.process.stdout); n > 0 {
			t.failf("it printed %d bytes on standard output", n)
		}
	}},
	{Name: "leaving/term-away", Requires: "At SIGTERM the program exits with 0 also while there is no sidecar.", Rule: ruleApp, own: true, run: func(t *T) {
		t.begin(nil)
		t.link()
		t.sidecar.vanish()
		time.Sleep(100 * time.Millisecond) // so that the host is looking for it
		t.terminate()
	}},
}

// terminate sends SIGTERM and waits for the program's end.
func (t *T) terminate() {
	must(0, unix.Kill(t.process.pid(), unix.SIGTERM))
	t.exits()
}

func (t *T) exits() {
	select {
	case <-t.process.ended:
	case <-time.After(t.opts.Timeout):
		t.failf("the program has not exited %v after SIGTERM", t.opts.Timeout)
	}
	if t.process.state.ExitCode() != 0 {
		t.failf("after SIGTERM the program ended with %s, not with status 0", t.process.result)
	}
}
