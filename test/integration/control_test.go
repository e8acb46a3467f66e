//go:build integration

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

const (
	idle   = pb.ConnectionState_CONNECTION_STATE_IDLE
	leased = pb.ConnectionState_CONNECTION_STATE_LEASED
)

// What a host writes to a connection that was taken from it does not reach the client: each answer is to the client's own next request.
func TestPut(t *testing.T) {
	p := up(t, 1)
	c := p.dial()
	p.hold(c)
	id := p.leased()
	_, err := p.control.Put(p.ctx, &pb.PutRequest{ConnectionId: id})
	p.ok(err)
	p.awaitStates(1, 0, 0)
	p.echo(c, "asked while the host still works on the last request")
	p.release()
	for i := range 100 {
		p.echo(c, fmt.Sprintf("request %d after that", i))
	}
	if list := p.connections(idle); len(list) != 1 || list[0].ConnectionId != id {
		t.Errorf("idle are %v; want the connection that was put, %d", list, id)
	}
}

func TestPutWithTimeout(t *testing.T) {
	p := up(t, 1)
	c := p.dial()
	p.hold(c)
	_, err := p.control.Put(p.ctx, &pb.PutRequest{ConnectionId: p.leased(), KeepAliveTimeout: durationpb.New(200 * time.Millisecond)})
	p.ok(err)
	p.mustEnd(c)
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_EXPIRED, 1)
}

func TestStopAndStart(t *testing.T) {
	p := up(t, 1)
	waiting, busy := p.dial(), p.dial()
	p.greet(waiting)
	p.hold(busy)
	p.leased()

	p.stopMeanwhile(time.Minute, &pb.StopResponse{Finished: 1}, func() {
		p.awaitRunning(false)
		_, err := p.control.Start(p.ctx, &pb.StartRequest{})
		p.ok(refusal(err, codes.FailedPrecondition))
		p.release()
	})
	if a, err := busy.receive(); err != nil || a.status != 200 {
		t.Errorf("the request that had begun was answered with %+v, %v", a, err)
	}
	p.awaitHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	p.ok(waiting.send("GET", "/", ""))
	newcomer := p.dial()
	p.ok(newcomer.send("GET", "/", ""))
	p.awaitStates(1, 1, 0)

	p.start()
	for _, c := range []*client{waiting, newcomer} {
		_, err := c.receiveGreeting()
		p.ok(err)
	}
	p.awaitHealth(healthpb.HealthCheckResponse_SERVING)
	p.awaitRunning(true)
}

func TestStopCutsWhatOutlastsItsGrace(t *testing.T) {
	p := up(t, 1)
	kept, busy := p.dial(), p.dial()
	p.greet(kept)
	p.hold(busy)
	p.leased()
	p.stop(200*time.Millisecond, &pb.StopResponse{Cut: 1})
	p.mustEnd(busy)
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_STOPPED, 1)
	p.start()
	p.greet(kept)
}

func (p *project) awaitRunning(want bool) {
	p.t.Helper()
	p.awaitCounts(func(c *pb.GetConnectionCountsResponse) error {
		if c.Running != want {
			return fmt.Errorf("running is %v; want %v", c.Running, want)
		}
		return nil
	})
}

// stopMeanwhile stops the manager, and checks its report once that and what is to be done meanwhile have ended.
func (p *project) stopMeanwhile(grace time.Duration, want *pb.StopResponse, meanwhile func()) {
	p.t.Helper()
	var stopped sync.WaitGroup
	defer stopped.Wait()
	stopped.Go(func() {
		report, err := p.control.Stop(p.ctx, &pb.StopRequest{Grace: durationpb.New(grace)})
		if err != nil || !proto.Equal(report, want) {
			p.t.Errorf("Stop reports {%v}, %v; want {%v}", report, err, want)
		}
	})
	meanwhile()
}

// stop stops the manager, and checks its report.
func (p *project) stop(grace time.Duration, want *pb.StopResponse) {
	p.t.Helper()
	p.stopMeanwhile(grace, want, func() {})
}

func (p *project) start() {
	p.t.Helper()
	_, err := p.control.Start(p.ctx, &pb.StartRequest{})
	p.ok(err)
}

