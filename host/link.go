package host

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// link is one life of the handoff socket, from HELLO to hang-up, and what this host has through it. Connection ids and leases mean nothing
// beyond it.
//
// One goroutine receives. Answers are sent by whoever has one: the first to come flushes, what others add meanwhile goes out with its next
// write, so answers given at the same time share a system call and no goroutine waits for another. A put lets those run first that have just been
// woken for a lease, see flushSoonUnlock.
type link struct {
	host    *Host
	sock    *net.UnixConn
	raw     syscall.RawConn
	welcome *handoff.Welcome
	granted int // capacity as announced
	hold    int // how many idle connections to keep the descriptors of
	done    chan struct{}

	in      handoff.Inbox
	recvErr error
	recv    func(uintptr) bool // set once: a closure per call would be an allocation

	mu       sync.Mutex
	conns    map[uint64]*connection // those leased to us, and those idle ones whose descriptor we keep
	idle     idleOrder
	leases   int
	due      int                           // leases whose goroutine has been woken and has not begun
	asked    map[uint32]chan handoff.Frame // what LISTEN, UNLISTEN and ADOPT wait for, by tag
	tag      uint32
	draining bool // nothing is kept any more
	leaving  bool // the sidecar asked us to go
	gone     bool
	why      error // the link ended, the first reason

	next, now         *handoff.Outbox // what is being filled, what is being sent
	nextDups, nowDups []int           // descriptors of ours that travel with them
	flushing          bool
	yielded           bool          // someone will flush when he is given a processor again
	late              time.Duration // since start: from when on others flush for him
	flush             func(uintptr) bool
	flushErr          error
}

func newLink(h *Host, sock *net.UnixConn, raw syscall.RawConn) *link {
	k := &link{
		host: h, sock: sock, raw: raw, done: make(chan struct{}), next: new(handoff.Outbox), now: new(handoff.Outbox),
		conns: map[uint64]*connection{}, asked: map[uint32]chan handoff.Frame{},
	}
	k.recv = func(fd uintptr) bool {
		k.recvErr = k.in.Recv(int(fd))
		return !errors.Is(k.recvErr, handoff.ErrAgain)
	}
	k.flush = func(fd uintptr) bool {
		k.flushErr = k.now.Flush(int(fd))
		return !errors.Is(k.flushErr, handoff.ErrAgain)
	}
	return k
}

func (k *link) agreed(feature string) bool { return slices.Contains(k.welcome.Features, feature) }

// Receiving

// run obeys the sidecar until the link ends, and returns why. What came together with WELCOME, such as a lease that had waited, is first.
func (k *link) run() error {
	for {
		err := k.obeyAll()
		if err == nil {
			err = k.receive()
		}
		if err != nil {
			return k.end(err)
		}
	}
}

// receive waits for frames and takes what one recvmsg brings.
func (k *link) receive() error {
	if err := k.raw.Read(k.recv); err != nil {
		return err
	}
	return k.recvErr
}

// obeyAll acts on the frames that have arrived. What they are answered with goes out together.
func (k *link) obeyAll() error {
	var told []forgotten
	k.mu.Lock()
	for {
		var f handoff.Frame
		fd, ok, err := k.in.Next(&f)
		if !ok {
			k.flushUnlock()
			k.host.tell(told)
			if err == nil {
				err = k.in.Settled()
			}
			return err
		}
		if f.Type == handoff.TypeForget && k.host.opts.Forgotten != nil {
			told = append(told, forgotten{f.Conn, f.A})
		}
		if err := k.obeyLocked(&f, fd, err); err != nil {
			k.mu.Unlock()
			return err
		}
	}
}

