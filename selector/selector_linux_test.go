package selector

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSelectReportsTokensUnchanged(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 0, Read|Write))
	wantEvents(t, pending(t, s), Event{0, Writable})
	send(t, far, "x")
	for _, token := range []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 | 1, MaxToken} {
		ok(t, s.Modify(near, token, Read|Write))
		wantEvents(t, pending(t, s), Event{token, Readable | Writable})
	}
}

func TestEdgeTriggeredReportsChangesOnly(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read|EdgeTriggered))
	for _, text := range []string{"a", "b"} {
		send(t, far, text)
		wantEvents(t, pending(t, s), Event{1, Readable})
		wantEvents(t, pending(t, s))
	}
}

func TestMistakesAreNamed(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read))
	wantError(t, s.Register(near, 2, Read), ErrRegistered)
	wantError(t, s.Modify(far, 2, Read), ErrNotRegistered)
	wantError(t, s.Unregister(far), ErrNotRegistered)
	wantError(t, s.Modify(1<<20, 2, Read), ErrNotRegistered)
	if err := s.Register(far, MaxToken+1, Read); err == nil {
		t.Error("a token above MaxToken was accepted")
	}
	if err := s.Register(-1, 1, Read); err == nil {
		t.Error("descriptor -1 was accepted")
	}
	if _, err := s.Select(nil, 0); err == nil {
		t.Error("a Select without room was accepted")
	}
	if got := slices.Collect(s.Connections()); !slices.Equal(got, []int{near}) || s.Len() != 1 {
		t.Errorf("registered are %v, Len %d, want only descriptor %d", got, s.Len(), near)
	}
	ok(t, s.Unregister(near))
	wantError(t, s.Unregister(near), ErrNotRegistered)
}

func TestRegisterNeedsAnOpenDescriptor(t *testing.T) {
	s := newSelector(t)
	near, far := barePair(t)
	ok(t, unix.Close(near))
	wantError(t, s.Register(near, 1, Read), unix.EBADF)
	if s.Len() != 0 {
		t.Error("a refused descriptor is counted")
	}
	ok(t, unix.Close(far))
}

// A caller that forgot to unregister before it closed does not lock the number for its next owner.
func TestRegisterTakesANumberThatWasClosedTooEarly(t *testing.T) {
	s := newSelector(t)
	near, far := barePair(t)
	ok(t, s.Register(near, 1, Read))
	ok(t, unix.Close(near))
	reused, other := barePair(t)
	ok(t, s.Register(reused, 2, Read))
	if s.Len() != 1 {
		t.Errorf("Len is %d, want 1", s.Len())
	}
	send(t, other, "x")
	wantEvents(t, pending(t, s), Event{2, Readable})
	for _, fd := range []int{far, reused, other} {
		ok(t, unix.Close(fd))
	}
}

func TestConnectionsIsASnapshot(t *testing.T) {
	s := newSelector(t)
	var want []int
	for range 20 {
		near, far := pair(t)
		for _, fd := range []int{near, far} {
			want = append(want, fd)
			ok(t, s.Register(fd, uint64(fd)*3, Read))
		}
	}
	slices.Sort(want)
	var got []int
	for fd := range s.Connections() {
		got = append(got, fd)
		for _, other := range want { // the body may change what it walks over
			_ = s.Unregister(other)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("snapshot is %v, want %v", got, want)
	}
	if s.Len() != 0 {
		t.Errorf("Len is %d after all were removed", s.Len())
	}
	for range s.Connections() {
		t.Error("an empty selector yields a descriptor")
	}
}

func TestConnectionsCanBeLeftEarly(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read))
	ok(t, s.Register(far, 2, Read))
	n := 0
	for range s.Connections() {
		n++
		break
	}
	if n != 1 {
		t.Errorf("the loop ran %d times", n)
	}
}

func TestSelectReportsMoreThanItsRoomInTurns(t *testing.T) {
	s := newSelector(t)
	for token := range uint64(5) {
		near, _ := pair(t)
		ok(t, s.Register(near, token, Write))
	}
	seen := map[uint64]bool{}
	one := make([]Event, 1)
	for range 5 {
		if n := must(s.Select(one, 0))(t); n != 1 {
			t.Fatalf("%d events, want 1", n)
		}
		seen[one[0].Token] = true
	}
	if len(seen) != 5 {
		t.Errorf("only %v were reported in five calls", seen)
	}
}

