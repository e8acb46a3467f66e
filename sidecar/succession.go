package sidecar

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/keeper"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// memoryVariable tells a successor the number of the descriptor of its predecessor's memory.
const memoryVariable = "ANTEROOM_MEMORY"

// predecessorVariable tells a successor the process id of its predecessor.
const predecessorVariable = "ANTEROOM_PREDECESSOR"

// succession is what a sidecar has from its predecessor, and does for its successor.
type succession struct {
	log    hclog.Logger
	memory *manager.Memory
	heir   bool           // there was a predecessor
	estate manager.Estate // descriptors from it that nobody has claimed
	guard  *keeper.Guard  // nil: the death of this process ends every connection
	offer  *os.File       // to a predecessor that waits for this process to serve, and is its keeper until then; nil: there is none

	offered  uint32   // the number that makes this process the owner
	accepted bool     // the offer is: there is no way back
	settings *os.File // the configuration, for a successor
}

// inherit takes over from a predecessor, or prepares for a first life. With guarded, this process's death is followed by a successor from now on.
func inherit(c *Config, guarded bool, log hclog.Logger) (_ *succession, err error) {
	s := &succession{log: log, estate: manager.Estate{}}
	if err := s.keepSettings(c); err != nil {
		return nil, err
	}
	if fd, err := strconv.Atoi(os.Getenv(memoryVariable)); err == nil {
		err = s.takeOver(fd)
		if err != nil {
			return nil, fmt.Errorf("taking over: %w", err)
		}
	} else if s.memory, err = manager.NewMemory(); err != nil {
		return nil, err
	}
	if guarded && s.offer == nil {
		if err := s.beGuarded(atomic.LoadUint32(s.memory.Owner())); err != nil {
			return nil, s.failed(errors.Join(err, s.memory.Close()))
		}
	}
	if !guarded {
		if err := keeper.CloseBehind(); err != nil {
			log.Warn("sockets may stay open behind this process's death", "error", err)
		}
	}
	return s, nil
}

// beGuarded makes a keeper that succeeds as long as the owner is own.
func (s *succession) beGuarded(own uint32) (err error) {
	s.guard, err = keeper.NewGuard(s.successor(keeper.Self), s.memory.Owner(), own, s.log)
	return err
}

func (s *succession) takeOver(fd int) (err error) {
	// Executed by way of /proc, it would be called exe by ps(1).
	_ = os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), []byte(filepath.Base(os.Args[0])), 0)
	fds, err := keeper.Inherited()
	if err != nil {
		return err
	}
	for _, fd := range fds {
		s.estate[fd] = true
	}
	if pipe, err := strconv.Atoi(os.Getenv(keeper.SupervisorVariable)); err == nil {
		delete(s.estate, pipe)
	}
	s.receiveOffer()
	if s.memory, err = manager.OpenMemory(fd); err != nil {
		if s.offer != nil {
			s.refuse(err)
		}
		return err
	}
	s.heir = true
	s.tellDeath()
	return nil
}

// tellDeath warns if the predecessor has died. One that waits for this process is being replaced, and
// says so itself; a process that takes over from itself has said why.
func (s *succession) tellDeath() {
	predecessor := os.Getenv(predecessorVariable)
	if s.offer != nil || predecessor == strconv.Itoa(os.Getpid()) {
		return
	}
	s.log.Warn("the sidecar's process has died (its keeper took over)", "died", predecessor, "successor", os.Getpid())
}

// successor is this program, with the same arguments, told where the memory is.
func (s *succession) successor(path string) keeper.Program {
	env := make([]string, 0, len(os.Environ())+1)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains([]string{memoryVariable, predecessorVariable, offerVariable, settingsVariable}, name) {
			env = append(env, v)
		}
	}
	env = append(env, memoryVariable+"="+strconv.Itoa(s.memory.FD()), settingsVariable+"="+strconv.Itoa(int(s.settings.Fd())),
		predecessorVariable+"="+strconv.Itoa(os.Getpid()))
	return keeper.Program{Path: path, Args: os.Args, Env: env}
}

// manager makes the manager: a new one, or one that goes on with the predecessor's connections.
func (s *succession) manager(c manager.Config) (*manager.Manager, error) {
	c.Memory = s.memory
	if s.heir {
		return manager.Succeed(c, s.estate)
	}
	return manager.New(c)
}

// opened returns a listener that the predecessor has opened under the same key; nil if it has not.
func (s *succession) opened(key string) (*listener.Listener, error) {
	k, ok := s.memory.Kept(key)
	if !ok || !s.estate[k.FD] || !listener.Listening(k.FD) {
		return nil, nil // the predecessor was closing it
	}
	delete(s.estate, k.FD)
	return listener.Resume(k.FD, k.Owned, k.Shared)
}

