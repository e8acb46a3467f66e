package host

// connection is a client's connection as this host knows it on one link.
//
//	       LEASE           Next, or the server's wake-up
//	(new) ──────► queued ─────────────────► leased ──┬─ PUT ──► idle ─ LEASE ─► queued …
//	                 │                               │            │
//	                 └──────────── FORGET, CLOSE, DETACH, NACK, DROPPED, the link's end ──► gone
//
// Only a host that keeps descriptors (feature "cache") has idle ones. All fields but sock are guarded by the link's mutex.
type connection struct {
	link  *link
	sock  *socket
	state connState
	lease Lease // the present one, or the last
	due   bool  // its goroutine has been woken for the present lease and has not begun
	rest  int64 // bytes of memory that the sidecar sends the end of the last response from
	owner *conn // the net/http connection that waits for the next lease, nil if Next delivers it

	older, newer *connection // neighbours in the order of puts, while idle
}

type connState uint8

const (
	stateQueued connState = iota
	stateLeased
	stateIdle
	stateGone
)

func (s connState) String() string {
	return [...]string{"queued", "leased", "idle", "gone"}[s]
}

// idleOrder lists the idle connections, the one that was put longest ago first.
type idleOrder struct {
	oldest, newest *connection
	len            int
}

func (o *idleOrder) add(c *connection) {
	c.older, c.newer = o.newest, nil
	if o.newest != nil {
		o.newest.newer = c
	} else {
		o.oldest = c
	}
	o.newest = c
	o.len++
}

func (o *idleOrder) remove(c *connection) {
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		o.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		o.newest = c.older
	}
	c.older, c.newer = nil, nil
	o.len--
}
