package process

import (
	"context"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
	"github.com/anteroom-io/anteroom/sidecar"
	"github.com/anteroom-io/anteroom/test/processes"
)

// watching starts anteroom watch, which prints to its standard error here.
func watching(t *testing.T, s *processes.Sidecar) *processes.Process {
	t.Helper()
	return processes.Start(t, "watch", exec.Command("sh", "-c", `exec "$0" "$@" >&2`,
		processes.Binary(t), "watch", "--kind", "started", "--control", s.Control()))
}

// seesEvents makes events until a watch shows one more.
func seesEvents(t *testing.T, s *processes.Sidecar, watch *processes.Process) {
	t.Helper()
	before := watch.Log.Lines("started")
	processes.Eventually(t, "the watch shows an event", func() bool {
		for _, command := range []string{"stop", "start"} {
			if out, err := exec.Command(processes.Binary(t), command, "--control", s.Control()).CombinedOutput(); err != nil {
				t.Fatalf("anteroom %s: %v: %s", command, err, out)
			}
		}
		return watch.Log.Lines("started") > before
	})
}

// A watch does not keep the old process of an upgrade from leaving, and goes on with the new one.
func TestAWatchOverAnUpgrade(t *testing.T) {
	bothWays(t, func(t *testing.T, supervised bool, flag string) {
		s, _ := replaceable(t, flag)
		watch := watching(t, s)
		seesEvents(t, s, watch)
		old := serving(t, s, supervised)
		out, err := upgrade(t, s)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		pid, _ := strconv.Atoi(regexp.MustCompile(`process (\d+) serves now`).FindStringSubmatch(out)[1])
		t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGTERM) })
		processes.Eventually(t, "the old process has left", func() bool { return syscall.Kill(old, 0) != nil })
		seesEvents(t, s, watch)
		if n := watch.Log.Lines("another process serves now"); n != 1 {
			t.Errorf("%d lines about the new process, want one\n%s", n, watch.Log)
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		processes.Eventually(t, "the new process has left", func() bool { return syscall.Kill(pid, 0) != nil })
		if code := watch.Exit(); code != 3 {
			t.Errorf("the watch ended with %d, want 3\n%s", code, watch.Log)
		}
	})
}

// A watch goes on over kill -9, too.
func TestAWatchOverADeath(t *testing.T) {
	s, _ := replaceable(t, "--supervise")
	watch := watching(t, s)
	seesEvents(t, s, watch)
	_ = syscall.Kill(serving(t, s, true), syscall.SIGKILL)
	seesEvents(t, s, watch)
}

// Every stream ends at an upgrade, and the one of events says why.
func TestStreamsEndAtAnUpgrade(t *testing.T) {
	s, _ := replaceable(t, "--supervise")
	conn, err := grpc.NewClient("unix://"+s.Control(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), processes.Patience)
	defer cancel()
	events, err := pb.NewConnectionManagerServiceClient(conn).Watch(ctx, &pb.WatchRequest{Kinds: []pb.EventKind{pb.EventKind_EVENT_KIND_EXPIRED}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := events.Header(); err != nil {
		t.Fatal(err)
	}
	health, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := health.Recv(); err != nil {
		t.Fatal(err)
	}
	old := serving(t, s, true)
	s.Signal(syscall.SIGUSR2)
	_, err = events.Recv()
	if status.Code(err) != codes.Unavailable || !hasReason(err, sidecar.ReasonReplaced) {
		t.Errorf("the watch of events ends with %v, details %v", err, status.Convert(err).Details())
	}
	if _, err = health.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch of the health ends with %v", err)
	}
	processes.Eventually(t, "the old process has left", func() bool { return syscall.Kill(old, 0) != nil })
}

func hasReason(err error, reason string) bool {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(interface{ GetReason() string }); ok && info.GetReason() == reason {
			return true
		}
	}
	return false
}