func TestClose(t *testing.T) {
	p := up(t, 1)
	clients, _ := p.greeted(4)
	p.awaitStates(4, 0, 0)
	busy := p.dial()
	p.hold(busy)
	busyID := p.leased()

	first := p.idleAt(p.greet(clients[0]).Client)
	p.closeThem(&pb.CloseRequest{Selection: &pb.ConnectionSelection{ConnectionIds: []uint64{first}}}, 1)
	p.mustEnd(clients[0])
	p.greet(clients[1])
	p.awaitStates(3, 0, 1)

	p.closeThem(&pb.CloseRequest{All: true}, 3)
	for _, c := range clients[1:] {
		p.mustEnd(c)
	}
	if id := p.leased(); id != busyID {
		t.Errorf("leased is %d; want %d, which All leaves alone", id, busyID)
	}
	p.closeThem(&pb.CloseRequest{Selection: &pb.ConnectionSelection{States: []pb.ConnectionState{leased}}}, 1)
	p.mustEnd(busy)
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_OPERATOR, 5)
}

// idleAt is the id of the connection of the client at an address, once it is idle.
func (p *project) idleAt(peer string) (id uint64) {
	p.t.Helper()
	p.eventually(func() error {
		list := p.connections(idle)
		at := slices.IndexFunc(list, func(c *pb.Connection) bool { return c.Peer == peer })
		if at < 0 {
			return fmt.Errorf("idle are %v; want %s among them", list, peer)
		}
		id = list[at].ConnectionId
		return nil
	})
	return id
}

func TestKeepAliveCapacity(t *testing.T) {
	p := up(t, 1)
	p.setLimits(&pb.Limits{KeepAliveLimit: proto.Uint32(2)})
	kept, _ := p.greeted(2)
	p.awaitStates(2, 0, 0)
	p.checkCapacity(&pb.GetKeepAliveCapacityResponse{Limit: 2, InUse: 2})
	surplus := p.dial()
	if a := p.get(surplus, "/"); a.status != 200 || !a.last {
		t.Errorf("one more than may be kept is answered with %+v; want Connection: close", a)
	}
	p.mustEnd(surplus)
	for _, c := range kept {
		p.greet(c)
	}

	p.setLimits(&pb.Limits{KeepAliveLimit: proto.Uint32(4)})
	p.checkCapacity(&pb.GetKeepAliveCapacityResponse{Limit: 4, InUse: 2, CanAdd: true})
	third := p.dial()
	p.greet(third)
	p.awaitStates(3, 0, 0)
	p.setLimits(&pb.Limits{KeepAliveLimit: proto.Uint32(1)})
	for _, c := range kept {
		p.mustEnd(c)
	}
	p.awaitClosed(pb.CloseReason_CLOSE_REASON_EVICTED, 2)
	p.greet(third)
}

func (p *project) checkCapacity(want *pb.GetKeepAliveCapacityResponse) {
	p.t.Helper()
	got, err := p.control.GetKeepAliveCapacity(p.ctx, &pb.GetKeepAliveCapacityRequest{})
	p.ok(err)
	if !proto.Equal(got, want) {
		p.t.Errorf("the capacity is {%v}; want {%v}", got, want)
	}
}

func TestLists(t *testing.T) {
	p := up(t, 2)
	_, greetings := p.greeted(5)
	p.awaitStates(5, 0, 0)
	t.Run("connections", func(t *testing.T) { checkConnections(t, p, greetings) })
	t.Run("filters", func(t *testing.T) { checkFilters(t, p, greetings[0]) })
	t.Run("hosts", func(t *testing.T) { checkHosts(t, p) })
}

