// Package hosttest is a sidecar for the tests of hosts: small, in one goroutine and one process, true to handoff/PROTOCOL.md and strict about what
// a host may do. It is no example of how a sidecar should be built; package manager is.
package hosttest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// Running is a sidecar that tests of hosts can be run against: this package's, or a real one.
type Running interface {
	Path() string // of its handoff socket
	Kill()        // ends it as a crash does: nobody is told
	Restart()     // starts another, at the same path, after Kill
}

// Counts is what a Sidecar has seen since it started.
type Counts struct {
	Accepted, Adopted       int // connections
	Leases, WithDescriptor  int // leases in all, and those that came with one
	Puts, Requests          int
	Finishes, Finishing     int // in all, and connections that are being finished now
	Closes, Detaches, Nacks int
	Dropped, Stale          int
	Forgotten, Pongs        int
	Idle, Ready, Leased     int // connections by state, now
	Attached, Hosts         int // hosts: in all, and now
}

// Sidecar leases connections to hosts. Its methods may be called from any goroutine.
type Sidecar struct {
	path string

	mu       sync.Mutex
	commands []func()
	eventfd  int
	stopped  chan struct{}

	// Owned by the loop.
	epoll     int
	handoffFD int
	doors     map[int]*door
	links     map[int]*link
	clients   map[uint64]*client
	byFD      map[int]*client
	ready     []*client // in the order in which their requests came
	ids       uint64
	hosts     uint64
	keepAlive time.Duration
	last      bool
	finishes  bool
	killed    bool
	counts    Counts
	faults    []string
}

// Start runs a sidecar in a new private folder until the test ends. It fails the test if a host broke the protocol meanwhile.
func Start(t testing.TB) *Sidecar {
	t.Helper()
	dir, err := os.MkdirTemp("", "sidecar") //nolint:usetesting // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	s := &Sidecar{path: filepath.Join(dir, "handoff.sock"), keepAlive: time.Minute}
	s.Restart()
	t.Cleanup(func() {
		faults := s.Faults()
		s.Kill()
		_ = os.RemoveAll(dir)
		for _, fault := range faults {
			t.Errorf("a host broke the protocol: %s", fault)
		}
	})
	return s
}

// Path is where hosts attach.
func (s *Sidecar) Path() string { return s.path }

// Restart starts anew: nothing of the life before Kill is known.
func (s *Sidecar) Restart() {
	s.doors, s.links, s.clients, s.byFD = map[int]*door{}, map[int]*link{}, map[uint64]*client{}, map[int]*client{}
	s.ready, s.killed, s.counts = nil, false, Counts{}
	s.stopped = make(chan struct{})
	s.epoll = must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	s.eventfd = must(unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK))
	s.handoffFD = must(listenUnix(s.path))
	s.watch(s.eventfd, unix.EPOLLIN)
	s.watch(s.handoffFD, unix.EPOLLIN)
	go s.run()
}

func listenUnix(path string) (int, error) {
	_ = os.Remove(path)
	fd := must(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 128)
}

// must is for calls that fail only if the test's machine is out of something.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Kill ends the sidecar as a crash does: every descriptor of it is closed, nobody is told. A second Kill does nothing.
func (s *Sidecar) Kill() {
	s.do(func() { s.killed = true })
	<-s.stopped
}

