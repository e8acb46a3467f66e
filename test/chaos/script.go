package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// script is what is done to a place, in an order that its seed decides.
type script struct {
	place *place
	rand  *rand.Rand
	kills int

	crowds sync.WaitGroup
}

func newScript(p *place, seed int64) *script {
	return &script{place: p, rand: rand.New(rand.NewSource(seed))}
}

// Of a hundred deeds, how many are of each kind.
var deeds = []struct {
	name  string
	share int
	do    func(*script) (kills int, err error)
}{
	{"host killed", 40, (*script).killHost},
	{"sidecar killed", 35, (*script).killSidecar},
	{"keeper killed", 7, (*script).killKeeper},
	{"host and sidecar killed", 6, (*script).killBoth},
	{"upgrade", 4, (*script).upgrade},
	{"sidecar paused", 3, (*script).pauseSidecar},
	{"host paused", 3, (*script).pauseHost},
	{"host rolled", 1, (*script).rollHost},
	{"table filled", 1, (*script).fillTable},
}

// run does deeds until enough are killed.
func (s *script) run(ctx context.Context, kills int) error {
	defer s.crowds.Wait()
	for s.kills < kills {
		select {
		case <-ctx.Done():
			return nil // what is missing is short
		case <-time.After(time.Duration(10+s.rand.Intn(90)) * time.Millisecond):
		}
		pick := s.rand.Intn(100)
		for _, d := range deeds {
			if pick -= d.share; pick < 0 {
				n, err := d.do(s)
				if err != nil {
					return fmt.Errorf("%s: %w", d.name, err)
				}
				s.kills += n
				s.place.report.did(d.name, n)
				break
			}
		}
	}
	return nil
}

func (s *script) anyHost() int { return s.rand.Intn(len(s.place.hosts)) }

func (s *script) killHost() (int, error) { return 1, s.place.killHost(s.anyHost()) }

func (s *script) killSidecar() (int, error) {
	_, err := s.signal(unix.SIGKILL, func(sidecar, _ int) int { return sidecar })
	return 1, err
}

// signal sends a signal to the process that pick chooses of the serving sidecar and its keeper, and
// returns its pid. A process that ends before the signal comes, such as the old one of an upgrade, is
// not the one that serves: signal looks again.
func (s *script) signal(signal unix.Signal, pick func(sidecar, keeper int) int) (pid int, err error) {
	err = unix.ESRCH
	for end := time.Now().Add(answerTime); err == unix.ESRCH && time.Now().Before(end); {
		sidecar, keeper := s.awaitServing()
		if sidecar == 0 || keeper == 0 {
			return 0, fmt.Errorf("no sidecar (%d) with a keeper (%d) came", sidecar, keeper)
		}
		pid = pick(sidecar, keeper)
		err = unix.Kill(pid, signal)
	}
	return pid, err
}

// awaitServing waits for a sidecar with a keeper: without one, the death of a sidecar ends its
// connections. It returns 0 for what has not come in time.
func (s *script) awaitServing() (sidecar, keeper int) {
	for end := time.Now().Add(answerTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if sidecar, keeper = s.place.serving(); sidecar != 0 && keeper != 0 {
			break
		}
	}
	return sidecar, keeper
}

// killKeeper returns when the keeper has ended, since the next deed relies on one that lives.
func (s *script) killKeeper() (int, error) {
	keeper, err := s.signal(unix.SIGKILL, func(_, keeper int) int { return keeper })
	for end := time.Now().Add(answerTime); err == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, alive := nameOf(keeper); !alive {
			break
		}
	}
	return 1, err
}

func (s *script) killBoth() (int, error) {
	n, err := s.killSidecar()
	if err != nil {
		return n, err
	}
	more, err := s.killHost()
	return n + more, err
}

func (s *script) upgrade() (int, error) {
	if _, keeper := s.awaitServing(); keeper == 0 {
		return 0, fmt.Errorf("no keeper came")
	}
	if out, err := s.place.command("upgrade"); err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	return 0, nil
}

func (s *script) pauseSidecar() (int, error) {
	pid, err := s.signal(unix.SIGSTOP, func(sidecar, _ int) int { return sidecar })
	if err != nil {
		return 0, err
	}
	return 0, s.resume(pid)
}

func (s *script) pauseHost() (int, error) {
	pid := s.place.hosts[s.anyHost()].Process.Pid
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return 0, err
	}
	return 0, s.resume(pid)
}

// resume lets a stopped process go on after up to 200 ms.
func (s *script) resume(pid int) error {
	time.Sleep(time.Duration(s.rand.Intn(200)) * time.Millisecond)
	return unix.Kill(pid, unix.SIGCONT)
}

// fillTable goes on beside the next deeds.
func (s *script) fillTable() (int, error) {
	s.crowds.Go(func() { s.place.crowd(300 * time.Millisecond) })
	return 0, nil
}

func (s *script) rollHost() (int, error) { return 0, s.place.rollHost(s.anyHost()) }
