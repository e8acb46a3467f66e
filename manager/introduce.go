package manager

import (
	"net/netip"
	"slices"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/proxied"
	"github.com/anteroom-io/anteroom/scan"
)

// introduce finds out who a new connection of a listener behind load balancers is: a PROXY header from a trusted one is taken away before
// anything else is looked at. It reports whether the connection can be examined now.
func (p *policy) introduce(r *record, slot uint32, d *door) bool {
	seen, unread := p.act.introduce(r.fd, d.proxies)
	switch seen.Verdict {
	case proxied.More:
		p.awaitRest(r, slot, d, scan.Seen{Need: seen.Need}, unread)
		return false
	case proxied.Invalid:
		p.close(r, slot, ReasonMalformed)
		return false
	}
	p.memory.extra(slot).peer = notePeer(seen.Source) // also if there is none: another connection's may be there
	r.marks |= introduced
	if seen.Verdict == proxied.Whole {
		p.act.takeAway(r.fd, seen.Length)
		r.took(uint32(seen.Length))
	}
	if p.turnedAway(r, slot, d) {
		p.turnAway(r, slot)
		return false
	}
	if seen.Verdict == proxied.Whole && unread == seen.Length {
		p.awaitFirst(r, slot, d)
		return false
	}
	return true
}

// awaitFirst waits for the first byte of a request, behind the header.
func (p *policy) awaitFirst(r *record, slot uint32, d *door) {
	p.settle(r, slot)
	p.enterIdle(r, slot, waitFirstByte, int64(d.firstByteTimeout(p.limits)))
	p.hear(r, slot)
}

func (a *acts) peer(fd int32) netip.Addr {
	peer, err := listener.Peer(int(fd))
	if err != nil {
		return netip.Addr{}
	}
	return peer.AddrPort.Addr()
}

func (a *acts) introduce(fd int32, proxies []listener.Subnet) (proxied.Seen, int) {
	if !trusts(proxies, a.peer(fd)) {
		return proxied.Seen{Verdict: proxied.None}, 0
	}
	n, err := peek(int(fd), a.peekBuf[:firstPeek])
	if err != nil || n == 0 {
		return proxied.Seen{Verdict: proxied.None}, 0
	}
	return proxied.Header(a.peekBuf[:n]), n
}

func (a *acts) takeAway(fd int32, n int) {
	_, _ = recv(int(fd), a.peekBuf[:n], 0) // what was peeked is there
}

func trusts(proxies []listener.Subnet, address netip.Addr) bool {
	return slices.ContainsFunc(proxies, func(s listener.Subnet) bool { return s.Contains(address) })
}

// toldPeer is the client's address as a load balancer has told it. (Most connections never touch their extra, which costs memory.)
func (p *policy) toldPeer(r *record, slot uint32) (netip.AddrPort, bool) {
	if r.marks&introduced == 0 {
		return netip.AddrPort{}, false
	}
	return p.memory.extra(slot).peer.addrPort()
}

// peerOf is the client's address: the one a trusted load balancer has told, else the socket's.
func (p *policy) peerOf(r *record, slot uint32) string {
	if peer, told := p.toldPeer(r, slot); told {
		return peer.String()
	}
	return peerOf(int(r.fd))
}

func (p *policy) peerIn(r *record, slot uint32, peers listener.Subnet) bool {
	if peer, told := p.toldPeer(r, slot); told {
		return peers.Contains(peer.Addr())
	}
	peer, err := listener.Peer(int(r.fd))
	return err == nil && peers.Contains(peer.AddrPort.Addr())
}

// peerOf is where a socket is connected to; empty if that has gone.
func peerOf(fd int) string {
	peer, err := listener.Peer(fd)
	if err != nil {
		return ""
	}
	return peer.String()
}
