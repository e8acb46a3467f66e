package arrange

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/internal/freeport"
)

// command prepares a process of the serving side.
func (r *Running) command(name string, args ...string) *exec.Cmd {
	return pinned(r.programs.Pin, name, args...)
}

// pinned prepares a process that runs on some processors (taskset's list) only; empty: on all.
func pinned(processors, name string, args ...string) *exec.Cmd {
	if processors != "" {
		args = append([]string{"--cpu-list", processors, name}, args...)
		name = "taskset"
	}
	return exec.Command(name, args...)
}

// firstProcessor returns the first of a list, or, if that is empty, of those we may use.
func firstProcessor(list string) (string, error) {
	if numbers := strings.FieldsFunc(list, func(c rune) bool { return c < '0' || c > '9' }); len(numbers) > 0 {
		return numbers[0], nil
	}
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return "", fmt.Errorf("sched_getaffinity: %w", err)
	}
	processor := 0
	for !allowed.IsSet(processor) {
		processor++
	}
	return strconv.Itoa(processor), nil
}

func (r *Running) program(name string) string { return filepath.Join(r.programs.Directory, name) }

// startFront starts a process that is in front.
func (r *Running) startFront(command *exec.Cmd) error {
	c, err := startChild(command)
	if err == nil {
		r.front = append(r.front, c)
	}
	return err
}

// startWorker starts a process that works, and waits for it.
func (r *Running) startWorker(ctx context.Context, command *exec.Cmd) error {
	c, err := startChild(command)
	if err != nil {
		return err
	}
	r.workers = append(r.workers, c)
	return c.awaitReady(ctx)
}

// startAlone starts what needs nothing in front of it.
func (r *Running) startAlone(ctx context.Context) error {
	address, err := r.freeAddress()
	if err != nil {
		return err
	}
	r.Address = address
	switch r.Worker {
	case NginxReturn:
		return r.startNginxReturn()
	case ApacheFile:
		return r.startApache()
	default:
		return r.startListening(ctx, address)
	}
}

// startBehind starts the workers, each on a port of its own, and a proxy in front of them.
func (r *Running) startBehind(ctx context.Context, startProxy func(upstreams []string) error) error {
	var upstreams []string
	for range r.Workers {
		address, err := r.freeAddress()
		if err != nil {
			return err
		}
		if err := r.startListening(ctx, address); err != nil {
			return err
		}
		upstreams = append(upstreams, address)
	}
	address, err := r.freeAddress()
	if err != nil {
		return err
	}
	r.Address = address
	return startProxy(upstreams)
}

// startListening starts a worker that listens at an address.
func (r *Running) startListening(ctx context.Context, address string) error {
	switch r.Worker {
	case Worker, NetHTTP:
		return r.startWorker(ctx, r.command(r.program(string(r.Worker)), "-listen", address))
	case Cheroot, CherootKeep:
		command, err := r.cheroot(address)
		if err != nil {
			return err
		}
		return r.startWorker(ctx, command)
	default:
		return fmt.Errorf("%q cannot listen for itself", r.Worker)
	}
}

// cherootKept is how many connections a cheroot keeps that has room for all.
const cherootKept = "20000"

func (r *Running) cheroot(address string, environment ...string) (*exec.Cmd, error) {
	processors := r.programs.Pin
	if r.OneProcessor {
		one, err := firstProcessor(processors)
		if err != nil {
			return nil, err
		}
		processors = one
	}
	_, port, _ := strings.Cut(address, ":")
	args := []string{filepath.Join(r.programs.Root, "bench/cheroot/app.py"), port}
	if r.Worker == CherootKeep {
		args = append(args, cherootKept)
	}
	command := pinned(processors, r.programs.Python, args...)
	command.Env = append(os.Environ(), append(environment, "PYTHONPATH="+filepath.Join(r.programs.Root, "sdk/python"))...)
	return command, nil
}

