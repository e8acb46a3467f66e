package keeper

import "time"

// echoTime is how long after a signal that asks for the end another one counts as the same request:
// a terminal sends SIGINT to every process of its group, and a parent among them may pass it on; so
// does a service manager that signals every process.
const echoTime = 500 * time.Millisecond

// Ending judges signals that ask a process to end. The zero value has seen none. It belongs to one goroutine.
type Ending struct {
	asked bool
	first time.Time
}

// A Request is what a signal asks for.
type Request int

// The requests.
const (
	Drain  Request = iota // the first signal
	Echo                  // the first one, once more
	AtOnce                // another one: do not wait any longer
)

// Judge says what a signal at that time asks for.
func (e *Ending) Judge(now time.Time) Request {
	switch {
	case !e.asked:
		e.asked, e.first = true, now
		return Drain
	case now.Sub(e.first) < echoTime:
		return Echo
	}
	return AtOnce
}
