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
	sidecar, keeper := s.awaitServing()
	if sidecar == 0 || keeper == 0 {
		return 0, fmt.Errorf("no sidecar (%d) with a keeper (%d) came", sidecar, keeper)
	}
	return 1, unix.Kill(sidecar, unix.SIGKILL)
}

// awaitServing: without a keeper the death of a sidecar does end its connections; it takes a moment to come.
func (s *script) awaitServing() (sidecar, keeper int) {
	for end := time.Now().Add(answerTime); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if sidecar, keeper = s.place.serving(); sidecar != 0 && keeper != 0 {
			break
		}
	}
	return sidecar, keeper
}

func (s *script) killKeeper() (int, error) {
	_, keeper := s.awaitServing()
	if keeper == 0 {
		return 0, fmt.Errorf("no keeper came")
	}
	err := unix.Kill(keeper, unix.SIGKILL)
	for end := time.Now().Add(answerTime); err == nil && time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, alive := nameOf(keeper); !alive { // or the next deed would rely on it
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
	sidecar, _ := s.awaitServing()
	return 0, s.pause(sidecar)
}

func (s *script) pauseHost() (int, error) { return 0, s.pause(s.place.hosts[s.anyHost()].Process.Pid) }

func (s *script) pause(pid int) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(time.Duration(s.rand.Intn(200)) * time.Millisecond)
	return unix.Kill(pid, unix.SIGCONT)
}

// fillTable goes on beside the next deeds.
func (s *script) fillTable() (int, error) {
	s.crowds.Go(func() { s.place.crowd(300 * time.Millisecond) })
	return 0, nil
}

func (s *script) rollHost() (int, error) { return 0, s.place.rollHost(s.anyHost()) }
