//go:build integration

package integration

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

// What tests ask the sidecar again and again.

func (p *project) counts() *pb.GetConnectionCountsResponse {
	p.t.Helper()
	counts, err := p.control.GetConnectionCounts(p.ctx, &pb.GetConnectionCountsRequest{})
	p.ok(err)
	return counts
}

// awaitCounts waits until check returns nil for the counts, and returns these.
func (p *project) awaitCounts(check func(*pb.GetConnectionCountsResponse) error) (counts *pb.GetConnectionCountsResponse) {
	p.t.Helper()
	p.eventually(func() error {
		counts = p.counts()
		return check(counts)
	})
	return counts
}

// awaitStates waits until that many connections are idle, ready and leased.
func (p *project) awaitStates(idle, ready, leased uint32) {
	p.t.Helper()
	p.awaitCounts(func(c *pb.GetConnectionCountsResponse) error {
		if s := c.States; s.Idle != idle || s.Ready != ready || s.Leased != leased {
			return fmt.Errorf("the states are {%v}; want %d idle, %d ready, %d leased", s, idle, ready, leased)
		}
		return nil
	})
}

// awaitClosed waits until n connections have been closed for a reason.
func (p *project) awaitClosed(reason pb.CloseReason, n uint64) {
	p.t.Helper()
	p.awaitCounts(func(c *pb.GetConnectionCountsResponse) error {
		if got := closed(c, reason); got != n {
			return fmt.Errorf("%d are closed as %v; want %d", got, reason, n)
		}
		return nil
	})
}

func closed(counts *pb.GetConnectionCountsResponse, reason pb.CloseReason) uint64 {
	for _, c := range counts.GetTotals().GetClosed() {
		if c.Reason == reason {
			return c.Count
		}
	}
	return 0
}

func (p *project) hosts() []*pb.Host {
	p.t.Helper()
	list, err := p.control.ListHosts(p.ctx, &pb.ListHostsRequest{})
	p.ok(err)
	return list.Hosts
}

// awaitHosts waits until so many hosts are attached, none of which is leaving. The sidecar may be starting still.
func (p *project) awaitHosts(n int) {
	p.t.Helper()
	p.eventually(func() error {
		list, err := p.control.ListHosts(p.ctx, &pb.ListHostsRequest{})
		if err != nil {
			return err
		}
		for _, h := range list.Hosts {
			if h.Draining {
				return fmt.Errorf("host %s is leaving still", h.Name)
			}
		}
		if len(list.Hosts) != n {
			return fmt.Errorf("%d hosts are attached; want %d", len(list.Hosts), n)
		}
		return nil
	})
}

// connections are those of one state.
func (p *project) connections(state pb.ConnectionState) []*pb.Connection {
	p.t.Helper()
	filter := &pb.ConnectionSelection{States: []pb.ConnectionState{state}}
	list, err := p.control.ListConnections(p.ctx, &pb.ListConnectionsRequest{Filter: filter})
	p.ok(err)
	return list.Connections
}

// leased is the id of the only leased connection, once there is one.
func (p *project) leased() (id uint64) {
	p.t.Helper()
	p.eventually(func() error {
		list := p.connections(pb.ConnectionState_CONNECTION_STATE_LEASED)
		if len(list) != 1 {
			return fmt.Errorf("leased are %v; want one", list)
		}
		id = list[0].ConnectionId
		return nil
	})
	return id
}

// closeThem closes what is selected, and checks how many that is.
func (p *project) closeThem(request *pb.CloseRequest, want uint32) {
	p.t.Helper()
	response, err := p.control.Close(p.ctx, request)
	p.ok(err)
	if response.Closed != want {
		p.t.Fatalf("%v closed %d connections; want %d", request, response.Closed, want)
	}
}

func (p *project) setLimits(change *pb.Limits) {
	p.t.Helper()
	_, err := p.control.SetLimits(p.ctx, &pb.SetLimitsRequest{Limits: change})
	p.ok(err)
}

// awaitHealth waits until the health service says whether requests are served.
func (p *project) awaitHealth(want healthpb.HealthCheckResponse_ServingStatus) {
	p.t.Helper()
	p.eventually(func() error {
		response, err := p.health.Check(p.ctx, &healthpb.HealthCheckRequest{})
		if err == nil && response.Status != want {
			err = fmt.Errorf("the health is %v; want %v", response.Status, want)
		}
		return err
	})
}

// refusal checks that a call was refused with a code and a sentence.
func refusal(err error, want codes.Code) error {
	s, ok := status.FromError(err)
	switch {
	case err == nil:
		return errors.New("the call was not refused")
	case !ok || s.Code() != want:
		return fmt.Errorf("refused with: %w; want %v", err, want)
	case s.Message() == "":
		return fmt.Errorf("refused with %v and no word of why", s.Code())
	}
	return nil
}
