package manager

import (
	"fmt"
	"math"
	"slices"
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
	looks  int
	vain   int  // looks in a row that have found no more
	called bool // it was told to go on (100 Continue)
	paused bool // nothing is told, the next look comes with time
}

// A request that arrives in very many parts is looked at from its beginning each time, and TCP may report a socket below its low-water mark when its window is
// small. So after some looks, and after one in vain, the next look waits a little; after several in vain there is no room for more.
const (
	freeLooks    = 32
	maxVain      = 8
	partialPause = int64(10 * time.Millisecond)
)

// partialReview is how often the rate of a request that is arriving is looked at.
const partialReview = int64(5 * time.Second)

// examine decides what becomes of an idle connection on which something has happened: it is ready, or more of its request is awaited, or nobody is to be
// bothered with it.
func (p *policy) examine(r *record, slot uint32) {
	d := p.listeners[r.listener]
	if len(d.proxies) > 0 && r.marks&introduced == 0 && !p.introduce(r, slot, d) {
		return
	}
	if d.once() {
		p.examineBytes(r, slot)
		return
	}
	seen, unread, over := p.act.look(r.fd, p.scanLimits(d))
	switch {
	case over || unread == 0 && r.marks&ended != 0:
		p.close(r, slot, ReasonHungUp)
	case unread == 0:
		p.hear(r, slot) // told of what a host has read since
	case seen.Verdict == scan.More:
		p.awaitRest(r, slot, d, seen, unread)
	case seen.Verdict == scan.HeadTooLong:
		p.close(r, slot, ReasonHeadTooLong)
	case seen.Verdict == scan.BodyTooLong:
		p.close(r, slot, ReasonBodyTooLong)
	case seen.Verdict == scan.Malformed:
		p.close(r, slot, ReasonMalformed)
	default:
		if seen.Total > 0 && unread > seen.Total {
			r.marks |= stirred // what has come behind the request is told no more
		}
		p.arrived(r, slot, seen)
	}
}

func (p *policy) examineBytes(r *record, slot uint32) {
	switch {
	case p.act.unread(r.fd) > 0:
		p.arrived(r, slot, scan.Seen{})
	case r.marks&ended != 0:
		p.close(r, slot, ReasonHungUp)
	default:
		p.hear(r, slot)
	}
}

func (p *policy) scanLimits(d *door) scan.Limits {
	limits := scan.Limits{Head: p.limits.Head, Body: p.limits.Body}
	if d.ready == ReadyRequest {
		limits.Wait, limits.Expect = p.limits.WaitBody, d.continues
	}
	return limits
}

func (p *policy) arrived(r *record, slot uint32, seen scan.Seen) {
	if why := p.overLimit(r, slot); why != ReasonNone {
		p.close(r, slot, why)
		return
	}
	r.head, r.length = 0, 0
	if seen.Head <= math.MaxUint16 { // a longer one is handed over without lengths
		r.head, r.length = uint16(seen.Head), uint32(min(seen.Total, math.MaxUint32))
	}
	p.settle(r, slot)
	p.makeReady(r, slot)
}

// awaitRest watches for more of a request. If none will come, its host gets what there is.
func (p *policy) awaitRest(r *record, slot uint32, d *door, seen scan.Seen, unread int) {
	b := p.begin(r, slot)
	if unread > b.unread {
		b.unread, b.vain = unread, 0
	} else {
		b.vain++
	}
	b.looks++
	if seen.Expects && !b.called {
		b.called = true
		p.act.goOn(r.fd)
	}
	if r.marks&ended != 0 || b.vain > maxVain {
		p.arrived(r, slot, scan.Seen{})
		return
	}
	b.paused = b.vain > 0 || b.looks > freeLooks
	p.partials[slot] = b
	switch {
	case b.paused:
		p.hush(r, slot)
		p.enterIdle(r, slot, waitRest, partialPause)
	case d.edge:
		p.hear(r, slot)
	default:
		p.await(r, slot, seen.Need)
	}
}

func (p *policy) await(r *record, slot uint32, need int) {
	r.marks &^= hushed | stirred
	if p.act.await(r.fd, p.id(r, slot), need) != nil {
		p.close(r, slot, ReasonFailed)
	}
}

// begin returns what is known of a request that arrives; if this is its first part, its time begins.
func (p *policy) begin(r *record, slot uint32) begun {
	if r.marks&partial != 0 {
		return p.partials[slot]
	}
	r.marks |= partial
	p.enterIdle(r, slot, waitRest, min(partialReview, int64(p.limits.RequestTimeout)))
	return begun{at: p.now}
}

// reviewPartial ends the wait for a request that is too slow, and a pause.
func (p *policy) reviewPartial(r *record, slot uint32) {
	b := p.partials[slot]
	took, limit := p.now-b.at, int64(p.limits.RequestTimeout)
	switch {
	case took >= limit, took >= partialReview && p.rate(r, took) < float64(p.limits.MinRate):
		p.close(r, slot, ReasonSlow)
	case b.paused:
		p.examine(r, slot)
	default:
		p.enterIdle(r, slot, waitRest, min(partialReview, limit-took))
	}
}

// rate is how fast a request arrives, in bytes per second.
func (p *policy) rate(r *record, took int64) float64 {
	return float64(p.act.unread(r.fd)) / (float64(took) / float64(time.Second))
}

// settle ends the watching for more of a request.
func (p *policy) settle(r *record, slot uint32) {
	if r.marks&partial == 0 {
		return
	}
	p.act.settle(r.fd) // first, lest a successor takes it for done
	r.marks &^= partial
	delete(p.partials, slot)
}

// answer sends an answer of ours, once: a successor does not answer again.
func (p *policy) answer(r *record, status int) {
	r.marks |= replied
	p.totals.Answered++
	if i, known := slices.BinarySearch(answerStatuses, status); known {
		p.totals.Answers[i]++
	}
	p.act.answer(r.fd, status)
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
	case ReasonClientConnections, ReasonClientRequests:
		return 429
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
	p.answer(r, status)
}
