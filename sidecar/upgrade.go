package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/keeper"
)

// An upgrade, step by step. The old process asks the new program whether it could run at all (check), and whether it could read the memory (its version). Then it
// stops between two turns of its loop, and starts the new program with copies of all of its descriptors. The new process says ready when it has read everything and
// changed nothing; until then the old one can go on as if nothing had been. Then the old one makes the new one the owner, by one store, so that there is never
// more than one whichever of them is killed when, and tells it to go on. The new one takes over, makes its keeper, and says so by one more store. When it serves, the old one leaves.
// If the new one fails before its keeper stands the old one takes its store back and ends, for a successor of its own version: the keeper, or itself. docs/model has all of this.

// offerVariable tells a new process the number of the socket on which its predecessor waits.
const offerVariable = "ANTEROOM_OFFER"

// The words of an upgrade, a byte each.
const (
	ready   = 'r'
	goOn    = 'g'
	serves  = 's'
	refuses = 'x' // instead of ready; a sentence follows
)

// Limits of an upgrade.
const (
	checkTimeout = 10 * time.Second // for the new program to check the configuration
	readyTimeout = 5 * time.Second  // for it to start; clients wait meanwhile
	serveTimeout = 10 * time.Second // for it to take over
)

// ErrNotUpgraded means that everything is as it was before.
var ErrNotUpgraded = errors.New("nothing has changed")

// ErrMisconfigured is an ErrNotUpgraded: the program that was to take over has found mistakes in
// the configuration.
var ErrMisconfigured = fmt.Errorf("%w: the configuration is wrong", ErrNotUpgraded)

// misconfiguredStatus is the exit status of a check that has found mistakes (docs/cli.md).
const misconfiguredStatus = 2

// Replacement is what has come of an upgrade or a reload.
type Replacement struct {
	PID     int // of the new process
	Changes []Change
}

// Upgrade replaces this process by a new one of the program that is now where this one's was, which goes on with every connection and host. On success
// this process is about to end. Error: ErrNotUpgraded.
func (s *sidecar) Upgrade(ctx context.Context) (Replacement, error) {
	return s.replaceBy(ctx, "upgrade", s.program)
}

// Reload is an Upgrade to the very same program, which reads the configuration again.
func (s *sidecar) Reload(ctx context.Context) (Replacement, error) {
	return s.replaceBy(ctx, "reload", keeper.Self)
}

func (s *sidecar) replaceBy(ctx context.Context, what, program string) (r Replacement, err error) {
	if r.PID, r.Changes, err = s.tryReplace(ctx, program); err != nil {
		s.log.Error("not replaced, this process goes on", "program", program, "error", err)
		if !errors.Is(err, ErrNotUpgraded) {
			err = fmt.Errorf("%w: %w", ErrNotUpgraded, err)
		}
		return r, fmt.Errorf("the %s was given up, %w", what, err)
	}
	s.log.Info("another process serves now, this one leaves", "successor", r.PID)
	s.replaced <- struct{}{}
	return r, nil
}

func (s *sidecar) tryReplace(ctx context.Context, program string) (pid int, changes []Change, err error) {
	if !s.upgrading.TryLock() {
		return 0, nil, errors.New("another upgrade or reload is under way")
	}
	defer s.upgrading.Unlock()
	choices, err := s.mayCheck(ctx, program)
	if err != nil {
		return 0, nil, err
	}
	changes = s.inForce(ctx, differences(s.config.Choices, choices))
	if len(changes) == 0 && choices != nil {
		s.log.Info("no setting has changed")
	}
	s.log.Info("starting a process that takes over", "program", program)
	for _, c := range changes {
		s.log.Info("a setting changes", "key", c.Key, "before", c.Before, "now", c.Now)
	}
	err = s.manager.Freeze(func() (err error) {
		pid, err = s.succession.replace(program)
		return err
	})
	return pid, changes, err
}

// mayCheck is checkProgram, unless the check would hang at its start. The program is then not
// asked, but is started: it says then whether it can run.
func (s *sidecar) mayCheck(ctx context.Context, program string) ([]Choice, error) {
	hangs, err := s.manager.HoldsHungFiles(ctx)
	if err != nil {
		return nil, err
	}
	if hangs {
		s.log.Warn("the program is not checked before it starts: file systems do not answer, and the check would wait for them", "program", program)
		return nil, nil
	}
	return s.checkProgram(ctx, program)
}

// checkProgram asks a program to check this process's configuration, and returns the settings as it
// reads them.
func (s *sidecar) checkProgram(ctx context.Context, path string) ([]Choice, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	check := exec.CommandContext(ctx, path, append([]string{"check", "--json"}, s.config.Args...)...)
	check.WaitDelay = checkDelay
	check.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check.Cancel = func() error { return unix.Kill(-check.Process.Pid, unix.SIGKILL) }
	defer func() {
		if check.Process != nil {
			_ = unix.Kill(-check.Process.Pid, unix.SIGKILL) // what the program has left behind
		}
	}()
	var said bytes.Buffer
	check.Stderr = &limitedBuffer{&said}
	out := new(bytes.Buffer)
	check.Stdout = &limitedBuffer{out}
	if err := check.Run(); err != nil {
		return nil, checkFailure(path, err, strings.TrimSpace(out.String()+said.String()))
	}
	var choices []Choice
	if err := json.Unmarshal(out.Bytes(), &choices); err != nil {
		s.log.Debug("what changes is not known", "program", path, "error", err)
	}
	return choices, nil
}

