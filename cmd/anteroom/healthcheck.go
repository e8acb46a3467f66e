package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/sidecar"
)

// healthcheck is what is asked for.
type healthcheck struct {
	pool string
	live bool
	wait time.Duration
}

func healthcheckCommand() *cobra.Command {
	var c healthcheck
	cmd := operatorCommand(&cobra.Command{
		Use:   "healthcheck",
		Short: "Succeed if requests are served",
		Long: `Succeeds (exit code 0) if requests are served: every pool that a listener feeds has a host that takes requests, and the sidecar is neither stopped nor
draining. With --pool one pool decides. Otherwise, and if no sidecar answers, it exits with 1, as container engines expect. With --live it is enough that
the sidecar answers: a check whose failure restarts the sidecar must be no other.`,
		Args: noArguments,
	}, func(ctx context.Context, o *operator, _ []string) error {
		switch {
		case c.live && c.pool != "":
			return usage("--live asks whether the sidecar answers, --pool whether requests are served; leave one of them out")
		case c.wait < 0:
			return usage("--wait %v: give a time such as 10s, or leave it out to ask once", c.wait)
		}
		if err := o.healthy(ctx, &c); err != nil {
			return fmt.Errorf("%w: %w", errNotHealthy, o.explain(err))
		}
		return nil
	})
	cmd.Flags().StringVar(&c.pool, "pool", "", "ask for this pool instead of all that listeners feed")
	cmd.Flags().BoolVar(&c.live, "live", false, "be content with an answer, whatever it is")
	cmd.Flags().DurationVar(&c.wait, "wait", 0, "wait so long for it to become so")
	return cmd
}

func (c *healthcheck) request() *healthpb.HealthCheckRequest {
	if c.pool == "" {
		return &healthpb.HealthCheckRequest{}
	}
	return &healthpb.HealthCheckRequest{Service: sidecar.PoolHealthPrefix + c.pool}
}

// healthy asks once, or follows the answers for as long as it may wait.
func (o *operator) healthy(ctx context.Context, c *healthcheck) error {
	if c.wait > 0 {
		return o.becomesHealthy(ctx, c)
	}
	answer, err := call(ctx, 0, o.health.Check, c.request())
	switch {
	case status.Code(err) == codes.NotFound:
		return fmt.Errorf("there is no pool %q", c.pool)
	case err != nil:
		return err
	case c.content(answer):
		return o.say(answer, "%s", o.healthWord(ctx, answer))
	}
	return o.unhealthy(ctx, c)
}

// becomesHealthy follows the answers.
func (o *operator) becomesHealthy(ctx context.Context, c *healthcheck) error {
	waiting, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	stream, err := o.health.Watch(waiting, c.request(), grpc.WaitForReady(true))
	for {
		var answer *healthpb.HealthCheckResponse
		if err == nil {
			answer, err = stream.Recv()
		}
		switch {
		case err != nil && (waiting.Err() != nil || status.Code(err) == codes.DeadlineExceeded):
			return fmt.Errorf("after %v: %w", c.wait, o.explain(o.unhealthy(ctx, c)))
		case err != nil:
			return err
		case c.content(answer):
			return o.say(answer, "%s", o.healthWord(ctx, answer))
		}
	}
}

// healthWord is the state of the whole in one of the words of docs/control.md. An answer alone is enough
// for --live, also if the sidecar does not tell its state.
func (o *operator) healthWord(ctx context.Context, answer *healthpb.HealthCheckResponse) string {
	if answer.GetStatus() == healthpb.HealthCheckResponse_SERVING {
		return serviceWord(pb.ServiceState_SERVICE_STATE_SERVING)
	}
	counts, err := call(ctx, 0, o.GetConnectionCounts, &pb.GetConnectionCountsRequest{})
	if err != nil {
		return "not serving"
	}
	return serviceWord(counts.GetState())
}

// content reports whether the answer is what is asked for.
func (c *healthcheck) content(answer *healthpb.HealthCheckResponse) bool {
	return c.live || answer.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// unhealthy says why requests are not served, or why nothing is known of it.
func (o *operator) unhealthy(ctx context.Context, c *healthcheck) error {
	counts, err := call(ctx, 0, o.GetConnectionCounts, &pb.GetConnectionCountsRequest{})
	if err != nil {
		return err
	}
	if c.pool == "" {
		return errors.New(condition(counts))
	}
	for _, p := range counts.GetPools() {
		if p.GetName() == c.pool {
			return errors.New(poolWords(p))
		}
	}
	return fmt.Errorf("there is no pool %q", c.pool)
}
