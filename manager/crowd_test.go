package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// The randomised test with real sockets: clients and hosts that behave as badly as the protocol allows, and operators who close what they
// like. A client may lose its connection at any time; what it gets is its own answers, in order, and nothing else.
//
// A request is a line, "client request size", and its answer the same line and size bytes that depend on it. ANTEROOM_TEST_SEED repeats a run
// as far as the kernel's timing allows, ANTEROOM_TEST_TIME makes it longer.

const (
	crowdClients = 24
	crowdHosts   = 4
)

func TestACrowd(t *testing.T) {
	seed, length := crowdSettings(t)
	t.Logf("ANTEROOM_TEST_SEED=%d ANTEROOM_TEST_TIME=%v", seed, length)
	r := newRig(t, Config{Limits: Limits{
		Connections: crowdClients - 4, KeepAlive: crowdClients / 2, Queue: crowdClients, Redeliveries: 2,
		KeepAliveTimeout: 40 * time.Millisecond, FirstByteTimeout: 60 * time.Millisecond, QueueTimeout: 300 * time.Millisecond,
		LeaseTimeout: 500 * time.Millisecond, LingerTimeout: 100 * time.Millisecond,
	}})
	c := &crowd{t: t, rig: r, end: time.Now().Add(length)}
	var clients, hosts sync.WaitGroup
	for i := range crowdClients {
		clients.Go(func() { c.client(i, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	for i := range crowdHosts {
		hosts.Go(func() { c.host(rand.New(rand.NewPCG(seed, uint64(1000+i)))) })
	}
	c.operate(rand.New(rand.NewPCG(seed, 2000)))
	clients.Wait()
	c.over.Store(true)
	hosts.Wait()

	r.eventually("nothing is left", func(c Counts) bool { return c.States.Sum() == 0 && len(c.Hosts) == 0 })
	c.check(r.counts())
}

func crowdSettings(t *testing.T) (seed uint64, length time.Duration) {
	t.Helper()
	seed, length = rand.Uint64(), 2*time.Second
	if s := os.Getenv("ANTEROOM_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	if s := os.Getenv("ANTEROOM_TEST_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		length = d
	}
	return seed, length
}

type crowd struct {
	t    *testing.T
	rig  *rig
	end  time.Time
	over atomic.Bool // no client is left

	answers, partials, deaths, drains atomic.Uint64
}

// check: what was counted adds up, and enough has happened for it to mean something.
func (c *crowd) check(counts Counts) {
	c.t.Helper()
	var closed uint64
	for _, n := range counts.Totals.Closed {
		closed += n
	}
	totals := counts.Totals
	c.t.Logf("%d answers, %d of them cut off, %d hosts died, %d drained; %+v", c.answers.Load(), c.partials.Load(), c.deaths.Load(), c.drains.Load(), totals)
	if totals.Accepted+totals.Adopted != closed {
		c.t.Errorf("%d connections came and %d went", totals.Accepted+totals.Adopted, closed)
	}
	if totals.Requests < c.answers.Load() {
		c.t.Errorf("%d answers arrived and %d were reported", c.answers.Load(), totals.Requests)
	}
	if totals.HostsFailed+totals.HostsRefused > 0 {
		c.t.Errorf("%d hosts were hung up on, %d refused: they keep the rules", totals.HostsFailed, totals.HostsRefused)
	}
	if capacity, err := c.rig.Capacity(context.Background()); err != nil || capacity.InUse != 0 {
		c.t.Errorf("capacity %+v, %v", capacity, err)
	}
	if c.answers.Load() < 100 || totals.Redelivered == 0 || c.deaths.Load() == 0 {
		c.t.Error("too little has happened")
	}
}

// operate closes what it likes.
func (c *crowd) operate(rng *rand.Rand) {
	ctx := context.Background()
	for time.Now().Before(c.end) {
		states := [][]State{{Idle}, {Ready}, {Leased}, {Idle, Ready}}[rng.IntN(4)]
		page, err := c.rig.Connections(ctx, Query{Selection: Selection{States: states}, Limit: 3})
		if err != nil {
			c.t.Error(err)
			return
		}
		for _, conn := range page.Connections {
			if _, err := c.rig.Close(ctx, Selection{IDs: []ConnID{conn.ID}}); err != nil && !errors.Is(err, ErrNotFound) {
				c.t.Error(err)
			}
		}
		if rng.IntN(10) == 0 {
			if _, err := c.rig.Stop(ctx, 20*time.Millisecond); err != nil {
				c.t.Error(err)
			}
			if err := c.rig.Start(ctx); err != nil {
				c.t.Error(err)
			}
		}
		time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
	}
}

// client makes connections until the end.
func (c *crowd) client(me int, rng *rand.Rand) {
	request := 0
	for time.Now().Before(c.end) {
		conn, err := net.DialTimeout("tcp", c.rig.web, 5*time.Second)
		if err != nil {
			c.t.Error(err)
			return
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second)) // nothing may take so long
		for on := true; on && time.Now().Before(c.end); {
			on = c.visit(conn.(*net.TCPConn), rng, me, &request)
		}
		_ = conn.Close()
	}
}

// visit makes one request, or several at once, and reports whether the connection can go on.
func (c *crowd) visit(conn *net.TCPConn, rng *rand.Rand, me int, request *int) bool {
	var asked, want []byte
	n := 1 + max(0, rng.IntN(6)-3)
	for range n {
		*request++
		line := fmt.Appendf(nil, "%d %d %d\n", me, *request, rng.IntN(3)*rng.IntN(20_000))
		asked, want = append(asked, line...), append(want, answerTo(line)...)
	}
	cut := len(asked)
	if rng.IntN(8) == 0 {
		cut = rng.IntN(len(asked) + 1)
	}
	if _, err := conn.Write(asked[:cut]); err != nil {
		return false
	}
	if cut < len(asked) {
		time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
		if _, err := conn.Write(asked[cut:]); err != nil {
			return false
		}
	}
	half := false
	switch rng.IntN(20) {
	case 0:
		return false // goes without its answer
	case 1:
		_ = conn.SetLinger(0) // with a reset
		return false
	case 2:
		half = true
		_ = conn.CloseWrite()
	}
	got := make([]byte, len(want))
	read, err := io.ReadFull(conn, got)
	if lost := c.judge(got[:read], want, err); lost || err != nil || half {
		return false
	}
	c.answers.Add(uint64(n))
	time.Sleep(time.Duration(rng.IntN(3)*rng.IntN(40)) * time.Millisecond)
	return true
}

// judge: what arrived is what was due, or the beginning of it. It reports whether the request was lost instead: its host had read it and died.
func (c *crowd) judge(got, want []byte, err error) (lost bool) {
	const badGateway = "HTTP/1.1 502 "
	first := got[:min(len(got), len(badGateway))] // no more is read than a short answer would have
	lost = len(got) > 0 && bytes.HasPrefix([]byte(badGateway), first)
	if !bytes.HasPrefix(want, got) && !lost {
		c.t.Errorf("got %.80q…, want %.80q…", got, want)
	}
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Errorf("nothing came for a request, and no end: %d of %d bytes", len(got), len(want))
	}
	if err != nil && len(got) > 0 {
		c.partials.Add(1)
	}
	return lost
}

// TestAShortAnswerMayBeLost: the crowd reads no more than it is due, which may be less than the status line of a 502.
func TestAShortAnswerMayBeLost(t *testing.T) {
	c := &crowd{t: t}
	for got, lost := range map[string]bool{"HTTP/1.": true, "HTTP/1.1 502 Bad": true, "4 89 0\n": false, "4 8": false, "": false} {
		if c.judge([]byte(got), []byte("4 89 0\n"), nil) != lost {
			t.Errorf("%q is taken for lost: %v", got, !lost)
		}
	}
}

// answerTo is what a host answers a line with.
func answerTo(line []byte) []byte {
	var who, which, size int
	if _, err := fmt.Sscanf(string(line), "%d %d %d\n", &who, &which, &size); err != nil {
		return nil
	}
	return append(line[:len(line):len(line)], bytes.Repeat([]byte{byte('a' + (who+which)%26)}, size)...)
}

// host attaches, serves for a while, and goes: by dying, by draining, or when all is over.
func (c *crowd) host(rng *rand.Rand) {
	for !c.over.Load() {
		h := &crowdHost{crowd: c, rng: rng, sock: -1, holds: map[uint64]int{}}
		if err := h.attach(); err != nil {
			c.t.Error(err)
			return
		}
		h.run()
		h.die()
	}
}

type crowdHost struct {
	*crowd
	rng      *rand.Rand
	sock     int
	in       handoff.Inbox
	out      handoff.Outbox
	cache    bool
	holds    map[uint64]int // descriptors, by connection
	draining bool
	dead     bool
}

func (h *crowdHost) attach() error {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	h.sock = sock
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: h.rig.handoff}); err != nil {
		return err
	}
	hello := handoff.Hello{Name: "crowd", Pool: DefaultPool, Capacity: 1 + h.rng.IntN(8)}
	if h.cache = h.rng.IntN(2) == 0; h.cache {
		hello.Features = append(hello.Features, handoff.FeatureCache)
	}
	if h.rng.IntN(2) == 0 {
		hello.Features = append(hello.Features, handoff.FeatureTrack)
	}
	h.send(hello.Frame())
	return nil
}

