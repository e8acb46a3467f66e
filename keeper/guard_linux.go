package keeper

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Program is what is executed: a path, and its arguments and environment as execve(2) takes them.
type Program struct {
	Path string
	Args []string // with the program's own name in front
	Env  []string
	Pass []int // Supervise passes these descriptors under their own numbers
}

// Self is the path of the running program, also if its file has been replaced or removed since (proc(5)).
const Self = "/proc/self/exe"

// processName is what ps(1) shows for a keeper.
const processName = "anteroom-keeper"

// Guard keeps a keeper beside this process. Its methods may be called from any goroutine.
type Guard struct {
	log       hclog.Logger
	successor Program
	owner     *uint32 // in memory that the keeper shares
	own       uint32  // what it says while this process owns the connections
	pidfd     int     // of this process
	gate      *uint32 // between a keeper and its closer

	mu  sync.Mutex
	pid int // of the keeper; mu
}

// refork is how long a keeper that was killed is waited for before the next is made.
const refork = 100 * time.Millisecond

// NewGuard makes the keeper. From now on, as long as owner says own, the death of this process is followed by the successor, which has all of
// this process's descriptors. owner lies in shared memory (MAP_SHARED, mmap(2)), and whoever hands over or wants to end says something else there, by one store.
// Call it early: what the keeper's memory costs is what this process has changed of its own since then.
func NewGuard(successor Program, owner *uint32, own uint32, log hclog.Logger) (*Guard, error) {
	pidfd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open (Linux 5.3 or later): %w", err)
	}
	gate, err := newGate()
	if err != nil {
		return nil, errors.Join(err, unix.Close(pidfd))
	}
	g := &Guard{log: log, successor: successor, owner: owner, own: own, pidfd: pidfd, gate: gate}
	if err := g.start(); err != nil {
		_ = unix.Close(pidfd)
		return nil, err
	}
	go g.renew()
	return g, nil
}

// start makes a keeper.
func (g *Guard) start() error {
	p, err := newPlan(g.successor)
	if err != nil {
		return err
	}
	p.parent, p.owner, p.own, p.gate = g.pidfd, g.owner, g.own, g.gate
	pid, err := fork(p, unix.CLONE_FILES)
	if err != nil {
		return fmt.Errorf("starting the keeper: %w", err)
	}
	g.mu.Lock()
	g.pid = pid
	g.mu.Unlock()
	return nil
}

// renew makes another keeper whenever one has been killed.
func (g *Guard) renew() {
	for {
		awaitChild(g.PID())
		if g.Released() {
			return
		}
		g.log.Warn("the keeper was killed, another takes its place", "pid", g.PID())
		time.Sleep(refork)
		if err := g.start(); err != nil {
			g.log.Error("there is no keeper any more: the death of this process would end every connection", "error", err)
			return
		}
	}
}

func awaitChild(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// PID is the keeper's process id.
func (g *Guard) PID() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pid
}

// Released reports whether this process's death is not followed by its keeper's succession any more.
func (g *Guard) Released() bool { return atomic.LoadUint32(g.owner) != g.own }

// Spawn starts a program with copies of all of this process's descriptors under their own numbers, those that are close-on-exec too. The pid is
// the caller's to wait for.
func Spawn(program Program) (pid int, err error) {
	p, err := newPlan(program)
	if err != nil {
		return 0, err
	}
	p.parent = -1
	pid, err = fork(p, 0)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", program.Path, err)
	}
	return pid, nil
}

// Become executes a program in the place of this one, with all of its descriptors, those that are close-on-exec too. It only returns if that fails.
func Become(program Program) error {
	p, err := newPlan(program)
	if err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &p.files); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_NOFILE): %w", err)
	}
	passAll(p.descriptors)
	return fmt.Errorf("execve %s: %w", program.Path, unix.Exec(program.Path, program.Args, program.Env))
}

func newPlan(program Program) (*plan, error) {
	path, err := syscall.BytePtrFromString(program.Path)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", program.Path, err)
	}
	argv, err := syscall.SlicePtrFromStrings(program.Args)
	if err != nil {
		return nil, fmt.Errorf("arguments: %w", err)
	}
	envv, err := syscall.SlicePtrFromStrings(program.Env)
	if err != nil {
		return nil, fmt.Errorf("environment: %w", err)
	}
	name, err := syscall.BytePtrFromString(processName)
	if err != nil {
		return nil, err
	}
	closer, err := syscall.BytePtrFromString(closerName)
	if err != nil {
		return nil, err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("getrlimit: %w", err)
	}
	limit.Cur = limit.Max
	return &plan{
		path: path, argv: &argv[0], envv: &envv[0], name: name, closerName: closer, files: limit, descriptors: uintptr(min(limit.Max, maxDescriptors)),
	}, nil
}

// maxDescriptors is the default of fs.nr_open (proc_sys_fs(5)), beyond which no descriptor's number goes.
const maxDescriptors = 1 << 20
