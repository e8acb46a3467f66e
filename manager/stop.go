package manager

import "time"

// What operators ask for.

// stopping is a Stop in progress.
type stopping struct {
	deadline int64
	finished int
	cut      int
	cutting  bool // a lease that ends now is cut
}

// beginStop ends accepting and lending; leases that are out may come back until the grace is over.
func (p *policy) beginStop(grace time.Duration) {
	p.stopped = true
	if p.stop == nil {
		p.stop = &stopping{}
	}
	p.stop.deadline = p.now + int64(max(grace, 0))
	p.reconsiderAll()
	p.wake = min(p.wake, p.stop.deadline)
}

// hurryStop ends the grace of a Stop that is in progress.
func (p *policy) hurryStop() {
	if p.stop != nil {
		p.beginStop(0)
	}
}

// stopDone reports whether a Stop is complete. What is still leased when its time is over is cut,
// as much as a turn may.
func (p *policy) stopDone() (StopReport, bool) {
	if p.stop == nil {
		return StopReport{}, false
	}
	if p.unstopped() > 0 && p.now >= p.stop.deadline {
		p.cutLeases()
	}
	if p.unstopped() > 0 {
		return StopReport{}, false
	}
	report := StopReport{Finished: p.stop.finished, Cut: p.stop.cut}
	p.stop = nil
	p.reconsiderAll()
	p.act.tell(Event{Kind: EventStopped})
	return report, true
}

// unstopped counts the connections that a Stop waits for: those that hosts have and, if everything
// ends, also those whose responses hosts have left to the sidecar.
func (p *policy) unstopped() int {
	if p.draining {
		return p.states[Leased] + p.states[Finishing]
	}
	return p.states[Leased]
}

func (p *policy) cutLeases() {
	p.stop.cutting = true
	for h := range p.eachHost {
		p.cut(&h.leases)
	}
	p.stop.cutting = false
	if p.draining {
		p.cut(&p.finishing)
	}
}

func (p *policy) cut(all *list) {
	for {
		r, slot, ok := p.table.oldest(all)
		if !ok || !p.mayEnd() {
			return
		}
		p.stop.cut++
		p.close(r, slot, ReasonStopped)
	}
}

// start is the reverse of beginStop. It reports whether anything was stopped.
func (p *policy) start() bool {
	if !p.stopped || p.stop != nil {
		return false
	}
	p.stopped = false
	p.reconsiderAll()
	for to := range p.eachPool {
		p.heat(to)
	}
	p.act.tell(Event{Kind: EventStarted})
	return true
}

// operatorPut makes a leased connection idle though its host has not said so: whoever asks speaks for the host, which is told to let go.
func (p *policy) operatorPut(id ConnID, timeout time.Duration) error {
	r := p.table.find(id)
	switch {
	case r == nil:
		return ErrNotFound
	case r.state != Leased:
		return ErrNotLeased
	}
	if its := p.concerned(r, ReasonOperator); its != nil {
		p.act.forget(its, id, ReasonOperator.forget())
	}
	r.taken = takenUnknown
	p.putBack(r, id.slot(), timeout, false, false)
	if r := p.table.find(id); r != nil && r.state == Idle {
		r.host = 0
	}
	return nil
}

// closeAll closes the connections that match, in every state but closing.
func (p *policy) closeAll(match func(id ConnID, r *record) bool, why Reason) {
	p.table.each(func(slot uint32, r *record) {
		if r.state != Closing && match(p.id(r, slot), r) {
			p.close(r, slot, why)
		}
	})
}

// setLimits puts new limits in force. Timeouts of idle connections hold from their next put on; the rest holds at once.
func (p *policy) setLimits(l Limits) {
	counted := p.limitsClients()
	p.limits = l
	p.wake = p.now
	if p.limitsClients() != counted {
		p.countClients()
	}
	if l.PingInterval == Off {
		for h := range p.eachHost {
			if !h.orphaned && h.asked != 0 {
				p.revive(h)
			}
		}
	}
}
