package sidecar

import (
	"net"
	"slices"
	"sync"
)

// newest is a listener with at most so many connections open. One more takes the place of the one
// that has been open longest: peers that stall, or keep idle connections, do not keep others out.
type newest struct {
	net.Listener
	most int

	mu   sync.Mutex
	open []*placed // in the order of accepting; mu
}

// placed is a connection that has a place.
type placed struct {
	net.Conn
	of *newest
}

// Accept closes the connection that has been open longest if there are as many as may be.
func (n *newest) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.open) >= n.most {
		_ = n.open[0].Conn.Close() // its handler fails at the next read or write
		n.open = n.open[1:]
	}
	p := &placed{Conn: c, of: n}
	n.open = append(n.open, p)
	return p, nil
}

// Close gives up the place, too.
func (p *placed) Close() error {
	n := p.of
	n.mu.Lock()
	n.open = slices.DeleteFunc(n.open, func(other *placed) bool { return other == p })
	n.mu.Unlock()
	return p.Conn.Close()
}
