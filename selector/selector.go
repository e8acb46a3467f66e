package selector

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"sync/atomic"
	"time"
)

// Interest is what a registration asks to hear of.
type Interest uint8

// The bits of an Interest.
const (
	Read          Interest = 1 << iota // bytes, a connection to accept, or an end of file can be read
	Write                              // there is room to write
	OneShot                            // report once, then stay silent until Modify
	EdgeTriggered                      // report changes only; the caller reads or writes until EAGAIN
)

// Ready is what a descriptor is ready for.
type Ready uint8

// The bits of a Ready.
const (
	Readable   Ready = 1 << iota
	Writable         // room to write
	PeerClosed       // the peer has shut down writing (RDHUP); unread bytes may still be queued
	HungUp           // both directions are shut down (HUP)
	Failed           // an error is pending on the descriptor (ERR), SO_ERROR tells which
)

// Event says that the descriptor registered with Token is ready.
type Event struct {
	Token uint64
	Ready Ready
}

// MaxToken is the largest token. Those above it are the selector's own.
const MaxToken = math.MaxUint64 - 2

// MaxBatch is the most events that one Select reports, however long its argument is.
const MaxBatch = 1024

// What callers act on; test with errors.Is. Other errors carry the system call's name and its errno.
var (
	ErrClosed        = errors.New("selector: closed")
	ErrRegistered    = errors.New("selector: descriptor is registered already")
	ErrNotRegistered = errors.New("selector: descriptor is not registered")
)

// Selector is a set of registered descriptors. New makes one.
type Selector struct {
	poller poller
	users  users         // callers inside the poller; Close waits for them
	known  table         // the registered descriptors, for Connections and to refuse what is not registered
	waking atomic.Bool   // a wake-up is on its way; the next one can be left out
	gone   chan struct{} // closed when Close has finished
}

// New returns an empty selector. It holds three descriptors of its own, all close-on-exec, until Close.
func New() (*Selector, error) {
	s := &Selector{gone: make(chan struct{})}
	s.users.init()
	if err := s.poller.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// Register adds fd. It fails with ErrRegistered if it is there already, and with EPERM if its kind of file has no readiness (a regular file).
func (s *Selector) Register(fd int, token uint64, in Interest) error {
	if err := s.enter(fd, token); err != nil {
		return err
	}
	defer s.users.leave()

	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	// It is noted first: the first event may reach the caller's loop, and its Modify the table, before add has returned.
	before := s.known.addLocked(fd)
	err := s.poller.add(fd, token, in)
	if err != nil && !before {
		s.known.dropLocked(fd)
	}
	return describe(fd, err)
}

// Modify replaces the token and the interest of fd, and arms it again if it was a OneShot that has fired. ErrNotRegistered: it is not there.
// EBADF: it was closed without Unregister.
func (s *Selector) Modify(fd int, token uint64, in Interest) error {
	if err := s.enter(fd, token); err != nil {
		return err
	}
	defer s.users.leave()

	if !s.known.has(fd) {
		return describe(fd, ErrNotRegistered)
	}
	return describe(fd, s.poller.change(fd, token, in))
}

// Unregister removes fd. The selector forgets it in any case; an error says that the kernel did not know it any more, which means that it was
// closed too early (see Contract).
func (s *Selector) Unregister(fd int) error {
	if err := s.enter(fd, 0); err != nil {
		return err
	}
	defer s.users.leave()

	s.known.mu.Lock()
	defer s.known.mu.Unlock()
	if !s.known.dropLocked(fd) {
		return describe(fd, ErrNotRegistered)
	}
	return describe(fd, s.poller.remove(fd))
}

// Select waits until a descriptor is ready, Wake is called or timeout has passed, fills events and returns how many it filled: 0 after
// a timeout, and also after a Wake where nothing was ready. A negative timeout is none; zero asks and returns at once; any other is rounded up
// to what the kernel can count, never down. A signal does not end it. It fails with ErrClosed once Close has been called, also while it waits.
//
// While it waits it holds its thread and, until nothing has happened for 50 to 100 ms, one of GOMAXPROCS, unless that is 1.
func (s *Selector) Select(events []Event, timeout time.Duration) (int, error) {
	if len(events) == 0 {
		return 0, errors.New("selector: Select needs room for at least one event")
	}
	if !s.users.enter() {
		return 0, ErrClosed
	}
	defer s.users.leave()

	n, woken, err := s.poller.wait(events[:min(len(events), MaxBatch)], timeout)
	if woken {
		// Whoever finds the flag still set leaves its wake-up out, and is served by this return.
		s.waking.Store(false)
	}
	if s.users.leaving() {
		return 0, ErrClosed
	}
	return n, err
}

// Wake makes the Select in progress, or else the next one, return without waiting. Calls that come before it returns count as one.
// After Close it does nothing.
func (s *Selector) Wake() {
	if s.waking.Load() || !s.waking.CompareAndSwap(false, true) {
		return
	}
	if !s.users.enter() {
		return
	}
	defer s.users.leave()
	s.poller.wake()
}

// Connections yields the descriptors that were registered at one moment, the start of the iteration, in rising order. The loop's body may call
// any method. It costs a bit per descriptor while it runs.
func (s *Selector) Connections() iter.Seq[int] {
	return func(yield func(int) bool) { eachOf(s.known.snapshot(), yield) }
}

// Len returns how many descriptors are registered.
func (s *Selector) Len() int { return int(s.known.count.Load()) }

// Close ends a Select in progress, waits until no other call is inside, and gives the selector's own descriptors back. The
// registered ones stay open and are forgotten. Called again it waits for the first call to finish and returns ErrClosed.
func (s *Selector) Close() error {
	if !s.users.refuse() {
		<-s.gone
		return ErrClosed
	}
	defer close(s.gone)
	s.poller.wake()
	s.users.leave()
	s.users.wait()
	s.known.clear()
	return s.poller.close()
}

// enter refuses what no backend has to see, and keeps Close away until users.leave.
func (s *Selector) enter(fd int, token uint64) error {
	if fd < 0 {
		return fmt.Errorf("selector: %d is not a descriptor", fd)
	}
	if token > MaxToken {
		return fmt.Errorf("selector: token %#x of descriptor %d is above MaxToken", token, fd)
	}
	if !s.users.enter() {
		return ErrClosed
	}
	return nil
}

func describe(fd int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w (descriptor %d)", err, fd)
}
