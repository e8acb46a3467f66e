package blocking

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Job is a system call to be made.
type Job struct {
	Op     Op
	Owner  uint64  // what it is for; Slot.Owner
	Party  uint64  // on whose behalf: no party gets more than half of the helpers; 0: the caller's own
	File   bool    // it may sleep uninterruptibly: some helpers are kept for the jobs that cannot
	FD     int     // see Op
	Source int     // the file
	FDs    []int32 // of Close, at most MaxBatch
	Offset int64
	Length int64
	// Begin is called when a helper gets the job, before it can begin, with the number of its slot.
	// May be nil.
	Begin func(slot int)
	// Done is called once, from Turn, Settle or End.
	Done func(Result)
}

// Result is what has come of a job.
type Result struct {
	Outcome Outcome
	Errno   syscall.Errno
	Count   int64 // bytes moved, connections accepted, descriptors closed
	Offset  int64
	Size    int64
	Mode    uint32
	FDs     []int32 // accepted; valid until Done returns
}

// Outcome says whether a job was done.
type Outcome uint8

// The outcomes.
const (
	Done   Outcome = iota // the system call has returned
	Ended                 // its helper was killed: what Result says was done was done
	Stuck                 // it cannot be ended: Result says nothing
	Failed                // no helper could be made: nothing was done
)

// never is a deadline that does not come.
const never = int64(math.MaxInt64)

// JobTimeout is how long a job may take; then its helper is killed.
const JobTimeout = time.Second

// Other times of a helper.
const (
	killGrace  = time.Second // for the end of a helper; then it counts as stuck
	lookPause  = 5 * time.Millisecond
	stuckPause = time.Second // between two looks at stuck helpers
)

// helper is the pool's view of one slot.
type helper struct {
	slot     *Slot
	job      *Job
	alive    bool // a process is there, or is being made
	deadline int64
	killed   bool
	stuck    bool
	foreign  bool // its process is not a child of this one but of a predecessor
}

// Pool is a number of helpers. Its methods are for one goroutine. Helpers are made when there is
// work for them.
type Pool struct {
	helpers []helper
	queue   []*Job
	event   int // eventfd
	null    int // what closed descriptors are replaced by
	starts  chan *plan
	started chan struct{} // closed when the starting thread has ended
	name    *byte
	limit   int
	due     int64 // when Turn has something to do though no event has come
	paused  bool
	stuck   int
	retry   int64           // no helper is made before: the last could not be
	fds     [MaxBatch]int32 // of the result that is given out
}

// New makes a pool with room for len(slots) helpers, of which it uses as many as SetLimit says.
// slots are zero, or a predecessor's (Inherit), and lie in memory that is shared with children
// (MAP_SHARED).
func New(slots []Slot) (*Pool, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	name, err := syscall.BytePtrFromString("anteroom-helper")
	if err != nil {
		return nil, errors.Join(err, unix.Close(event))
	}
	p := &Pool{
		event: event, null: event, name: name, due: never, limit: len(slots), helpers: make([]helper, len(slots)),
	}
	for i := range slots {
		p.helpers[i].slot = &slots[i]
	}
	return p, nil
}

// FD is an eventfd(2) that becomes readable, as an edge, when Turn has something to do.
func (p *Pool) FD() int { return p.event }

// SetLimit sets how many helpers there may be, stuck ones included.
func (p *Pool) SetLimit(n int) { p.limit = min(max(n, 1), len(p.helpers)) }

// Stuck is how many helpers sleep uninterruptibly although they were killed.
func (p *Pool) Stuck() int { return p.stuck }

// Working is how many helpers have a job.
func (p *Pool) Working() (n int) {
	for i := range p.helpers {
		if p.helpers[i].job != nil {
			n++
		}
	}
	return n
}

// Waiting is how many jobs wait for a helper.
func (p *Pool) Waiting() int { return len(p.queue) }

// FilesLeft reports whether a job with File can be done: not all helpers for such jobs are stuck.
func (p *Pool) FilesLeft() bool { return p.stuck < p.fileLimit() }

// fileLimit leaves a quarter of the helpers to jobs whose helper can be ended.
func (p *Pool) fileLimit() int { return max(p.limit-max(p.limit/4, 1), 1) }

// Due is when Turn is to be called though FD has told nothing.
func (p *Pool) Due() int64 { return p.due }

// Do queues a job.
func (p *Pool) Do(j *Job, now int64) {
	p.queue = append(p.queue, j)
	if !p.paused {
		p.assign(now)
	}
}

// Turn takes results, ends jobs whose time is over, and hands out those that wait.
func (p *Pool) Turn(now int64) {
	p.due = never
	for i := range p.helpers {
		p.review(&p.helpers[i], now)
	}
	if !p.paused {
		p.assign(now)
	}
}

// review looks after one helper.
func (p *Pool) review(h *helper, now int64) {
	switch {
	case h.stuck:
		p.reviewStuck(h, now)
	case h.job == nil:
	case atomic.LoadInt32(&h.slot.pidfd) == notStarted:
		h.alive = false
		p.retry = now + int64(stuckPause)
		atomic.StoreInt32(&h.slot.pidfd, 0)
		p.complete(h, Failed)
	case h.killed:
		p.reviewKilled(h, now)
	case atomic.LoadUint32(&h.slot.state) == slotDone:
		p.complete(h, Done)
	case now >= h.deadline && p.kill(h):
		h.killed, h.deadline = true, now+int64(killGrace)
		p.reviewKilled(h, now)
	case h.died():
		h.reap()
		p.complete(h, Ended)
	default:
		p.due = min(p.due, max(h.deadline, now+int64(lookPause)))
	}
}

