package manager

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// attack is something a host may do wrong, and the code it gets for it.
type attack struct {
	name string
	do   func(*peer)
	code handoff.Code
}

func sends(b []byte) func(*peer) { return func(p *peer) { p.t.Helper(); p.push(b) } }

// brings sends a frame with descriptors, in one message.
func brings(f handoff.Frame, open ...func(testing.TB) int) func(*peer) {
	return func(p *peer) {
		p.t.Helper()
		var fds []int
		for _, o := range open {
			fds = append(fds, o(p.t))
		}
		p.push(wire(f), fds...)
	}
}

func hello(payload string, a uint64) []byte {
	return wire(handoff.Frame{Type: handoff.TypeHello, A: a, Payload: []byte(payload)})
}

// antr is field a of a proper HELLO.
const antr = uint64('A') | uint64('N')<<8 | uint64('T')<<16 | uint64('R')<<24 | uint64(1)<<32

func beforeHello() []attack {
	good := handoff.Hello{Name: "bad", Pool: "bad", Capacity: 1}
	return []attack{
		{"garbage", sends([]byte(strings.Repeat("\xee", 64))), handoff.CodeBadFrame},
		{"an HTTP request", sends([]byte("GET / HTTP/1.1\r\nHost: anteroom.example\r\n\r\n")), handoff.CodeTooLong},
		{"zeros", sends(make([]byte, 64)), handoff.CodeBadMagic},
		{"no magic", sends(hello(`{"name":"bad","capacity":1}`, 1<<32)), handoff.CodeBadMagic},
		{"another version", sends(hello(`{"name":"bad","capacity":1}`, antr+1<<32)), handoff.CodeBadVersion},
		{"PUT before HELLO", sends(wire(handoff.Frame{Type: handoff.TypePut})), handoff.CodeBadMagic},
		{"an unknown type before HELLO", sends(wire(handoff.Frame{Type: 0x7f})), handoff.CodeBadMagic},
		{"no payload", sends(hello("", antr)), handoff.CodeBadPayload},
		{"no JSON", sends(hello("{", antr)), handoff.CodeBadPayload},
		{"JSON of another shape", sends(hello("[1,2]", antr)), handoff.CodeBadPayload},
		{"a capacity that is no number", sends(hello(`{"name":"bad","capacity":"many"}`, antr)), handoff.CodeBadPayload},
		{"no capacity", sends(hello(`{"name":"bad"}`, antr)), handoff.CodeBadPayload},
		{"no name", sends(hello(`{"capacity":1}`, antr)), handoff.CodeBadPayload},
		{"a name with a line break", sends(hello(`{"name":"a\nb","capacity":1}`, antr)), handoff.CodeBadPayload},
		{"a pool with a space", sends(hello(`{"name":"bad","pool":"a b","capacity":1}`, antr)), handoff.CodeBadPayload},
		{"a HELLO that is too long", sends([]byte{0x01, 0, 0x01, 0x20, 31: 0}), handoff.CodeTooLong},
		{"HELLO with a descriptor", brings(flagged(good.Frame()), aFile), handoff.CodeStrayDescriptor},
		{"HELLO with two descriptors", brings(flagged(good.Frame()), aFile, aFile), handoff.CodeStrayDescriptor},
		{"HELLO without the descriptor it announces", brings(flagged(good.Frame())), handoff.CodeNoDescriptor},
	}
}

// flagged sets the FD flag, whether a descriptor comes or not.
func flagged(f handoff.Frame) handoff.Frame {
	f.Flags |= handoff.FlagFD
	return f
}