// checkConnections pages through all connections, and checks that each client is there once, as the app saw it.
func checkConnections(t *testing.T, p *project, greetings []greeting) {
	hostAt := make(map[string]string)
	for _, g := range greetings {
		hostAt[g.Client] = g.Host
	}
	pages := p.pages(2)
	if len(pages) != 3 {
		t.Errorf("five connections are on %d pages; want 3", len(pages))
	}
	for _, c := range slices.Concat(pages...) {
		if host, there := hostAt[c.Peer]; !there || c.HostName != host {
			t.Errorf("listed is {%v}; want each of %v once", c, hostAt)
		}
		delete(hostAt, c.Peer)
	}
	if len(hostAt) > 0 {
		t.Errorf("not listed are %v", hostAt)
	}
	shown, err := p.control.GetConnection(p.ctx, &pb.GetConnectionRequest{ConnectionId: pages[0][0].ConnectionId})
	p.ok(err)
	if c := shown.Connection; c.Peer != pages[0][0].Peer || c.Requests != 1 || c.Fresh || c.Age.AsDuration() < c.TimeInState.AsDuration() ||
		c.Tcp.GetBytesReceived() == 0 || c.Tcp.GetBytesSent() == 0 {
		t.Errorf("the connection is {%v}", c)
	}
}

func (p *project) pages(size uint32) (pages [][]*pb.Connection) {
	p.t.Helper()
	request := &pb.ListConnectionsRequest{PageSize: size}
	for {
		page, err := p.control.ListConnections(p.ctx, request)
		p.ok(err)
		pages = append(pages, page.Connections)
		if page.NextPageToken == "" {
			return pages
		}
		request.PageToken = page.NextPageToken
	}
}

func checkFilters(t *testing.T, p *project, one greeting) {
	peer := netip.MustParseAddrPort(one.Client).Addr().String()
	for _, test := range []struct {
		filter *pb.ConnectionSelection
		want   int
	}{
		{&pb.ConnectionSelection{States: []pb.ConnectionState{idle}, Pool: "default", Peer: peer}, 5},
		{&pb.ConnectionSelection{Peer: peer + "/8"}, 5},
		{&pb.ConnectionSelection{Peer: "192.0.2.1"}, 0},
		{&pb.ConnectionSelection{States: []pb.ConnectionState{leased}}, 0},
		{&pb.ConnectionSelection{Pool: "no such pool"}, 0},
	} {
		list, err := p.control.ListConnections(p.ctx, &pb.ListConnectionsRequest{Filter: test.filter})
		p.ok(err)
		if len(list.Connections) != test.want {
			t.Errorf("{%v} finds %d connections; want %d", test.filter, len(list.Connections), test.want)
		}
	}
}

// checkHosts checks that the hosts, one to a page, are the containers of the app.
func checkHosts(t *testing.T, p *project) {
	var names []string
	request := &pb.ListHostsRequest{PageSize: 1}
	for len(names) == 0 || request.PageToken != "" {
		page, err := p.control.ListHosts(p.ctx, request)
		p.ok(err)
		if len(page.Hosts) != 1 {
			t.Fatalf("a page of one host has %v", page.Hosts)
		}
		h := page.Hosts[0]
		if h.Pool != "default" || h.Capacity == 0 || h.Agent == "" || h.Uid != 65532 || h.Draining {
			t.Errorf("a host is {%v}", h)
		}
		names = append(names, h.Name)
		request.PageToken = page.NextPageToken
	}
	for _, id := range p.containers("app") {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(id, name) }) {
			t.Errorf("the hosts are %v; want container %.12s among them", names, id)
		}
	}
	if len(names) != 2 {
		t.Errorf("the hosts are %v; want two", names)
	}
}

// Health follows the application. The engine's own health check asks only whether the sidecar lives: it is
// healthy before an application has attached.
func TestHealth(t *testing.T) {
	p := up(t, 0)
	p.awaitHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	p.awaitContainerHealth("healthy")
	p.scale(1)
	p.awaitHealth(healthpb.HealthCheckResponse_SERVING)
	p.compose("kill", "-s", "KILL", "app")
	p.awaitHealth(healthpb.HealthCheckResponse_NOT_SERVING)
}

func (p *project) awaitContainerHealth(want string) {
	p.t.Helper()
	sidecar := p.containers("sidecar")[0]
	p.eventually(func() error {
		if got := strings.TrimSpace(p.docker("inspect", "--format", "{{.State.Health.Status}}", sidecar)); got != want {
			return fmt.Errorf("the sidecar's container is %s; want %s", got, want)
		}
		return nil
	})
}

