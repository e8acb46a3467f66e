package host

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// peer is the sidecar's end of a link, worked by hand so that it costs nothing itself.
type peer struct {
	t      testing.TB
	fd     int
	in     handoff.Inbox
	out    handoff.Outbox
	client int // the client's end of the one connection
	server int // the end that is lent
}

// attachPeer attaches a host to a peer.
func attachPeer(t testing.TB) (*Host, *peer) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cost") //nolint:usetesting // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan *net.UnixConn, 1)
	go func() {
		c, err := l.AcceptUnix()
		if err == nil {
			f := handoff.Welcome{Pool: "p", Capacity: 1, Features: []string{handoff.FeatureCache, handoff.FeatureFinish}}.Frame()
			_, err = c.Write(f.Append(nil))
		}
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	h, err := Attach(t.Context(), Options{Path: dir + "/s", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c := <-accepted
	fd, err := duplicate(c)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, fd: fd, client: pair[0], server: pair[1]}
	t.Cleanup(func() {
		h.Close()
		p.in.Close()
		for _, fd := range []int{fd, pair[0], pair[1]} {
			closeFD(fd)
		}
		c.Close()
		l.Close()
		_ = os.RemoveAll(dir)
	})
	if got := p.receive(); got.Type != handoff.TypeHello {
		t.Fatalf("%+v", got)
	}
	return h, p
}

// lease lends the connection, the first time with its descriptor.
func (p *peer) lease(seq uint32) {
	f := handoff.Frame{Type: handoff.TypeLease, Conn: 1, Seq: seq}
	if seq == 1 {
		p.out.AddFD(&f, p.server)
	} else {
		p.out.Add(&f)
	}
	if err := p.out.Flush(p.fd); err != nil {
		p.t.Fatal(err)
	}
}

// receive waits for a frame, busily.
func (p *peer) receive() handoff.Frame {
	f, fd := p.receiveFD()
	closeFD(fd)
	return f
}

func (p *peer) receiveFD() (handoff.Frame, int) {
	for {
		var f handoff.Frame
		if fd, ok, err := p.in.Next(&f); ok || err != nil {
			return f, fd
		}
		if err := p.in.Recv(p.fd); err != nil && !errors.Is(err, handoff.ErrAgain) {
			p.t.Fatal(err)
		}
	}
}

// turn is one request, from lease to put.
func turn(t testing.TB, h *Host, p *peer, seq uint32, buf []byte) {
	t.Helper()
	if _, err := sendSome(p.client, buf); err != nil {
		t.Fatal(err)
	}
	p.lease(seq)
	l, err := h.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n, err := l.Read(buf)
	if err == nil {
		_, err = l.Write(buf[:n])
	}
	if err == nil {
		err = l.Put(0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if f := p.receive(); f.Type != handoff.TypePut || f.Seq != seq {
		t.Fatalf("%+v", f)
	}
	if _, err := recvfrom(p.client, buf, 0); err != nil {
		t.Fatal(err)
	}
}

func TestALeaseAllocatesNothing(t *testing.T) {
	h, p := attachPeer(t)
	buf := make([]byte, 100)
	seq := uint32(0)
	if n := testing.AllocsPerRun(500, func() { seq++; turn(t, h, p, seq, buf) }); n != 0 {
		t.Errorf("%v allocations per lease", n)
	}
}

func BenchmarkLease(b *testing.B) {
	h, p := attachPeer(b)
	buf := make([]byte, 100)
	seq := uint32(0)
	b.ReportAllocs()
	for b.Loop() {
		seq++
		turn(b, h, p, seq, buf)
	}
}

func TestALostDescriptorIsNacked(t *testing.T) {
	_, p := attachPeer(t)
	p.lease(2) // the host has never had its descriptor
	if f := p.receive(); f.Type != handoff.TypeNack || f.A != handoff.NackUnknown || f.Seq != 2 || f.Conn != 1 {
		t.Errorf("%+v", f)
	}
}

func TestASilentClientIsAnswered(t *testing.T) {
	h, p := attachPeer(t)
	l := h.Listener()
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = l.Accept()
	}()
	f := handoff.Frame{Type: handoff.TypeLease, Flags: handoff.FlagSilent, Conn: 1, Seq: 1}
	p.out.AddFD(&f, p.server)
	if err := p.out.Flush(p.fd); err != nil {
		t.Fatal(err)
	}
	if f := p.receive(); f.Type != handoff.TypeClose || f.A != handoff.CloseTooSlow {
		t.Errorf("%+v", f)
	}
	buf := make([]byte, 100)
	if n, err := recvfrom(p.client, buf, 0); err != nil || string(buf[:12]) != "HTTP/1.1 408" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	l.Close()
	<-ended
}

func TestTheClientsRealAddress(t *testing.T) {
	h, p := attachPeer(t)
	f := handoff.Frame{Type: handoff.TypeLease, Conn: 1, Seq: 1, A: 7<<32 | 5, B: 12, Payload: []byte(`{"peer":"192.0.2.1:99","more":1}`)}
	p.out.AddFD(&f, p.server)
	if err := p.out.Flush(p.fd); err != nil {
		t.Fatal(err)
	}
	l, err := h.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.RemoteAddr().String() != "192.0.2.1:99" || l.Head != 5 || l.Length != 7 || l.Waited.Microseconds() != 12 {
		t.Errorf("%+v from %v", l, l.RemoteAddr())
	}
	_ = l.Close(Done)
}

func TestFinishLeavesTheRestToTheSidecar(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/rest")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, last := range []bool{false, true} {
		h, p := attachPeer(t)
		p.lease(1)
		l, err := h.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Finish(file, 3, 4, last); err != nil {
			t.Error(err)
		}
		if err := l.Put(0); !errors.Is(err, ErrLeaseOver) {
			t.Errorf("a second answer: %v", err)
		}
		f, fd := p.receiveFD()
		var rest, want unix.Stat_t
		if err := errors.Join(unix.Fstat(fd, &rest), unix.Stat(file.Name(), &want)); err != nil || rest.Ino != want.Ino {
			t.Errorf("inode %d, want %d, %v", rest.Ino, want.Ino, err)
		}
		closeFD(fd)
		if f.Type != handoff.TypeFinish || f.Seq != 1 || f.Conn != 1 || f.A != 3 || f.B != 4 || f.Flags&handoff.FlagClose != 0 != last {
			t.Errorf("%+v", f)
		}
		p.lease(2) // comes without a descriptor, which the host still has unless the connection was to be closed
		if !last {
			if l, err = h.Next(t.Context()); err != nil || l.Seq != 2 {
				t.Errorf("%+v, %v", l, err)
			}
		} else if f := p.receive(); f.Type != handoff.TypeNack {
			t.Errorf("%+v", f)
		}
	}
}

// serveOne has the peer's connection accepted as net/http would, and served until it is put; ended tells what reading it came to at last.
func serveOne(t *testing.T, h *Host, p *peer) (c *conn, ended chan error) {
	t.Helper()
	l := h.Listener()
	t.Cleanup(func() { l.Close() })
	p.lease(1)
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, ended = accepted.(*conn), make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 100))
		ended <- err
	}()
	if f := p.receive(); f.Type != handoff.TypePut { // there was no request after all
		t.Fatalf("%+v", f)
	}
	return c, ended
}

