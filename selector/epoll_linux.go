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
// Calls that cannot block are made without telling the Go scheduler, which saves more than they cost; only a wait that may block tells it.
type poller struct {
	epoll int
	event int // an eventfd(2) for wake
	batch [MaxBatch]unix.EpollEvent
	alone bool // Go has one processor
}

// wakeToken is the token of the eventfd.
const wakeToken = MaxToken + 1

func (p *poller) open() (err error) {
	p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	p.alone = runtime.GOMAXPROCS(0) == 1
	if p.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(p.epoll))
	}
	// Edge-triggered, every write is an event and nobody has to read: one system call less per wake-up. The counter would need 2^64 writes to
	// fill.
	if err = p.control(unix.EPOLL_CTL_ADD, p.event, wakeToken, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return errors.Join(err, p.close())
	}
	return nil
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

func (p *poller) wait(events []Event, timeout time.Duration) (n int, woken bool, err error) {
	count, err := p.collect(len(events), timeout)
	for i := range p.batch[:count] {
		e := &p.batch[i]
		token := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
		if token == wakeToken {
			woken = true
			continue
		}
		events[n] = Event{Token: token, Ready: readyFor(e.Events)}
		n++
	}
	return n, woken, err
}

// lull is after how long without an event a loop is idle.
//
// A wait that the Go scheduler knows of makes work for it: it has its monitor thread (sysmon) poll every 20 us, until it has taken the processor (its own, not
// the machine's) away, and wakes it again when the wait is over. That costs more than it is worth until there is a lull. So a loop that is not idle holds the processor while
// it waits. Whoever wants it, such as the garbage collector, sends a signal, which ends the wait (EINTR). With a single processor nobody
// else could run meanwhile, so there it is left out.
const lull = 50 * time.Millisecond

// collect fills at most room entries of the batch, and goes on after a signal and after a timeout longer than epoll_wait(2) can count.
func (p *poller) collect(room int, timeout time.Duration) (int, error) {
	began := time.Now()
	hold := !p.alone
	for left := timeout; ; {
		n, errno := p.epollWait(room, once(left, hold), hold)
		switch {
		case errno != 0 && errno != unix.EINTR:
			return 0, fmt.Errorf("epoll_wait: %w", errno)
		case n > 0 || timeout == 0 && errno == 0:
			return n, nil
		}
		took := time.Since(began)
		if timeout > 0 {
			if left = timeout - took; left <= 0 {
				return 0, nil
			}
		}
		hold = hold && took < lull
	}
}

// once is how long one wait may last.
func once(left time.Duration, hold bool) time.Duration {
	if hold && (left < 0 || left > lull) {
		return lull
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
	return errors.Join(unix.Close(p.event), unix.Close(p.epoll))
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
