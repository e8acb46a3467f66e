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
	at      int64 // since when, ns of the loop's clock
	grew    int64 // when a look found more than the one before
	unread  int   // bytes at the last look
	looks   int
	called  bool // the client was told to go on (100 Continue)
	paused  bool // the selector tells nothing, the next look comes with time
	scanner scan.Scanner
}

// How often a request that arrives in parts is looked at. The first looks are free. Each later one
// waits for a sixteenth of the time that the request has taken so far, and for partialPause at
// least, so that the number of looks has a bound. So does a look after one that found nothing new:
// TCP may report a socket below its low-water mark when its window is small.
const (
	freeLooks    = 32
	pauseShare   = 16
	partialPause = int64(10 * time.Millisecond)
)

// partialReview is how often the rate of a request that is arriving is looked at.
const partialReview = int64(5 * time.Second)

// examine decides the next step for an idle connection with input: it is ready, it waits for more,
// or it is closed.
func (p *policy) examine(r *record, slot uint32) {
	d := p.listeners[r.listener]
	if len(d.proxies) > 0 && r.marks&introduced == 0 && !p.introduce(r, slot, d) {
		return
	}
	if d.once() {
		p.examineBytes(r, slot)
		return
	}
	seen, unread, over := p.look(r, slot, d)
	switch {
	case over != ReasonNone:
		p.close(r, slot, over)
	case unread == 0 || seen.Empty:
		p.examineNothing(r, slot, unread)
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

// look looks at the request of a connection. A look at a part goes on where the one before has
// ended; if bytes have been taken away since then, it begins again.
func (p *policy) look(r *record, slot uint32, d *door) (seen scan.Seen, unread int, over Reason) {
	p.scanner = scan.Scanner{}
	before := 0
	if r.marks&partial != 0 {
		b := p.partials[slot]
		p.scanner, before = b.scanner, b.unread
	}
	seen, unread, over = p.act.look(r.fd, p.scanLimits(d), &p.scanner)
	if unread < before {
		p.scanner = scan.Scanner{}
		seen, unread, over = p.act.look(r.fd, p.scanLimits(d), &p.scanner)
	}
	r.marks &^= bodiless
	if seen.Bodiless {
		r.marks |= bodiless
	}
	return seen, unread, over
}

// examineNothing is for a connection without input, or with nothing but empty lines, which begin no
// request: it waits on as it did before. If its client has ended, they are taken away first: to
// close a socket with unread bytes is to reset it.
func (p *policy) examineNothing(r *record, slot uint32, unread int) {
	if r.marks&ended != 0 {
		if unread > 0 {
			p.act.takeAway(r.fd, unread)
		}
		p.close(r, slot, ReasonHungUp)
		return
	}
	if r.marks&partial != 0 { // its bytes are gone: a host has read them, or they were a PROXY header
		p.settle(r, slot)
		timeout, kind := p.patienceWith(r)
		p.enterIdle(r, slot, kind, timeout)
	}
	p.hear(r, slot)
}

// examineBytes is examine where any byte will do. If there is none though the selector has told of
// one, the connection is watched for arrivals from then on, or the selector could tell of it again
// and again.
func (p *policy) examineBytes(r *record, slot uint32) {
	some, over := p.act.some(r.fd)
	switch {
	case over != ReasonNone:
		p.close(r, slot, over)
	case some:
		p.arrived(r, slot, scan.Seen{})
	default:
		r.marks |= vain
		p.examineNothing(r, slot, 0)
	}
}

// comes reports whether there is input that examine would act on. Empty lines are none where
// requests are looked at, and what cannot be peeked at is none anywhere.
func (p *policy) comes(r *record) bool {
	d := p.listeners[r.listener]
	switch {
	case p.act.unread(r.fd) == 0:
		return false
	case d.once() || len(d.proxies) > 0 && r.marks&introduced == 0:
		some, _ := p.act.some(r.fd)
		return some
	}
	p.scanner = scan.Scanner{}
	seen, unread, _ := p.act.look(r.fd, p.scanLimits(d), &p.scanner)
	return unread > 0 && !seen.Empty
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

// awaitRest watches for more of a request. If none can come, its host gets what there is.
func (p *policy) awaitRest(r *record, slot uint32, d *door, seen scan.Seen, unread int) {
	b := p.begin(r, slot)
	grown := unread > b.unread
	if grown {
		b.grew = p.now
	}
	b.unread, b.scanner = unread, p.scanner
	b.looks++
	if seen.Expects && !b.called {
		b.called = true
		p.act.goOn(r.fd)
	}
	if r.marks&ended != 0 || !grown && p.full(r, &b, seen.Need) {
		p.arrived(r, slot, scan.Seen{})
		return
	}
	b.paused = b.looks > freeLooks || !grown && !d.edge
	p.partials[slot] = b
	p.awaitMore(r, slot, d, &b, seen.Need)
}

// awaitMore plans the next look at a request. A Unix socket is looked at again after a pause: no
// event comes of it when the client waits for room.
func (p *policy) awaitMore(r *record, slot uint32, d *door, b *begun, need int) {
	if b.paused || d.edge {
		p.enterIdle(r, slot, waitRest, p.pauseOf(b))
	}
	switch {
	case b.paused:
		p.hush(r, slot)
	case d.edge:
		p.hear(r, slot)
	default:
		p.await(r, slot, need)
	}
}

// pauseOf is how long the next look at a request waits. There are few such times: each is a class
// of idle connections.
func (p *policy) pauseOf(b *begun) int64 {
	took, pause := p.now-b.at, partialPause
	for pause < took/pauseShare && pause < partialReview {
		pause *= 2
	}
	return min(pause, max(int64(p.limits.RequestTimeout)-took, 1))
}

// room says whether the client of a connection has room to send more, as far as the kernel knows.
type room uint8

const (
	roomUnknown room = iota
	roomMore
	roomNone
)

// Where the kernel does not say whether there is room for more of a request, there is taken to be
// none if blindBytes are there, and nothing has come for blindPatience.
const (
	blindBytes    = 2 << 10
	blindPatience = int64(time.Second)
)

// full reports whether there is no room for more of a request, of which a look has found no more
// than the one before.
func (p *policy) full(r *record, b *begun, need int) bool {
	switch p.act.room(r.fd, need) {
	case roomNone:
		return true
	case roomUnknown:
		return b.unread >= blindBytes && p.now-b.grew >= blindPatience
	}
	return false
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
	return begun{at: p.now, grew: p.now}
}

// reviewPartial ends the wait for a request that is too slow, and a pause.
func (p *policy) reviewPartial(r *record, slot uint32) {
	b := p.partials[slot]
	took, limit := p.now-b.at, int64(p.limits.RequestTimeout)
	switch {
	case took >= limit, took >= partialReview && p.rate(r, took) < float64(p.limits.MinRate):
		p.close(r, slot, ReasonSlow)
	case b.paused || p.listeners[r.listener].edge:
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
	p.act.answer(r.fd, status, r.marks&bodiless != 0)
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
