package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/freeport"
)

// place is a supervised sidecar with its hosts.
type place struct {
	anteroom string
	dir      string
	port     *freeport.Port // reserved for as long as sidecars come and go
	address  string
	report   *report
	journals journals
	log      *os.File
	sidecar  *exec.Cmd // the supervisor

	madeRoom atomic.Uint64 // clients whose idle connection was closed properly

	mu    sync.Mutex
	hosts []*exec.Cmd
	names int
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func (p *place) control() string { return "unix://" + p.path("c") }

func startPlace(o options, dir string, report *report) (_ *place, err error) {
	p := &place{anteroom: o.anteroom, dir: dir, report: report, journals: journals{dir: dir, killed: map[string]bool{}}}
	if p.log, err = os.Create(p.path("log")); err != nil {
		return nil, err
	}
	if p.port, err = freeport.Reserve(); err != nil {
		return nil, err
	}
	p.address = p.port.Loopback()
	p.sidecar = exec.Command("/bin/sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, descriptors), "sh", o.anteroom, "serve", "--supervise", "--listen", "tcp://"+p.address, "--handoff", p.path("h"), "--control", p.control(),
		"--max-redeliveries", "50", "--log-level", "debug") // a request may meet many hosts that are killed before they read it
	p.sidecar.Stderr = p.log
	if err := p.sidecar.Start(); err != nil {
		return nil, err
	}
	for range o.hosts {
		p.hosts = append(p.hosts, nil)
		if err := p.startHost(len(p.hosts) - 1); err != nil {
			p.end()
			return nil, err
		}
	}
	if err := p.awaitHosts(o.hosts); err != nil {
		p.end()
		return nil, err
	}
	return p, nil
}

// descriptors is the sidecar's limit of open files, so low that a crowd fills its table: what is left after its reserve is some 140 connections.
const descriptors = 400

// crowdSize is how many connections come at once, and send nothing.
const crowdSize = 200

// crowd connects and goes again. Who cannot be accepted waits; kept connections that have been idle longest make room.
func (p *place) crowd(stay time.Duration) {
	conns := make([]net.Conn, 0, crowdSize)
	for range crowdSize {
		if conn, err := net.DialTimeout("tcp", p.address, answerTime); err == nil {
			conns = append(conns, conn)
		}
	}
	time.Sleep(stay)
	for _, conn := range conns {
		_ = conn.Close()
	}
}

func (p *place) startHost(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names++
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hostVariable+"=h"+strconv.Itoa(p.names), handoffVariable+"="+p.path("h"), dirVariable+"="+p.dir)
	cmd.Stderr = p.log
	p.hosts[n] = cmd
	return cmd.Start()
}

func hostName(cmd *exec.Cmd) string {
	for _, v := range cmd.Env {
		if name, ok := strings.CutPrefix(v, hostVariable+"="); ok {
			return name
		}
	}
	return ""
}

// killHost kills a host, and starts another in its place.
func (p *place) killHost(n int) error {
	p.mu.Lock()
	cmd := p.hosts[n]
	p.mu.Unlock()
	p.journals.killing(hostName(cmd))
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return p.startHost(n)
}

// rollHost has another take the place of a host that is asked to leave.
func (p *place) rollHost(n int) error {
	p.mu.Lock()
	old := p.hosts[n]
	p.mu.Unlock()
	if err := p.startHost(n); err != nil {
		return err
	}
	_ = old.Process.Signal(unix.SIGTERM)
	done := make(chan error, 1)
	go func() { done <- old.Wait() }()
	select {
	case err := <-done:
		if endedBy(err, unix.SIGTERM) {
			return nil // it was asked before it could listen
		}
		if err != nil {
			return fmt.Errorf("host %s, asked to leave: %w", hostName(old), err)
		}
		return nil
	case <-time.After(answerTime):
		_ = old.Process.Signal(unix.SIGQUIT) // it says where it is
		hosts, _ := p.command("hosts")
		leased, _ := p.command("conns", "--state", "leased")
		return fmt.Errorf("host %s was asked to leave and did not:\n%s\n%s", hostName(old), hosts, leased)
	}
}

func endedBy(err error, by syscall.Signal) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == by
}

// process is the sidecar's, or its keeper's: both are found as ps(1) finds them.
type process struct {
	pid    int
	parent int
	name   string
}

const (
	keeperName = "anteroom-keeper"
	helperName = "anteroom-helper"
)