func (k *link) obeyLocked(f *handoff.Frame, fd int, lost error) error {
	if f.Type != handoff.TypeLease && fd >= 0 {
		closeFD(fd)
	}
	switch f.Type {
	case handoff.TypeLease:
		return k.leaseLocked(f, fd, lost)
	case handoff.TypeForget:
		k.forgottenLocked(f)
	case handoff.TypePing:
		k.addLocked(&handoff.Frame{Type: handoff.TypePong, Seq: f.Seq, A: f.A})
	case handoff.TypeAdopted, handoff.TypeListening, handoff.TypeUnlistened, handoff.TypeDenied:
		k.answeredLocked(f)
	case handoff.TypeDraining:
		k.drainingLocked()
	case handoff.TypeError, handoff.TypeRefuse:
		return handoff.FaultOf(f)
	default:
		if f.Type.Known() {
			return fmt.Errorf("the sidecar sent %s, which is for hosts to say", f.Type)
		}
	}
	return nil
}

// leaseLocked delivers a lease, or refuses what cannot be delivered.
func (k *link) leaseLocked(f *handoff.Frame, fd int, lost error) error {
	c := k.conns[f.Conn]
	switch {
	case c != nil && c.state != stateIdle:
		closeFD(fd)
		return fmt.Errorf("the sidecar leased connection %d, which is %s here", f.Conn, c.state)
	case c != nil: // we have its descriptor; another is the same
		closeFD(fd)
		k.idle.remove(c)
		k.restDoneLocked(c)
	case fd < 0:
		k.refuseFrameLocked(f, lost)
		return nil
	default:
		c = &connection{link: k, sock: newSocket(fd)}
		k.conns[f.Conn] = c
	}
	c.lease, c.state = leaseOf(c, f), stateQueued
	k.leases++
	k.deliverLocked(c)
	return nil
}

// deliverLocked wakes the server's goroutine that waits for this connection, or queues the lease for Next.
func (k *link) deliverLocked(c *connection) {
	switch {
	case k.host.refusing.Load():
		k.refuseLocked(c)
	case c.owner != nil:
		c.state, c.due = stateLeased, true
		k.due++
		c.owner.wake()
	default:
		select {
		case k.host.queue <- c:
		default: // the sidecar goes beyond the capacity it granted
			k.refuseLocked(c)
		}
	}
}

// begunLocked: the goroutine that was woken for a lease runs, or has nothing to do any more.
func (k *link) begunLocked(c *connection) {
	if c.due {
		c.due = false
		k.due--
	}
}

// refuseLocked gives a lease back that nobody here will take.
func (k *link) refuseLocked(c *connection) {
	k.leases--
	k.nackLocked(&handoff.Frame{Conn: c.lease.Conn, Seq: c.lease.Seq}, handoff.NackOverload)
	k.dropLocked(c)
}

// refuseFrameLocked gives back a lease without a descriptor: it was lost on its way, or the sidecar thinks that we keep it.
func (k *link) refuseFrameLocked(f *handoff.Frame, lost error) {
	if lost == nil {
		k.nackLocked(f, handoff.NackUnknown)
		return
	}
	released := k.makeRoomLocked()
	k.nackLocked(f, handoff.NackNoDescriptor)
	k.host.short.Do(func() {
		k.host.log.Warn("this process is out of descriptors: a lease was given back; "+
			"raise its limit (ulimit -n) or lower Options.Hold",
			"conn", f.Conn, "dropped", released, "kept", k.idle.len)
	})
}

// makeRoomLocked releases the idle connections that were put longest ago, a quarter of them and at
// least leastReleased. It returns how many.
func (k *link) makeRoomLocked() (released int) {
	for most := max(k.idle.len/4, leastReleased); released < most && k.idle.len > 0; released++ {
		k.releaseLocked(k.idle.oldest)
	}
	return released
}

// leastReleased is how many idle connections are released at least, so that not each connection
// that comes is NACKed once.
const leastReleased = 16

func (k *link) nackLocked(lease *handoff.Frame, why uint64) {
	k.addLocked(&handoff.Frame{Type: handoff.TypeNack, Conn: lease.Conn, Seq: lease.Seq, A: why})
}

// forgottenLocked: a connection is no longer ours. A lease of it is taken back; whoever serves it finds the socket closed.
func (k *link) forgottenLocked(f *handoff.Frame) {
	c := k.conns[f.Conn]
	if c == nil {
		return
	}
	if c.state != stateIdle {
		k.leases--
	}
	if c.owner != nil {
		go c.owner.dropSpill() // it waits for the pump to stop
	}
	k.restDoneLocked(c)
	k.dropLocked(c)
}

