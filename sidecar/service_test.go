package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// served is a control service over c, with everything that stands between it and a client.
func served(t *testing.T, c connections) pb.ConnectionManagerServiceClient {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	ctl := &control{log: hclog.NewNullLogger(), service: newService(c, replacedBy(7), replacedBy(8)), health: newServing()}
	run := ctl.serve(pipe)
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	conn, err := grpc.NewClient("passthrough:///pipe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		ctl.stop()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return pb.NewConnectionManagerServiceClient(conn)
}

func TestRequestsReachTheManager(t *testing.T) {
	f := &fake{report: manager.StopReport{Finished: 3, Cut: 1}, closed: 7, limits: manager.Limits{Connections: 50, KeepAlive: manager.KeepAliveNone}}
	client := served(t, f)
	ctx := t.Context()
	cases := []struct {
		name   string
		call   func() (proto.Message, error)
		asked  any
		answer proto.Message
	}{
		{"put", func() (proto.Message, error) { return client.Put(ctx, &pb.PutRequest{ConnectionId: 9}) }, fakePut{9, 0}, &pb.PutResponse{}},
		{"put for a time", func() (proto.Message, error) {
			return client.Put(ctx, &pb.PutRequest{ConnectionId: 9, KeepAliveTimeout: durationpb.New(time.Second)})
		}, fakePut{9, time.Second}, &pb.PutResponse{}},
		{"revoke", func() (proto.Message, error) {
			return client.Revoke(ctx, &pb.RevokeRequest{ConnectionIds: []uint64{9, 10}})
		}, fakeRevoke{[]manager.ConnID{9, 10}}, &pb.RevokeResponse{Revoked: 2}},
		{"stop at once", func() (proto.Message, error) { return client.Stop(ctx, &pb.StopRequest{}) }, time.Duration(0), &pb.StopResponse{Finished: 3, Cut: 1}},
		{"stop", func() (proto.Message, error) {
			return client.Stop(ctx, &pb.StopRequest{Grace: durationpb.New(time.Minute)})
		}, time.Minute, &pb.StopResponse{Finished: 3, Cut: 1}},
		{"start", func() (proto.Message, error) { return client.Start(ctx, &pb.StartRequest{}) }, "start", &pb.StartResponse{}},
		{"close all", func() (proto.Message, error) { return client.Close(ctx, &pb.CloseRequest{All: true}) }, manager.Selection{}, &pb.CloseResponse{Closed: 7}},
		{"close some", func() (proto.Message, error) {
			return client.Close(ctx, &pb.CloseRequest{Selection: &pb.ConnectionSelection{
				ConnectionIds: []uint64{5, 6}, States: []pb.ConnectionState{pb.ConnectionState_CONNECTION_STATE_LEASED}, Pool: "web", HostId: 2, Peer: "192.0.2.0/24",
			}})
		}, manager.Selection{IDs: []manager.ConnID{5, 6}, States: []manager.State{manager.Leased}, Pool: "web", Host: 2, Peer: "192.0.2.0/24"},
			&pb.CloseResponse{Closed: 7}},
		{"set limits", func() (proto.Message, error) {
			return client.SetLimits(ctx, &pb.SetLimitsRequest{Limits: &pb.Limits{KeepAliveLimit: proto.Uint32(0), QueueTimeout: durationpb.New(time.Minute)}})
		}, manager.Limits{KeepAlive: manager.KeepAliveNone, QueueTimeout: time.Minute},
			&pb.SetLimitsResponse{Limits: &pb.Limits{MaxConnections: proto.Uint32(50), KeepAliveLimit: proto.Uint32(0)}}},
		{"list", func() (proto.Message, error) {
			return client.ListConnections(ctx, &pb.ListConnectionsRequest{PageSize: 5000, PageToken: "16777217"})
		}, manager.Query{After: 16777217, Limit: manager.MaxPage}, &pb.ListConnectionsResponse{}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			answer, err := c.call()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.asked, f.last()); diff != "" {
				t.Errorf("asked of the manager (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.answer, answer, protocmp.Transform()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadRequestsAreExplained(t *testing.T) {
	f := &fake{}
	client := served(t, f)
	ctx := t.Context()
	tooMany := make([]uint64, maxSelectedIDs+1)
	cases := []struct {
		name   string
		call   func() error
		fields []string
	}{
		{"timeout too long", func() error {
			_, err := client.Put(ctx, &pb.PutRequest{ConnectionId: 1, KeepAliveTimeout: durationpb.New(8 * 24 * time.Hour)})
			return err
		}, []string{"keep_alive_timeout"}},
		{"timeout beyond what Go can count", func() error {
			_, err := client.Put(ctx, &pb.PutRequest{ConnectionId: 1, KeepAliveTimeout: &durationpb.Duration{Seconds: 1 << 60}})
			return err
		}, []string{"keep_alive_timeout"}},
		{"negative grace", func() error {
			_, err := client.Stop(ctx, &pb.StopRequest{Grace: durationpb.New(-1)})
			return err
		}, []string{"grace"}},
		{"revoke nothing", func() error {
			_, err := client.Revoke(ctx, &pb.RevokeRequest{})
			return err
		}, []string{"connection_ids"}},
		{"close nothing", func() error {
			_, err := client.Close(ctx, &pb.CloseRequest{})
			return err
		}, []string{"selection"}},
		{"close an empty selection", func() error {
			_, err := client.Close(ctx, &pb.CloseRequest{Selection: &pb.ConnectionSelection{}})
			return err
		}, []string{"selection"}},
		{"close all and some", func() error {
			_, err := client.Close(ctx, &pb.CloseRequest{All: true, Selection: &pb.ConnectionSelection{Pool: "web"}})
			return err
		}, []string{"all"}},
		{"several at once", func() error {
			_, err := client.ListConnections(ctx, &pb.ListConnectionsRequest{PageToken: "x", Filter: &pb.ConnectionSelection{
				ConnectionIds: tooMany, States: []pb.ConnectionState{0, 99}, Peer: "localhost",
			}})
			return err
		}, []string{"filter.connection_ids", "filter.states[0]", "filter.states[1]", "filter.peer", "page_token"}},
		{"clients in no order", func() error {
			_, err := client.ListClients(ctx, &pb.ListClientsRequest{Order: 9, Peer: "localhost"})
			return err
		}, []string{"order", "peer"}},
		{"host token out of range", func() error {
			_, err := client.ListHosts(ctx, &pb.ListHostsRequest{PageToken: "4294967296"})
			return err
		}, []string{"page_token"}},
		{"every limit that has a range", func() error {
			n, d, long := proto.Uint32(4294967295), durationpb.New(0), durationpb.New(8*24*time.Hour)
			_, err := client.SetLimits(ctx, &pb.SetLimitsRequest{Limits: &pb.Limits{
				MaxConnections: n, KeepAliveLimit: n, MaxQueue: n, MaxHosts: n, MaxListeners: n, MaxRedeliveries: proto.Uint32(0),
				MaxHead: n, WaitBody: n, MinRate: n, RequestTimeout: d, SendTimeout: d,
				KeepAliveTimeout: d, FirstByteTimeout: d, QueueTimeout: d, LeaseTimeout: d, LingerTimeout: d,
				MaxNewcomers: n, MaxClientConnections: n, ClientRate: n, ClientBurst: n, MaxClients: n, MaxRequests: n, MinIdle: long, MaxAge: long,
				LeaseWarn: long, PingInterval: long, PingTimeout: d, HangTimeout: long,
				MaxCalls: n, MaxAdopted: n, MaxHostAdopted: n, MaxFinishing: n, MaxHostFinishing: n, MaxHelpers: n,
			}})
			return err
		}, limitFields("max_body")},
		{"unknown kind", func() error {
			stream, err := client.Watch(ctx, &pb.WatchRequest{Kinds: []pb.EventKind{77}})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		}, []string{"kinds[0]"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := status.Convert(c.call())
			if s.Code() != codes.InvalidArgument {
				t.Fatalf("code %v (%s), want INVALID_ARGUMENT", s.Code(), s.Message())
			}
			fields := violatedFields(s)
			slices.Sort(fields)
			want := slices.Sorted(slices.Values(c.fields))
			if diff := cmp.Diff(want, fields); diff != "" {
				t.Errorf("fields in the details (-want +got):\n%s", diff)
			}
			for _, field := range want {
				if !strings.Contains(s.Message(), field+": ") {
					t.Errorf("the message does not speak of %s: %s", field, s.Message())
				}
			}
		})
	}
	if got := f.last(); got != nil {
		t.Errorf("a bad request reached the manager: %v", got)
	}
}

// limitFields are all limits but one.
func limitFields(but string) (fields []string) {
	for _, l := range limits {
		if l.field() != but {
			fields = append(fields, "limits."+l.field())
		}
	}
	return fields
}

func violatedFields(s *status.Status) (fields []string) {
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				fields = append(fields, v.GetField())
			}
		}
	}
	return fields
}

func TestErrorsOfTheManagerBecomeCodes(t *testing.T) {
	cases := []struct {
		err  error
		code codes.Code
		says string
	}{
		{manager.ErrNotFound, codes.NotFound, "ListConnections"},
		{manager.ErrNotLeased, codes.FailedPrecondition, "only a leased connection"},
		{manager.ErrStopping, codes.FailedPrecondition, "again"},
		{manager.ErrStopped, codes.Unavailable, "shutting down"},
		{manager.ErrReplaced, codes.Unavailable, "call again"},
		{fmt.Errorf("wrapped: %w", manager.ErrNotFound), codes.NotFound, "wrapped"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "may have happened"},
		{context.Canceled, codes.Canceled, "may have happened"},
		{&manager.LimitsError{Violations: []manager.Violation{{Field: "Hosts", Reason: "is wrong"}}}, codes.InvalidArgument, "limits.max_hosts: is wrong"},
		{fmt.Errorf("epoll_ctl: bad file descriptor"), codes.Internal, "epoll_ctl"},
	}
	for _, c := range cases {
		client := served(t, &fake{err: c.err})
		_, err := client.Put(t.Context(), &pb.PutRequest{ConnectionId: 1})
		if s := status.Convert(err); s.Code() != c.code || !strings.Contains(s.Message(), c.says) {
			t.Errorf("%v became %v %q, want %v with %q", c.err, s.Code(), s.Message(), c.code, c.says)
		}
	}
}

func TestHostsComeInPages(t *testing.T) {
	f := &fake{}
	for _, id := range []manager.HostID{7, 2, 5, 1, 9} {
		f.counts.Hosts = append(f.counts.Hosts, manager.HostInfo{ID: id, Agent: "cut in the middle of \xc3"})
	}
	client := served(t, f)
	var got []uint32
	token := ""
	for range 3 {
		page, err := client.ListHosts(t.Context(), &pb.ListHostsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page.GetHosts() {
			got = append(got, h.GetHostId())
		}
		token = page.GetNextPageToken()
	}
	if diff := cmp.Diff([]uint32{1, 2, 5, 7, 9}, got); diff != "" || token != "" {
		t.Errorf("token %q after the last page; hosts (-want +got):\n%s", token, diff)
	}
}

func TestWatchTellsWhatItLost(t *testing.T) {
	f := &fake{}
	client := served(t, f)
	stream, err := client.Watch(t.Context(), &pb.WatchRequest{Kinds: []pb.EventKind{pb.EventKind_EVENT_KIND_CLOSED}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil { // the watch is in place
		t.Fatal(err)
	}
	source := f.watching()[0]
	if diff := cmp.Diff([]manager.EventKind{manager.EventClosed}, source.kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
	source.events <- manager.Event{Kind: manager.EventClosed, Conn: 4, Reason: manager.ReasonExpired, Lost: 12}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	e := answer.GetEvent()
	if e.GetConnectionId() != 4 || e.GetReason() != pb.CloseReason_CLOSE_REASON_EXPIRED || e.GetLost() != 12 {
		t.Errorf("got %v", e)
	}
	source.Close() // the manager ends
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("at the manager's end: %v, want UNAVAILABLE", err)
	}
}

func TestWatchesAreBoundedAndEndWithTheirClients(t *testing.T) {
	f := &fake{}
	client := served(t, f)
	ctx, leave := context.WithCancel(t.Context())
	open := func(ctx context.Context) error {
		stream, err := client.Watch(ctx, &pb.WatchRequest{})
		if err != nil {
			return err
		}
		if _, err = stream.Header(); err != nil {
			return err
		}
		return nil
	}
	for i := range maxWatches {
		if err := open(ctx); err != nil {
			t.Fatalf("watch %d: %v", i+1, err)
		}
	}
	stream, err := client.Watch(t.Context(), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one watch too many: %v, want RESOURCE_EXHAUSTED", err)
	}
	leave()
	for deadline := time.Now().Add(5 * time.Second); len(f.watching()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d watches go on after their clients left", len(f.watching()))
		}
	}
}

func TestHealthFollowsTheManager(t *testing.T) {
	s := newServing()
	check := func(service string) healthpb.HealthCheckResponse_ServingStatus {
		t.Helper()
		answer, err := s.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return answer.GetStatus()
	}
	for _, step := range []struct {
		do   func()
		want healthpb.HealthCheckResponse_ServingStatus
	}{
		{func() {}, healthpb.HealthCheckResponse_NOT_SERVING},
		{func() { s.set(manager.Serving, nil) }, healthpb.HealthCheckResponse_SERVING},
		{func() { s.set(manager.Stopped, nil) }, healthpb.HealthCheckResponse_NOT_SERVING},
		{func() { s.set(manager.Serving, nil) }, healthpb.HealthCheckResponse_SERVING},
		{s.drain, healthpb.HealthCheckResponse_NOT_SERVING},
	} {
		step.do()
		for _, service := range []string{"", "anteroom.v1.ConnectionManagerService"} {
			if got := check(service); got != step.want {
				t.Errorf("service %q: %v, want %v", service, got, step.want)
			}
		}
	}
	if served, words := s.condition(""); served || words != "draining" {
		t.Errorf("draining: %v, %q", served, words)
	}
}

// Each pool has a name in the health service and words of its own, for as long as there is one.
func TestHealthOfPools(t *testing.T) {
	s := newServing()
	s.set(manager.Hung, []manager.PoolService{
		{Pool: "web", State: manager.Hung, Fed: true}, {Pool: "api", State: manager.Serving, Fed: true},
		{Pool: "default", State: manager.NoHost, Fed: true}, {Pool: "spare", State: manager.Paused},
	})
	for pool, want := range map[string]string{
		"":        "not serving: pool default has no host; pool web is hung",
		"web":     "not serving: pool web is hung",
		"api":     "serving",
		"spare":   "not serving: pool spare is paused",
		"no such": `not serving: there is no pool "no such"`,
	} {
		if served, words := s.condition(pool); words != want || served != (want == "serving") {
			t.Errorf("pool %q: %v, %q, want %q", pool, served, words, want)
		}
	}
	list, err := s.List(t.Context(), &healthpb.HealthListRequest{})
	if err != nil || len(list.GetStatuses()) != 6 {
		t.Fatalf("%v, %v", list, err)
	}
	for name, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{
		"anteroom.v1.pool/api": healthpb.HealthCheckResponse_SERVING, "anteroom.v1.pool/web": healthpb.HealthCheckResponse_NOT_SERVING,
	} {
		answer, err := s.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
		if err != nil || answer.GetStatus() != want || list.GetStatuses()[name].GetStatus() != want {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
	}
	s.set(manager.Hung, []manager.PoolService{{Pool: "api"}})
	for _, gone := range []string{"anteroom.v1.pool/api", "anteroom.v1.pool/", "pool", "api"} {
		if _, err := s.Check(t.Context(), &healthpb.HealthCheckRequest{Service: gone}); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v, want NOT_FOUND", gone, err)
		}
	}
}

// A watch may wait for a pool that is not there yet.
func TestWatchingTheHealthOfAPool(t *testing.T) {
	s := newServing()
	told := make(chan healthpb.HealthCheckResponse_ServingStatus, 8)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(&healthpb.HealthCheckRequest{Service: "anteroom.v1.pool/web"}, &healthStream{ctx: ctx, told: told})
	}()
	for _, step := range []struct {
		do   func()
		want healthpb.HealthCheckResponse_ServingStatus
	}{
		{func() {}, healthpb.HealthCheckResponse_SERVICE_UNKNOWN},
		{func() { s.set(manager.NoHost, []manager.PoolService{{Pool: "web", State: manager.Serving}}) }, healthpb.HealthCheckResponse_SERVING},
		{func() { s.set(manager.NoHost, []manager.PoolService{{Pool: "web"}}) }, healthpb.HealthCheckResponse_SERVICE_UNKNOWN},
	} {
		step.do()
		if got := <-told; got != step.want {
			t.Errorf("told %v, want %v", got, step.want)
		}
	}
	cancel()
	if err := <-ended; status.Code(err) != codes.Canceled {
		t.Errorf("the watch ended with %v", err)
	}
}

// healthStream is a caller's end of a health watch.
type healthStream struct {
	grpc.ServerStream
	ctx  context.Context
	told chan healthpb.HealthCheckResponse_ServingStatus
}

func (s *healthStream) Context() context.Context { return s.ctx }

func (s *healthStream) Send(answer *healthpb.HealthCheckResponse) error {
	s.told <- answer.GetStatus()
	return nil
}

func replacedBy(pid int) replacing {
	return func(context.Context) (Replacement, error) {
		return Replacement{PID: pid, Changes: []Change{{"max-hosts", "1024", "7"}}}, nil
	}
}

// An error about connections names them, the first of many.
func TestErrorsNameTheConnections(t *testing.T) {
	for want, ids := range map[string][]uint64{
		"connection 5: no such connection":                                   {5},
		"connections 5, 6: no such connection":                               {5, 6},
		"connections 1, 2, 3, 4, 5, 6, 7, 8, and 2 more: no such connection": {1, 2, 3, 4, 5, 6, 7, 8, 9, 10},
		"no such connection":                                                 nil,
	} {
		if got := about(manager.ErrNotFound, ids...); got.Error() != want || !errors.Is(got, manager.ErrNotFound) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := about(nil, 5); err != nil {
		t.Error(err)
	}
}

// What is wrong with a configuration is told line by line, with the reason in the details.
func TestAMisconfiguredReload(t *testing.T) {
	err := failure(fmt.Errorf("the reload was given up, %w", checkFailure("p", exitStatus(t, 2), "anteroom: 1 mistake to correct:\n  max-hots: no")))
	s := status.Convert(err)
	const want = "the reload was given up, nothing has changed: the configuration is wrong: 1 mistake to correct:\n  max-hots: no\n" +
		"Correct it and ask again; until then this process goes on."
	if s.Code() != codes.FailedPrecondition || s.Message() != want || len(s.Details()) != 1 {
		t.Errorf("%v %q %v", s.Code(), s.Message(), s.Details())
	}
	if err := checkFailure("p", exitStatus(t, 1), ""); errors.Is(err, ErrMisconfigured) || err.Error() != "p check: exit status 1" {
		t.Errorf("%v", err)
	}
}

func exitStatus(t *testing.T, status int) error {
	t.Helper()
	return exec.Command("sh", "-c", fmt.Sprintf("exit %d", status)).Run()
}