func TestSelectNeverReturnsEarly(t *testing.T) {
	s := newSelector(t)
	for _, timeout := range []time.Duration{1, time.Microsecond, 999 * time.Microsecond, time.Millisecond + 1, 3 * time.Millisecond} {
		start := time.Now()
		wantEvents(t, selectedWithin(t, s, timeout))
		if took := time.Since(start); took < timeout {
			t.Errorf("a timeout of %v ended after %v", timeout, took)
		}
	}
}

func TestTimeoutsRoundUp(t *testing.T) {
	tests := map[time.Duration]int{
		-1: -1, -time.Hour: -1, 0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, 2 * time.Millisecond: 2,
		1<<63 - 1: 1<<31 - 1,
	}
	for d, want := range tests {
		if got := milliseconds(d); got != want {
			t.Errorf("%v is %d ms, want %d", d, got, want)
		}
	}
}

// Signals to the very thread that waits; Go's runtime handles SIGURG and does nothing about it.
func TestSignalsDoNotEndSelect(t *testing.T) {
	s := newSelector(t)
	thread := make(chan int)
	result := make(chan error)
	const timeout = 50 * time.Millisecond
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		start := time.Now()
		n, err := s.Select(make([]Event, 1), timeout)
		if took := time.Since(start); err == nil && (n != 0 || took < timeout) {
			err = fmt.Errorf("Select returned %d events after %v", n, took)
		}
		result <- err
	}()
	tid := <-thread
	for {
		select {
		case err := <-result:
			ok(t, err)
			return
		default:
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG) // fails only when the thread is gone
			time.Sleep(time.Millisecond)
		}
	}
}

func TestWakeEndsSelect(t *testing.T) {
	s := newSelector(t)
	results := make(chan error, 1)
	for range 50 {
		go func() {
			n, err := s.Select(make([]Event, 4), -1)
			if err == nil && n != 0 {
				err = fmt.Errorf("a wake-up was reported as %d events", n)
			}
			results <- err
		}()
		s.Wake()
		ok(t, <-results)
	}
}

func TestWakesBeforeSelectCountAsOne(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read))
	send(t, far, "x")
	s.Wake()
	s.Wake()
	wantEvents(t, selected(t, s), Event{1, Readable})
	receive(t, near)

	s.Wake()
	s.Wake()
	wantEvents(t, selectedWithin(t, s, -1))
	start := time.Now()
	wantEvents(t, selectedWithin(t, s, time.Millisecond)) // nothing left to wake it
	if time.Since(start) < time.Millisecond {
		t.Error("two wakes were counted twice")
	}
}

// Each producer publishes before it wakes; the consumer must see everything without a timeout to save it.
func TestNoWakeIsLost(t *testing.T) {
	const producers, each = 4, 2000
	s := newSelector(t)
	var published atomic.Int64
	var running sync.WaitGroup
	for range producers {
		running.Go(func() {
			for range each {
				published.Add(1)
				s.Wake()
			}
		})
	}
	for published.Load() < producers*each {
		wantEvents(t, selectedWithin(t, s, -1))
	}
	running.Wait()
}

func TestCloseEndsSelect(t *testing.T) {
	for range 50 {
		s := must(New())(t)
		result := make(chan error)
		go func() {
			_, err := s.Select(make([]Event, 1), -1)
			result <- err
		}()
		ok(t, s.Close())
		wantError(t, <-result, ErrClosed)
	}
}

func TestNothingWorksAfterClose(t *testing.T) {
	s := newSelector(t)
	near, _ := pair(t)
	ok(t, s.Register(near, 1, Read))
	ok(t, s.Close())
	wantError(t, s.Close(), ErrClosed)
	wantError(t, s.Register(near, 1, Read), ErrClosed)
	wantError(t, s.Modify(near, 1, Read), ErrClosed)
	wantError(t, s.Unregister(near), ErrClosed)
	_, err := s.Select(make([]Event, 1), -1)
	wantError(t, err, ErrClosed)
	s.Wake()
	if s.Len() != 0 || len(slices.Collect(s.Connections())) != 0 {
		t.Error("a closed selector still knows descriptors")
	}
}

