package manager

import (
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
	r.marks &^= held
	f := p.fateOf(r)
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
	f := p.fateOf(r)
	if f == fateUntouched {
		f = fateUnknown
		if p.listeners[r.listener].ready != ReadyBytes {
			f = fateConsumed
		}
	}
	p.breakUp(r, slot, f, 504, why)
}

func (p *policy) fateOf(r *record) fate {
	whole := r.length
	if r.marks&(hushed|stirred) != 0 {
		whole = 0
	}
	f := p.act.fate(r.fd, time.Duration(p.now-r.since), r.marks&fresh != 0, whole)
	mine := r.marks&sticky != 0 || p.pools[r.pool].ended // nobody else could go on with it
	switch {
	case f == fateUntouched && !mine:
		return fateUntouched
	case f != fateUnknown && p.listeners[r.listener].ready != ReadyBytes:
		return fateConsumed
	}
	return fateUnknown
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

// fate asks TCP (TCP_INFO, tcp(7); bytes_sent since Linux 4.19). Of a connection's first request it knows exactly whether any of it was read, and any
// response sent. Of a later one that was there as a whole, none of it was read if all of it is there still; and nothing was answered if the last thing sent is
// older than the last thing received. Of any other it knows when something was last sent; if that was not well before the lease, the response may have begun.
func (a *acts) fate(fd int32, leased time.Duration, first bool, whole uint32) fate {
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	unsent, unsentErr := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil || unsentErr != nil {
		return fateUnknown // not TCP
	}
	unread := a.unread(fd)
	silent := time.Duration(info.Last_data_sent) * time.Millisecond
	switch {
	case first && received(info) == uint64(unread), whole > 0 && unread == int(whole):
		return fateUntouched
	case unsent > 0:
		return fateUnknown
	case info.Bytes_sent == 0, whole > 0 && info.Last_data_sent > info.Last_data_recv, !first && silent > leased+clockSlack:
		return fateConsumed
	}
	return fateUnknown
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