func (h *crowdHost) die() {
	h.in.Close()
	closeFD(h.sock)
	for _, fd := range h.holds {
		closeFD(fd)
	}
}

// send gives up on a link that has ended: the next read finds out.
func (h *crowdHost) send(f handoff.Frame) {
	h.out.Add(&f)
	if err := h.out.Flush(h.sock); err != nil && !errors.Is(err, io.EOF) {
		h.t.Errorf("sending %s: %v", f.Type, err)
		h.dead = true
	}
}

func (h *crowdHost) run() {
	for !h.dead {
		if h.over.Load() && !h.draining {
			h.drain()
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(h.sock), Events: unix.POLLIN}}, 5)
		err := h.in.Recv(h.sock)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil && !errors.Is(err, handoff.ErrAgain) {
			h.t.Errorf("receiving: %v", err)
			return
		}
		h.obey()
		h.act()
	}
}

func (h *crowdHost) drain() {
	h.draining = true
	h.send(handoff.Frame{Type: handoff.TypeDrain})
}

// act does what hosts do unasked.
func (h *crowdHost) act() {
	switch h.rng.IntN(150) {
	case 0:
		h.deaths.Add(1)
		h.dead = true
	case 1:
		h.drains.Add(1)
		h.drain()
	case 2:
		h.send(handoff.Frame{Type: handoff.TypeCapacity, A: uint64(h.rng.IntN(6))})
	case 3:
		h.send(handoff.Frame{Type: 0x30, Payload: []byte("a later version's word")})
	}
}

