package manager

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
)

// rig is a Manager with a TCP listener and a handoff socket, for tests with real sockets in one process.
type rig struct {
	*Manager
	t       testing.TB
	web     string // the listener's address
	handoff string // the handoff socket's path
	journal *journal
}

// newRig runs a Manager until the end of the test, which must leave no descriptor behind.
func newRig(t testing.TB, config Config) *rig {
	t.Helper()
	before := descriptors(t)
	r := makeRig(t, config)
	ran := make(chan error, 1)
	go func() { ran <- r.Run() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := r.Shutdown(ctx, 0); err != nil && !errors.Is(err, ErrStopped) {
			t.Error(err)
		}
		if err := <-ran; err != nil {
			t.Error(err)
		}
		wantDescriptors(t, before)
	})
	return r
}

// steppedRig has no loop: the test takes its turns (turn), so that it can put an event exactly where it wants it.
func steppedRig(t testing.TB, config Config) *rig {
	t.Helper()
	before := descriptors(t)
	r := makeRig(t, config)
	t.Cleanup(func() {
		r.end()
		wantDescriptors(t, before)
	})
	return r
}

func makeRig(t testing.TB, config Config) *rig {
	t.Helper()
	r := &rig{t: t, handoff: filepath.Join(t.TempDir(), "handoff.sock"), journal: &journal{}}
	if config.Limits.PingInterval == 0 {
		config.Limits.PingInterval = Off // tests leap through time, and read the frames of their hosts one by one
	}
	config.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: r.journal})
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	r.Manager = m
	r.web = r.listen("tcp://127.0.0.1:0", ListenerOptions{})
	if err := m.AddHandoff(r.open("unix://" + r.handoff)); err != nil {
		t.Fatal(err)
	}
	if err := m.Settle(); err != nil {
		t.Fatal(err)
	}
	return r
}

// journal is the Manager's log. With ANTEROOM_TEST_LOG set it is shown as well.
type journal struct {
	mu   sync.Mutex
	text []byte // mu
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, p...)
	if os.Getenv("ANTEROOM_TEST_LOG") != "" {
		_, _ = os.Stderr.Write(p)
	}
	return len(p), nil
}

// lines is how many lines of the log hold all of the texts.
func (j *journal) lines(texts ...string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for line := range strings.Lines(string(j.text)) {
		lacks := func(text string) bool { return !strings.Contains(line, text) }
		if !slices.ContainsFunc(texts, lacks) {
			n++
		}
	}
	return n
}

// wantLog: n lines of the log hold all of the texts, once the loop has done what it was asked before.
func (r *rig) wantLog(n int, texts ...string) {
	r.t.Helper()
	r.counts()
	if got := r.journal.lines(texts...); got != n {
		r.t.Errorf("%d lines of the log hold %q, want %d", got, texts, n)
	}
}

