package manager

import (
	"math"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What becomes of a lease whose host has gone without answering it.

// fate is what a host has done to a request before it went, as far as the kernel knows.
type fate uint8

const (
	fateUnknown   fate = iota // the response may have begun
	fateConsumed              // nothing of a response was sent
	fateUntouched             // nothing of the request was read
)

// orphan takes a lease back from a host that has gone. A request that nobody has read another host can serve, and the client never knows. One
// that was read and not answered gets a 502. A response that may have begun can only be broken off, by a reset, lest its beginning be taken for the whole.
func (p *policy) orphan(r *record, slot uint32) {
	if h := p.hosts[r.host]; h != nil && h.lives {
		p.revokeLease(r, slot, ReasonHostGone)
		return
	}
	r.marks &^= held
	f := p.fateOf(r, slot)
	if f == fateUntouched {
		if r.detail++; int(r.detail) <= p.limits.Redeliveries {
			p.redeliver(r, slot)
			return
		}
		f = fateConsumed
	}
	p.breakUp(r, slot, f, 502, ReasonHostGone)
}

// breakUp ends a lease that its host will not answer.
func (p *policy) breakUp(r *record, slot uint32, f fate, status int, why Reason) {
	if f == fateConsumed {
		p.answer(r, status)
	} else {
		p.act.breakOff(r.fd)
		r.marks |= broken
	}
	p.close(r, slot, why)
}

// revokeLease takes a lease away from a host that lives. Nobody else gets the request: the host may be about to read it. If nothing was answered the client
// gets a 504 (where requests are looked at), else a reset.
func (p *policy) revokeLease(r *record, slot uint32, why Reason) {
	f := p.fateOf(r, slot)
	if f == fateUntouched {
		f = fateUnknown
		if p.listeners[r.listener].ready != ReadyBytes {
			f = fateConsumed
		}
	}
	p.breakUp(r, slot, f, 504, why)
}

func (p *policy) fateOf(r *record, slot uint32) fate {
	f := p.act.fate(r.fd, p.outset(r, slot))
	mine := r.marks&sticky != 0 || p.pools[r.pool].ended // nobody else could go on with it
	switch {
	case f == fateUntouched && !mine:
		return fateUntouched
	case f != fateUnknown && p.listeners[r.listener].ready != ReadyBytes:
		return fateConsumed
	}
	return fateUnknown
}

// outset is what is known of how a lease began.
type outset struct {
	first  bool          // it is of the connection's first request, and nothing was taken away before that
	length uint32        // of the request, if all of it was there, else 0
	taken  uint64        // record.taken
	leased time.Duration // for how long
	base   base
}

// takenUnknown as record.taken means that the bytes were not counted.
const takenUnknown = math.MaxUint64

// took counts n bytes that were read from the connection.
func (r *record) took(n uint32) {
	if r.taken != takenUnknown {
		r.taken += uint64(n)
	}
}

// tookRequests is took for a lease that ends well: of one request whose length is known, its host has read just that.
func (r *record) tookRequests(n uint64) {
	if r.length == 0 || n > 1 {
		r.taken = takenUnknown
		return
	}
	length := r.length
	r.length = 0 // first: a successor that obeys the frame again must not count twice, but then no longer knows
	r.took(length)
}

// base is how far the kernel's counters had come at the outset of a lease, where the lengths of its connection's requests do not say.
type base struct {
	lease uint64 // which one: the slot has had other connections, with leases of the same number
	read  uint64 // bytes that had been read
	wrote uint64 // bytes that had been written
}

// noteBase is for leases of requests whose end is unknown, or the end of one before: some system calls that the others do without.
func (p *policy) noteBase(r *record, slot uint32) {
	if r.length > 0 && r.taken != takenUnknown || p.listeners[r.listener].once() {
		return
	}
	b := p.act.base(r.fd)
	b.lease = r.lease()
	p.memory.extra(slot).base = b
	r.taken = b.read
}

// lease tells a lease from every other of the same slot.
func (r *record) lease() uint64 { return uint64(r.generation)<<32 | uint64(r.seq) }

func (p *policy) outset(r *record, slot uint32) outset {
	o := outset{
		first: r.marks&fresh != 0 && r.marks&introduced == 0, length: r.length, taken: r.taken, leased: time.Duration(p.now - p.leasedSince(r, slot)),
		base: p.memory.extra(slot).base,
	}
	if o.base.lease != r.lease() {
		o.base = base{}
	}
	return o
}

// redeliver puts a request back to the head of its queue: it was there before.
func (p *policy) redeliver(r *record, slot uint32) {
	p.totals.Redelivered++
	p.enter(r, slot, Ready, int64(p.limits.QueueTimeout))
	p.table.toFront(p.listOf(r), slot)
	if r.next != 0 { // or those behind it would be looked at only when its time is over
		r.since = min(r.since, p.table.at(r.next-1).since)
	}
	p.heat(p.pools[r.pool])
}

// clockSlack is by how much the kernel's account of milliseconds, kept in ticks of up to 10 ms, may differ from ours.
const clockSlack = 20 * time.Millisecond

// fate asks TCP (TCP_INFO, tcp(7); bytes_sent since Linux 4.19). Whether any of the request was read, and anything answered, it knows exactly of a connection's first
// request, and where the base was noted. Of a request that was there as a whole, none was read if as much was read in all as before it; and nothing was answered if the
// last thing sent is older than the last thing received. Of any other it knows when something was last sent; if that was not well before the lease, the response may
// have begun.
func (a *acts) fate(fd int32, o outset) fate {
	c, err := counters(fd)
	switch {
	case err != nil: // not TCP
		return fateUnknown
	case o.base.lease != 0 && c.read() == o.base.read, o.first && c.read() == 0, o.untouched(&c):
		return fateUntouched
	case o.base.lease != 0 && c.wrote() == o.base.wrote, c.wrote() == 0:
		return fateConsumed
	case c.unacked == 0 && (o.alone(&c) && c.silent > c.quiet || !o.first && c.silent > o.leased+clockSlack):
		return fateConsumed
	}
	return fateUnknown
}

// counted reports whether lengths say where the request began and ended.
func (o *outset) counted() bool { return o.length > 0 && o.taken != takenUnknown }

// untouched reports whether all of the request is there still, and not another of the same length in its place.
func (o *outset) untouched(c *kernelCounters) bool {
	return o.counted() && c.unread >= uint64(o.length) && c.read() == o.taken
}

// alone reports whether nothing has come since the request.
func (o *outset) alone(c *kernelCounters) bool {
	return o.counted() && c.received == o.taken+uint64(o.length)
}

// base notes where a lease begins.
func (a *acts) base(fd int32) base {
	c, err := counters(fd)
	if err != nil {
		return base{}
	}
	return base{read: c.read(), wrote: c.wrote()}
}

// kernelCounters are TCP's account of a connection.
type kernelCounters struct {
	received, unread uint64        // bytes
	acked, unacked   uint64        // bytes of what was written
	silent, quiet    time.Duration // since data was last sent, and received, in ticks of 1 to 10 ms
}

func (c *kernelCounters) read() uint64  { return c.received - c.unread }
func (c *kernelCounters) wrote() uint64 { return c.acked + c.unacked }

// counters asks until nothing has come while it asked. What is acknowledged meanwhile is counted twice rather than not at all.
func counters(fd int32) (c kernelCounters, err error) {
	for {
		unacked, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		if err != nil {
			return c, err
		}
		before, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return c, err
		}
		unread, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		if err != nil {
			return c, err
		}
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return c, err
		}
		if before.Bytes_received == info.Bytes_received && before.State == info.State {
			return kernelCounters{
				received: received(info), unread: uint64(unread), acked: info.Bytes_acked, unacked: uint64(unacked),
				silent: time.Duration(info.Last_data_sent) * time.Millisecond, quiet: time.Duration(info.Last_data_recv) * time.Millisecond,
			}, nil
		}
	}
}

// received is how many bytes have come: the client's FIN is counted as one by TCP.
func received(info *unix.TCPInfo) uint64 {
	if info.State == unix.BPF_TCP_CLOSE_WAIT {
		return info.Bytes_received - 1
	}
	return info.Bytes_received
}

// breakOff resets the connection for everybody who has it: a host that was hung up on may still hold a descriptor, so that closing ours would do
// nothing. Connecting to no address dissolves a TCP connection (connect(2), AF_UNSPEC), which sends the reset; a Unix socket is shut down instead.
func (a *acts) breakOff(fd int32) {
	var nowhere unix.RawSockaddr // AF_UNSPEC is 0
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nowhere)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		_ = unix.Shutdown(int(fd), unix.SHUT_RDWR)
	}
}