func (h *crowdHost) obey() {
	for !h.dead {
		var f handoff.Frame
		fd, ok, err := h.in.Next(&f)
		if err != nil {
			h.t.Errorf("a frame: %v", err)
			h.dead = true
		}
		if !ok || err != nil {
			return
		}
		switch f.Type {
		case handoff.TypeLease:
			h.lease(f, fd)
		case handoff.TypeForget:
			h.drop(f.Conn)
		case handoff.TypeError, handoff.TypeRefuse, handoff.TypeDenied:
			h.t.Errorf("the sidecar objects: %v", handoff.FaultOf(&f))
		}
	}
}

func (h *crowdHost) drop(conn uint64) {
	if fd, held := h.holds[conn]; held {
		delete(h.holds, conn)
		closeFD(fd)
	}
}

// lease serves a connection, or refuses it.
func (h *crowdHost) lease(f handoff.Frame, fd int) {
	if fd >= 0 {
		h.drop(f.Conn)
		h.holds[f.Conn] = fd
	}
	fd, held := h.holds[f.Conn]
	answer := handoff.Frame{Conn: f.Conn, Seq: f.Seq}
	switch {
	case !held:
		answer.Type, answer.A = handoff.TypeNack, handoff.NackUnknown
	case h.rng.IntN(15) == 0:
		answer.Type, answer.A = handoff.TypeNack, uint64(1+h.rng.IntN(3))
		h.drop(f.Conn)
	default:
		h.serve(fd, f, &answer)
	}
	if h.dead {
		return
	}
	h.send(answer)
	if h.rng.IntN(10) == 0 {
		h.send(answer) // late
	}
}

// serve answers what has been read, all of it, and says how the connection goes on.
func (h *crowdHost) serve(fd int, f handoff.Frame, answer *handoff.Frame) {
	served, ended := h.requests(fd)
	answer.B = uint64(served)
	keeps := h.cache
	switch {
	case ended || f.Flags&handoff.FlagLast != 0 || h.rng.IntN(12) == 0:
		answer.Type, keeps = handoff.TypeClose, false
	case h.rng.IntN(25) == 0:
		answer.Type, keeps = handoff.TypeDetach, false
	default:
		answer.Type, answer.A = handoff.TypePut, uint64(h.rng.IntN(2)*h.rng.IntN(80))
		if h.rng.IntN(8) == 0 {
			answer.Flags, keeps = handoff.FlagSticky, true
		}
		if h.rng.IntN(10) == 0 && !keeps {
			_ = unix.SetNonblock(fd, false)
		}
	}
	if !keeps {
		h.drop(f.Conn)
	}
}

// requests reads whole lines and answers them, until nothing is left that has begun. ended: the connection cannot go on.
func (h *crowdHost) requests(fd int) (served int, ended bool) {
	var pending []byte
	b := make([]byte, 4096)
	for first := true; first || len(pending) > 0; first = false {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200); n == 0 {
			return served, true
		}
		n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
		if err != nil || n == 0 {
			return served, true
		}
		pending = append(pending, b[:n]...)
		for {
			line, rest, whole := bytes.Cut(pending, []byte("\n"))
			if !whole {
				break
			}
			if !h.write(fd, answerTo(pending[:len(line)+1])) {
				return served, true
			}
			served++
			pending = rest
		}
	}
	return served, false
}

// write sends an answer; sometimes its host dies in the middle.
func (h *crowdHost) write(fd int, b []byte) bool {
	if h.rng.IntN(200) == 0 {
		h.deaths.Add(1)
		h.dead = true
		b = b[:h.rng.IntN(len(b))]
	}
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EAGAIN) {
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 200); n == 0 {
				return false
			}
			continue
		}
		if err != nil {
			return false
		}
		b = b[n:]
	}
	return !h.dead
}
