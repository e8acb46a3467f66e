//go:build integration

package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/anteroom-io/anteroom/api/anteroom/v1"
)

const (
	testTimeout = 2 * time.Minute        // of one test; its project is taken down after it all the same
	downTimeout = time.Minute            // of taking it down
	patience    = 30 * time.Second       // what a condition may take to come true, and an answer to arrive
	pace        = 100 * time.Millisecond // between two looks at a condition
)

// capacity is how many requests each application takes at once.
const capacity = 10

// project is deploy/compose under a name of its own.
type project struct {
	t       *testing.T
	ctx     context.Context
	name    string
	address string // where the sidecar is reached from outside
	control pb.ConnectionManagerServiceClient
	health  healthpb.HealthClient
}

// up brings up a sidecar with that many containers of the application, and waits until all are attached. Other tests run at the same time,
// with projects of their own.
func up(t *testing.T, apps int) *project {
	t.Helper()
	t.Parallel()
	if interrupted.Err() != nil {
		t.Fatal("interrupted before it began")
	}
	ctx, cancel := context.WithTimeout(interrupted, testTimeout)
	t.Cleanup(cancel)
	p := &project{t: t, ctx: ctx, name: "anteroom-test-" + strings.ToLower(rand.Text()[:10])}
	operator := &grpcurl{p}
	p.control, p.health = pb.NewConnectionManagerServiceClient(operator), healthpb.NewHealthClient(operator)
	t.Cleanup(p.down)
	p.compose("up", "--detach", "--no-build", "sidecar")
	p.findAddress()
	if apps > 0 {
		p.scale(apps)
	}
	return p
}

// scale runs that many containers of the application, and waits until all are attached.
func (p *project) scale(apps int) {
	p.t.Helper()
	p.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "app="+strconv.Itoa(apps), "app")
	p.awaitHosts(apps)
}

// findAddress asks for the published port, which may be another one after a restart.
func (p *project) findAddress() {
	p.t.Helper()
	p.address = strings.TrimSpace(p.compose("port", "sidecar", "8080"))
}

// containers are the ids of a service's containers.
func (p *project) containers(service string) []string {
	p.t.Helper()
	return strings.Fields(p.compose("ps", "--quiet", service))
}

// compose runs Compose on the project, and returns what it prints. Its failure ends the test.
func (p *project) compose(args ...string) string {
	p.t.Helper()
	return p.must(p.composeCommand(p.ctx, args...))
}

// docker runs the docker command. Its failure ends the test.
func (p *project) docker(args ...string) string {
	p.t.Helper()
	return p.must(command(p.ctx, "docker", args...))
}

func (p *project) must(cmd *exec.Cmd) string {
	p.t.Helper()
	out, err := output(cmd)
	p.ok(err)
	return out
}

// ok ends the test if there is an error.
func (p *project) ok(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *project) composeCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := command(ctx, root+"/scripts/compose", args...)
	cmd.Env = append(os.Environ(), "COMPOSE_PROJECT_NAME="+p.name, "PUBLISH=127.0.0.1:0", "CAPACITY="+strconv.Itoa(capacity))
	return cmd
}

// command is ended with the context; what it has started and left running holds nobody up.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// output is what a command prints; its error tells what it complained of.
func output(cmd *exec.Cmd) (string, error) {
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, complaints.String())
	}
	return out.String(), nil
}

// eventually looks until a condition holds, which is when check returns nil. Its last error tells what was missing.
func (p *project) eventually(check func() error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("waited in vain: %v", err)
		case <-time.After(pace):
		}
	}
}

// down takes the project down whatever has happened, and checks that it leaves nothing behind and had nothing to complain of.
func (p *project) down() {
	ctx, cancel := context.WithTimeout(context.Background(), downTimeout)
	defer cancel()
	logs, err := output(p.composeCommand(ctx, "logs", "--no-color"))
	if err != nil {
		p.t.Errorf("no logs: %v", err)
	}
	for _, line := range complaints(logs) {
		p.t.Errorf("logged: %s", line)
	}
	if p.t.Failed() {
		p.t.Logf("the logs of %s:\n%s", p.name, logs)
	}
	if _, err := output(p.downCommand(ctx)); err != nil {
		p.t.Error(err)
	}
	if err := p.leftBehind(ctx); err != nil {
		p.t.Error(err)
	}
}

// downCommand also ends what an interrupted grpcurl has left, since that is a service of a profile.
func (p *project) downCommand(ctx context.Context) *exec.Cmd {
	cmd := p.composeCommand(ctx, "down", "--volumes", "--remove-orphans")
	cmd.Env = append(cmd.Env, "COMPOSE_PROFILES=tools")
	return cmd
}

// complaint is a line that no test is to provoke: an error of the sidecar's, or a crash of either side.
var complaint = regexp.MustCompile(`\[ERROR\]|panic: |fatal error: |Traceback \(most recent call last\)`)

func complaints(logs string) []string {
	var found []string
	for line := range strings.Lines(logs) {
		if complaint.MatchString(line) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// leftBehind is nil if nothing of the project is left.
func (p *project) leftBehind(ctx context.Context) error {
	var left []error
	for _, list := range [][]string{{"ps", "--all"}, {"volume", "ls"}, {"network", "ls"}} {
		args := slices.Concat(list, []string{"--quiet", "--filter", "label=com.docker.compose.project=" + p.name})
		out, err := output(command(ctx, "docker", args...))
		if err == nil && out != "" {
			err = fmt.Errorf("left behind: docker %s says %q", strings.Join(list, " "), out)
		}
		left = append(left, err)
	}
	return errors.Join(left...)
}
