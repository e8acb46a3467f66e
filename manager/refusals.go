package manager

import (
	"net/netip"
	"time"
)

// Which clients were refused, and what the log says of it. An abusive client is found by it: its
// address is asked from the kernel when a connection ends for what its client has done, never for a
// request that goes well.

// blames reports whether a connection ends because of what its client has done.
func (r Reason) blames() bool {
	switch r {
	case ReasonSlow, ReasonMalformed, ReasonHeadTooLong, ReasonBodyTooLong, ReasonSlowReader, ReasonClientConnections, ReasonClientRequests:
		return true
	}
	return false
}

// maxRefused is how many clients that were refused are remembered. One more takes the place of the
// one that was not refused for longest.
const maxRefused = 1024

// refusals remembers the clients that were refused of late.
type refusals struct {
	known map[clientKey]int // index in all
	all   []refused
}

// refused is what is remembered of a client.
type refused struct {
	key     clientKey
	address netip.Addr
	count   uint64
	last    int64
	reason  Reason
}

// add counts a refusal.
func (s *refusals) add(address netip.Addr, why Reason, now int64) {
	if !address.IsValid() {
		return // a Unix socket's, or it has reset the connection
	}
	key := keyOf(address)
	i, known := s.known[key]
	if !known {
		i = s.room()
		s.all[i] = refused{key: key, address: address}
		s.known[key] = i
	}
	c := &s.all[i]
	c.count++
	c.last, c.reason = now, why
}

// room is the place for one more client.
func (s *refusals) room() int {
	if s.known == nil {
		s.known = map[clientKey]int{}
	}
	if len(s.all) < maxRefused {
		s.all = append(s.all, refused{})
		return len(s.all) - 1
	}
	oldest := 0
	for i := range s.all {
		if s.all[i].last < s.all[oldest].last {
			oldest = i
		}
	}
	delete(s.known, s.all[oldest].key)
	return oldest
}

// How many closed connections of one reason the log tells of, and in which time. The others are for
// Debug, and counted.
const (
	closedLines = 10
	closedTime  = time.Minute
)

// sample lets the first lines of a kind pass.
type sample struct {
	until int64
	lines int
	left  uint64 // lines that did not pass since the last that did
}

// pass reports whether one more line may pass, and how many did not before it.
func (s *sample) pass(now int64) (left uint64, ok bool) {
	if now >= s.until {
		s.until, s.lines = now+int64(closedTime), 0
	}
	if s.lines == closedLines {
		s.left++
		return 0, false
	}
	s.lines++
	left, s.left = s.left, 0
	return left, true
}
