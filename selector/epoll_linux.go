package selector

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is epoll(7). The token travels in epoll_data, so that an event needs no look-up.
//
// Its calls are made without telling the Go scheduler, which saves more than they cost; only a wait behind a lull tells it.
type poller struct {
	epoll   int
	event   int // an eventfd(2) for wake
	timer   int // a timerfd(2) for the tick
	batch   [MaxBatch]unix.EpollEvent
	alone   bool // Go has one processor
	ticking bool // the tick is to come
	active  bool // something has happened since the tick was set
}

// The tokens of the poller's own descriptors.
const (
	wakeToken = MaxToken + 1
	tickToken = MaxToken + 2
)

func (p *poller) open() (err error) {
	p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	p.alone = runtime.GOMAXPROCS(0) == 1
	p.event, p.timer = -1, -1
	if err = p.openOwn(); err != nil {
		return errors.Join(err, p.close())
	}
	return nil
}

// openOwn makes what the poller itself waits for. Edge-triggered, every write to the eventfd and every expiry of the timer is an event, and nobody has to
// read: one system call less for each. The counter would need 2^64 writes to fill.
func (p *poller) openOwn() (err error) {
	if p.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK); err != nil {
		return fmt.Errorf("timerfd_create: %w", err)
	}
	if err = p.control(unix.EPOLL_CTL_ADD, p.event, wakeToken, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return err
	}
	return p.control(unix.EPOLL_CTL_ADD, p.timer, tickToken, unix.EPOLLIN|unix.EPOLLET)
}

func (p *poller) add(fd int, token uint64, in Interest) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, token, epollEvents(in))
}

func (p *poller) change(fd int, token uint64, in Interest) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, token, epollEvents(in))
}

func (p *poller) remove(fd int) error { return p.control(unix.EPOLL_CTL_DEL, fd, 0, 0) }

func (p *poller) control(op, fd int, token uint64, events uint32) error {
	event := unix.EpollEvent{Events: events, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32))}
	err := unix.EpollCtl(p.epoll, op, fd, &event) // a raw system call
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		return ErrRegistered
	case errors.Is(err, unix.ENOENT):
		return ErrNotRegistered
	}
	return fmt.Errorf("epoll_ctl: %w", err)
}

// wait goes on after a signal, after a tick, and after a timeout longer than epoll_wait(2) can count.
func (p *poller) wait(events []Event, timeout time.Duration) (n int, woken bool, err error) {
	began := time.Now()
	for left := timeout; ; {
		count, errno := p.epollWait(len(events), p.limit(left), p.ticking)
		if errno != 0 && errno != unix.EINTR {
			return 0, false, fmt.Errorf("epoll_wait: %w", errno)
		}
		n, woken = p.sort(events, count)
		if n > 0 || woken || timeout == 0 && count == 0 && errno == 0 {
			return n, woken, nil
		}
		if timeout > 0 {
			if left = timeout - time.Since(began); left <= 0 {
				return 0, false, nil
			}
		}
	}
}

// sort fills events with the first count of the batch, but for those of the poller's own descriptors.
func (p *poller) sort(events []Event, count int) (n int, woken bool) {
	ticked := false
	for i := range p.batch[:count] {
		e := &p.batch[i]
		switch token := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32; token {
		case wakeToken:
			woken = true
		case tickToken:
			ticked = true
		default:
			events[n] = Event{Token: token, Ready: readyFor(e.Events)}
			n++
		}
	}
	p.follow(n > 0 || woken, ticked)
	return n, woken
}

// lull is after how long without an event a loop is idle: between one and two of it.
//
// A wait that the Go scheduler knows of makes work for it: it has its monitor thread (sysmon) poll every 20 us, until it has taken the processor (its own, not
// the machine's) away, and wakes it again when the wait is over. That costs more than it is worth until there is a lull. So a loop that is not idle holds the processor while
// it waits. Whoever wants it, such as the garbage collector, sends a signal, which ends the wait (EINTR). With a single processor nobody
// else could run meanwhile, so there it is left out.
//
// That the lull has come is told by a timer, the tick, which is set once in a while: one for each wait (its timeout) would cost a tenth of the processor time of a busy loop.
const lull = 50 * time.Millisecond

// follow keeps the tick coming as long as something happens in between.
func (p *poller) follow(active, ticked bool) {
	p.active = p.active || active
	if ticked || !p.ticking {
		p.ticking = p.active && p.setTick()
		p.active = false
	}
}

// setTick returns whether the tick will come.
func (p *poller) setTick() bool {
	in := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(lull))}
	return !p.alone && unix.TimerfdSettime(p.timer, 0, &in, nil) == nil
}

// limit is the timeout of one wait: none if the tick comes first.
func (p *poller) limit(left time.Duration) time.Duration {
	if p.ticking && left > lull {
		return -1
	}
	return left
}

// epollWait is epoll_pwait(2) without a signal mask, which every architecture has.
func (p *poller) epollWait(room int, timeout time.Duration, hold bool) (int, unix.Errno) {
	var n uintptr
	var errno unix.Errno
	if hold || timeout == 0 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.batch)), uintptr(room), uintptr(milliseconds(timeout)), 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(&p.batch)), uintptr(room), uintptr(milliseconds(timeout)), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// milliseconds rounds up, to -1 for a negative duration and to the largest that the kernel takes for a long one.
func milliseconds(d time.Duration) int {
	if d < 0 {
		return -1
	}
	whole := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		whole++
	}
	return int(min(whole, math.MaxInt32))
}

func (p *poller) wake() {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(p.event), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

func (p *poller) close() error {
	var errs []error
	for _, fd := range []int{p.timer, p.event, p.epoll} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// epollEvents always asks for EPOLLRDHUP; EPOLLHUP and EPOLLERR come unasked.
func epollEvents(in Interest) uint32 {
	events := uint32(unix.EPOLLRDHUP)
	if in&Read != 0 {
		events |= unix.EPOLLIN
	}
	if in&Write != 0 {
		events |= unix.EPOLLOUT
	}
	if in&OneShot != 0 {
		events |= unix.EPOLLONESHOT
	}
	if in&EdgeTriggered != 0 {
		events |= unix.EPOLLET
	}
	return events
}

func readyFor(events uint32) Ready {
	var r Ready
	if events&unix.EPOLLIN != 0 {
		r |= Readable
	}
	if events&unix.EPOLLOUT != 0 {
		r |= Writable
	}
	if events&unix.EPOLLRDHUP != 0 {
		r |= PeerClosed
	}
	if events&unix.EPOLLHUP != 0 {
		r |= HungUp
	}
	if events&unix.EPOLLERR != 0 {
		r |= Failed
	}
	return r
}