func afterHello() []attack {
	adopt := flagged(handoff.Frame{Type: handoff.TypeAdopt, Seq: 9})
	listen := flagged(handoff.Frame{Type: handoff.TypeListen, Seq: 9, Payload: []byte("{}")})
	nearEnd := func(t testing.TB) int { near, _ := aPair(t, unix.SOCK_STREAM); return near }
	datagrams := func(t testing.TB) int { near, _ := aPair(t, unix.SOCK_DGRAM); return near }
	packets := func(t testing.TB) int { near, _ := aPair(t, unix.SOCK_SEQPACKET); return near }
	udp := func(t testing.TB) int { return aSocket(t, unix.AF_INET, unix.SOCK_DGRAM) }
	netlink := func(t testing.TB) int { return aSocket(t, unix.AF_NETLINK, unix.SOCK_RAW) }
	silly := listen
	silly.Payload = []byte(`{"silent":"perhaps"}`)
	attacks := []attack{
		{"garbage", sends([]byte(strings.Repeat("\xee", 64))), handoff.CodeBadFrame},
		{"a length that is too long", sends([]byte{0x02, 0, 0xff, 0xff, 31: 0}), handoff.CodeTooLong},
		{"a second HELLO", sends(hello(`{"name":"bad","capacity":1}`, antr)), handoff.CodeHelloTwice},
		{"an unknown type that may not be ignored", sends(wire(handoff.Frame{Type: 0x80})), handoff.CodeBadFrame},
		{"the same with payload and descriptor", brings(flagged(handoff.Frame{Type: 0xff, Payload: []byte("boo")}), aFile), handoff.CodeBadFrame},
		{"FINISH, which was not agreed", brings(flagged(handoff.Frame{Type: handoff.TypeFinish}), aFile), handoff.CodeNotAgreed},
		{"PUT with a descriptor", brings(flagged(handoff.Frame{Type: handoff.TypePut}), aFile), handoff.CodeStrayDescriptor},
		{"PUT with a descriptor it does not announce", brings(handoff.Frame{Type: handoff.TypePut}, aFile), handoff.CodeStrayDescriptor},
		{"PUT without the descriptor it announces", brings(flagged(handoff.Frame{Type: handoff.TypePut})), handoff.CodeNoDescriptor},
		{"a descriptor for each byte of a frame", smuggle, handoff.CodeStrayDescriptor},

		{"ADOPT of a file", brings(adopt, aFile), handoff.CodeBadDescriptor},
		{"ADOPT of an epoll descriptor", brings(adopt, anEpoll), handoff.CodeBadDescriptor},
		{"ADOPT of a UDP socket", brings(adopt, udp), handoff.CodeBadDescriptor},
		{"ADOPT of a Unix datagram socket", brings(adopt, datagrams), handoff.CodeBadDescriptor},
		{"ADOPT of a Unix packet socket", brings(adopt, packets), handoff.CodeBadDescriptor},
		{"ADOPT of a netlink socket", brings(adopt, netlink), handoff.CodeBadDescriptor},
		{"ADOPT of a listening socket", brings(adopt, aListener), handoff.CodeBadDescriptor},
		{"ADOPT of two connections", brings(adopt, nearEnd, nearEnd), handoff.CodeStrayDescriptor},
		{"ADOPT of none", brings(adopt), handoff.CodeNoDescriptor},
		{"ADOPT that does not announce its descriptor", brings(handoff.Frame{Type: handoff.TypeAdopt}, nearEnd), handoff.CodeNoDescriptor},

		{"LISTEN on a file", brings(listen, aFile), handoff.CodeBadDescriptor},
		{"LISTEN on an epoll descriptor", brings(listen, anEpoll), handoff.CodeBadDescriptor},
		{"LISTEN on a UDP socket", brings(listen, udp), handoff.CodeBadDescriptor},
		{"LISTEN on a connection", brings(listen, nearEnd), handoff.CodeBadDescriptor},
		{"LISTEN on two sockets", brings(listen, aListener, aListener), handoff.CodeStrayDescriptor},
		{"LISTEN on none", brings(listen), handoff.CodeNoDescriptor},
		{"LISTEN with nonsense", brings(silly, aListener), handoff.CodeBadPayload},
	}
	for typ := handoff.TypeWelcome; typ <= handoff.TypeDenied; typ++ {
		attacks = append(attacks, attack{typ.String() + ", which only the sidecar may send", sends(wire(handoff.Frame{Type: typ})), handoff.CodeBadFrame})
	}
	return attacks
}

// smuggle hides descriptors in the bytes of one long frame that never ends.
func smuggle(p *peer) {
	p.t.Helper()
	long := flagged(handoff.Frame{Type: handoff.TypeAdopt, Payload: make([]byte, handoff.MaxPayload)})
	fd := aFile(p.t)
	for _, b := range wire(long)[:40] {
		if err := unix.Sendmsg(p.sock, []byte{b}, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL); err != nil {
			return // hung up on already
		}
	}
}

func TestBadHostsAreRefused(t *testing.T) {
	for _, a := range beforeHello() {
		t.Run(a.name, func(t *testing.T) {
			r := newRig(t, Config{})
			b := r.bystander()
			p := r.connect()
			a.do(p)
			p.wantFault(a.code)
			b.works()
			r.wantLog(1, "[WARN]", "a host was refused", a.code.String())
			if c := r.counts(); c.Totals.HostsRefused != 1 || c.Totals.HostsFailed != 0 || len(c.Hosts) != 1 {
				t.Errorf("counts: %+v", c)
			}
		})
	}
}

