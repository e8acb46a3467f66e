// Package arrange starts the arrangements that are compared, a part in front with its workers behind it, and stops them again.
//
// All processes are children of this one, with their configuration in a directory of their own, and nothing is started or stopped
// through the system's service manager.
package arrange

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/anteroom-io/anteroom/internal/freeport"
)

// Arrangement is one way to serve: what is in front, and what works behind it.
type Arrangement struct {
	Name    string // as in reports: nginx-1
	Front   Kind   // Alone: the worker has the listening socket
	Threads int    // of the front, if it is a proxy: processes or threads
	Worker  Kind
	Workers int
	Ready   string // Anteroom: what it waits for before it lends a connection: bytes, head or request; empty: as the host says
	Spools  bool   // nginx: what a client has not taken of a response goes to a file, as by default, so that the worker need not wait
	Fronts  int    // Anteroom: sidecars side by side, each with its share of the workers; 0: one

	// OneProcessor has cheroot run on one processor, which is all that Python's lock lets its threads use. Where they may run on several, they
	// pass the lock across them, and throughput doubles or halves with what else the machine does.
	OneProcessor bool
}

// Kind is a program that can be in front or work.
type Kind string

// What can be in front, with workers behind it.
const (
	Alone    Kind = "alone"
	Anteroom Kind = "anteroom"
	Nginx    Kind = "nginx"
	Haproxy  Kind = "haproxy"
)

// What can work.
const (
	Worker      Kind = "worker"       // bench/worker: the same program behind all fronts
	Cheroot     Kind = "cheroot"      // bench/cheroot, as it is by default
	CherootKeep Kind = "cheroot-keep" // the same, told to keep all connections
	NetHTTP     Kind = "nethttp"      // bench/nethttp
	NginxReturn Kind = "nginx-return" // nginx answering by itself
	ApacheFile  Kind = "apache-file"  // Apache with its event MPM, sending a file
)

// Programs is where the programs are that this module builds, and what they are told in addition.
type Programs struct {
	Directory  string   // holds worker, load and nethttp
	Anteroom   string   // the sidecar's binary
	ServeFlags []string // more flags for anteroom serve
	Root       string   // the source tree, for what is Python
	Python     string
	Pin        string // a list of processors for taskset(1), for all that serves; empty: where the kernel likes
}

// Running is an arrangement that serves.
type Running struct {
	Arrangement
	Address string   // host:port of where clients connect
	Further []string // the same of the other fronts, if there are several

	dir      string
	front    []*child
	workers  []*child
	ports    []*freeport.Port
	programs *Programs
}

// Start starts an arrangement and returns once it has answered a request. On an error nothing of it is left.
func (p *Programs) Start(ctx context.Context, a Arrangement) (*Running, error) {
	dir, err := os.MkdirTemp("", "anteroom-bench-")
	if err != nil {
		return nil, err
	}
	r := &Running{Arrangement: a, dir: dir, programs: p}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", a.Name, err), r.Stop())
	}
	return r, nil
}

func (r *Running) start(ctx context.Context) error {
	// Proxies drop their privileges and must still reach what they serve.
	if err := os.Chmod(r.dir, 0o755); err != nil {
		return err
	}
	if err := r.startParts(ctx); err != nil {
		return err
	}
	return r.awaitAnswer(ctx)
}

func (r *Running) startParts(ctx context.Context) error {
	switch r.Front {
	case Alone:
		return r.startAlone(ctx)
	case Anteroom:
		return r.startAnteroom(ctx)
	case Nginx:
		return r.startBehind(ctx, r.startNginx)
	case Haproxy:
		return r.startBehind(ctx, r.startHaproxy)
	default:
		return fmt.Errorf("%q cannot be in front", r.Front)
	}
}

// Stop ends all processes, the front first, and removes what they left.
func (r *Running) Stop() error {
	var errs []error
	for _, c := range append(append([]*child{}, r.front...), r.workers...) {
		errs = append(errs, c.end())
	}
	for _, port := range r.ports {
		port.Close()
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// FrontPIDs returns the roots of the front's processes; none if the worker is alone.
func (r *Running) FrontPIDs() []int { return pids(r.front) }

// WorkerPIDs returns the roots of the workers' processes.
func (r *Running) WorkerPIDs() []int { return pids(r.workers) }

// Control returns the address of the sidecar's gRPC; empty if the front is none.
func (r *Running) Control() string {
	if r.Front != Anteroom {
		return ""
	}
	return r.controlSocket(0)
}

func pids(children []*child) (list []int) {
	for _, c := range children {
		list = append(list, c.pid())
	}
	return list
}

// Alive returns an error if one of the processes has ended.
func (r *Running) Alive() error {
	for _, c := range append(append([]*child{}, r.front...), r.workers...) {
		select {
		case <-c.ended:
			return c.failure("has ended, which it should not")
		default:
		}
	}
	return nil
}

// write puts a configuration file into the arrangement's directory, with {NAME} replaced by values.
func (r *Running) write(name, template string, values ...string) (string, error) {
	path := filepath.Join(r.dir, name)
	return path, os.WriteFile(path, []byte(strings.NewReplacer(values...).Replace(template)), 0o644)
}
