package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// faulty is a host with one fault: the Go conformance app, and in front of it this process, which passes on the frames between the app and the
// sidecar and does what is wrong on their way. Without a fault it changes nothing.
type faulty struct {
	fault string
	outer string // the sidecar's socket
	inner string // the app's

	mu   sync.Mutex
	kept []int // descriptors for ever
}

// runFaulty is this test binary as a program: faulty-host FAULT APP.
func runFaulty(fault, app string) {
	outer := os.Getenv(handoff.PathVariable)
	f := &faulty{fault: fault, outer: outer, inner: filepath.Join(filepath.Dir(outer), strconv.Itoa(os.Getpid()))} // the kit removes its folder
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.inner, Net: "unix"})
	check(err)
	go f.accept(l)
	if fault == "prints" {
		fmt.Println("listening")
	}
	os.Exit(f.runApp(app))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "faulty-host:", err)
		os.Exit(3)
	}
}

// runApp runs the app until it ends, and passes SIGTERM on.
func (f *faulty) runApp(path string) int {
	app := exec.Command(path)
	app.Env = append(os.Environ(), handoff.PathVariable+"="+f.inner)
	if f.fault == "other-name" {
		app.Env = append(app.Env, "ANTEROOM_NAME=me")
	}
	if f.fault == "private-pool" && os.Getenv("ANTEROOM_POOL") == "" {
		app.Env = append(app.Env, "ANTEROOM_POOL=mine")
	}
	app.Stderr = os.Stderr
	check(app.Start())
	term := make(chan os.Signal, 1)
	signal.Notify(term, unix.SIGTERM)
	go func() {
		<-term
		if f.fault == "no-draining" {
			_ = app.Process.Kill()
			os.Exit(0)
		}
		_ = app.Process.Signal(unix.SIGTERM)
	}()
	err := app.Wait()
	if f.fault == "keeps-a-dead-link" {
		select {}
	}
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if f.fault == "exit-1" {
		return 1
	}
	return 0
}

func (f *faulty) accept(l *net.UnixListener) {
	for {
		app, err := l.AcceptUnix()
		if err != nil {
			return
		}
		sidecar, err := f.dial()
		if err != nil {
			_ = app.Close()
			continue
		}
		p := &passage{faulty: f, dups: map[uint64]int{}, turn: make(chan struct{}, 1)}
		p.toApp.sock, p.toSidecar.sock = app, sidecar
		go p.pass(&p.toApp, sidecar, p.inward)
		go p.pass(&p.toSidecar, app, p.outward)
	}
}

// dial connects to the sidecar. One fault does so without a pause for as long as it takes.
func (f *faulty) dial() (*net.UnixConn, error) {
	for {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.outer, Net: "unix"})
		if f.fault != "spins" || err != nil {
			return c, err
		}
		if _, err := c.Write(f.hello()); err == nil {
			answer := make([]byte, 1)
			if _, _ = c.Read(answer); handoff.Type(answer[0]) == handoff.TypeWelcome {
				os.Exit(1) // it is let in, which is not what this fault is for
			}
		}
		_ = c.Close()
	}
}

func (f *faulty) hello() []byte {
	h := handoff.Hello{Name: os.Getenv("ANTEROOM_NAME"), Pool: os.Getenv("ANTEROOM_POOL"), Capacity: 4}
	frame := h.Frame()
	return frame.Append(nil)
}

// passage is one life of the link.
type passage struct {
	*faulty
	toApp, toSidecar way
	turn             chan struct{} // for the fault that serves one lease at a time

	mu   sync.Mutex
	out  int             // leases
	held []handoff.Frame // for later, by the fault that is busy
	dups map[uint64]int  // descriptors of the leased connections, for faults that do something to them
}

// way is one direction.
type way struct {
	mu   sync.Mutex
	sock *net.UnixConn
}

// send writes a frame, and its descriptor if that is not negative.
func (w *way) send(f *handoff.Frame, fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, _ = w.sock.WriteMsgUnix(f.Append(nil), rights, nil)
}