// keep notes the listeners for the successor, and closes those of the predecessor that are not among them.
func (s *succession) keep(opened map[string]*listener.Listener) error {
	sockets := map[string]manager.Kept{}
	for key, l := range opened {
		sockets[key] = manager.Kept{FD: l.FD(), Owned: l.Owned(), Shared: l.Shared()}
	}
	forgotten, err := s.memory.KeepOnly(sockets)
	for key, k := range forgotten {
		s.forget(key, k)
	}
	return err
}

// forget closes a listener of the predecessor that the configuration does not name any more.
func (s *succession) forget(key string, k manager.Kept) {
	if !s.estate[k.FD] {
		return
	}
	delete(s.estate, k.FD)
	l, err := listener.Resume(k.FD, k.Owned, k.Shared)
	if err == nil {
		err = l.Close()
	}
	s.log.Info("a socket is not configured any more, so it is closed; its connections go on", "socket", key, "error", err)
}

// serving: everything that was inherited is in use or closed. The supervisor is told, and a predecessor that waits: it was the keeper until now.
func (s *succession) serving() error {
	if s.offer != nil && Supervised() {
		owner := s.memory.Owner()
		own := atomic.LoadUint32(owner) + 1
		if err := s.beGuarded(own); err != nil {
			return err
		}
		atomic.StoreUint32(owner, own) // if this process dies from now on its own keeper succeeds, and the predecessor does not
	}
	if err := keeper.Announce(); err != nil || s.offer == nil {
		return err
	}
	_ = answer(s.offer, serves) // it may have died meanwhile
	_ = s.offer.Close()
	s.offer = nil
	return nil
}

// failed ends a process that cannot take over. Before an offer is accepted it tells the
// predecessor, which goes on. After that, and after a death, it closes nothing, and so does not
// return: it dies as of kill -9, and its keeper, or a predecessor that waits, tries again. Where
// that is hopeless nobody follows, and a supervisor starts anew. A first process returns the error.
func (s *succession) failed(err error) error {
	if !s.heir {
		return err
	}
	if s.offer != nil && !s.accepted {
		s.refuse(err)
		return err
	}
	s.log.Error("this process cannot take over", "error", err)
	hopeless := errors.Is(err, manager.ErrHopeless) || s.memory != nil && !s.memory.CountFailure()
	if hopeless {
		s.close()
	}
	flushLog()
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {}
}

// mainPID tells a service manager that this process has taken the place of the one it has started, unless a supervisor stands for both.
func (s *succession) mainPID() []string {
	if !s.heir || Supervised() {
		return nil
	}
	return []string{"MAINPID=" + strconv.Itoa(os.Getpid())}
}

// close ends this process's ownership, and nobody's begins: the manager has ended. A predecessor that still waits takes it back.
func (s *succession) close() {
	if s.offer == nil {
		atomic.StoreUint32(s.memory.Owner(), s.memory.Offer())
	}
	_ = s.memory.Close()
}

// Supervise runs the sidecar in a process of its own, with a keeper beside it, until it ends of itself; signals are passed on. It returns its exit status.
func Supervise(c Config) (status int, err error) {
	if err := c.Check(); err != nil {
		return 0, err
	}
	log := c.logger().Named("supervisor")
	defer flushLog()
	own, err := os.Executable()
	if err != nil {
		return 0, err
	}
	inherited, err := c.inheritance()
	if err != nil {
		return 0, err
	}
	c.dropUnnamed(inherited, log)
	program := keeper.Program{Path: own, Args: os.Args, Env: append(os.Environ(), inherited.Variable())}
	program.Pass = c.passed(inherited)
	return keeper.Supervise(program, log)
}

// passed are the descriptors that a supervised process is to get: what a service manager has
// passed, and what settings name by number.
func (c *Config) passed(in *listener.Inheritance) (fds []int) {
	for _, p := range in.Left() {
		fds = append(fds, p.FD)
	}
	for _, name := range c.passedNames() {
		fd, err := strconv.Atoi(name)
		if err != nil || slices.Contains(fds, fd) {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			fds = append(fds, fd)
		}
	}
	return fds
}

// Supervised reports whether this process is one that Supervise has started, or a successor of it.
func Supervised() bool { return os.Getenv(keeper.SupervisorVariable) != "" }

// exit ends this process without closing anything: a successor uses it.
func exit(status int) {
	flushLog()
	unix.Exit(status)
}