// serving finds the process that serves, and its keeper; 0 if there is none at this moment. Keepers
// among the supervisor's children are about to take over, and helpers there about to end.
func (p *place) serving() (sidecar, keeper int) {
	for _, child := range children(p.sidecar.Process.Pid) {
		if child.name == keeperName || child.name == helperName {
			continue
		}
		for _, grandchild := range children(child.pid) {
			if grandchild.name == keeperName {
				return child.pid, grandchild.pid
			}
		}
		sidecar = child.pid
	}
	return sidecar, 0
}

func children(parent int) (list []process) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(field)
			if name, alive := nameOf(pid); alive {
				list = append(list, process{pid, parent, name})
			}
		}
	}
	return list
}

// nameOf reads a process's name; alive is false if it is gone, or about to be.
func nameOf(pid int) (name string, alive bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // pid (name) state …
	if err != nil {
		return "", false
	}
	_, rest, _ := strings.Cut(string(stat), "(")
	name, rest, _ = strings.Cut(rest, ") ")
	return name, rest != "" && !strings.ContainsAny(rest[:1], "ZX")
}

func (p *place) command(args ...string) ([]byte, error) {
	return exec.Command(p.anteroom, append(args, "--control", p.control())...).CombinedOutput()
}

func (p *place) awaitHosts(n int) error {
	var out []byte
	var err error
	for end := time.Now().Add(answerTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var hosts struct {
			Hosts []json.RawMessage `json:"hosts"`
		}
		out, err = p.command("hosts", "--json")
		if err == nil && json.Unmarshal(out, &hosts) == nil && len(hosts.Hosts) >= n {
			return nil
		}
	}
	return fmt.Errorf("%d hosts did not attach: %w: %s", n, err, out)
}

// badGateway judges a 502: its host was killed after it had read the request.
func (p *place) badGateway(seq uint64, who string) {
	if p.journals.of(seq) == "" {
		p.report.unexplained("502", seq, fmt.Errorf("%s: no killed host had read it", who))
		return
	}
	p.report.badGateways.Add(1)
}

// brokenOff judges a connection that ended without a whole response. It may have been closed, properly, to make room for others while it was idle. Or its host was
// killed when it had begun to answer, or as far as the kernel can tell it may have; or when it had answered the request before, and had not put the connection
// back, since nobody else can know that an answer is whole.
func (p *place) brokenOff(seq, last uint64, why error) {
	switch {
	case errors.Is(why, errEnded) && last != 0:
		p.madeRoom.Add(1)
	case p.journals.of(seq) != "":
		p.report.broken.Add(1)
	case p.journals.of(last) != "":
		p.report.unput.Add(1)
	default:
		p.report.lost(seq, why)
	}
}

// countTotals adds the sidecar's own account, which outlives its processes.
func (p *place) countTotals() {
	out, err := p.command("status", "--json")
	var status struct {
		Counts struct {
			Totals struct {
				Redelivered string `json:"redelivered"`
				Closed      []struct {
					Reason string `json:"reason"`
					Number string `json:"count"`
				} `json:"closed"`
			} `json:"totals"`
			Successions string `json:"successions"`
		} `json:"counts"`
	}
	if err != nil || json.Unmarshal(out, &status) != nil {
		p.report.unexplained("status", 0, fmt.Errorf("%w: %s", err, out))
		return
	}
	redelivered, _ := strconv.ParseUint(status.Counts.Totals.Redelivered, 10, 64)
	successions, _ := strconv.ParseUint(status.Counts.Successions, 10, 64)
	for _, c := range status.Counts.Totals.Closed {
		if n, _ := strconv.ParseUint(c.Number, 10, 64); strings.Contains(strings.ToLower(c.Reason), "evicted") {
			p.report.evicted.Add(n)
			if made := p.madeRoom.Load(); made > n {
				p.report.unexplained("end", 0, fmt.Errorf("%d connections ended while they were idle, the sidecar knows of %d", made, n))
			}
		}
	}
	p.report.redelivered.Add(redelivered)
	p.report.successions.Add(successions)
}

func (p *place) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, cmd := range p.hosts {
		if cmd != nil && cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	_ = p.sidecar.Process.Signal(unix.SIGTERM)
	stopped := time.AfterFunc(answerTime, func() { _ = p.sidecar.Process.Kill() })
	_ = p.sidecar.Wait()
	stopped.Stop()
	p.port.Close()
	_ = p.log.Close()
}
