package drive

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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
func (c *Clients) Fresh(ctx context.Context, url string, connections int, d time.Duration) (Result, error) {
	return c.load(ctx, "fresh", "-connections", strconv.Itoa(connections), "-threads", "2", "-for", d.String(), url)
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

// perHolder is how many idle connections one process holds: half of the usual 20,000 descriptors.
const perHolder = 7_500

// Idle is a number of connections that have been served once and now stay idle.
type Idle struct{ holders []*holder }

type holder struct {
	command *exec.Cmd
	stdin   io.Closer
	stdout  *bufio.Scanner
	stderr  strings.Builder
}

// Hold opens idle connections, in as many processes as their number of descriptors asks for.
func (c *Clients) Hold(ctx context.Context, url string, connections int) (*Idle, error) {
	idle := &Idle{}
	for left := connections; left > 0; left -= perHolder {
		h, err := startHolder(c.command(ctx, c.Load, "idle", "-connections", strconv.Itoa(min(left, perHolder)), url))
		if err != nil {
			return nil, errors.Join(err, idle.kill())
		}
		idle.holders = append(idle.holders, h)
	}
	for _, h := range idle.holders {
		if err := h.awaitReady(); err != nil {
			return nil, errors.Join(err, idle.kill())
		}
	}
	return idle, nil
}

func startHolder(command *exec.Cmd) (*holder, error) {
	h := &holder{command: command}
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	command.Stderr = &h.stderr
	h.stdin, h.stdout = stdin, bufio.NewScanner(stdout)
	return h, command.Start()
}

func (h *holder) awaitReady() error {
	if h.stdout.Scan() && h.stdout.Text() == "ready" {
		return nil
	}
	err := h.command.Wait()
	return fmt.Errorf("holding idle connections: %w: %s", err, strings.TrimSpace(h.stderr.String()))
}

func (h *holder) release() (lost int, err error) {
	_ = h.stdin.Close()
	if !h.stdout.Scan() {
		return 0, fmt.Errorf("holding idle connections: %w: %s", h.command.Wait(), strings.TrimSpace(h.stderr.String()))
	}
	var result struct{ Lost int }
	err = json.Unmarshal(h.stdout.Bytes(), &result)
	return result.Lost, errors.Join(err, h.command.Wait())
}

// Release ends the connections and says how many the server had ended before.
func (i *Idle) Release() (lost int, err error) {
	for _, h := range i.holders {
		n, e := h.release()
		lost += n
		err = errors.Join(err, e)
	}
	return lost, err
}

// kill ends what has begun when not all of it could.
func (i *Idle) kill() error {
	for _, h := range i.holders {
		if err := h.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		_ = h.command.Wait() // its failure is the one that is being reported
	}
	return nil
}
