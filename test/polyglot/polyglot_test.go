package polyglot

import (
	"errors"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/test/processes"
)

// scenarios are tried with each server, each on a stage of its own. After it the server must leave properly.
var scenarios = []struct {
	name string
	try  func(*stage)
}{
	{"keep-alive", (*stage).keepAlive},
	{"bodies", (*stage).bodies},
	{"head", (*stage).head},
	{"without a body", (*stage).withoutBody},
	{"stream", (*stage).stream},
	{"a worker is killed", (*stage).workerKilled},
	{"rolling restart", (*stage).rollingRestart},
}

func TestServers(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			r := results.servers[s.name]
			r.tried = true
			r.version = s.need(t)
			for _, sc := range scenarios {
				ok := t.Run(sc.name, func(t *testing.T) {
					st := newStage(t, s)
					sc.try(st)
					st.program.leave(t)
				})
				r.note(sc.name, ok)
			}
		})
	}
}

// A thousand requests on twenty connections.
func (st *stage) keepAlive() {
	const clients, requests = 20, 50
	before := st.sidecar.Counts().Totals
	var crew sync.WaitGroup
	for range clients {
		c := st.dial()
		crew.Go(func() {
			for range requests {
				if err := c.do(exchange{method: "GET", path: "/", want: "hello from " + st.server.word() + "\n"}); err != nil {
					st.t.Error(err)
					return
				}
			}
		})
	}
	crew.Wait()
	processes.Eventually(st.t, "all requests are counted", func() bool { return st.sidecar.Counts().Totals.Requests == before.Requests+clients*requests })
	if accepted := st.sidecar.Counts().Totals.Accepted - before.Accepted; accepted != clients {
		st.t.Errorf("%d connections were accepted, want %d", accepted, clients)
	}
	for _, h := range st.sidecar.Counts().Hosts {
		if h.Violations > 0 {
			st.t.Errorf("%s has cleared O_NONBLOCK %d times", h.Name, h.Violations)
		}
	}
}

func (st *stage) bodies() {
	c := st.dial()
	for _, size := range []int{0, 1, 1000, 100_000, 2_000_000} {
		for _, method := range []string{"POST", "PUT"} {
			for _, chunked := range []bool{false, true} {
				c.must(st.t, exchange{method: method, path: "/echo", body: letters(size), chunked: chunked, want: letters(size)})
			}
		}
	}
	c.must(st.t, exchange{method: "GET", path: "/bytes?n=3000000", want: letters(3_000_000)})
	c.must(st.t, exchange{method: "GET", path: "/file?n=300000", want: letters(300_000)})
}

func (st *stage) head() {
	c := st.dial()
	for _, path := range []string{"/", "/bytes?n=1000", "/stream?n=1000"} {
		c.must(st.t, exchange{method: "HEAD", path: path})
		c.must(st.t, exchange{method: "GET", path: "/bytes?n=10", want: letters(10)})
	}
}

func (st *stage) withoutBody() {
	c := st.dial()
	for _, code := range []int{http.StatusNoContent, http.StatusNotModified, http.StatusNotFound, http.StatusInternalServerError} {
		want := ""
		if code >= 400 {
			want = strconv.Itoa(code) + "\n"
		}
		path := "/status?code=" + strconv.Itoa(code)
		c.must(st.t, exchange{method: "GET", path: path, status: code, want: want})
		c.must(st.t, exchange{method: "HEAD", path: path, status: code})
	}
}

func (st *stage) stream() {
	c := st.dial()
	for _, n := range []int{1, 1000, 1_000_000} {
		c.must(st.t, exchange{method: "GET", path: "/stream?n=" + strconv.Itoa(n), want: letters(n), streamed: true})
	}
}

// The process that has a request is killed, with others under load. That request is lost, and of the others those that it had; idle connections
// notice nothing, and who starts it again, the program or the test, is soon served by another process.
func (st *stage) workerKilled() {
	idle := make([]*client, 20)
	hello := exchange{method: "GET", path: "/", want: "hello from " + st.server.word() + "\n"}
	for i := range idle {
		idle[i] = st.dial()
		idle[i].must(st.t, hello)
	}
	unlucky := st.dial()
	pid := unlucky.get(st.t, "/pid")
	if err := unlucky.hold(); err != nil { // its host is the one that had it last, as long as that has room
		st.t.Fatal(err)
	}
	processes.Eventually(st.t, "the request has its host", func() bool { return st.sidecar.Counts().States.Leased == 1 })
	load := st.load(6)
	load.awaitMore(st.t, 50)

	st.kill(pid)
	if a, err := unlucky.answer("POST"); !errors.Is(err, errLost) {
		st.t.Errorf("the request that the killed process had is answered with %+v, %v", a, err)
	}
	st.recover()
	load.awaitMore(st.t, 50)
	load.judge(st.t, capacity)
	for i, c := range idle {
		if err := c.do(hello); err != nil {
			st.t.Errorf("idle connection %d: %v", i, err)
		}
	}
	if again := st.dial().get(st.t, "/pid"); again == pid {
		st.t.Errorf("process %s is still there", pid)
	}
}

// kill kills a process of the program's.
func (st *stage) kill(pid string) {
	st.t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		st.t.Fatal(err)
	}
	if group, err := unix.Getpgid(n); err != nil || group != st.program.PID() {
		st.t.Fatalf("process %d is in group %d (%v), which is not that of %s", n, group, err, st.program.name)
	}
	if err := unix.Kill(n, unix.SIGKILL); err != nil {
		st.t.Fatal(os.NewSyscallError("kill", err))
	}
}

// recover waits until the server is complete again: some programs start a new process, others are one, and then the test does.
func (st *stage) recover() {
	st.t.Helper()
	processes.Eventually(st.t, "somebody is attached again", func() bool {
		if st.program.hasEnded() {
			st.program = st.next()
		}
		return st.program.attached(st.sidecar) >= capacity
	})
}

// The app is deployed twice: a new one is started, then the old one is told to leave. Clients notice nothing.
func (st *stage) rollingRestart() {
	load := st.load(6)
	load.awaitMore(st.t, 50)
	const restarts = 2
	for range restarts {
		old := st.program
		st.program = st.next()
		st.program.await(st.t, st.sidecar, capacity)
		load.awaitMore(st.t, 20)
		old.leave(st.t)
		load.awaitMore(st.t, 50)
	}
	load.judge(st.t, 0)
}
