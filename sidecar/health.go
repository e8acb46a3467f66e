package sidecar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/manager"
)

// PoolHealthPrefix begins the name under which the health service knows a pool; the pool's name follows.
const PoolHealthPrefix = "anteroom.v1.pool/"

// serving knows whether requests are served: by the whole, and in each pool. It is the health
// service of gRPC, and what readiness checks and the service manager are told.
type serving struct {
	healthpb.UnimplementedHealthServer
	changed chan struct{} // has room for one token, which says that condition may have changed

	mu       sync.Mutex
	whole    manager.ServiceState           // mu
	pools    map[string]manager.PoolService // mu
	draining bool                           // mu
	next     chan struct{}                  // closed at the next change; mu
}

func newServing() *serving {
	return &serving{
		changed: make(chan struct{}, 1), whole: manager.NoHost, pools: map[string]manager.PoolService{}, next: make(chan struct{}),
	}
}

// set is called by the manager's loop and does not block.
func (s *serving) set(whole manager.ServiceState, changed []manager.PoolService) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole = whole
	for _, p := range changed {
		s.pools[p.Pool] = p
		if p.State == 0 {
			delete(s.pools, p.Pool)
		}
	}
	s.tellLocked()
}

func (s *serving) tellLocked() {
	close(s.next)
	s.next = make(chan struct{})
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// drain makes checks say no from now on, whatever the manager does.
func (s *serving) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.tellLocked()
}

// of is the state of a pool, of the whole if pool is empty, and 0 if there is no such pool.
func (s *serving) ofLocked(pool string) manager.ServiceState {
	switch {
	case pool != "" && s.pools[pool].State == 0:
		return 0
	case s.draining:
		return manager.Draining
	case pool != "":
		return s.pools[pool].State
	}
	return s.whole
}

// condition says whether a pool is served, or the whole if pool is empty, and in words why not.
func (s *serving) condition(pool string) (served bool, words string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state := s.ofLocked(pool); {
	case state == manager.Serving:
		return true, state.String()
	case state == 0:
		return false, fmt.Sprintf("not serving: there is no pool %q", pool)
	case state == manager.Draining && s.draining, state == manager.Stopping, state == manager.Stopped:
		return false, state.String()
	case pool != "":
		return false, "not serving: " + poolWords(s.pools[pool])
	}
	return false, "not serving: " + s.unservedLocked()
}

// maxPoolsTold is how many pools condition names.
const maxPoolsTold = 8

// unservedLocked says which pools make the whole unserved: those that listeners feed or, if there is
// no listener, all.
func (s *serving) unservedLocked() string {
	var fed, unfed []string
	for _, p := range s.pools {
		switch {
		case p.State == manager.Serving:
		case p.Fed:
			fed = append(fed, poolWords(p))
		default:
			unfed = append(unfed, poolWords(p))
		}
	}
	told := fed
	if told == nil {
		told = unfed
	}
	if told == nil {
		return "no host is attached"
	}
	slices.Sort(told)
	if more := len(told) - maxPoolsTold; more > 0 {
		told = append(told[:maxPoolsTold], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

func poolWords(p manager.PoolService) string {
	if p.State == manager.NoHost {
		return "pool " + p.Pool + " has no host"
	}
	return "pool " + p.Pool + " is " + p.State.String()
}

// The health service of gRPC. Its names are "" and the control service's for the whole, and
// PoolHealthPrefix with a pool's name.

// healthLocked is what a health check of a name is answered with, and what ends the answer's truth.
func (s *serving) healthLocked(name string) healthpb.HealthCheckResponse_ServingStatus {
	pool, isPool := strings.CutPrefix(name, PoolHealthPrefix)
	if !isPool && name != "" && name != pb.ConnectionManagerService_ServiceDesc.ServiceName || isPool && pool == "" {
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	}
	if !isPool {
		pool = ""
	}
	switch s.ofLocked(pool) {
	case 0:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN
	case manager.Serving:
		return healthpb.HealthCheckResponse_SERVING
	}
	return healthpb.HealthCheckResponse_NOT_SERVING
}

// Check answers NOT_FOUND for a name that is none of the above.
func (s *serving) Check(_ context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := s.healthLocked(r.GetService())
	if answer == healthpb.HealthCheckResponse_SERVICE_UNKNOWN {
		return nil, status.Errorf(codes.NotFound, "there is no %q; the pools' names here are %sNAME", r.GetService(), PoolHealthPrefix)
	}
	return &healthpb.HealthCheckResponse{Status: answer}, nil
}

// Watch follows a name that need not be there yet: until then it is SERVICE_UNKNOWN.
func (s *serving) Watch(r *healthpb.HealthCheckRequest, to grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	told := healthpb.HealthCheckResponse_ServingStatus(-1)
	for {
		s.mu.Lock()
		answer, next := s.healthLocked(r.GetService()), s.next
		s.mu.Unlock()
		if answer != told {
			if err := to.Send(&healthpb.HealthCheckResponse{Status: answer}); err != nil {
				return err
			}
			told = answer
		}
		select {
		case <-next:
		case <-to.Context().Done():
			return status.FromContextError(to.Context().Err()).Err()
		}
	}
}

// List answers for every name.
func (s *serving) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[string]*healthpb.HealthCheckResponse{}
	names := []string{"", pb.ConnectionManagerService_ServiceDesc.ServiceName}
	for pool := range s.pools {
		names = append(names, PoolHealthPrefix+pool)
	}
	for _, name := range names {
		all[name] = &healthpb.HealthCheckResponse{Status: s.healthLocked(name)}
	}
	return &healthpb.HealthListResponse{Statuses: all}, nil
}