// Goroutines do random things to their own descriptors, each checked against what must come of it, while one selects and others wake and
// look on; then the selector is closed under all of them.
func TestManyGoroutines(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := newSelector(t)
	var running sync.WaitGroup
	running.Go(func() { // the one that selects
		events := make([]Event, 8)
		for err := error(nil); !errors.Is(err, ErrClosed); _, err = s.Select(events, -1) {
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	stop := make(chan struct{})
	for range 2 { // those that look on
		running.Go(func() { onlook(t, s, stop) })
	}
	var owners sync.WaitGroup
	for i := range uint64(6) {
		near, far := pair(t)
		owners.Go(func() {
			own(t, s, rand.New(rand.NewPCG(seed, i)), near, far, 3000)
		})
	}
	owners.Wait()
	if n := s.Len(); n != 0 {
		t.Errorf("%d are registered after all were removed", n)
	}

	for range 4 { // those that are still at it when it closes
		near, far := pair(t)
		running.Go(func() { untilClosed(t, s, near, far) })
	}
	runtime.Gosched()
	ok(t, s.Close())
	close(stop)
	running.Wait()
}

func onlook(t *testing.T, s *Selector, stop chan struct{}) {
	t.Helper()
	for {
		select {
		case <-stop:
			return
		default:
		}
		s.Wake()
		last := -1
		for fd := range s.Connections() {
			if fd <= last {
				t.Errorf("the snapshot has descriptor %d after %d", fd, last)
			}
			last = fd
		}
		if n := s.Len(); n < 0 {
			t.Errorf("Len is %d", n)
		}
		runtime.Gosched()
	}
}

// own checks each answer against a model of two descriptors that nobody else touches.
func own(t *testing.T, s *Selector, random *rand.Rand, near, far, steps int) {
	t.Helper()
	registered := map[int]bool{}
	for range steps {
		fd := []int{near, far}[random.IntN(2)]
		token := uint64(fd)<<32 | uint64(random.Uint32())
		var err, want error
		switch random.IntN(4) {
		case 0:
			if err = s.Register(fd, token, Read|OneShot); registered[fd] {
				want = ErrRegistered
			}
			registered[fd] = true
		case 1:
			if err = s.Unregister(fd); !registered[fd] {
				want = ErrNotRegistered
			}
			registered[fd] = false
		default:
			if err = s.Modify(fd, token, Write|OneShot); !registered[fd] {
				want = ErrNotRegistered
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("descriptor %d: error %v, want %v", fd, err, want)
			return
		}
	}
	for fd, there := range registered {
		if !there {
			continue
		}
		if err := s.Unregister(fd); err != nil {
			t.Error(err)
		}
	}
}

func untilClosed(t *testing.T, s *Selector, near, far int) {
	t.Helper()
	for token := uint64(0); ; token++ {
		for _, err := range []error{
			s.Register(near, uint64(near)<<32, Write), s.Register(far, uint64(far)<<32, Write),
			s.Modify(near, uint64(near)<<32|token&0xff, Write|OneShot), s.Unregister(near), s.Unregister(far),
		} {
			if errors.Is(err, ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}
}

// The token of an event is never another descriptor's, also while registrations change under the one that selects.
func TestEventsCarryTheTokenOfTheirDescriptor(t *testing.T) {
	s := newSelector(t)
	near, far := pair(t)
	other, _ := pair(t)
	ok(t, s.Register(near, 1, Read|OneShot))
	ok(t, s.Register(other, 1<<40, Read))
	for round := uint64(2); round < 200; round++ {
		send(t, far, "x")
		wantEvents(t, selected(t, s), Event{round - 1, Readable})
		receive(t, near)
		ok(t, s.Modify(near, round, Read|OneShot))
	}
}

// A loop holds its processor from one event to a lull; neither the tick nor its end ends a wait.
func TestTheTickEndsWithALull(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	s := newSelector(t)
	near, far := pair(t)
	ok(t, s.Register(near, 1, Read|EdgeTriggered))
	for _, timeout := range []time.Duration{3 * lull, 5*lull + time.Millisecond} {
		send(t, far, "x")
		wantEvents(t, selected(t, s), Event{1, Readable})
		if !s.poller.ticking {
			t.Error("no tick is to come after an event")
		}
		began := time.Now()
		wantEvents(t, selectedWithin(t, s, timeout))
		if took := time.Since(began); took < timeout {
			t.Errorf("a wait of %v was over after %v", timeout, took)
		}
		if s.poller.ticking {
			t.Errorf("a tick is to come although nothing has happened for %v", timeout)
		}
	}
}

// A wait that holds a processor gives it up to who asks for all of them: a signal ends it. If it did not, the first collection beside this one
// would take a minute.
func TestAWaitMakesWayForTheCollector(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))))
	s := newSelector(t)
	ended := make(chan unix.Errno)
	go func() {
		_, errno := s.poller.epollWait(1, time.Minute, true)
		ended <- errno
	}()
	for {
		runtime.GC()
		select {
		case errno := <-ended:
			if errno != unix.EINTR {
				t.Errorf("the wait ended with %v, not by a signal", errno)
			}
			return
		default:
		}
	}
}