func TestBadHostsAreHungUpOn(t *testing.T) {
	for _, a := range afterHello() {
		t.Run(a.name, func(t *testing.T) {
			r := newRig(t, Config{})
			b := r.bystander()
			p := r.attach(handoff.Hello{Name: "bad", Pool: "bad"})
			a.do(p)
			p.wantFault(a.code)
			b.works()
			r.wantLog(1, "host gone", "bad", a.code.String())
			if c := r.counts(); c.Totals.HostsRefused != 0 || c.Totals.HostsFailed != 1 || len(c.Hosts) != 1 {
				t.Errorf("counts: %+v", c)
			}
		})
	}
}

// The HELLO is right by itself, so it is answered before the descriptor behind it is found to belong to nothing.
func TestHelloWithADescriptorItDoesNotAnnounce(t *testing.T) {
	r := newRig(t, Config{})
	p := r.connect()
	h := handoff.Hello{Name: "bad", Capacity: 1}
	p.push(wire(h.Frame()), aFile(t))
	p.want(handoff.TypeWelcome)
	p.wantFault(handoff.CodeStrayDescriptor)
}

// A host that is hung up on for one thing may hold leases, listeners and connections that wait: all of it ends with it.
func TestABadHostsBelongingsEndWithIt(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	p := r.hello(handoff.Hello{Name: "bad", Capacity: 2}) // a private pool
	own := aListener(t)
	p.sendFD(handoff.Frame{Type: handoff.TypeListen, Seq: 1, Payload: []byte("{}")}, own)
	p.want(handoff.TypeListening)
	where, err := listener.Take(opened(t)(unix.Dup(own)))
	if err != nil {
		t.Fatal(err)
	}
	idle, leased, waiting := r.dialAt(where.String()[len("tcp://"):]), r.dialAt(where.String()[len("tcp://"):]), r.dialAt(where.String()[len("tcp://"):])
	p.exchange(idle, "x", "y")
	leased.send("x")
	_, fd := p.want(handoff.TypeLease)
	defer closeFD(fd)
	p.send(handoff.Frame{Type: handoff.TypeCapacity, A: 1})
	waiting.send("x")
	r.eventually("one waits", func(c Counts) bool { return c.States.Ready == 1 && c.States.Leased == 1 })

	p.push([]byte(strings.Repeat("\xee", 64)))
	for f, _ := p.next(); f.Type != handoff.TypeError; f, _ = p.next() {
	}
	for _, c := range []*client{idle, leased, waiting} {
		c.wantEndOrReset()
		_ = c.Close()
	}
	b.works()
	r.eventually("only the bystander is left", func(c Counts) bool {
		return c.States == StateCounts{Idle: 1} && len(c.Pools) == 2 && len(c.Listeners) == 2 &&
			c.Totals.ClosedFor(ReasonHostGone) == 1 && c.Totals.ClosedFor(ReasonStopped) == 2
	})
}

func TestUnknownFramesThatMayBeIgnored(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	h.push(wire(handoff.Frame{Type: 0x7f}))
	h.push(wire(handoff.Frame{Type: 0x40, Payload: []byte("a word of version 2")}))
	h.push(wire(flagged(handoff.Frame{Type: 0x10, Payload: []byte("and its descriptor")})), aFile(t))
	h.push(wire(handoff.Frame{Type: handoff.TypePut, Flags: 0xc0})) // unknown flags are ignored, and the lease is nobody's
	h.exchange(r.dial(), "x", "y")
	if c := r.counts(); len(c.Hosts) != 1 || c.Totals.Stale != 1 {
		t.Errorf("counts: %+v", c)
	}
}

func TestALongHelloIsNotTooLong(t *testing.T) {
	r := newRig(t, Config{})
	p := r.connect()
	start := `{"name":"long","capacity":9999,"pool":"default","unheard of":[1,{}],"agent":"`
	p.push(hello(start+strings.Repeat("a", handoff.MaxPayload-len(start)-2)+`"}`, antr))
	f, _ := p.want(handoff.TypeWelcome)
	w, err := handoff.WelcomeOf(&f)
	if err != nil || w.Capacity != handoff.MaxCapacity {
		t.Fatalf("welcome %+v, %v", w, err)
	}
	if c := r.counts(); len(c.Hosts[0].Agent) != handoff.MaxAgent {
		t.Errorf("the agent has %d bytes, want %d", len(c.Hosts[0].Agent), handoff.MaxAgent)
	}
}

