package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/test/processes"
)

// Hosts are killed at random moments under load. Each client sees its right answer or the end of its connection, idle connections
// notice nothing, and the host that stays goes on.
func TestHostsAreKilled(t *testing.T) {
	seed := seed(t)
	s := processes.Serve(t, "--listen", "tcp://127.0.0.1:0", "--keep-alive-timeout", "1h")
	aHost(t, s, "stays")
	mortals := []*processes.Process{aHost(t, s, "mortal-0"), aHost(t, s, "mortal-1")}
	s.Hosts(3)
	idle := make([]*client, 150)
	for i := range idle {
		idle[i] = mustDial(t, s.Web[0])
		if err := idle[i].ask(name(i), 10, 0); err != nil {
			t.Fatal(err)
		}
	}

	load := &load{address: s.Web[0], end: time.Now().Add(5 * time.Second)}
	var crew sync.WaitGroup
	for i := range 16 {
		crew.Go(func() { load.run(i, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	killed := killSome(t, s, mortals, load.end, rand.New(rand.NewPCG(seed, 1000)))
	crew.Wait()

	t.Logf("%d hosts were killed; %d right answers, %d connections ended", killed, load.right.Load(), load.ended.Load())
	for _, err := range load.wrong {
		t.Error(err)
	}
	if killed < 4 || load.right.Load() < 200 || load.ended.Load() == 0 {
		t.Error("too little has happened")
	}
	for i, c := range idle {
		if err := c.ask("still-"+name(i), 10, 0); err != nil {
			t.Errorf("idle connection %d: %v", i, err)
		}
	}
	if n := s.Log.Lines("host gone", "stays"); n != 0 {
		t.Error("the host that stays has gone")
	}
}

func seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("ANTEROOM_TEST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	t.Logf("ANTEROOM_TEST_SEED=%d", seed)
	return seed
}

// killSome kills one host after the other, each at a random moment after it has attached, and starts another in its place.
func killSome(t *testing.T, s *processes.Sidecar, hosts []*processes.Process, end time.Time, rng *rand.Rand) (killed int) {
	t.Helper()
	for time.Now().Before(end) {
		time.Sleep(time.Duration(20+rng.IntN(300)) * time.Millisecond)
		i := rng.IntN(len(hosts))
		hosts[i].Signal(syscall.SIGKILL)
		hosts[i].Exit()
		killed++
		hosts[i] = aHost(t, s, fmt.Sprintf("mortal-%d", i))
		s.Hosts(3)
	}
	return killed
}

type load struct {
	address      string
	end          time.Time
	right, ended atomic.Uint64

	mu    sync.Mutex
	wrong []error // mu
}

func (l *load) run(me int, rng *rand.Rand) {
	var c *client
	for request := 0; time.Now().Before(l.end); request++ {
		if c == nil {
			var err error
			if c, err = dial(l.address); err != nil {
				l.complain(err)
				return
			}
		}
		word := fmt.Sprintf("load-%d-%d", me, request)
		err := c.ask(word, rng.IntN(100_000), time.Duration(rng.IntN(15))*time.Millisecond)
		if l.count(err); err != nil {
			_ = c.Close()
			c = nil
		}
	}
	if c != nil {
		_ = c.Close()
	}
}

func (l *load) count(err error) {
	switch {
	case err == nil || errors.Is(err, errLast):
		l.right.Add(1)
	case errors.Is(err, errWrong):
		l.complain(err)
	default:
		l.ended.Add(1)
	}
}

func (l *load) complain(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, err)
}