// pass reads frames from one side until it hangs up.
func (p *passage) pass(to *way, from *net.UnixConn, act func(*handoff.Frame, int)) {
	defer p.end(to, from)
	raw, err := from.SyscallConn()
	check(err)
	in := new(handoff.Inbox)
	defer func() { in.Close() }()
	for err == nil {
		ready := raw.Read(func(fd uintptr) bool {
			err = in.Recv(int(fd))
			return !errors.Is(err, handoff.ErrAgain)
		})
		if err = errors.Join(ready, err); err == nil {
			err = p.passAll(in, act)
		}
		if p.fault == "torn" && len(in.Pending()) > 0 {
			in.Close()
			in = new(handoff.Inbox)
		}
	}
}

// end: one side has hung up.
func (p *passage) end(to *way, from *net.UnixConn) {
	switch {
	case p.fault == "ends-with-the-link":
		os.Exit(0)
	case p.fault == "keeps-a-dead-link" && to == &p.toSidecar:
		return
	}
	_ = to.sock.Close()
	_ = from.Close()
}

func (p *passage) passAll(in *handoff.Inbox, act func(*handoff.Frame, int)) error {
	for {
		var f handoff.Frame
		fd, ok, err := in.Next(&f)
		switch {
		case !ok && errors.Is(err, handoff.ErrBadFrame):
			return err
		case !ok:
			return err
		case errors.Is(err, handoff.ErrDescriptorLost):
			p.lost(&f)
			continue
		}
		act(&f, fd)
		closeFD(fd)
	}
}

// lost: this process has no room for the descriptor of a lease.
func (p *passage) lost(f *handoff.Frame) {
	if p.fault != "silent-about-lost" {
		p.toSidecar.send(&handoff.Frame{Type: handoff.TypeNack, Conn: f.Conn, Seq: f.Seq, A: handoff.NackNoDescriptor}, -1)
	}
}

// inward passes on what the sidecar says.
func (p *passage) inward(f *handoff.Frame, fd int) {
	switch {
	case f.Type == handoff.TypeLease:
		p.lease(f, fd)
		return
	case f.Type == handoff.TypeForget && p.fault == "ignores-forget",
		f.Type == handoff.TypePing && p.fault == "ignores-ping",
		f.Type == handoff.TypeDraining && p.fault == "ignores-draining":
		return
	case f.Type == handoff.TypeForget && p.fault == "shuts-down-forgotten":
		p.withDup(f.Conn, func(dup int) { _ = unix.Shutdown(dup, unix.SHUT_RDWR) })
	case f.Type == handoff.TypeWelcome && p.fault == "strict-json" && strings.Contains(string(f.Payload), "future"):
		_ = p.toSidecar.sock.Close()
		return
	case !f.Type.Known() && p.fault == "fails-at-unknown":
		_ = p.toSidecar.sock.Close()
		return
	case !f.Type.Known() && p.fault == "keeps-stray" && fd >= 0:
		p.keep(fd)
	}
	if f.Type == handoff.TypePing && p.fault == "busy" && p.hold(f) {
		return
	}
	p.toApp.send(f, fd)
}

// hold keeps a frame from a host that serves a lease, until that is answered.
func (p *passage) hold(f *handoff.Frame) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out > 0 {
		p.held = append(p.held, *f)
	}
	return p.out > 0
}

// serving counts the leases that are out.
func (p *passage) serving(change int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out += change; p.out == 0 {
		for i := range p.held {
			p.toApp.send(&p.held[i], -1)
		}
		p.held = nil
	}
}

func (p *passage) lease(f *handoff.Frame, fd int) {
	if p.fault == "answers-all-alike" {
		p.answerAlike(f, fd)
		return
	}
	p.remember(f.Conn, fd)
	p.serving(+1)
	switch p.fault {
	case "ignores-last":
		f.Flags &^= handoff.FlagLast
	case "ignores-peer":
		f.Payload = nil
	case "leaks":
		if fd >= 0 {
			p.keep(fd)
		}
	case "inherits":
		if dup := p.keep(fd); dup >= 0 {
			_, _ = unix.FcntlInt(uintptr(dup), unix.F_SETFD, 0)
			p.remember(f.Conn, dup)
		}
	case "early-put":
		p.toSidecar.send(&handoff.Frame{Type: handoff.TypePut, Conn: f.Conn, Seq: f.Seq}, -1)
		time.Sleep(20 * time.Millisecond)
	case "one-at-a-time":
		p.turn <- struct{}{}
	}
	p.toApp.send(f, fd)
}

