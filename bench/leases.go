package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/bench/report"
)

// leasePause lies between two questions to the sidecar: often enough to see a number that lasts, too rarely to cost anything.
const leasePause = 100 * time.Millisecond

// leaseWatch asks a sidecar over and over how many leases there are.
type leaseWatch struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	ended  chan struct{}

	mu   sync.Mutex
	seen []float64
	err  error
}

// watchLeases begins to ask the sidecar at a control socket's address.
func watchLeases(ctx context.Context, control string) (*leaseWatch, error) {
	conn, err := grpc.NewClient(control, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("the control socket %s: %w", control, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &leaseWatch{conn: conn, cancel: cancel, ended: make(chan struct{})}
	go w.ask(ctx)
	return w, nil
}

func (w *leaseWatch) ask(ctx context.Context) {
	defer close(w.ended)
	client := pb.NewConnectionManagerServiceClient(w.conn)
	for {
		counts, err := client.GetConnectionCounts(ctx, &pb.GetConnectionCountsRequest{})
		if ctx.Err() != nil {
			return
		}
		w.note(float64(counts.GetStates().GetLeased()), err)
		if err != nil || pause(ctx, leasePause) != nil {
			return
		}
	}
}

func (w *leaseWatch) note(leased float64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err = err; err == nil {
		w.seen = append(w.seen, leased)
	}
}

// answers returns how many answers there are so far; of no watch, none.
func (w *leaseWatch) answers() int {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

// end stops asking. It may be called for no watch.
func (w *leaseWatch) end() error {
	if w == nil {
		return nil
	}
	w.cancel()
	<-w.ended
	err := w.err
	if err != nil {
		err = fmt.Errorf("asking the sidecar for its leases: %w", err)
	}
	return errors.Join(err, w.conn.Close())
}

// tell leaves in metrics, once the watch has ended, the most leases that were seen, and the median of the answers from one on.
func (w *leaseWatch) tell(from int, metrics map[report.Metric]float64) {
	if w == nil || len(w.seen) == 0 {
		return
	}
	metrics[report.Leases] = slices.Max(w.seen)
	if late := report.SpreadOf(w.seen[min(from, len(w.seen)):]); late.N > 0 {
		metrics[report.HeldLeases] = late.Median
	}
}
