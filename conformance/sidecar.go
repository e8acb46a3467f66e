package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// sidecar is the handoff socket and what is known of the hosts behind it. It answers what needs no thought (HELLO, DRAINING, LISTEN), checks what
// each frame may be, and remembers; the case that runs decides everything else. Everything below mu is guarded by it.
type sidecar struct {
	path string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	listener *net.UnixListener
	epoch    int
	meet     func(*link) // for one that has connected, with mu held; nil: wait for its HELLO
	greet    func(*link) // answers a HELLO, with mu held; nil: welcome
	links    []*link     // every one that ever was, in order
	conns    map[uint64]*connection
	lastConn uint64
	faults   []string // what hosts did that no host may do
}

func newSidecar(path string) *sidecar {
	return &sidecar{path: path, changed: make(chan struct{}), conns: map[uint64]*connection{}}
}

// listen begins a life of the sidecar.
func (s *sidecar) listen() error {
	_ = os.Remove(s.path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.path, Net: "unix"})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
	s.epoch++
	go s.accept(l)
	return nil
}

func (s *sidecar) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		s.mu.Lock()
		k, err := newLink(s, c)
		if err != nil {
			s.mu.Unlock()
			_ = c.Close()
			continue
		}
		s.links = append(s.links, k)
		if s.meet != nil {
			s.meet(k)
		}
		s.tellLocked()
		s.mu.Unlock()
		go k.receive()
	}
}

// vanish ends a life of the sidecar as a crash does.
func (s *sidecar) vanish() {
	s.mu.Lock()
	l, links := s.listener, slices.Clone(s.links)
	s.listener = nil
	s.mu.Unlock()
	if l != nil {
		_ = l.Close()
	}
	for _, k := range links {
		k.hangUp()
	}
}

// tellLocked wakes who waits for a change.
func (s *sidecar) tellLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sidecar) faultLocked(format string, args ...any) {
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// takeFaults returns the faults so far and forgets them.
func (s *sidecar) takeFaults() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.faults
	s.faults = nil
	return list
}

// errEnded: what is waited for can no longer come.
var errEnded = errors.New("ended")

// wait returns nil when ok, which is called with mu held, returns true; errEnded if stop is closed first, os.ErrDeadlineExceeded after d.
func (s *sidecar) wait(d time.Duration, stop <-chan struct{}, ok func() bool) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		s.mu.Lock()
		done, changed := ok(), s.changed
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-stop:
			return errEnded
		case <-timer.C:
			return os.ErrDeadlineExceeded
		}
	}
}

// liveLocked are the links that are welcome and serve.
func (s *sidecar) liveLocked() []*link {
	return slices.DeleteFunc(slices.Clone(s.links), func(k *link) bool { return !k.welcomed || k.gone || k.draining })
}

// obeyLocked acts on a host's frame.
func (s *sidecar) obeyLocked(k *link, f *handoff.Frame, file *os.File) {
	if file != nil && f.Type != handoff.TypeFinish {
		_ = file.Close()
	}
	if k.hello == nil {
		s.helloLocked(k, f)
		return
	}
	switch f.Type {
	case handoff.TypePut, handoff.TypeClose, handoff.TypeDetach, handoff.TypeNack, handoff.TypeFinish:
		s.answerLocked(k, f, file)
	case handoff.TypeAdopt, handoff.TypeUnlisten:
		denied := handoff.Faultf(handoff.CodeAtLimit, "the conformance kit does not do %s", f.Type).Frame(handoff.TypeDenied, f.Seq)
		k.send(&denied)
	case handoff.TypeListen:
		s.listenLocked(k, f)
	case handoff.TypeCapacity:
		if f.A > handoff.MaxCapacity {
			s.faultLocked("CAPACITY %d: at most %d leases can be held at once", f.A, handoff.MaxCapacity)
		}
		k.capacity = int(f.A)
	case handoff.TypeDropped:
		if c := s.conns[f.Conn]; c != nil && c.holder == k {
			c.holder = nil
		}
	case handoff.TypeDrain:
		k.draining = true
		k.send(&handoff.Frame{Type: handoff.TypeDraining, Seq: f.Seq, A: uint64(k.leases)})
	case handoff.TypePong:
		k.pongs = append(k.pongs, f.A)
	default:
		s.faultLocked("the host sent %s, which is not for a host to say here", f.Type)
	}
	s.leaveLocked(k)
}

// helloLocked reads the first frame.
func (s *sidecar) helloLocked(k *link, f *handoff.Frame) {
	hello, fault := handoff.HelloOf(f)
	if fault != nil {
		s.faultLocked("the first frame is no good HELLO: %v", fault)
		k.hello = &handoff.Hello{}
		refuse := fault.Frame(handoff.TypeRefuse, 0)
		k.send(&refuse)
		k.hangUpLocked()
		return
	}
	k.hello, k.capacity, k.introduced = hello, hello.Capacity, time.Now()
	if s.greet != nil {
		s.greet(k)
		return
	}
	k.welcomeLocked(hello.Features)
}

// listenLocked takes notes only: the kit makes its own connections.
func (s *sidecar) listenLocked(k *link, f *handoff.Frame) {
	l, fault := handoff.ListenOf(f)
	if fault != nil {
		s.faultLocked("LISTEN: %v", fault)
		return
	}
	k.listens = append(k.listens, *l)
	k.send(&handoff.Frame{Type: handoff.TypeListening, Seq: f.Seq, A: uint64(len(k.listens))})
}

// leaveLocked hangs up on a host that drains and holds nothing more (PROTOCOL.md, rule 8).
func (s *sidecar) leaveLocked(k *link) {
	if k.draining && k.leases == 0 {
		k.hangUpLocked()
	}
}
