package arrange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long a child may take to get ready, and to end.
const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
)

// child is a process of an arrangement, started by us and stopped by its own pid.
type child struct {
	command *exec.Cmd
	name    string
	ready   chan struct{} // closed when it has printed "ready"
	ended   chan struct{}
	output  capped
}

// capped keeps the beginning of what a child says, for the error that may need it.
type capped struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxOutput = 4 << 10

func (c *capped) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf.Write(p[:min(len(p), maxOutput-c.buf.Len())])
	return len(p), nil
}

func (c *capped) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.TrimSpace(c.buf.String())
}

// startChild starts a process. It dies with this one, whatever happens to us.
func startChild(command *exec.Cmd) (*child, error) {
	c := &child{command: command, name: command.Args[0], ready: make(chan struct{}), ended: make(chan struct{})}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	command.Stderr = &c.output
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	go c.follow(stdout)
	return c, nil
}

// follow watches what the child prints until it ends.
func (c *child) follow(stdout io.Reader) {
	lines := bufio.NewScanner(stdout)
	announced := false
	for lines.Scan() {
		if !announced && lines.Text() == "ready" {
			announced = true
			close(c.ready)
		}
		fmt.Fprintln(&c.output, lines.Text())
	}
	_ = c.command.Wait() // however it ended, it has
	close(c.ended)
}

func (c *child) pid() int { return c.command.Process.Pid }

// awaitReady waits for the child's line "ready".
func (c *child) awaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-c.ended:
		return c.failure("has ended at once")
	case <-time.After(startTimeout):
		return c.failure(fmt.Sprintf("was not ready within %v", startTimeout))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *child) failure(what string) error {
	return fmt.Errorf("%s %s; it said:\n%s", c.name, what, c.output.String())
}

// end tells the child to stop, and kills it with its process group if it does not.
func (c *child) end() error {
	_ = c.command.Process.Signal(syscall.SIGTERM) // it may have ended by itself; then there is nothing to stop
	select {
	case <-c.ended:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := syscall.Kill(-c.pid(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("%s (pid %d) does not end: %w", c.name, c.pid(), err)
	}
	<-c.ended
	return nil
}
