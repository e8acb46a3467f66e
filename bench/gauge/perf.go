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
	"regexp"
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

// counted are the system calls that are counted, those that a front makes often. perf takes seconds to attach to all there are.
var counted = []string{"accept4", "close", "epoll_ctl", "epoll_pwait", "futex", "nanosleep", "read", "recvfrom", "recvmmsg", "recvmsg", "sched_yield",
	"sendfile64", "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "splice", "write"}

// tracepoint begins the name of a system call's event.
const tracepoint = "syscalls:sys_enter_"

// StartProfiler attaches to processes, all threads included: to sample where all of them spend their time, and to count the front's system calls.
func StartProfiler(ctx context.Context, all, front []int) (*Profiler, error) {
	dir, err := os.MkdirTemp("", "anteroom-perf-")
	if err != nil {
		return nil, err
	}
	p := &Profiler{dir: dir}
	// The processors' clock, since virtual machines often have no counters for perf's other events.
	if p.samples, err = startPerf(ctx, "record", "--quiet", "-g", "--event", "cpu-clock", "--freq", "2000", "--output", p.data(), "--pid", list(all)); err != nil {
		return nil, errors.Join(err, p.close())
	}
	events := tracepoint + strings.Join(counted, ","+tracepoint)
	if p.calls, err = startPerf(ctx, "stat", "--field-separator", ";", "--event", events, "--pid", list(front)); err != nil {
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

// sysCall matches the kernel's functions that are system calls, such as __x64_sys_recvfrom.
var sysCall = regexp.MustCompile(`\b__\w+_sys_\w+`)

// End returns tables of where time went, and of system calls per request.
func (p *Profiler) End(ctx context.Context, requests int) (string, error) {
	calls := p.calls.end()
	said := p.samples.end()
	functions, err := p.report(ctx, "--no-children", "--fields", "overhead,comm,dso,symbol")
	if err != nil {
		return "", errors.Join(fmt.Errorf("perf report: %w; perf record said: %s", err, said), p.close())
	}
	within, err := p.report(ctx, "--children", "--fields", "overhead_children,comm,symbol")
	return strings.Join([]string{
		"Processor time by function. Of the kernel's, those that let interrupts in again stand for what they end:", head(functions, func(string) bool { return true }),
		"", "Processor time by system call, with all it does:", head(within, sysCall.MatchString),
		"", "System calls of the front, per request:", callTable(calls, requests),
	}, "\n"), errors.Join(err, p.close())
}

func (p *Profiler) report(ctx context.Context, args ...string) (string, error) {
	args = append([]string{"report", "--stdio", "--quiet", "--call-graph", "none", "--input", p.data()}, args...)
	out, err := exec.CommandContext(ctx, "perf", args...).Output()
	return string(out), err
}

func (p *Profiler) close() error {
	for _, perf := range []*perf{p.samples, p.calls} {
		if perf != nil {
			perf.end()
		}
	}
	return os.RemoveAll(p.dir)
}

// head is the first lines that are wanted and not empty.
func head(text string, wanted func(line string) bool) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \n"); line != "" && len(lines) < Lines && wanted(line) {
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
		if name, ok := strings.CutPrefix(fields[2], tracepoint); ok && err == nil && n > 0 {
			calls = append(calls, call{name, n})
		}
	}
	if len(calls) == 0 {
		return "None were counted. perf said: " + strings.TrimSpace(stat)
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
