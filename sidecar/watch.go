package sidecar

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

const (
	// maxWatches is how many watches may be open at once; one more gets RESOURCE_EXHAUSTED.
	maxWatches = 64
	// watchBuffer is how many events may wait for one watch; what comes on top is lost and counted.
	watchBuffer = 4096
)

// Watch streams events. The watch is in place before the headers are sent, so that a caller who has them misses nothing.
func (s *service) Watch(r *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	var bad violations
	kinds := bad.eventKinds("kinds", r.Kinds)
	if err := bad.err(); err != nil {
		return err
	}
	if !s.beginWatch() {
		return status.Errorf(codes.ResourceExhausted, "%d watches are open, which is the limit; end one of them", maxWatches)
	}
	defer s.endWatch()
	source := s.connections.Watch(watchBuffer, kinds...)
	defer source.Close()
	if err := source.Err(); err != nil { // the manager has ended already
		return err
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	return forward(source, stream)
}

func (s *service) beginWatch() bool {
	select {
	case s.watches <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *service) endWatch() { <-s.watches }

// forward sends events until the caller leaves or the manager ends.
func forward(source eventSource, stream grpc.ServerStreamingServer[pb.WatchResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case e, open := <-source.Events():
			if !open {
				return source.Err()
			}
			if err := stream.Send(&pb.WatchResponse{Event: eventMessage(&e)}); err != nil {
				return err
			}
		}
	}
}
