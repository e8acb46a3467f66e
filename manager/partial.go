package manager

import (
	"fmt"
	"math"
	"time"

	"github.com/anteroom-io/anteroom/scan"
)

// Readiness is what a listener's connections must hold before a host gets them.
type Readiness uint8

// The kinds of readiness.
const (
	ReadyBytes   Readiness = iota // anything: for protocols other than HTTP/1
	ReadyHead                     // the head of an HTTP/1 request
	ReadyRequest                  // an HTTP/1 request with its body, if that is not longer than Limits.WaitBody
	readinessCount
)

var readinessNames = [readinessCount]string{"bytes", "head", "request"}

func (r Readiness) String() string { return readinessNames[r] }

// ParseReadiness is the reverse of String.
func ParseReadiness(s string) (Readiness, error) {
	for r, name := range readinessNames {
		if s == name {
			return Readiness(r), nil
		}
	}
	return 0, fmt.Errorf("%q is no readiness, give %q, %q or %q", s, readinessNames[0], readinessNames[1], readinessNames[2])
}

// begun is a request that has begun to arrive. Only slow ones are here: most arrive whole.
type begun struct {
	at     int64 // since when, ns of the loop's clock
	unread int   // bytes at the last look
}

// partialReview is how often the rate of a request that is arriving is looked at.
const partialReview = int64(5 * time.Second)

// examine decides what becomes of an idle connection with bytes to read: it is ready, or more of its request is awaited, or nobody is to be bothered with
// it. last says that the client will send no more.
func (p *policy) examine(r *record, slot uint32, last bool) {
	d := p.listeners[r.listener]
	if len(d.proxies) > 0 && r.marks&introduced == 0 && !p.introduce(r, slot, d, last) {
		return
	}
	if d.ready == ReadyBytes {
		p.settle(r, slot)
		p.makeReady(r, slot)
		return
	}
	seen, unread := p.act.look(r.fd, p.scanLimits(d))
	switch seen.Verdict {
	case scan.More:
		p.awaitRest(r, slot, d, seen, unread, last)
	case scan.HeadTooLong:
		p.close(r, slot, ReasonHeadTooLong)
	case scan.BodyTooLong:
		p.close(r, slot, ReasonBodyTooLong)
	case scan.Malformed:
		p.close(r, slot, ReasonMalformed)
	default:
		p.arrived(r, slot, seen)
	}
}

func (p *policy) scanLimits(d *door) scan.Limits {
	limits := scan.Limits{Head: p.limits.Head, Body: p.limits.Body}
	if d.ready == ReadyRequest {
		limits.Wait = p.limits.WaitBody
	}
	return limits
}

func (p *policy) arrived(r *record, slot uint32, seen scan.Seen) {
	r.head = uint32(seen.Head)
	r.length = uint32(min(seen.Total, math.MaxUint32))
	p.settle(r, slot)
	p.makeReady(r, slot)
}

// awaitRest watches for more of a request. If none will come, or the kernel says that no more has room, its host gets what there is.
func (p *policy) awaitRest(r *record, slot uint32, d *door, seen scan.Seen, unread int, last bool) {
	b, known := p.partials[slot]
	known = known && r.marks&partial != 0
	switch {
	case last, known && !d.edge && unread <= b.unread:
		p.arrived(r, slot, scan.Seen{})
		return
	case !known:
		b.at = p.now
		r.marks |= partial
		p.enterIdle(r, slot, waitRest, min(partialReview, int64(p.limits.RequestTimeout)))
	}
	b.unread = unread
	p.partials[slot] = b
	if known && d.edge {
		return // it is told of every arrival
	}
	if err := p.act.await(r.fd, p.id(r, slot), seen.Need, d.edge); err != nil {
		p.close(r, slot, ReasonFailed)
	}
}

// reviewPartial ends the wait for a request that is too slow.
func (p *policy) reviewPartial(r *record, slot uint32) {
	b := p.partials[slot]
	took := p.now - b.at
	limit := int64(p.limits.RequestTimeout)
	rate := float64(p.act.unread(r.fd)) / (float64(took) / float64(time.Second))
	if took >= limit || rate < float64(p.limits.MinRate) {
		p.close(r, slot, ReasonSlow)
		return
	}
	p.enterIdle(r, slot, waitRest, min(partialReview, limit-took))
}

// settle ends the watching for more of a request.
func (p *policy) settle(r *record, slot uint32) {
	if r.marks&partial == 0 {
		return
	}
	r.marks &^= partial
	delete(p.partials, slot)
	p.act.settle(r.fd)
	if p.listeners[r.listener].edge {
		p.act.disarm(r.fd, p.id(r, slot))
	}
}

// statusFor is the answer to a request that no host will get; 0 for reasons that have none.
func statusFor(why Reason) int {
	switch why {
	case ReasonMalformed:
		return 400
	case ReasonSlow:
		return 408
	case ReasonBodyTooLong:
		return 413
	case ReasonHeadTooLong:
		return 431
	case ReasonQueueFull, ReasonQueueTime, ReasonRefused, ReasonStopped:
		return 503
	}
	return 0
}

// answerFor answers a request that waits in vain. A leased one is its host's to answer, and a silent connection has asked for nothing: some
// browsers open connections in advance, and would take a 408 for the answer to their next request.
func (p *policy) answerFor(r *record, why Reason) {
	waits := r.state == Ready || r.state == Idle && (r.marks&partial != 0 || why >= ReasonSlow) || why == ReasonRefused
	status := statusFor(why)
	if status == 0 || !waits || r.marks&silent != 0 || p.listeners[r.listener].ready == ReadyBytes {
		return
	}
	p.totals.Answered++
	p.act.answer(r.fd, status)
}
