package manager

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/anteroom-io/anteroom/listener"
)

// ClientOrder is what a list of clients is sorted by, most first.
type ClientOrder uint8

// The orders.
const (
	ByConnections ClientOrder = iota
	ByRequests
	ByRefusals
)

// ClientQuery asks for the clients with the most of something.
type ClientQuery struct {
	Order ClientOrder
	Peer  string // only these: an address without port, or a prefix in CIDR form; empty: all
	Limit int    // 1 to MaxPage; 0: DefaultClients
}

// DefaultClients is how many clients a ClientQuery is answered with if it does not say.
const DefaultClients = 20

// Client is what is known of a client address: connections that are here, and refusals of late.
type Client struct {
	Address     string // an IPv4 address, a /64 of IPv6, or a link-local address; "unix" for all Unix sockets together
	Connections int
	Requests    uint64        // answered on these connections
	Refusals    uint64        // connections ended for what the client did, if it is among the last maxRefused clients that were refused
	Refused     time.Duration // since the last refusal; 0 without one
	Reason      Reason        // of the last refusal
}

// ClientList is an answer to a ClientQuery.
type ClientList struct {
	Clients []Client
	Known   int // clients that were found, of which these are the first
}

// Clients returns the clients with the most connections, requests or refusals. Errors: ErrBadPeer, ErrBusy.
func (m *Manager) Clients(ctx context.Context, q ClientQuery) (ClientList, error) {
	peers, err := parsePeer(q.Peer)
	if err != nil {
		return ClientList{}, err
	}
	found := &clientCensus{peers: peers, clients: map[clientKey]*Client{}}
	step := m.eachSelected(0, Selection{Peer: "asks for each"}, func(id ConnID, r *record) (int, bool) {
		found.meet(m.policy.clientOf(r, id.slot()), uint64(r.requests))
		return 0, false
	})
	if err := m.askJob(ctx, func(budget int) (cost int, done bool) {
		if cost, done = step(budget); done {
			found.refused(m.refusals.all, m.policy.now)
			cost += len(m.refusals.all)
		}
		return cost, done
	}); err != nil {
		return ClientList{}, err // found may still be written to
	}
	return found.list(q), nil
}

// clientOf is the address of a connection's client: the one that a load balancer has told, else the
// socket's own; invalid if it has none, or is reset.
func (p *policy) clientOf(r *record, slot uint32) netip.Addr {
	if peer, told := p.toldPeer(r, slot); told {
		return peer.Addr()
	}
	return p.act.peer(r.fd)
}

// clientCensus counts the connections of each client.
type clientCensus struct {
	peers   listener.Subnet // not valid: all
	clients map[clientKey]*Client
}

// of is a client's entry, nil if it is not asked for.
func (c *clientCensus) of(address netip.Addr) *Client {
	var key clientKey
	if address.IsValid() {
		key = keyOf(address)
	}
	if c.peers.IsValid() && !c.peers.Contains(address.Unmap()) {
		return nil
	}
	client := c.clients[key]
	if client == nil {
		client = &Client{Address: clientName(address)}
		c.clients[key] = client
	}
	return client
}

func (c *clientCensus) meet(address netip.Addr, requests uint64) {
	if client := c.of(address); client != nil {
		client.Connections++
		client.Requests += requests
	}
}

func (c *clientCensus) refused(all []refused, now int64) {
	for i := range all {
		if client := c.of(all[i].address); client != nil {
			client.Refusals, client.Refused, client.Reason = all[i].count, max(time.Duration(now-all[i].last), 1), all[i].reason
		}
	}
}

// list sorts the clients and cuts the list.
func (c *clientCensus) list(q ClientQuery) ClientList {
	all := make([]Client, 0, len(c.clients))
	for _, client := range c.clients {
		all = append(all, *client)
	}
	most := map[ClientOrder]func(*Client) uint64{
		ByConnections: func(c *Client) uint64 { return uint64(c.Connections) },
		ByRequests:    func(c *Client) uint64 { return c.Requests },
		ByRefusals:    func(c *Client) uint64 { return c.Refusals },
	}[q.Order]
	slices.SortFunc(all, func(a, b Client) int {
		return cmp.Or(cmp.Compare(most(&b), most(&a)), cmp.Compare(a.Address, b.Address))
	})
	limit := min(max(q.Limit, 0), MaxPage)
	if limit == 0 {
		limit = DefaultClients
	}
	return ClientList{Clients: all[:min(limit, len(all))], Known: len(all)}
}

// clientName is what operators call a client.
func clientName(address netip.Addr) string {
	address = address.Unmap()
	switch {
	case !address.IsValid():
		return "unix"
	case address.Is6() && !address.IsLinkLocalUnicast():
		return netip.PrefixFrom(address, 64).Masked().String()
	}
	return address.String()
}
