package drive

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// holder is a client that prints "ready" once its connections are open, and has them until its standard input ends.
type holder struct {
	command *exec.Cmd
	stdin   io.Closer
	stdout  *bufio.Scanner
	stderr  strings.Builder
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
	return h.failure()
}

// release ends the process and takes what it prints last, one JSON object.
func (h *holder) release(result any) (raw string, err error) {
	_ = h.stdin.Close()
	if !h.stdout.Scan() {
		return "", h.failure()
	}
	raw = h.stdout.Text()
	return raw, errors.Join(json.Unmarshal([]byte(raw), result), h.command.Wait())
}

// failure is for a process that has ended, or closed its output, before it should.
func (h *holder) failure() error {
	err := h.command.Wait()
	return errors.Join(fmt.Errorf("%s ended early: %s", h.command.Path, strings.TrimSpace(h.stderr.String())), err)
}

// kill ends the process when it is not wanted any more.
func (h *holder) kill() error {
	if err := h.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = h.command.Wait() // however it ended, it has
	return nil
}