// leap moves the loop's clock forward, so that no test has to wait for a time to pass.
func (r *rig) leap(d time.Duration) {
	r.t.Helper()
	if err := r.tell(func() error {
		r.start = r.start.Add(-d)
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
}

// pass is leap, and waits until the loop has acted on the new time: it obeys the first command in the
// turn that has the new time, before it looks at what is due, and the second one in a later turn.
func (r *rig) pass(d time.Duration) {
	r.t.Helper()
	r.leap(d)
	for range 2 {
		r.counts()
	}
}

// turn is one turn of the loop that does not wait.
func (r *rig) turn() {
	r.t.Helper()
	if err := r.Manager.turn(0); err != nil {
		r.t.Fatal(err)
	}
}

// descriptors counts this process's open descriptors. Test cleanups run last in, first out: what a test opens itself is closed by then.
func descriptors(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func (r *rig) open(address string) *listener.Listener {
	r.t.Helper()
	a, err := listener.ParseAddress(address)
	if err != nil {
		r.t.Fatal(err)
	}
	l, err := listener.Open(a, listener.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

func wantDescriptors(t testing.TB, before int) {
	t.Helper()
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// listen adds a listener and returns its address without the scheme.
func (r *rig) listen(address string, o ListenerOptions) string {
	r.t.Helper()
	l := r.open(address)
	at := l.String()[len("tcp://"):]
	if err := r.AddListener(l, o); err != nil {
		r.t.Fatal(err)
	}
	return at
}

func (r *rig) counts() Counts {
	r.t.Helper()
	c, err := r.Counts(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// eventually waits for a condition that the loop will bring about; its failure names what.
func (r *rig) eventually(what string, is func(Counts) bool) {
	r.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		c := r.counts()
		if is(c) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not within 5 s: %s; now %+v", what, c)
		}
		time.Sleep(time.Millisecond)
	}
}

// dial opens a client's connection.
func (r *rig) dial() *client {
	r.t.Helper()
	return r.dialAt(r.web)
}

func (r *rig) dialAt(address string) *client {
	r.t.Helper()
	c, err := netDial(address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return &client{c.(*net.TCPConn), r.t}
}

type client struct {
	conn
	t testing.TB
}

type conn interface {
	net.Conn
	CloseWrite() error
}

func (r *rig) dialUnix(path string) *client {
	r.t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return &client{c.(*net.UnixConn), r.t}
}

// turns is how often the loop has turned.
func (r *rig) turns() uint64 {
	r.t.Helper()
	n, err := ask(context.Background(), r.Manager, func() (uint64, error) { return r.Manager.turns, nil })
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// want reads exactly s.
func (c *client) want(s string) {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	p := make([]byte, len(s))
	if n, err := io.ReadFull(c, p); err != nil || string(p) != s {
		c.t.Fatalf("read %q, %v; want %q", p[:n], err, s)
	}
}

// wantEnd reads the end of the stream: a FIN, no reset.
func (c *client) wantEnd() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		c.t.Fatalf("read %d, %v; want the end", n, err)
	}
}

// wantEndOrReset: the connection is over, and nothing says how.
func (c *client) wantEndOrReset() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		c.t.Fatalf("read %d, %v; want the end", n, err)
	}
}

// reset ends the connection without a FIN.
func (c *client) reset() {
	c.t.Helper()
	if err := errors.Join(c.conn.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		c.t.Fatal(err)
	}
}

// wantGone lets go of the connection, which its host has ended or kept.
func (c *client) wantGone() {
	c.t.Helper()
	if err := c.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// peer is a host's end of a handoff connection, frame by frame.
type peer struct {
	t    testing.TB
	sock int
	in   handoff.Inbox
	out  handoff.Outbox
}

// connect opens the handoff socket without a HELLO.
func (r *rig) connect() *peer {
	r.t.Helper()
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: r.handoff}); err != nil {
		r.t.Fatal(err)
	}
	p := &peer{t: r.t, sock: sock}
	r.t.Cleanup(p.close)
	return p
}

func (p *peer) close() {
	if p.sock >= 0 {
		p.in.Close()
		_ = unix.Close(p.sock)
		p.sock = -1
	}
}

// attach attaches a host to the listener's pool.
func (r *rig) attach(h handoff.Hello) *peer {
	r.t.Helper()
	if h.Pool == "" {
		h.Pool = DefaultPool
	}
	return r.hello(h)
}

// hello opens the handoff socket and gets its WELCOME.
func (r *rig) hello(h handoff.Hello) *peer {
	r.t.Helper()
	if h.Name == "" {
		h.Name = "test"
	}
	if h.Capacity == 0 {
		h.Capacity = 1
	}
	p := r.connect()
	p.send(h.Frame())
	f, _ := p.next()
	if _, err := handoff.WelcomeOf(&f); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func (p *peer) send(f handoff.Frame) {
	p.t.Helper()
	p.out.Add(&f)
	if err := p.out.Flush(p.sock); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) sendFD(f handoff.Frame, fd int) {
	p.t.Helper()
	p.out.AddFD(&f, fd)
	if err := p.out.Flush(p.sock); err != nil {
		p.t.Fatal(err)
	}
}

// next waits for a frame; fd is its descriptor or -1.
func (p *peer) next() (handoff.Frame, int) {
	p.t.Helper()
	f, fd, err := p.read(5 * time.Second)
	if err != nil {
		p.t.Fatalf("waiting for a frame: %v", err)
	}
	return f, fd
}

var errQuiet = errors.New("no frame in time")

// read returns the next frame, io.EOF at the end of the link, or errQuiet.
func (p *peer) read(patience time.Duration) (handoff.Frame, int, error) {
	deadline := time.Now().Add(patience)
	for {
		var f handoff.Frame
		fd, ok, err := p.in.Next(&f)
		if ok || err != nil {
			return f, fd, err
		}
		if err := p.in.Recv(p.sock); err == nil {
			continue
		} else if !errors.Is(err, handoff.ErrAgain) {
			return f, -1, err
		}
		left := time.Until(deadline)
		if left <= 0 {
			return f, -1, errQuiet
		}
		poll := []unix.PollFd{{Fd: int32(p.sock), Events: unix.POLLIN}}
		_, _ = unix.Poll(poll, int(left.Milliseconds())+1)
	}
}

// want waits for a frame of a type.
func (p *peer) want(typ handoff.Type) (handoff.Frame, int) {
	p.t.Helper()
	f, fd := p.next()
	if f.Type != typ {
		p.t.Fatalf("got %s %+v %q, want %s", f.Type, f, f.Payload, typ)
	}
	return f, fd
}

// wantFault waits for an ERROR or REFUSE with a code, and the hang-up behind it.
func (p *peer) wantFault(code handoff.Code) {
	p.t.Helper()
	f, _ := p.next()
	if f.Type != handoff.TypeError && f.Type != handoff.TypeRefuse || handoff.Code(f.A) != code {
		p.t.Fatalf("got %s %v, want %v", f.Type, handoff.FaultOf(&f), code)
	}
	if _, _, err := p.read(5 * time.Second); err != io.EOF {
		p.t.Fatalf("after the fault: %v, want the end of the link", err)
	}
}

// serve answers one lease: it reads the request from the connection and writes a response.
func (p *peer) serve(fd int, request, response string) {
	p.t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil || string(b[:n]) != request {
		p.t.Fatalf("the request is %q, %v; want %q", b[:max(n, 0)], err, request)
	}
	if _, err := unix.Write(fd, []byte(response)); err != nil {
		p.t.Fatal(err)
	}
}

func put(lease handoff.Frame) handoff.Frame {
	return handoff.Frame{Type: handoff.TypePut, Conn: lease.Conn, Seq: lease.Seq}
}

func netDial(address string) (net.Conn, error) { return net.DialTimeout("tcp", address, time.Second) }

// push sends bytes as they are in one message, with descriptors.
func (p *peer) push(b []byte, fds ...int) {
	p.t.Helper()
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(p.sock, b, rights, nil, unix.MSG_NOSIGNAL); err != nil {
		p.t.Fatal(err)
	}
}

// wire is a frame's bytes. Unlike Outbox it leaves the flags as they are.
func wire(f handoff.Frame) []byte { return f.Append(nil) }

// exchange has a client's request leased to the host and answered, and the connection put.
func (p *peer) exchange(c *client, request, response string) handoff.Frame {
	p.t.Helper()
	c.send(request)
	lease, fd := p.want(handoff.TypeLease)
	p.answer(lease, fd, request, response)
	c.want(response)
	return lease
}

// answer serves a lease that came with a descriptor, closes that, and puts the connection.
func (p *peer) answer(lease handoff.Frame, fd int, request, response string) {
	p.t.Helper()
	p.serve(fd, request, response)
	closeFD(fd)
	p.send(put(lease))
}

// quiet: the host has no frame to read, once the loop has done what it was asked before.
func (p *peer) quiet(r *rig) {
	p.t.Helper()
	r.counts()
	if f, _, err := p.read(0); err != errQuiet {
		p.t.Errorf("a frame nobody expected: %s %+v %q, %v", f.Type, f, f.Payload, err)
	}
}

// bystander is a host with a client of its own, in a pool of its own, that nothing in the test may disturb.
type bystander struct {
	host   *peer
	client *client
	served int
}

func (r *rig) bystander() *bystander {
	r.t.Helper()
	where := r.listen("tcp://127.0.0.1:0", ListenerOptions{Pool: "bystander"})
	b := &bystander{host: r.attach(handoff.Hello{Name: "bystander", Pool: "bystander"}), client: r.dialAt(where)}
	b.works()
	return b
}

// works: the next request on the same connection is served as ever.
func (b *bystander) works() {
	b.host.t.Helper()
	lease := b.host.exchange(b.client, "ping", "pong")
	if b.served++; int(lease.Seq) != b.served {
		b.host.t.Errorf("the bystander's lease number %d came as number %d", lease.Seq, b.served)
	}
}

// The kinds of descriptor that a host may send.

func aFile(t testing.TB) int {
	t.Helper()
	return opened(t)(unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0))
}

func anEpoll(t testing.TB) int {
	t.Helper()
	return opened(t)(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
}

func aSocket(t testing.TB, family, kind int) int {
	t.Helper()
	return opened(t)(unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0))
}

func aListener(t testing.TB) int {
	t.Helper()
	fd := aSocket(t, unix.AF_INET, unix.SOCK_STREAM)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 16); err != nil {
		t.Fatal(err)
	}
	return fd
}

// aPair is a connection's two ends.
func aPair(t testing.TB, kind int) (near, far int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return opened(t)(fds[0], nil), opened(t)(fds[1], nil)
}

// opened closes the descriptor at the end of the test.
func opened(t testing.TB) func(int, error) int {
	t.Helper()
	return func(fd int, err error) int {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
}

// abort resets a connection and closes its descriptor.
func abort(t testing.TB, fd int) {
	t.Helper()
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		t.Fatal(err)
	}
	closeFD(fd)
}

// awaitBytes returns when there is something to read.
func awaitBytes(t testing.TB, fd int) {
	t.Helper()
	watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if n, err := unix.Poll(watched, 5000); n != 1 {
		t.Fatalf("nothing to read in time: %v", err)
	}
}
