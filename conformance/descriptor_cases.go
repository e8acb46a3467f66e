package conformance

import (
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

const ruleShared = "PROTOCOL.md, rule 3"

var descriptorCases = []Case{
	{Name: "descriptors/close-on-exec", Requires: "Received descriptors are close-on-exec.", Rule: ruleReceive + " 1", run: func(t *T) {
		k, c := t.link(), t.connect()
		t.say(c, "GET /bytes?n=10 HTTP/1.1\r\n")
		l := t.lend(k, c)
		var has []descriptor
		t.poll(func() bool { has = t.hostHas(c); return len(has) > 0 && unreadHere(c.fd) == 0 }, "taken a descriptor and begun to read")
		for _, d := range has {
			if !d.closesOnExec() {
				t.failf("descriptor %d of process %d would be inherited by the programs that it starts: use MSG_CMSG_CLOEXEC", d.fd, d.pid)
			}
		}
		t.say(c, "Host: conformance.test\r\n\r\n")
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
	}},
	{Name: "descriptors/leaks", Requires: "200 leases leave no descriptor behind.", Rule: ruleReceive, run: func(t *T) {
		t.leaksNothing(200, func() {
			k, c := t.link(), t.connect()
			t.works(k, c)
			t.forget(c, handoff.ForgetHungUp)
			t.release()
			t.conns = nil
		})
	}},
	{Name: "descriptors/leaks-closed", Requires: "100 leases that end with CLOSE leave no descriptor behind.", Rule: ruleReceive, run: func(t *T) {
		t.leaksNothing(100, func() {
			k, c := t.link(), t.connect()
			t.say(c, request("GET", "/close"))
			l := t.lend(k, c)
			t.hear(c, "GET")
			t.closed(l)
			t.release()
			t.conns = nil
		})
	}},
	{Name: "descriptors/none-left", Requires: "A process that is out of descriptors NACKs the lease (1), and goes on when it has some again.", Rule: ruleReceive + " 3", run: func(t *T) {
		k := t.link()
		t.works(k, t.connect())
		var limit unix.Rlimit
		if err := unix.Prlimit(k.pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
			t.skipf("the limits of process %d cannot be changed: %v", k.pid, err)
		}
		c := t.connect()
		t.say(c, request("GET", "/bytes?n=10"))
		none := limit
		none.Cur = standardStreams
		must(0, unix.Prlimit(k.pid, unix.RLIMIT_NOFILE, &none, nil))
		l := func() *lease {
			defer func() { _ = unix.Prlimit(k.pid, unix.RLIMIT_NOFILE, &limit, nil) }()
			l := t.lend(k, c)
			t.answered(l, handoff.TypeNack)
			return l
		}()
		if l.answer.A != handoff.NackNoDescriptor {
			t.failf("NACK with a=%d, want 1", l.answer.A)
		}
		l = t.lend(k, c)
		t.want(t.hear(c, "GET"), 200, pattern(10))
		t.put(l)
	}},
	{Name: "descriptors/idle-dropped", Rule: ruleReceive + " 3",
		Requires: "A process that runs out of descriptors drops idle connections that it keeps (DROPPED) " +
			"and serves those that come.",
		run: func(t *T) {
			k := t.link()
			t.need(k, handoff.FeatureCache)
			all := t.idle(k, idleKept)
			spare, restore := t.leaveNoRoom(all)
			defer restore()
			for range spare + idleKept/2 {
				c := t.connect()
				t.servedAtLast(k, c)
				all = append(all, c)
			}
			for _, c := range all {
				t.servedAtLast(k, c) // a host that keeps fewer than it says would NACK (2)
			}
		}},
	{Name: "descriptors/nonblocking", Requires: "O_NONBLOCK stays set, also after a slow request and a large response.", Rule: ruleShared, run: func(t *T) {
		k, c := t.link(), t.connectWindow(smallWindow)
		nonblocking := func(path string) {
			flags := must(unix.FcntlInt(uintptr(c.fd), unix.F_GETFL, 0))
			if flags&unix.O_NONBLOCK == 0 {
				t.failf("after %s O_NONBLOCK is cleared", path)
			}
		}
		t.get(k, c, "/bytes?n=2000000")
		nonblocking("/bytes")
		text := post(pattern(100))
		t.say(c, text[:70])
		l := t.lend(k, c)
		t.poll(func() bool { return unreadHere(c.fd) == 0 }, "read the beginning of a request")
		nonblocking("the beginning of a request")
		t.say(c, text[70:])
		t.want(t.hear(c, "POST"), 200, pattern(100))
		t.put(l)
		nonblocking("/echo")
	}},
	{Name: "descriptors/flags-of-others", Requires: "It serves whatever O_NONBLOCK, SO_RCVTIMEO, SO_SNDTIMEO and SO_RCVLOWAT others have left.", Rule: ruleShared, run: func(t *T) {
		k := t.link()
		leave := map[string]func(fd int) error{
			"O_NONBLOCK cleared":   func(fd int) error { return unix.SetNonblock(fd, false) },
			"SO_RCVTIMEO of 10 ms": func(fd int) error { return setTime(fd, unix.SO_RCVTIMEO) },
			"SO_SNDTIMEO of 10 ms": func(fd int) error { return setTime(fd, unix.SO_SNDTIMEO) },
			"SO_RCVLOWAT of 40":    func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 40) },
		}
		for what, set := range leave {
			c := t.connect()
			c.blocking = true
			must(0, set(c.fd))
			a := t.get(k, c, "/bytes?n=200000")
			if a.status != 200 || len(a.body) != 200_000 {
				t.failf("with %s: %d and %d bytes, want 200 and 200000", what, a.status, len(a.body))
			}
		}
	}},
}

