package manager

import (
	"time"

	"github.com/anteroom-io/anteroom/handoff"
)

// remainder is the rest of a response that a host has left to us (FINISH). The file is ours.
type remainder struct {
	file      int32
	pipe      bool  // a pipe, which has no offset
	offset    int64 // of the next byte; the kernel counts it on
	end       int64 // of what is to be sent
	left      int64
	sent      int64
	began     int64
	timeout   time.Duration // keep-alive, once all is sent
	thenClose bool
}

// progress is what came of sending a part.
type progress uint8

const (
	sendDone  progress = iota // everything is sent
	sendFull                  // the socket is full: the selector will tell
	sendYield                 // there is room, but others' turn has come
	sendBroken
)

// finish takes over the rest of a response, and with it the connection: the host's lease ends now.
func (p *policy) finish(h *host, f *handoff.Frame, rest remainder) *handoff.Fault {
	r, slot, fault := p.leased(h, f)
	if r == nil {
		p.act.closeFile(rest.file)
		return fault
	}
	p.answered(r, 1)
	r.tookRequests(1)
	p.release(r, h, f.Flags&handoff.FlagClose == 0, false)
	rest.began, rest.thenClose = p.now, f.Flags&handoff.FlagClose != 0
	*p.remainder(slot) = rest
	p.enter(r, slot, Finishing, int64(p.limits.SendTimeout))
	r.marks |= hushed // to what the client sends
	if p.act.watchRoom(r.fd, p.id(r, slot)) != nil {
		p.close(r, slot, ReasonFailed)
	} else {
		p.sendRest(r, slot)
	}
	return nil
}

// sendRest sends what the client takes now.
func (p *policy) sendRest(r *record, slot uint32) {
	rest := p.remainder(slot)
	before := rest.left
	result := p.act.send(r.fd, p.id(r, slot), rest)
	switch {
	case result == sendBroken:
		p.close(r, slot, ReasonFailed)
	case result == sendDone:
		p.finished(r, slot, rest)
	case p.tooSlowFor(rest):
		p.close(r, slot, ReasonSlowReader)
	case rest.left < before:
		p.enter(r, slot, Finishing, int64(p.limits.SendTimeout)) // progress: the time without any begins again
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

// dropRest closes the file of a remainder, if the connection has one. If some of it was not sent the connection ends in a reset: a response
// without a length would look whole if it ended in a FIN.
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
		p.act.closeFile(rest.file)
	}
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