func TestWrongInput(t *testing.T) {
	const unknown = 1 << 52
	p := up(t, 1)
	c := p.dial()
	peer := p.greet(c).Client
	id := p.idleAt(peer)
	for _, test := range []struct {
		name   string
		call   func() error
		code   codes.Code
		fields []string // at fault, as the details say
	}{
		{"an unknown connection is put", p.put(&pb.PutRequest{ConnectionId: unknown}), codes.NotFound, nil},
		{"an idle connection is put", p.put(&pb.PutRequest{ConnectionId: id}), codes.FailedPrecondition, nil},
		{
			"a connection is put for no time", p.put(&pb.PutRequest{ConnectionId: id, KeepAliveTimeout: durationpb.New(0)}),
			codes.InvalidArgument, []string{"keep_alive_timeout"},
		},
		{"an unknown connection is looked at", func() error {
			_, err := p.control.GetConnection(p.ctx, &pb.GetConnectionRequest{ConnectionId: unknown})
			return err
		}, codes.NotFound, nil},
		{"a page token is made up", func() error {
			_, err := p.control.ListConnections(p.ctx, &pb.ListConnectionsRequest{PageToken: "next"})
			return err
		}, codes.InvalidArgument, []string{"page_token"}},
		{"a grace is negative", func() error {
			_, err := p.control.Stop(p.ctx, &pb.StopRequest{Grace: durationpb.New(-time.Second)})
			return err
		}, codes.InvalidArgument, []string{"grace"}},
		{"an unknown connection is closed", p.close(&pb.CloseRequest{
			Selection: &pb.ConnectionSelection{ConnectionIds: []uint64{unknown}},
		}), codes.NotFound, nil},
		{"nothing is selected to be closed", p.close(&pb.CloseRequest{}), codes.InvalidArgument, []string{"selection"}},
		{"all and some are to be closed", p.close(&pb.CloseRequest{
			All: true, Selection: &pb.ConnectionSelection{ConnectionIds: []uint64{id}},
		}), codes.InvalidArgument, []string{"all"}},
		{"a selection is wrong twice", p.close(&pb.CloseRequest{
			Selection: &pb.ConnectionSelection{Peer: "localhost", States: []pb.ConnectionState{99}},
		}), codes.InvalidArgument, []string{"selection.peer", "selection.states[0]"}},
		{"limits are wrong thrice", func() error {
			_, err := p.control.SetLimits(p.ctx, &pb.SetLimitsRequest{Limits: &pb.Limits{
				MaxHosts: proto.Uint32(0), MaxHead: proto.Uint32(1), LingerTimeout: durationpb.New(-1), MaxQueue: proto.Uint32(7),
			}})
			return err
		}, codes.InvalidArgument, []string{"limits.linger_timeout", "limits.max_head", "limits.max_hosts"}},
		{"an unknown kind is watched", func() error {
			_, err := p.watch(pb.EventKind(99)).Recv()
			return err
		}, codes.InvalidArgument, []string{"kinds[0]"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.call()
			if wrong := refusal(err, test.code); wrong != nil {
				t.Fatal(wrong)
			}
			if fields := fieldsAtFault(err); !slices.Equal(fields, test.fields) {
				t.Errorf("at fault are %q; want %q", fields, test.fields)
			}
		})
	}
	limits, err := p.control.GetLimits(p.ctx, &pb.GetLimitsRequest{})
	p.ok(err)
	if limits.Limits.GetMaxQueue() == 7 {
		t.Error("a limit was changed together with wrong ones")
	}
	p.greet(c)
}

func (p *project) put(request *pb.PutRequest) func() error {
	return func() error {
		_, err := p.control.Put(p.ctx, request)
		return err
	}
}

func (p *project) close(request *pb.CloseRequest) func() error {
	return func() error {
		_, err := p.control.Close(p.ctx, request)
		return err
	}
}

// fieldsAtFault are those that an error's details name, in alphabetical order.
func fieldsAtFault(err error) (fields []string) {
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				fields = append(fields, v.Field)
			}
		}
	}
	slices.Sort(fields)
	return fields
}
