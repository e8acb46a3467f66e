package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func healthcheckCommand() *cobra.Command {
	var live bool
	var wait time.Duration
	cmd := operatorCommand(&cobra.Command{
		Use:   "healthcheck",
		Short: "Succeed if requests are served",
		Long: `Succeeds (exit code 0) if requests are served: a host is attached, and the manager is neither stopped nor draining. Otherwise, and if no
sidecar answers, it exits with 1, as container engines expect. With --live it is enough that the sidecar answers.`,
		Args: cobra.NoArgs,
	}, func(ctx context.Context, o *operator, _ []string) error {
		if err := o.healthy(ctx, live, wait); err != nil {
			return fmt.Errorf("%w: %w", errNotHealthy, o.explain(err))
		}
		return nil
	})
	cmd.Flags().BoolVar(&live, "live", false, "be content with an answer, whatever it is")
	cmd.Flags().DurationVar(&wait, "wait", 0, "wait so long for it to become so")
	return cmd
}

// healthy asks once, or follows the answers for as long as wait.
func (o *operator) healthy(ctx context.Context, live bool, wait time.Duration) error {
	if wait <= 0 {
		answer, err := call(ctx, 0, o.health.Check, &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		return o.judge(answer, live)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	stream, err := o.health.Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	return o.follow(stream, live)
}

func (o *operator) follow(stream grpc.ServerStreamingClient[healthpb.HealthCheckResponse], live bool) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		if o.judge(answer, live) == nil {
			return nil
		}
	}
}

func (o *operator) judge(answer *healthpb.HealthCheckResponse, live bool) error {
	if live || answer.GetStatus() == healthpb.HealthCheckResponse_SERVING {
		return o.say(answer, "%s", enumWord(answer.GetStatus(), ""))
	}
	return fmt.Errorf("the sidecar says %s: no host is attached, or it is stopped or draining", answer.GetStatus())
}
