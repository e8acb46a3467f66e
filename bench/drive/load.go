package drive

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Rate offers a number of requests per second, whether answers come or not; latency counts from when a request was due.
func (c *Clients) Rate(ctx context.Context, url string, connections int, perSecond float64, d time.Duration) (Result, error) {
	return c.load(ctx, "rate", "-connections", strconv.Itoa(connections), "-rate", strconv.FormatFloat(perSecond, 'f', 0, 64),
		"-for", d.String(), url)
}

// Fresh opens a new connection for each request, a number of them at once.
func (c *Clients) Fresh(ctx context.Context, url string, connections, threads int, d time.Duration) (Result, error) {
	return c.load(ctx, "fresh", "-connections", strconv.Itoa(connections), "-threads", strconv.Itoa(threads), "-for", d.String(), url)
}

func (c *Clients) load(ctx context.Context, args ...string) (Result, error) {
	out, used, err := c.run(ctx, c.Load, args...)
	if err != nil {
		return Result{}, err
	}
	var found struct {
		Requests, Errors int
		Seconds          float64
		Latency          struct{ P50, P99 int64 }
	}
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		return Result{}, fmt.Errorf("load %s printed no result, but %q: %w", args[0], out, err)
	}
	return Result{Requests: found.Requests, Errors: found.Errors, Duration: time.Duration(found.Seconds * float64(time.Second)),
		P50: time.Duration(found.Latency.P50), P99: time.Duration(found.Latency.P99), Client: used, Raw: out}, nil
}

// run runs a client to its end.
func (c *Clients) run(ctx context.Context, name string, args ...string) (out string, used time.Duration, err error) {
	command := c.command(ctx, name, args...)
	var stderr strings.Builder
	command.Stderr = &stderr
	b, err := command.Output()
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return string(b), command.ProcessState.UserTime() + command.ProcessState.SystemTime(), nil
}

func (c *Clients) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if c.Pin != "" {
		args = append([]string{"--cpu-list", c.Pin, name}, args...)
		name = "taskset"
	}
	command := exec.CommandContext(ctx, name, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return command
}