func (p *Pool) reviewKilled(h *helper, now int64) {
	switch {
	case h.died():
		h.reap()
		p.complete(h, Ended)
	case now >= h.deadline:
		h.stuck = true
		p.stuck++
		p.complete(h, Stuck)
		p.due = min(p.due, now+int64(stuckPause))
	default:
		p.due = min(p.due, now+int64(lookPause))
	}
}

func (p *Pool) reviewStuck(h *helper, now int64) {
	if !h.died() {
		p.due = min(p.due, now+int64(stuckPause))
		return
	}
	h.reap()
	h.stuck = false
	p.stuck--
}

// kill ends a helper; false if its number is not known yet.
func (p *Pool) kill(h *helper) bool {
	pidfd := int(atomic.LoadInt32(&h.slot.pidfd))
	return pidfd > 0 && unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) == nil
}

// died reports whether the process is gone (pidfd_open(2): it becomes readable).
func (h *helper) died() bool {
	pidfd := atomic.LoadInt32(&h.slot.pidfd)
	if pidfd <= 0 {
		return false
	}
	watch := []unix.PollFd{{Fd: pidfd, Events: unix.POLLIN}}
	n, _ := unix.Poll(watch, 0)
	return n == 1
}

// reap lets go of a process that is gone, and makes its slot free.
func (h *helper) reap() {
	if !h.foreign {
		_, _ = unix.Wait4(int(h.slot.pid), nil, unix.WNOHANG|unix.WALL, nil)
	}
	pidfd := atomic.SwapInt32(&h.slot.pidfd, 0)
	_ = unix.Close(int(pidfd))
	h.alive, h.killed, h.foreign = false, false, false
}

// complete gives a result out. A helper that lives is free then.
func (p *Pool) complete(h *helper, outcome Outcome) {
	j, s := h.job, h.slot
	h.job = nil
	r := Result{Outcome: outcome}
	if outcome == Done || outcome == Ended {
		r.Errno, r.Count, r.Offset, r.Size, r.Mode = syscall.Errno(s.errno), s.count, s.Offset, s.size, s.mode
		if outcome == Ended && s.state == slotAsked {
			r.Errno = unix.EINTR // what was killed may not have said why it ended
		}
		r.FDs = p.fds[:copy(p.fds[:], s.fds[:min(max(s.count, 0), MaxBatch)])]
	}
	if !h.stuck {
		atomic.StoreUint32(&s.state, slotIdle) // Owner and Offset stay: a successor may ask before the caller has noted the result
	}
	j.Done(r)
}

// assign hands jobs out, in their order but for those whose party, or kind, has all the helpers
// that it may have.
func (p *Pool) assign(now int64) {
	for i := 0; i < len(p.queue); {
		j := p.queue[i]
		if !p.mayBegin(j) {
			i++
			continue
		}
		h := p.free()
		if h == nil {
			return
		}
		if !h.alive && now < p.retry {
			p.due = min(p.due, p.retry)
			return
		}
		p.queue = slices.Delete(p.queue, i, i+1)
		p.begin(h, j, now)
	}
}

func (p *Pool) mayBegin(j *Job) bool {
	files, its := p.stuck, 0
	for i := range p.helpers {
		if other := p.helpers[i].job; other != nil {
			if other.File {
				files++
			}
			if other.Party == j.Party {
				its++
			}
		}
	}
	return (!j.File || files < p.fileLimit()) && (j.Party == 0 || its < max(p.limit/2, 1))
}

// free is a helper without a job, one that lives if there is one; nil if there is none and no more
// may be made.
func (p *Pool) free() *helper {
	var unused *helper
	used := 0
	for i := range p.helpers {
		h := &p.helpers[i]
		switch {
		case h.stuck || h.job != nil:
			used++
		case h.alive && !h.died():
			return h
		default:
			if h.alive {
				h.reap()
			}
			if unused == nil {
				unused = h
			}
		}
	}
	if used >= p.limit {
		return nil
	}
	return unused
}

// begin writes the job down, then wakes the helper or makes one.
func (p *Pool) begin(h *helper, j *Job, now int64) {
	s := h.slot
	s.op, s.Owner, s.fd, s.file, s.length, s.Offset = j.Op, j.Owner, int32(j.FD), int32(j.Source), j.Length, j.Offset
	s.count, s.errno = 0, 0
	if j.Op == Close {
		s.length = int64(copy(s.fds[:], j.FDs))
	}
	h.job, h.deadline, h.killed = j, now+int64(JobTimeout), false
	p.due = min(p.due, h.deadline)
	if j.Begin != nil {
		j.Begin(p.number(h))
	}
	atomic.StoreUint32(&s.state, slotAsked)
	if h.alive {
		wake(s)
		return
	}
	h.alive = true
	p.start(s)
}

func (p *Pool) number(h *helper) int {
	return int((uintptr(unsafe.Pointer(h)) - uintptr(unsafe.Pointer(&p.helpers[0]))) / unsafe.Sizeof(helper{}))
}

func wake(s *Slot) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.state)), futexWake, 1, 0, 0, 0)
}
