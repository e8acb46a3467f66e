package blocking

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// start has a helper made for a slot whose job is written down.
func (p *Pool) start(s *Slot) {
	if p.starts == nil {
		p.starts, p.started = make(chan *plan, len(p.helpers)), make(chan struct{})
		go makeHelpers(p.starts, p.started)
	}
	atomic.StoreInt32(&s.pidfd, starting)
	p.starts <- &plan{
		name: p.name, slot: s, parent: uintptr(unix.Getpid()), event: uintptr(p.event), null: uintptr(p.null), one: 1,
	}
}

// makeHelpers makes them on a thread of its own: clone(2) takes time in a process with much memory, and the
// kernel kills the helpers when the thread that made them ends.
func makeHelpers(plans <-chan *plan, ended chan<- struct{}) {
	defer close(ended)
	runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
	for pl := range plans {
		makeHelper(pl)
	}
}

func makeHelper(pl *plan) {
	pid, err := fork(pl)
	if err != nil {
		atomic.StoreInt32(&pl.slot.pidfd, notStarted)
		tell(int(pl.event))
		return
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil { // it could not be ended then
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, unix.WALL, nil)
		atomic.StoreInt32(&pl.slot.pidfd, notStarted)
		tell(int(pl.event))
		return
	}
	pl.slot.pid = int32(pid)
	atomic.StoreInt32(&pl.slot.pidfd, int32(pidfd))
}

func tell(event int) {
	one := uint64(1)
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(event), uintptr(unsafe.Pointer(&one)), 8)
}

// settleGrace is how long Settle and End wait for the end of a helper that they have killed.
const settleGrace = 200 * time.Millisecond

// Settle waits until no helper has a job, and hands none out until Resume. A job that takes longer
// than patience is ended.
func (p *Pool) Settle(now int64, patience time.Duration) {
	p.paused = true
	p.finish(now, patience)
}

// Resume goes on after Settle.
func (p *Pool) Resume(now int64) {
	p.paused = false
	p.assign(now)
}

// finish takes turns until no helper has a job.
func (p *Pool) finish(now int64, patience time.Duration) {
	began := time.Now()
	for p.Busy() {
		took := time.Since(began)
		if took >= patience {
			p.killBusy(now + int64(took))
		}
		p.Turn(now + int64(took))
		if p.Busy() {
			p.pause()
		}
	}
}

// Busy reports whether a helper has a job.
func (p *Pool) Busy() bool { return p.Working() > 0 }

func (p *Pool) killBusy(now int64) {
	for i := range p.helpers {
		if h := &p.helpers[i]; h.job != nil && !h.killed && p.kill(h) {
			h.killed, h.deadline = true, now+int64(settleGrace)
		}
	}
}

// pause waits for a result, for a moment.
func (p *Pool) pause() {
	var count [8]byte
	watch := []unix.PollFd{{Fd: int32(p.event), Events: unix.POLLIN}}
	_, _ = unix.Poll(watch, int(lookPause/time.Millisecond))
	_, _ = unix.Read(p.event, count[:])
}

// Drain waits until every job is done, or ended: those that take longer than patience.
func (p *Pool) Drain(now int64, patience time.Duration) {
	p.Resume(now)
	p.finish(now, patience)
}

// End ends every helper, and gives the pool's descriptors back.
func (p *Pool) End(now int64) {
	p.Settle(now, 0)
	for i := range p.helpers {
		p.endHelper(&p.helpers[i])
	}
	if p.starts != nil {
		close(p.starts)
		<-p.started
	}
	_ = unix.Close(p.event)
}

func (p *Pool) endHelper(h *helper) {
	for h.alive && atomic.LoadInt32(&h.slot.pidfd) == starting {
		time.Sleep(time.Millisecond) // clone(2) is at work
	}
	pidfd := atomic.LoadInt32(&h.slot.pidfd)
	if pidfd <= 0 {
		return
	}
	if !h.stuck && p.kill(h) {
		watch := []unix.PollFd{{Fd: pidfd, Events: unix.POLLIN}}
		_, _ = unix.Poll(watch, int(settleGrace/time.Millisecond))
	}
	h.reap()
}

// Inherit takes over a predecessor's slots: claim says whether a descriptor has come from it. It
// waits, no longer than patience, until the predecessor's helpers, which the kernel has killed with
// it, are gone. What a slot says stays until a job is done in it.
func (p *Pool) Inherit(claim func(fd int) bool, patience time.Duration) {
	until := time.Now().Add(patience)
	for i := range p.helpers {
		h := &p.helpers[i]
		pidfd := atomic.LoadInt32(&h.slot.pidfd)
		switch {
		case pidfd == starting: // nothing tells when it is gone, but it has slept on nothing yet
			time.Sleep(time.Until(until))
			atomic.StoreInt32(&h.slot.pidfd, 0)
		case pidfd > 0 && claim(int(pidfd)):
			h.foreign = true
			h.await(until)
			p.take(h)
		default:
			atomic.StoreInt32(&h.slot.pidfd, 0)
		}
	}
}

func (h *helper) await(until time.Time) {
	watch := []unix.PollFd{{Fd: h.slot.pidfd, Events: unix.POLLIN}}
	_, _ = unix.Poll(watch, max(int(time.Until(until).Milliseconds()), 0))
}

func (p *Pool) take(h *helper) {
	if h.died() {
		h.reap()
		atomic.StoreUint32(&h.slot.state, slotIdle)
		return
	}
	h.stuck = true
	p.stuck++
	p.due = 0
}

// Found is what a predecessor's helper had done in a slot. ended is false if it may still do more.
func (p *Pool) Found(slot int) (owner uint64, offset int64, ended bool) {
	if slot < 0 || slot >= len(p.helpers) {
		return 0, 0, false
	}
	h := &p.helpers[slot]
	return h.slot.Owner, h.slot.Offset, !h.stuck
}