// checkFailure is the error of a check that ended with err and has said something.
func checkFailure(path string, err error, said string) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == misconfiguredStatus && said != "" {
		return fmt.Errorf("%w: %s", ErrMisconfigured, strings.TrimPrefix(said, "anteroom: "))
	}
	if said == "" {
		return fmt.Errorf("%s check: %w", path, err)
	}
	return fmt.Errorf("%s check: %w: %s", path, err, said)
}

// inForce are the changes with the values of limits that are in force until now: operators may have set
// others than the configuration.
func (s *sidecar) inForce(ctx context.Context, changes []Change) []Change {
	limits, err := s.manager.Limits(ctx)
	if err != nil {
		return changes
	}
	for _, l := range ShowLimits(limitsMessage(limits)) {
		for i := range changes {
			if changes[i].Key == l.Key {
				changes[i].Before = l.Value
			}
		}
	}
	return changes
}

// checkDelay bounds the wait for the output of a check that has ended and left a child behind,
// which holds the pipes open.
const checkDelay = time.Second

// limitedBuffer keeps the beginning of what a program says.
type limitedBuffer struct{ *bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	const most = 1 << 20
	_, _ = b.Buffer.Write(p[:min(len(p), max(most-b.Len(), 0))]) // never fails
	return len(p), nil
}

// replace starts the new program and hands everything over to it. Once it says go, it does not come back without success.
func (s *succession) replace(path string) (pid int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("socketpair: %w", err)
	}
	ours := os.NewFile(uintptr(pair[0]), "offer")
	defer func() { _ = ours.Close() }()
	program := s.successor(path)
	owner := s.memory.Owner()
	own := atomic.LoadUint32(owner)
	offered := s.memory.Offer() // never the same again: a new process that was offered it before its predecessor died may still live
	program.Env = append(program.Env, fmt.Sprintf("%s=%d:%d", offerVariable, pair[1], offered))
	pid, err = keeper.Spawn(program)
	_ = unix.Close(pair[1])
	if err != nil {
		return 0, err
	}
	if err := await(ours, ready, readyTimeout); err != nil {
		end(pid)
		return 0, fmt.Errorf("the new process: %w", err)
	}
	atomic.StoreUint32(owner, offered)
	if err := errors.Join(answer(ours, goOn), await(ours, serves, serveTimeout)); err != nil {
		end(pid)
		if !atomic.CompareAndSwapUint32(owner, offered, own) {
			s.log.Error("the new process failed when it had taken over: its keeper takes over from it", "error", err)
			return pid, nil
		}
		s.memory.Forgive()
		s.log.Error("the new process failed while it took over: one of the old version takes over from it", "error", err)
		s.startOver()
	}
	return pid, nil
}

// startOver ends this process, whose memory another has changed, for a successor of the same version.
func (s *succession) startOver() {
	if s.guard != nil {
		exit(1) // the keeper succeeds
	}
	err := keeper.Become(s.successor(keeper.Self))
	s.log.Error("no successor could be started, connections are lost", "error", err)
	exit(1)
}

// endTimeout bounds the wait for the end of a process that was killed: it may have to close files
// whose file system does not answer.
const endTimeout = time.Second

// end kills a process and waits until it is gone, or no longer runs its program.
func end(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	select {
	case <-gone:
	case <-time.After(endTimeout):
	}
}

// await waits for a word.
func await(from *os.File, word byte, timeout time.Duration) error {
	limit := unix.NsecToTimeval(int64(timeout))
	if err := unix.SetsockoptTimeval(int(from.Fd()), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return fmt.Errorf("setsockopt(SO_RCVTIMEO): %w", err)
	}
	var b [1]byte
	n, err := unix.Read(int(from.Fd()), b[:])
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Read(int(from.Fd()), b[:])
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("it did not answer within %v", timeout)
	case err != nil:
		return err
	case n == 0:
		return errors.New("it has ended")
	case b[0] == refuses:
		return errors.New(reason(from))
	case b[0] != word:
		return fmt.Errorf("it said %q, %q was due", b[0], word)
	}
	return nil
}

func answer(to *os.File, word byte) error {
	_, err := unix.Write(int(to.Fd()), []byte{word})
	return err
}

// reason reads why a new process refuses.
func reason(from *os.File) string {
	b := make([]byte, 4096)
	n, _ := unix.Read(int(from.Fd()), b)
	return string(b[:max(n, 0)])
}

// receiveOffer finds the predecessor that waits, if there is one.
func (s *succession) receiveOffer() {
	var fd int
	if n, _ := fmt.Sscanf(os.Getenv(offerVariable), "%d:%d", &fd, &s.offered); n == 2 {
		delete(s.estate, fd)
		s.offer = os.NewFile(uintptr(fd), "offer")
	}
}

// accept tells a predecessor that waits that this process is ready, and waits for its word. Before
// that nothing that both have may be changed.
func (s *succession) accept() error {
	if s.offer == nil {
		return nil
	}
	err := errors.Join(answer(s.offer, ready), await(s.offer, goOn, readyTimeout))
	if atomic.LoadUint32(s.memory.Owner()) != s.offered { // what counts, also if the predecessor died over its word
		return fmt.Errorf("the old process has cancelled the upgrade: %w", err)
	}
	s.accepted = true
	return nil
}

// refuse tells a predecessor that waits why this process cannot take over.
func (s *succession) refuse(why error) {
	_, _ = unix.Write(int(s.offer.Fd()), append([]byte{refuses}, why.Error()...)) // it goes on in any case
}

// leave ends this process after an upgrade. Nothing is closed properly: it is all the new process's.
func (s *sidecar) leave() {
	s.control.stop() // answers who has asked for the upgrade
	exit(0)
}