// dropLocked lets go of a connection's descriptor, without shutdown, and tells who waits for it.
func (k *link) dropLocked(c *connection) {
	k.forgetLocked(c)
	c.sock.close()
	if c.owner != nil {
		c.owner.wake()
	}
}

// forgetLocked takes a connection out of the table. Its descriptor is the caller's.
func (k *link) forgetLocked(c *connection) {
	if c.state == stateIdle {
		k.idle.remove(c)
	}
	k.begunLocked(c)
	c.state = stateGone
	k.host.room.giveLater(c.rest)
	c.rest = 0
	delete(k.conns, c.lease.Conn)
}

// drainingLocked: the sidecar says finish and leave, or that it has heard we do.
func (k *link) drainingLocked() {
	if k.draining {
		return
	}
	k.host.log.Info("the sidecar asks this host to finish and leave", "leases", k.leases)
	k.draining, k.leaving = true, true
}

// leaveIfDoneLocked hangs up, when everything is sent, if the sidecar wants us to go and we hold nothing more of its.
func (k *link) leaveIfDoneLocked() {
	if k.leaving && k.leases == 0 && k.why == nil {
		k.breakLocked(errLeft)
	}
}

// errLeft ends a link whose host was asked to leave and has.
var errLeft = errors.New("asked to leave by the sidecar")

// Answering

// checkLocked: is the lease still the one that its connection is in? With the link gone this ends it, since there is no one to answer to.
func (k *link) checkLocked(l Lease) error {
	if l.c.lease.Seq != l.Seq || l.c.state != stateLeased {
		return ErrLeaseOver
	}
	if k.gone {
		k.forgetLocked(l.c)
		l.c.sock.close()
		return ErrLinkLost
	}
	return nil
}

// answerLocked sends the one answer of a lease.
func (k *link) answerLocked(l Lease, f *handoff.Frame) error {
	if err := k.checkLocked(l); err != nil {
		return err
	}
	f.Conn, f.Seq = l.Conn, l.Seq
	k.addLocked(f)
	k.leases--
	return nil
}

// holdLocked keeps the descriptor of a connection that was put, if the sidecar agreed to that; the one that was put longest ago makes room.
func (k *link) holdLocked(c *connection) bool {
	if k.hold == 0 || k.draining {
		k.forgetLocked(c)
		return false
	}
	c.sock.unpoll() // before the answer goes out: after it, the connection may be another lease's
	c.state = stateIdle
	k.idle.add(c)
	if k.idle.len > k.hold {
		k.releaseLocked(k.idle.oldest)
	}
	return true
}

// releaseLocked gives up the descriptor of an idle connection, which lives on.
func (k *link) releaseLocked(c *connection) {
	k.addLocked(&handoff.Frame{Type: handoff.TypeDropped, Conn: c.lease.Conn})
	k.dropLocked(c)
}

// Asking

// ask sends a frame that the sidecar answers by its tag, with a descriptor of ours unless dup is negative, and waits for the answer.
func (k *link) ask(cancel <-chan struct{}, f *handoff.Frame, dup int) (handoff.Frame, error) {
	answer := make(chan handoff.Frame, 1)
	k.mu.Lock()
	if k.gone {
		k.mu.Unlock()
		closeFD(dup)
		return handoff.Frame{}, ErrLinkLost
	}
	k.tag++
	f.Seq = k.tag
	tag := k.tag
	k.asked[tag] = answer
	if dup >= 0 {
		k.addFDLocked(f, dup)
	} else {
		k.addLocked(f)
	}
	k.flushUnlock()
	defer k.stopAsking(tag)
	select {
	case got := <-answer:
		if got.Type == handoff.TypeDenied {
			return got, handoff.FaultOf(&got)
		}
		return got, nil
	case <-k.done:
		return handoff.Frame{}, ErrLinkLost
	case <-cancel:
		return handoff.Frame{}, errCancelled
	}
}

var errCancelled = errors.New("cancelled")

func (k *link) stopAsking(tag uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.asked, tag)
}