// startAnteroom starts the sidecars and their hosts. All hosts are attached before clients come. The sidecar listens for the workers; cheroot
// brings its own listening socket, as it does in real use.
func (r *Running) startAnteroom(ctx context.Context) error {
	fronts := max(r.Fronts, 1)
	for front := range fronts {
		address, err := r.freeAddress()
		if err != nil {
			return err
		}
		if front == 0 {
			r.Address = address
		} else {
			r.Further = append(r.Further, address)
		}
		if err := r.startSidecar(ctx, front, address, r.Workers/fronts); err != nil {
			return err
		}
	}
	return nil
}

// startSidecar starts one sidecar and its hosts.
func (r *Running) startSidecar(ctx context.Context, front int, address string, workers int) error {
	socket := filepath.Join(r.dir, fmt.Sprintf("handoff-%d.sock", front))
	if err := r.startFront(r.command(r.programs.Anteroom, r.serveFlags(front, address, socket)...)); err != nil {
		return err
	}
	if err := r.awaitFile(ctx, socket); err != nil {
		return err
	}
	for i := range workers {
		command, err := r.host(i, address, socket)
		if err != nil {
			return err
		}
		if err := r.startWorker(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

func (r *Running) serveFlags(front int, address, socket string) []string {
	flags := []string{"serve", "--handoff", "unix://" + socket, "--control", r.controlSocket(front), "--log-level", "error"}
	if r.Worker == Worker {
		flags = append(flags, "--listen", "tcp://"+address+"?ready="+r.Ready)
	}
	return append(flags, r.programs.ServeFlags...)
}

func (r *Running) controlSocket(front int) string {
	return "unix://" + filepath.Join(r.dir, fmt.Sprintf("control-%d.sock", front))
}

func (r *Running) host(i int, address, socket string) (*exec.Cmd, error) {
	if r.Worker == CherootKeep {
		return r.cheroot(address, r.cherootAttaches(socket)...)
	}
	return r.command(r.program("worker"), "-handoff", socket, "-name", "worker-"+strconv.Itoa(i+1)), nil
}

// cherootAttaches is what cheroot's adapter is told. With a readiness it serves a named pool, which makes its capacity that of its threads.
func (r *Running) cherootAttaches(socket string) []string {
	environment := []string{"ANTEROOM_HANDOFF=" + socket}
	if r.Ready != "" {
		environment = append(environment, "ANTEROOM_READY="+r.Ready, "ANTEROOM_POOL=default")
	}
	return environment
}

// freeAddress returns an address on loopback that is reserved until Stop.
func (r *Running) freeAddress() (string, error) {
	port, err := freeport.Reserve()
	if err != nil {
		return "", err
	}
	r.ports = append(r.ports, port)
	return port.Loopback(), nil
}

// awaitFile waits for the front to make a socket.
func (r *Running) awaitFile(ctx context.Context, path string) error {
	return r.retry(ctx, "has not made "+path, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// awaitAnswer waits until a request is answered at each front, through all parts.
func (r *Running) awaitAnswer(ctx context.Context) error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, address := range append([]string{r.Address}, r.Further...) {
		if err := r.retry(ctx, "has not answered", func() bool { return answers(&client, address) }); err != nil {
			return err
		}
	}
	return nil
}

func answers(client *http.Client, address string) bool {
	response, err := client.Get("http://" + address + "/100")
	if err != nil {
		return false
	}
	n, err := io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return err == nil && n == 100 && response.StatusCode == http.StatusOK
}

// retry asks every few milliseconds whether something has come true.
func (r *Running) retry(ctx context.Context, what string, ok func() bool) error {
	deadline := time.Now().Add(startTimeout)
	for !ok() {
		if err := r.Alive(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s %s within %v; it said:\n%s", r.Name, what, startTimeout, r.said())
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func (r *Running) said() (all string) {
	for _, c := range append(append([]*child{}, r.front...), r.workers...) {
		all += c.output.String()
	}
	return all
}