// answerAlike serves a lease by itself, whatever is asked.
func (p *passage) answerAlike(f *handoff.Frame, fd int) {
	_, _, _ = unix.Recvfrom(fd, make([]byte, 1<<16), unix.MSG_DONTWAIT)
	_, _ = unix.Write(fd, []byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n"))
	p.toSidecar.send(&handoff.Frame{Type: handoff.TypePut, Conn: f.Conn, Seq: f.Seq}, -1)
}

// outward passes on what the app says.
func (p *passage) outward(f *handoff.Frame, fd int) {
	switch f.Type {
	case handoff.TypePut, handoff.TypeClose, handoff.TypeDetach, handoff.TypeNack, handoff.TypeFinish:
		if !p.answer(f) {
			return
		}
		defer p.serving(-1)
	case handoff.TypeHello:
		p.introduce(f)
	case handoff.TypePong:
		if p.fault == "small-numbers" {
			f.A &= 1<<53 - 1
		}
	case handoff.TypeDropped:
		if p.fault == "silent-about-dropped" {
			return
		}
	default:
	}
	p.toSidecar.send(f, fd)
}

func (p *passage) introduce(f *handoff.Frame) {
	h, fault := handoff.HelloOf(f)
	if fault != nil {
		check(fault)
	}
	switch p.fault {
	case "answers-all-alike":
		h.Features = []string{handoff.FeatureAddress}
	case "other-capacity":
		h.Capacity = 1
	case "hello-late":
		time.Sleep(helloTime + 200*time.Millisecond)
	case "no-magic":
		f.A = 0
		return
	}
	*f = h.Frame()
}

// answer does something wrong with an answer; it reports whether the answer is still to be sent.
func (p *passage) answer(f *handoff.Frame) bool {
	switch {
	case p.fault == "forgets-put" && f.Type == handoff.TypePut,
		p.fault == "early-put" && f.Type == handoff.TypePut,
		p.fault == "forgets-detach" && f.Type == handoff.TypeDetach,
		p.fault == "forgets-close" && f.Type == handoff.TypeClose:
		return false
	case p.fault == "wrong-seq":
		f.Seq++
	case p.fault == "puts-twice" && f.Type == handoff.TypePut:
		p.toSidecar.send(f, -1)
	case p.fault == "puts-what-it-should-close" && f.Type == handoff.TypeClose:
		f.Type = handoff.TypePut
	case p.fault == "finishes-more-than-there-is" && f.Type == handoff.TypeFinish:
		f.B++
	case p.fault == "miscounts" && f.Type == handoff.TypePut:
		f.B = 1
	case p.fault == "nack-overload" && f.Type == handoff.TypeNack:
		f.A = handoff.NackOverload
	case p.fault == "clears-nonblock":
		p.withDup(f.Conn, func(dup int) { _ = unix.SetNonblock(dup, false) })
	case p.fault == "shutdown-then-close" && f.Type == handoff.TypeClose:
		p.withDup(f.Conn, func(dup int) { _ = unix.Shutdown(dup, unix.SHUT_WR) })
	case p.fault == "reads-after-put" && f.Type == handoff.TypePut:
		p.withDup(f.Conn, func(dup int) { go readOn(dup) })
	case p.fault == "closes-idle" && f.Type == handoff.TypePut:
		late := handoff.Frame{Type: handoff.TypeClose, Conn: f.Conn, Seq: f.Seq}
		time.AfterFunc(5*time.Second, func() { p.toSidecar.send(&late, -1) })
	case p.fault == "one-at-a-time":
		select {
		case <-p.turn:
		default:
		}
	}
	return true
}

// readOn reads what comes until something has.
func readOn(fd int) {
	buf := make([]byte, 100)
	for range 200 {
		if n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); n > 0 || err == nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// needsDup are the faults that do something to a connection's socket.
var needsDup = map[string]bool{"clears-nonblock": true, "shutdown-then-close": true, "shuts-down-forgotten": true, "reads-after-put": true, "inherits": true}

func (p *passage) remember(conn uint64, fd int) {
	if fd < 0 || !needsDup[p.fault] {
		return
	}
	dup, err := unix.Dup(fd)
	check(err)
	unix.CloseOnExec(dup)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dups[conn] = dup
}

func (p *passage) withDup(conn uint64, do func(int)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if dup, ok := p.dups[conn]; ok {
		do(dup)
	}
}

// keep leaks a duplicate.
func (f *faulty) keep(fd int) int {
	if fd < 0 {
		return -1
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	check(err)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = append(f.kept, dup)
	return dup
}
