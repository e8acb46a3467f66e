package sidecar

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
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
	ready  = 'r'
	goOn   = 'g'
	serves = 's'
)

// Limits of an upgrade.
const (
	checkTimeout = 10 * time.Second // for the new program to check the configuration
	readyTimeout = 5 * time.Second  // for it to start; clients wait meanwhile
	serveTimeout = 10 * time.Second // for it to take over
)

// ErrNotUpgraded means that everything is as it was before.
var ErrNotUpgraded = errors.New("the upgrade was given up, nothing has changed")

// Upgrade replaces this process by a new one of the program that is now where this one's was, which goes on with every connection and host. On success
// this process is about to end. Error: ErrNotUpgraded.
func (s *sidecar) Upgrade(ctx context.Context) (pid int, err error) {
	if !s.upgrading.TryLock() {
		return 0, fmt.Errorf("%w: another upgrade is under way", ErrNotUpgraded)
	}
	defer s.upgrading.Unlock()
	if err := s.checkProgram(ctx, s.program); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotUpgraded, err)
	}
	s.log.Info("upgrading", "program", s.program)
	err = s.manager.Freeze(func() (err error) {
		pid, err = s.succession.replace(s.program)
		return err
	})
	if err != nil {
		s.log.Error("not upgraded", "error", err)
		return 0, fmt.Errorf("%w: %w", ErrNotUpgraded, err)
	}
	s.log.Info("upgraded, this process leaves", "successor", pid)
	s.replaced <- struct{}{}
	return pid, nil
}

// checkProgram asks the new program to check this process's configuration.
func (s *sidecar) checkProgram(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	check := exec.CommandContext(ctx, path, append([]string{"check"}, s.config.Args...)...)
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("%s check: %w: %s", path, err, out)
	}
	return nil
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

// end kills a process and waits until it is gone.
func end(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return
		}
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
	case b[0] != word:
		return fmt.Errorf("it said %q, %q was due", b[0], word)
	}
	return nil
}

func answer(to *os.File, word byte) error {
	_, err := unix.Write(int(to.Fd()), []byte{word})
	return err
}

// acceptOffer tells a predecessor that waits that this process is ready, and waits for its word. Nil without a predecessor that waits.
func (s *succession) acceptOffer() (*os.File, error) {
	var fd int
	var own uint32
	if n, _ := fmt.Sscanf(os.Getenv(offerVariable), "%d:%d", &fd, &own); n != 2 {
		return nil, nil
	}
	delete(s.estate, fd)
	offer := os.NewFile(uintptr(fd), "offer")
	err := errors.Join(answer(offer, ready), await(offer, goOn, readyTimeout))
	if atomic.LoadUint32(s.memory.Owner()) != own { // what counts, also if the predecessor died over its word
		return nil, fmt.Errorf("the predecessor changed its mind: %w", err)
	}
	return offer, nil
}

// leave ends this process after an upgrade. Nothing is closed properly: it is all the new process's.
func (s *sidecar) leave() {
	s.control.stop() // answers who has asked for the upgrade
	exit(0)
}
