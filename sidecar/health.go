package sidecar

import (
	"sync/atomic"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

// serving knows whether requests are served: a host is attached, and nothing is stopped or draining. It starts with no.
type serving struct {
	health  *health.Server // says so to gRPC health checks
	now     atomic.Bool
	changed chan struct{} // has room for one token, which says that now may have changed
}

func newServing() *serving {
	s := &serving{health: health.NewServer(), changed: make(chan struct{}, 1)}
	s.tell(healthpb.HealthCheckResponse_NOT_SERVING)
	return s
}

// set is called by the manager's loop and does not block.
func (s *serving) set(yes bool) {
	s.now.Store(yes)
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.tell(status)
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// tell answers checks of the whole and of the service.
func (s *serving) tell(status healthpb.HealthCheckResponse_ServingStatus) {
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(pb.ConnectionManagerService_ServiceDesc.ServiceName, status)
}

// drain makes checks say no from now on, whatever the manager does.
func (s *serving) drain() {
	s.health.Shutdown()
	s.now.Store(false)
}