// A frame cut short at every byte, before and after HELLO, with and without a descriptor, by hanging up.
func TestTruncatedFrames(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	greeting := handoff.Hello{Name: "cut", Pool: "cut", Capacity: 1}
	whole := wire(greeting.Frame())
	for n := range len(whole) {
		p := r.connect()
		p.push(whole[:n])
		p.close()
	}
	adopt := wire(flagged(handoff.Frame{Type: handoff.TypeAdopt, Payload: []byte("a payload that none needs")}))
	near, _ := aPair(t, unix.SOCK_STREAM)
	for n := 1; n < len(adopt); n++ {
		p := r.attach(greeting)
		p.push(adopt[:n], near)
		p.close()
	}
	r.eventually("all have gone", func(c Counts) bool { return len(c.Hosts) == 1 && c.Totals.HostsAttached == uint64(len(adopt)) })
	b.works()
	if c := r.counts(); c.Totals.HostsFailed != 0 || c.Totals.HostsRefused != 0 || c.Totals.Adopted != 0 {
		t.Errorf("counts: %+v", c)
	}
}

func TestAFrameMayComeByteByByte(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	near, far := aPair(t, unix.SOCK_STREAM)
	adopt := wire(flagged(handoff.Frame{Type: handoff.TypeAdopt, Seq: 5, Payload: []byte("ignored")}))
	h.push(adopt[:1], near)
	for i := 1; i < len(adopt); i++ {
		h.push(adopt[i : i+1])
		r.counts() // the loop reads each byte by itself
	}
	adopted, _ := h.want(handoff.TypeAdopted)
	if adopted.Seq != 5 || adopted.Conn == 0 {
		t.Fatalf("adopted: %+v", adopted)
	}
	if _, err := unix.Write(far, []byte("hi")); err != nil {
		t.Fatal(err)
	}
	lease, fd := h.want(handoff.TypeLease)
	if lease.Conn != adopted.Conn || lease.Flags&handoff.FlagFresh != 0 {
		t.Errorf("lease: %+v", lease)
	}
	h.answer(lease, fd, "hi", "ho")
}

func TestNoHello(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	mute, slow := r.connect(), r.connect()
	slow.push([]byte{0x01})
	r.leap(helloTimeout - 100*time.Millisecond)
	mute.quiet(r)
	r.leap(100 * time.Millisecond)
	mute.wantFault(handoff.CodeHelloLate)
	slow.wantFault(handoff.CodeHelloLate)
	b.works()
	r.leap(time.Minute) // those who have said it stay
	b.works()
	r.wantLog(2, "[WARN]", "a host was refused", "HELLO_LATE")
}

func TestAPeerThatMayNotAttach(t *testing.T) {
	no := errors.New("user 0 is not welcome")
	var asked []listener.Credentials
	r := newRig(t, Config{Allow: func(c listener.Credentials) error { asked = append(asked, c); return no }})
	p := r.connect() // says nothing: it is refused before a byte is read
	p.wantFault(handoff.CodeNotAllowed)
	r.wantLog(1, "[WARN]", "a host was refused", no.Error())
	if want := (listener.Credentials{PID: int32(unix.Getpid()), UID: uint32(unix.Geteuid()), GID: uint32(unix.Getegid())}); len(asked) != 1 || asked[0] != want {
		t.Errorf("asked about %+v, want %+v", asked, want)
	}
	if c := r.counts(); c.Totals.HostsRefused != 1 {
		t.Errorf("counts: %+v", c)
	}
}

func TestAnAnswerForAnothersConnection(t *testing.T) {
	for _, typ := range []handoff.Type{handoff.TypePut, handoff.TypeClose, handoff.TypeDetach, handoff.TypeNack} {
		t.Run(typ.String(), func(t *testing.T) {
			r := newRig(t, Config{})
			owner := r.attach(handoff.Hello{Name: "owner"})
			c := r.dial()
			c.send("x")
			lease, fd := owner.want(handoff.TypeLease)
			thief := r.attach(handoff.Hello{Name: "thief", Pool: "thieves"})
			thief.send(handoff.Frame{Type: typ, Conn: lease.Conn, Seq: lease.Seq})
			thief.wantFault(handoff.CodeNotYours)
			owner.answer(lease, fd, "x", "y")
			c.want("y")
			owner.exchange(c, "x", "y")
			r.wantLog(1, "host gone", "thief", "NOT_YOURS")
		})
	}
}

