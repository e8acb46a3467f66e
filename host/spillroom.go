package host

import (
	"sync"
	"time"
)

// spillRoom counts the memory in which a host's responses wait for their clients, those included that were left to the sidecar.
type spillRoom struct {
	response, total int64

	mu    sync.Mutex
	taken int64
}

// take counts more bytes for a response that has some already, and reports whether there is room.
func (r *spillRoom) take(has int64, more int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if has+int64(more) > r.response || r.taken+int64(more) > r.total {
		return false
	}
	r.taken += int64(more)
	return true
}

func (r *spillRoom) give(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken -= n
}

// giveLater is for what the sidecar sends without telling when that is done.
func (r *spillRoom) giveLater(n int64) {
	if n > 0 {
		time.AfterFunc(unseenTime, func() { r.give(n) })
	}
}

// unseenTime is for how long the rest of a response counts whose end this host cannot see.
const unseenTime = time.Minute

// countRest counts the memory of a rest that the sidecar sends: until the connection's next lease if this host sees that, else for a while.
func (k *link) countRest(c *connection, n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.state == stateIdle {
		c.rest += n
	} else {
		k.host.room.giveLater(n)
	}
}

// restDoneLocked: the rest of the connection's last response is sent, or nobody will send it.
func (k *link) restDoneLocked(c *connection) {
	if c.rest > 0 {
		k.host.room.give(c.rest)
		c.rest = 0
	}
}
