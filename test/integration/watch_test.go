//go:build integration

package integration

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

func TestWatch(t *testing.T) {
	p := up(t, 1)
	app := p.containers("app")[0]
	name := p.hosts()[0].Name
	events := p.watch()
	_, err := events.Header()
	p.ok(err)

	c := p.dial()
	peer := p.greet(c).Client
	accepted := p.next(events, pb.EventKind_EVENT_KIND_ACCEPTED)
	if accepted.Peer != peer || accepted.ConnectionId == 0 || accepted.Time.AsTime().IsZero() {
		t.Errorf("the first event is {%v}; want the coming of %s", accepted, peer)
	}
	for _, kind := range []pb.EventKind{pb.EventKind_EVENT_KIND_LEASED, pb.EventKind_EVENT_KIND_PUT} {
		if e := p.next(events, kind); e.ConnectionId != accepted.ConnectionId || e.HostName != name || e.Pool != "default" {
			t.Errorf("then comes {%v}; want connection %d and host %s", e, accepted.ConnectionId, name)
		}
	}
	c.hangUp()
	gone := p.next(events, pb.EventKind_EVENT_KIND_CLOSED)
	if gone.ConnectionId != accepted.ConnectionId || gone.Reason != pb.CloseReason_CLOSE_REASON_HUNG_UP {
		t.Errorf("then comes {%v}; want connection %d to have been hung up", gone, accepted.ConnectionId)
	}

	p.stop(0, &pb.StopResponse{})
	p.next(events, pb.EventKind_EVENT_KIND_STOPPED)
	p.start()
	p.next(events, pb.EventKind_EVENT_KIND_STARTED)
	p.docker("kill", "--signal", "KILL", app)
	if e := p.next(events, pb.EventKind_EVENT_KIND_HOST_GONE); e.HostName != name || e.Detail == "" {
		t.Errorf("then comes {%v}; want host %s to have gone, and why", e, name)
	}
	p.docker("start", app)
	if e := p.next(events, pb.EventKind_EVENT_KIND_HOST_ATTACHED); e.HostName != name {
		t.Errorf("then comes {%v}; want host %s", e, name)
	}
}

// A watch for some kinds hears of no others.
func TestWatchKinds(t *testing.T) {
	p := up(t, 1)
	events := p.watch(pb.EventKind_EVENT_KIND_PUT, pb.EventKind_EVENT_KIND_CLOSED)
	_, err := events.Header()
	p.ok(err)
	c := p.dial()
	p.greet(c)
	p.next(events, pb.EventKind_EVENT_KIND_PUT)
	p.closeThem(&pb.CloseRequest{All: true}, 1)
	p.mustEnd(c)
	if e := p.next(events, pb.EventKind_EVENT_KIND_CLOSED); e.Reason != pb.CloseReason_CLOSE_REASON_OPERATOR {
		t.Errorf("the connection was closed by {%v}; want the operator", e)
	}
}

// watch begins a watch, which ends with the test.
func (p *project) watch(kinds ...pb.EventKind) grpc.ServerStreamingClient[pb.WatchResponse] {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.ctx)
	events, err := p.control.Watch(ctx, &pb.WatchRequest{Kinds: kinds})
	if err != nil {
		cancel()
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		cancel()
		for err == nil {
			_, err = events.Recv()
		}
	})
	return events
}

// next is the next event, which must be of a kind.
func (p *project) next(events grpc.ServerStreamingClient[pb.WatchResponse], kind pb.EventKind) *pb.Event {
	p.t.Helper()
	response, err := events.Recv()
	p.ok(err)
	if response.Event.GetKind() != kind || response.Event.Lost > 0 {
		p.t.Fatalf("the next event is {%v}; want %v, with none lost", response.Event, kind)
	}
	return response.Event
}