// do runs f in the loop, and returns when it is done or the loop has ended.
func (s *Sidecar) do(f func()) {
	done := make(chan struct{})
	s.mu.Lock()
	s.commands = append(s.commands, func() { f(); close(done) })
	if s.eventfd >= 0 {
		_, _ = unix.Write(s.eventfd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	s.mu.Unlock()
	select {
	case <-done:
	case <-s.stopped:
	}
}

// Counts says what has happened so far.
func (s *Sidecar) Counts() (n Counts) {
	s.do(func() {
		n = s.counts
		n.Hosts = 0
		for _, l := range s.links {
			if l.hello != nil {
				n.Hosts++
			}
		}
		for _, c := range s.clients {
			switch c.state {
			case idle:
				n.Idle++
			case ready:
				n.Ready++
			case leased:
				n.Leased++
			case finishing:
				n.Finishing++
			case lingering:
			}
		}
	})
	return n
}

// Faults are the ways in which hosts have broken the protocol.
func (s *Sidecar) Faults() (list []string) {
	s.do(func() { list = slices.Clone(s.faults) })
	return list
}

// SetKeepAlive sets how long connections may be idle that are put without a timeout of their own.
func (s *Sidecar) SetKeepAlive(d time.Duration) { s.do(func() { s.keepAlive = d }) }

// AgreeToFinish makes the sidecar agree to the feature finish with hosts that attach from now on.
func (s *Sidecar) AgreeToFinish() { s.do(func() { s.finishes = true }) }

// SetLast makes every lease from now on the last of its connection.
func (s *Sidecar) SetLast(last bool) { s.do(func() { s.last = last }) }

// DrainHosts asks every host to finish and leave.
func (s *Sidecar) DrainHosts() {
	s.do(func() {
		for _, l := range s.links {
			l.draining = true
			l.send(&handoff.Frame{Type: handoff.TypeDraining})
		}
	})
}

// CloseIdle closes all idle connections, as an operator may.
func (s *Sidecar) CloseIdle() { s.closeState(idle) }

// CloseLeased takes back and closes all leased connections.
func (s *Sidecar) CloseLeased() { s.closeState(leased) }

func (s *Sidecar) closeState(state clientState) {
	s.do(func() {
		for _, c := range s.clients {
			if c.state == state {
				s.forget(c, handoff.ForgetOperator)
				s.end(c)
			}
		}
	})
}

// LeaseElsewhere makes the next lease of every idle connection come with a descriptor: as if it had been with another host in between.
func (s *Sidecar) LeaseElsewhere() {
	s.do(func() {
		for _, c := range s.clients {
			if c.state == idle {
				s.forget(c, handoff.ForgetMoved)
			}
		}
	})
}

// Ping asks every host for a sign of life, and does not wait for it.
func (s *Sidecar) Ping() {
	s.do(func() {
		for _, l := range s.links {
			l.send(&handoff.Frame{Type: handoff.TypePing, A: 7})
		}
	})
}

// Send sends a frame of the test's choice to every host.
func (s *Sidecar) Send(f handoff.Frame) {
	s.do(func() {
		for _, l := range s.links {
			l.send(&f)
		}
	})
}

// run is the loop: wait, act on each event, lend what is ready, expire, send.
func (s *Sidecar) run() {
	defer close(s.stopped)
	defer s.closeAll()
	events := make([]unix.EpollEvent, 64)
	for !s.killed {
		n, err := unix.EpollWait(s.epoll, events, s.untilExpiry())
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(err)
		}
		for _, e := range events[:max(n, 0)] {
			s.act(int(e.Fd))
		}
		s.expire(time.Now())
		s.lend()
		s.flush()
	}
}

func (s *Sidecar) act(fd int) {
	switch {
	case fd == s.eventfd:
		s.runCommands()
	case fd == s.handoffFD:
		s.acceptHosts()
	case s.doors[fd] != nil:
		s.acceptClients(s.doors[fd])
	case s.links[fd] != nil:
		s.receive(s.links[fd])
	case s.byFD[fd] != nil:
		s.clientReady(s.byFD[fd])
	}
}

func (s *Sidecar) runCommands() {
	var b [8]byte
	_, _ = unix.Read(s.eventfd, b[:])
	s.mu.Lock()
	commands := s.commands
	s.commands = nil
	s.mu.Unlock()
	for _, f := range commands {
		f()
	}
}

// closeAll is what the kernel does to a process that dies.
func (s *Sidecar) closeAll() {
	for fd := range s.doors {
		_ = unix.Close(fd)
	}
	for fd, l := range s.links {
		l.in.Close()
		l.out.Close()
		_ = unix.Close(fd)
	}
	for fd, c := range s.byFD {
		_ = unix.Close(fd)
		if c.state == finishing {
			_ = unix.Close(c.rest.file)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range []int{s.handoffFD, s.epoll, s.eventfd} {
		_ = unix.Close(fd)
	}
	s.eventfd = -1
	s.commands = nil
}

func (s *Sidecar) watch(fd int, events uint32) {
	err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	if errors.Is(err, unix.EEXIST) {
		err = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
	}
	if err != nil {
		panic(err)
	}
}

func (s *Sidecar) unwatch(fd int) { _ = unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, fd, nil) }

func (s *Sidecar) fault(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}