// smallWindow is what a slow client's kernel takes unread, in bytes.
const smallWindow = 8 << 10

// standardStreams as a limit on open files leaves no number free, whatever the host is just closing, and lets it wait with poll(2), which refuses
// more descriptors than the limit.
const standardStreams = 3

// idleKept is how many idle connections a host is given to keep before its descriptors run out.
const idleKept = 24

// idle makes connections that are idle and whose descriptors the host may keep.
func (t *T) idle(k *link, count int) (all []*connection) {
	for range count {
		c := t.connect()
		t.works(k, c)
		all = append(all, c)
	}
	t.barrier(k)
	return all
}

// leaveNoRoom lowers the limit on open files of each process that keeps descriptors of these
// connections to just above the highest of them. It returns how many lower numbers are free, and a
// function that sets the limits back. It skips the case if no process keeps any.
func (t *T) leaveNoRoom(all []*connection) (spare int, restore func()) {
	highest := t.keepers(all)
	if len(highest) == 0 {
		t.skipf("the host keeps no descriptor of an idle connection")
	}
	before := map[int]unix.Rlimit{}
	restore = func() {
		for pid, limit := range before {
			_ = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil)
		}
	}
	for pid, fd := range highest {
		limit := unix.Rlimit{}
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
			restore()
			t.skipf("the limits of process %d cannot be changed: %v", pid, err)
		}
		before[pid] = limit
		limit.Cur = uint64(fd) + 1
		must(0, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil))
		spare += freeBelow(pid, fd)
	}
	return spare, restore
}

// keepers returns the processes that have descriptors of these connections, each with the highest.
func (t *T) keepers(all []*connection) map[int]int {
	highest := map[int]int{}
	for _, c := range all {
		for _, d := range t.hostHas(c) {
			highest[d.pid] = max(highest[d.pid], d.fd)
		}
	}
	return highest
}

// freeBelow returns how many descriptor numbers below one the process does not use.
func freeBelow(pid, below int) int {
	free := below
	for _, d := range descriptors(pid) {
		if d.pid == pid && d.fd < below {
			free--
		}
	}
	return free
}

// servedAtLast asks for a path. The host may NACK the lease for want of a descriptor, as often as
// the sidecar tries again.
func (t *T) servedAtLast(k *link, c *connection) {
	t.say(c, request("GET", "/bytes?n=10"))
	for range leaseTries {
		l := t.lend(k, c)
		f := t.answered(l, handoff.TypePut, handoff.TypeFinish, handoff.TypeNack)
		if f.Type != handoff.TypeNack {
			t.want(t.hear(c, "GET"), 200, pattern(10))
			t.put(l)
			return
		}
		if f.A != handoff.NackNoDescriptor {
			t.failf("NACK with a=%d, want 1", f.A)
		}
	}
	t.failf("%d leases of connection %d were NACKed (1): drop idle connections, and say DROPPED, before NACK",
		leaseTries, c.id)
}

// leaseTries is how many leases of one request the sidecar tries by default (redeliveries).
const leaseTries = 4

func setTime(fd, option int) error {
	return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Usec: 10_000})
}

// leaksNothing has the host take turns, each with a connection that is gone afterwards: some to warm up, then so many that count.
func (t *T) leaksNothing(turns int, turn func()) {
	for range turns / 10 {
		turn()
	}
	before := len(descriptors(t.process.pid()))
	for range turns {
		turn()
	}
	t.poll(func() bool { return len(descriptors(t.process.pid())) <= before+8 },
		"closed what it had open for %d connections that are gone: it had %d descriptors before, now %d", turns, before, len(descriptors(t.process.pid())))
}
