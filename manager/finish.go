package manager

import (
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// remainder is the rest of a response that a host has left to the sidecar (FINISH), which owns the file.
type remainder struct {
	file      int32
	host      HostID
	slot      uint32 // of the helper that sends, plus one; 0: none does
	pipe      bool   // a pipe, which has no offset
	known     bool   // what the file is, and how much of it is left to send
	asked     bool   // a part is being sent
	room      bool   // the selector has told of room meanwhile
	thenClose bool
	offset    int64 // of the next byte
	end       int64 // of what is to be sent
	beyond    int64 // bytes in the pipe that are not to be sent
	left      int64
	sent      int64
	began     int64
	timeout   time.Duration // keep-alive, once all is sent
}

// progress is what came of sending a part.
type progress uint8

const (
	sendDone   progress = iota // everything is sent
	sendFull                   // the socket is full: the selector will tell
	sendYield                  // there may be room for more
	sendBroken                 // no more can be sent
)

// mayFinish reports why a host may not leave one more response to the sidecar; nil if it may.
func (p *policy) mayFinish(h *host) *handoff.Fault {
	switch {
	case p.finishing.len >= p.limits.Finishing:
		return handoff.Faultf(handoff.CodeAtLimit, "%d responses are being finished already, which is the limit", p.finishing.len)
	case h.finishing >= p.limits.HostFinishing:
		return handoff.Faultf(handoff.CodeAtLimit, "%d of this host's responses are being finished already, which is the limit", h.finishing)
	case !p.act.maySend():
		return handoff.Faultf(handoff.CodeAtLimit, "all helpers wait for file systems that do not answer")
	}
	return nil
}

// cutShort ends a lease whose response the host has left to the sidecar, which cannot send it: in a
// reset, since some of it may be sent.
func (p *policy) cutShort(h *host, f *handoff.Frame) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		return fault
	}
	p.answered(r, slot, 1)
	r.marks |= broken
	p.act.breakOff(r.fd)
	p.close(r, slot, ReasonFailed)
	return nil
}

// finish takes over the rest of a response, and with it the connection: the host's lease ends now.
func (p *policy) finish(h *host, f *handoff.Frame, rest remainder) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		p.act.closeFile(rest.file, h.id)
		return fault
	}
	p.answered(r, slot, 1)
	r.tookRequests(1)
	p.release(r, h, f.Flags&handoff.FlagClose == 0, false)
	rest.began, rest.thenClose, rest.host = p.now, f.Flags&handoff.FlagClose != 0, h.id
	*p.remainder(slot) = rest
	h.finishing++
	p.enter(r, slot, Finishing, int64(p.limits.SendTimeout))
	r.marks |= hushed // to what the client sends
	if p.act.watchRoom(r.fd, p.id(r, slot)) != nil {
		p.close(r, slot, ReasonFailed)
	} else {
		p.sendRest(r, slot)
	}
	return nil
}

// sendRest has a part sent, as much as the client takes now. What comes of it is told to sent.
func (p *policy) sendRest(r *record, slot uint32) {
	rest := p.remainder(slot)
	if rest.asked {
		rest.room = true
		return
	}
	rest.asked = true
	p.act.send(r.fd, p.id(r, slot), rest)
}

// unfinished is the remainder of a connection that is being finished; nil if it is not any more.
func (p *policy) unfinished(id ConnID) *remainder {
	if r := p.table.find(id); r == nil || r.state != Finishing {
		return nil
	}
	return p.remainder(id.slot())
}

// sent takes what came of sending a part, of which moved bytes were sent. The actor has kept the
// remainder's account.
func (p *policy) sent(id ConnID, how progress, moved int64) {
	r, slot, rest := p.table.find(id), id.slot(), p.unfinished(id)
	if rest == nil {
		return
	}
	again := how == sendYield || rest.room
	rest.asked, rest.room = false, false
	rest.sent += moved
	switch {
	case how == sendBroken:
		p.close(r, slot, ReasonFailed)
		return
	case how == sendDone:
		p.finished(r, slot, rest)
		return
	case p.tooSlowFor(rest):
		p.close(r, slot, ReasonSlowReader)
		return
	case moved > 0:
		p.enter(r, slot, Finishing, int64(p.limits.SendTimeout)) // progress: the time without any begins again
	}
	if again {
		p.sendRest(r, slot)
	}
}

// tooSlowFor reports whether a client takes its response below the minimum rate; the first seconds do not count.
func (p *policy) tooSlowFor(rest *remainder) bool {
	took := p.now - rest.began
	return took >= partialReview && float64(rest.sent)/(float64(took)/float64(time.Second)) < float64(p.limits.MinRate)
}

// finished: the response is in the kernel, as after any put or close.
func (p *policy) finished(r *record, slot uint32, rest *remainder) {
	thenClose, timeout := rest.thenClose, rest.timeout
	p.dropRest(r, slot)
	if thenClose {
		p.close(r, slot, ReasonHost)
		return
	}
	p.makeIdle(r, slot, timeout)
}

func (p *policy) remainder(slot uint32) *remainder { return &p.memory.extra(slot).rest }

// dropRest closes the file of a remainder, if the connection has one. If some of it was not sent
// the connection ends in a reset: a response without a length would look whole if it ended in a
// FIN.
func (p *policy) dropRest(r *record, slot uint32) {
	if r.state != Finishing {
		return
	}
	rest := p.remainder(slot)
	if rest.left > 0 {
		r.marks |= broken // first: a successor resets the connection again
		p.act.breakOff(r.fd)
	}
	if rest.left >= 0 {
		rest.left = -1 // before its file is closed: the number may soon be another's
		p.act.closeFile(rest.file, rest.host)
	}
	if h := p.hosts[rest.host]; h != nil {
		h.finishing--
	}
	rest.host = 0
}

// expireFinishing ends the patience with clients that take nothing.
func (p *policy) expireFinishing() {
	for {
		r, slot, ok := p.table.oldest(&p.finishing)
		if !ok || !p.overdue(r, int64(p.limits.SendTimeout)) || !p.mayEnd() {
			return
		}
		p.close(r, slot, ReasonSlowReader)
	}
}
