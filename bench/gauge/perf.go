package gauge

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lines is how many lines of a profile are worth reading.
const Lines = 15

// Profiler has perf(1) sample processes and count their system calls.
type Profiler struct {
	dir     string
	samples *perf
	calls   *perf
}

// attachTime is how long perf may take to attach before what it is to see begins.
const attachTime = 500 * time.Millisecond

// StartProfiler attaches to processes, all threads included: to sample where all of them spend their time, and to count the system calls of some.
func StartProfiler(ctx context.Context, sampled, counted []int) (*Profiler, error) {
	dir, err := os.MkdirTemp("", "anteroom-perf-")
	if err != nil {
		return nil, err
	}
	p := &Profiler{dir: dir}
	// The clock of the processors, since virtual machines often have no counters for perf's other events.
	if p.samples, err = startPerf(ctx, "record", "--quiet", "--event", "cpu-clock", "--freq", "2000", "--output", p.data(), "--pid", list(sampled)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if p.calls, err = startPerf(ctx, "stat", "--field-separator", ";", "--event", "syscalls:sys_enter_*", "--pid", list(counted)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	select {
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), p.close())
	case <-time.After(attachTime):
		return p, nil
	}
}

func (p *Profiler) data() string { return filepath.Join(p.dir, "perf.data") }

// End returns tables of where time went, and of system calls per request.
func (p *Profiler) End(ctx context.Context, requests int) (string, error) {
	calls := p.calls.end()
	failure := p.samples.end()
	table, err := exec.CommandContext(ctx, "perf", "report", "--stdio", "--quiet", "--no-children", "--fields", "overhead,comm,dso,symbol",
		"--input", p.data()).Output()
	if err != nil {
		err = fmt.Errorf("perf report: %w; perf record said: %s", err, failure)
	}
	return "Processor time:\n" + head(string(table)) + "\n\nSystem calls of the front, per request:\n" + callTable(calls, requests), errors.Join(err, p.close())
}

func (p *Profiler) close() error {
	for _, perf := range []*perf{p.samples, p.calls} {
		if perf != nil {
			perf.end()
		}
	}
	return os.RemoveAll(p.dir)
}

// head is the first lines that are not empty.
func head(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \n"); line != "" && len(lines) < Lines {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// callTable sorts what perf stat counts: lines such as "17;;syscalls:sys_enter_read;…". What is no such line is an error's text.
func callTable(stat string, requests int) string {
	type call struct {
		name string
		n    int
	}
	var calls []call
	for line := range strings.Lines(stat) {
		fields := strings.Split(line, ";")
		if len(fields) < 3 {
			continue
		}
		n, err := strconv.Atoi(fields[0])
		if name, ok := strings.CutPrefix(fields[2], "syscalls:sys_enter_"); ok && err == nil && n > 0 {
			calls = append(calls, call{name, n})
		}
	}
	if len(calls) == 0 {
		return "None were counted. perf said: " + head(stat)
	}
	slices.SortFunc(calls, func(a, b call) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.name, b.name)) })
	var table strings.Builder
	for _, c := range calls[:min(len(calls), Lines)] {
		fmt.Fprintf(&table, "%10.4f  %s\n", float64(c.n)/float64(max(requests, 1)), c.name)
	}
	return strings.TrimRight(table.String(), "\n")
}

// perf is a process of that program that goes on until it is interrupted.
type perf struct {
	command *exec.Cmd
	output  bytes.Buffer
	over    bool
}

func startPerf(ctx context.Context, args ...string) (*perf, error) {
	p := &perf{command: exec.CommandContext(ctx, "perf", args...)}
	p.command.Env = append(os.Environ(), "LC_ALL=C")
	p.command.Stdout, p.command.Stderr = &p.output, &p.output
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Interrupted, perf ends with its result; if it does not, it is killed.
	p.command.Cancel = func() error { return p.command.Process.Signal(os.Interrupt) }
	p.command.WaitDelay = 10 * time.Second
	return p, p.command.Start()
}

// end interrupts perf and returns what it printed. It may be called again.
func (p *perf) end() string {
	if !p.over {
		p.over = true
		_ = p.command.Process.Signal(os.Interrupt) // it may have ended because of an error, which it has printed
		_ = p.command.Wait()                       // perf ends by the signal, which is no error
	}
	return p.output.String()
}

func list(pids []int) string {
	var texts []string
	for _, pid := range pids {
		texts = append(texts, strconv.Itoa(pid))
	}
	return strings.Join(texts, ",")
}