func (k *link) answeredLocked(f *handoff.Frame) {
	if answer := k.asked[f.Seq]; answer != nil {
		delete(k.asked, f.Seq)
		got := *f
		got.Payload = slices.Clone(f.Payload) // it lies in the inbox
		answer <- got
	}
}

// Sending

func (k *link) addLocked(f *handoff.Frame) { k.next.Add(f) }

// addFDLocked queues a frame with a descriptor, which it owns.
func (k *link) addFDLocked(f *handoff.Frame, dup int) {
	k.next.AddFD(f, dup)
	k.nextDups = append(k.nextDups, dup)
}

// flushUnlock sends what is queued, unless someone is at it already, and unlocks. It waits while the sidecar does not read.
func (k *link) flushUnlock() {
	defer k.mu.Unlock()
	if k.flushing {
		return
	}
	k.flushing = true
	for k.next.Len() > 0 && !k.gone && k.why == nil {
		k.next, k.now = k.now, k.next
		k.nextDups, k.nowDups = k.nowDups, k.nextDups
		if err := k.sendUnlocked(); err != nil {
			k.breakLocked(err)
		}
	}
	k.flushing = false
	k.leaveIfDoneLocked()
}

// yieldTime bounds how long an answer waits for others, except that a goroutine that computes gives way only after some 10 ms, as Go has it.
const yieldTime = 500 * time.Microsecond

// flushSoonUnlock is flushUnlock for an answer to a request. While others have been woken for leases, they run first: the answers of a burst then share
// a system call, and wake the sidecar once.
func (k *link) flushSoonUnlock() {
	switch {
	case k.yielded && !k.lateLocked():
		k.mu.Unlock()
		return
	case !k.yielded && k.due > 0 && !k.flushing:
		k.yielded, k.late = true, time.Since(start)+yieldTime
		k.mu.Unlock()
		runtime.Gosched() // behind all that is ready to run, but at once where a processor has nothing to do
		k.mu.Lock()
		k.yielded = false
	}
	k.flushUnlock()
}

// lateLocked: whoever has yielded was not given a processor in time, so the caller is to flush. What is added from now on has its own time.
func (k *link) lateLocked() bool {
	if !k.yielded {
		return false
	}
	now := time.Since(start)
	late := now >= k.late
	if late {
		k.late = now + yieldTime
	}
	return late
}

// sendUnlocked lets others add meanwhile.
func (k *link) sendUnlocked() error {
	k.mu.Unlock()
	defer k.mu.Lock()
	return k.sendNow()
}

// rightsPause is how long to wait when too many descriptors are in flight: no event tells when that is over.
const rightsPause = 5 * time.Millisecond

func (k *link) sendNow() error {
	defer k.closeSentDups()
	defer k.now.Close() // of what could not be sent; nothing after success
	for {
		if err := k.raw.Write(k.flush); err != nil {
			return err
		}
		if !errors.Is(k.flushErr, handoff.ErrRightsLimit) {
			return k.flushErr
		}
		time.Sleep(rightsPause)
	}
}

func (k *link) closeSentDups() {
	for _, fd := range k.nowDups {
		closeFD(fd)
	}
	k.nowDups = k.nowDups[:0]
}

// The end

// breakLocked ends the link from this side; run notices.
func (k *link) breakLocked(err error) {
	if k.why == nil {
		k.why = err
	}
	_ = k.sock.Close()
}

func (k *link) hangUp(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.breakLocked(err)
}

// end closes the link: idle connections are let go, leased ones are served out by whoever has them. It returns the first reason.
func (k *link) end(err error) error {
	_ = k.sock.Close()
	k.in.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	if k.why == nil {
		k.why = hungUp(err)
	}
	for _, c := range k.conns {
		if c.state != stateLeased {
			k.dropLocked(c)
		} else if c.owner != nil {
			c.owner.wake()
		}
	}
	k.next.Close()
	for _, fd := range k.nextDups {
		closeFD(fd)
	}
	k.nextDups = nil
	close(k.done)
	return k.why
}

func hungUp(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the sidecar hung up")
	}
	return err
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