func TestLateAnswersAreIgnoredAndCounted(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	lease := h.exchange(c, "x", "y")
	late := []handoff.Frame{
		put(lease), // twice
		{Type: handoff.TypeClose, Conn: lease.Conn, Seq: lease.Seq},
		{Type: handoff.TypeDetach, Conn: lease.Conn, Seq: lease.Seq},
		{Type: handoff.TypeNack, Conn: lease.Conn, Seq: lease.Seq},
		{Type: handoff.TypePut, Conn: lease.Conn, Seq: lease.Seq + 1},  // not yet
		{Type: handoff.TypePut, Conn: lease.Conn + 1, Seq: lease.Seq},  // never was
		{Type: handoff.TypePut, Conn: 1<<64 - 1, Seq: lease.Seq},       // cannot be
		{Type: handoff.TypePut, Conn: 0, Seq: 0},                       // nor this
		{Type: handoff.TypeDropped, Conn: lease.Conn, Seq: 0},          // no answer: it holds none
		{Type: handoff.TypeDropped, Conn: lease.Conn + 1<<24, Seq: 12}, // nor of a later generation
	}
	for _, f := range late {
		h.send(f)
	}
	h.exchange(c, "x", "y")
	if c := r.counts(); c.Totals.Stale != 8 || c.Hosts[0].Stale != 8 || c.Totals.Puts != 2 || c.States.Idle != 1 {
		t.Errorf("counts: %+v", c)
	}
}

// A host that asks and asks and never reads the answers.
func TestAHostThatNeverReads(t *testing.T) {
	r := newRig(t, Config{})
	b := r.bystander()
	p := r.attach(handoff.Hello{Name: "deaf", Pool: "deaf"})
	batch := []byte{}
	for range 100 {
		batch = append(batch, wire(handoff.Frame{Type: handoff.TypeUnlisten, A: 1 << 40})...)
	}
	most := 0
	for gone := false; !gone; {
		err := unix.Sendmsg(p.sock, batch, nil, nil, unix.MSG_NOSIGNAL)
		gone = err != nil
		if gone && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Fatal(err)
		}
		most = max(most, r.backlog())
	}
	if most > handoff.MaxQueued+64<<10 {
		t.Errorf("%d bytes were queued for a host that does not read", most)
	}
	b.works()
	r.eventually("it is gone", func(c Counts) bool { return c.Totals.HostsFailed == 1 && len(c.Hosts) == 1 })
	r.wantLog(1, "host gone", "deaf", "TOO_SLOW")
}

// backlog is the most bytes of frames that wait for one host.
func (r *rig) backlog() (most int) {
	r.t.Helper()
	if err := r.tell(func() error {
		for _, l := range r.links {
			most = max(most, l.out.Len())
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return most
}

// What a host that does not read has been lent waits with its descriptors, within its capacity, and is closed when it goes.
func TestLeasesOfAHostThatNeverReads(t *testing.T) {
	const clients = 600
	r := newRig(t, Config{})
	b := r.bystander()
	p := r.attach(handoff.Hello{Name: "deaf", Capacity: 500})
	for range clients {
		r.dial().send("x")
	}
	r.eventually("it has what it can take", func(c Counts) bool { return c.States.Leased == 500 && c.States.Ready == clients-500 })
	if r.backlog() == 0 {
		t.Error("nothing waits: the test shows nothing")
	}
	b.works()
	p.close()
	r.eventually("all of them wait for another", func(c Counts) bool {
		return c.States.Leased == 0 && c.States.Ready == clients && c.Totals.Redelivered == 500
	})
	b.works()
}

// A host may go in the middle of everything, without reading what is there for it.
func TestAHostThatGoesWithFramesOnTheWay(t *testing.T) {
	for _, unread := range []bool{false, true} {
		t.Run(fmt.Sprintf("unread=%v", unread), func(t *testing.T) {
			r := newRig(t, Config{})
			b := r.bystander()
			p := r.attach(handoff.Hello{Name: "short", Capacity: 1})
			c := r.dial()
			c.send("x")
			r.eventually("it is leased", func(c Counts) bool { return c.States.Leased == 1 })
			if !unread {
				_, fd := p.want(handoff.TypeLease)
				closeFD(fd)
			}
			p.push(wire(handoff.Frame{Type: handoff.TypePong})[:7])
			p.close()
			b.works()
			next := r.attach(handoff.Hello{Name: "next"})
			lease, fd := next.want(handoff.TypeLease)
			next.answer(lease, fd, "x", "y")
			c.want("y")
		})
	}
}

func TestALinkEndsAfterItsLastWords(t *testing.T) {
	r := newRig(t, Config{})
	h := r.attach(handoff.Hello{})
	c := r.dial()
	c.send("x")
	lease, fd := h.want(handoff.TypeLease)
	h.serve(fd, "x", "y")
	closeFD(fd)
	h.send(put(lease))
	h.close()
	c.want("y")
	r.eventually("the connection outlives its host", func(c Counts) bool { return len(c.Hosts) == 0 && c.States.Idle == 1 })
	r.attach(handoff.Hello{}).exchange(c, "x", "y")
}