func TestALeaseThatIsTakenBackAtOnceIsNotWaitedFor(t *testing.T) {
	h, p := attachPeer(t)
	c, ended := serveOne(t, h, p)
	p.out.Add(&handoff.Frame{Type: handoff.TypeLease, Conn: 1, Seq: 2})
	p.out.Add(&handoff.Frame{Type: handoff.TypeForget, Conn: 1})
	if err := p.out.Flush(p.fd); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	k := c.c.link
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.due != 0 || k.leases != 0 {
		t.Errorf("%d due of %d leases", k.due, k.leases)
	}
}

// A goroutine that has yielded to send may not run for long, when others compute.
func TestAnAnswerWaitsForNoHandler(t *testing.T) {
	h, p := attachPeer(t)
	c, _ := serveOne(t, h, p)
	k := c.c.link
	k.mu.Lock()
	k.yielded, k.late = true, time.Since(start)+time.Hour
	k.addLocked(&handoff.Frame{Type: handoff.TypePong, A: 1})
	k.flushSoonUnlock()
	if err := p.in.Recv(p.fd); !errors.Is(err, handoff.ErrAgain) {
		t.Errorf("before its time: %v", err)
	}
	k.mu.Lock()
	k.late = time.Since(start)
	k.mu.Unlock()
	_, _ = c.c.begin() // as the next handler does
	if f := p.receive(); f.Type != handoff.TypePong || f.A != 1 {
		t.Errorf("%+v", f)
	}
	k.mu.Lock()
	k.late = time.Since(start)
	k.addLocked(&handoff.Frame{Type: handoff.TypePong, A: 2})
	k.flushSoonUnlock() // as the next answer does
	if f := p.receive(); f.Type != handoff.TypePong || f.A != 2 {
		t.Errorf("%+v", f)
	}
	k.mu.Lock()
	k.yielded = false
	k.mu.Unlock()
}
