package sidecar

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// newest is a listener with at most so many connections open. One more takes the place of the one
// that has been open longest: peers that stall, or keep idle connections, do not keep others out.
// With keepSpoken, only peers that have sent nothing make way, and one more than those waits.
type newest struct {
	net.Listener
	most       int
	keepSpoken bool

	mu    sync.Mutex
	freed sync.Cond // a place may be free; its lock is mu
	open  []*placed // in the order of accepting; mu
}

func newNewest(l net.Listener, most int, keepSpoken bool) *newest {
	n := &newest{Listener: l, most: most, keepSpoken: keepSpoken}
	n.freed.L = &n.mu
	return n
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	of    *newest
	spoke atomic.Bool // the peer has sent something
}

// Accept returns a connection once it has a place.
func (n *newest) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.open) >= n.most && !n.makeWay() {
		n.freed.Wait()
	}
	p := &placed{Conn: c, of: n}
	n.open = append(n.open, p)
	return p, nil
}

// makeWay closes the connection that has been open longest, of those that may be closed. It returns
// false if there is none.
func (n *newest) makeWay() bool {
	i := slices.IndexFunc(n.open, func(p *placed) bool { return !n.keepSpoken || !p.spoke.Load() })
	if i < 0 {
		return false
	}
	_ = n.open[i].Conn.Close() // its handler fails at the next read or write
	n.open = slices.Delete(n.open, i, i+1)
	return true
}

// Read notes that the peer has sent something.
func (p *placed) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if n > 0 && !p.spoke.Load() {
		p.spoke.Store(true)
	}
	return n, err
}

// Close gives up the place, too.
func (p *placed) Close() error {
	n := p.of
	n.mu.Lock()
	n.open = slices.DeleteFunc(n.open, func(other *placed) bool { return other == p })
	n.freed.Signal()
	n.mu.Unlock()
	return p.Conn.Close()
}
