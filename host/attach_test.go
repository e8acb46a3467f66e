package host_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
	"github.com/anteroom-io/anteroom/internal/freeport"
)

func TestAttachSaysWhatIsWrong(t *testing.T) {
	checkLeaks(t)
	dir := shortDir(t)
	dead := filepath.Join(dir, "dead.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, test := range []struct {
		name string
		o    host.Options
		want []string
	}{
		{"no socket", host.Options{Path: dir + "/none.sock"}, []string{dir + "/none.sock", "start the sidecar", "ANTEROOM_HANDOFF"}},
		{"nobody listens", host.Options{Path: dead}, []string{dead, "has stopped"}},
		{"not a socket", host.Options{Path: dir}, []string{dir, "no socket"}},
		{"an address", host.Options{Path: "unix://" + dir + "/none.sock"}, []string{" " + dir + "/none.sock"}},
		{"a long path", host.Options{Path: "/" + strings.Repeat("x", 200)}, []string{"201 bytes", "at most 107"}},
		{"all mistakes at once", host.Options{Name: "a b", Pool: "c d", Capacity: -1}, []string{`"a b"`, `"c d"`, "Capacity -1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, err := host.Attach(t.Context(), test.o)
			if err == nil {
				h.Close()
				t.Fatal("attached")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
		})
	}
}

// shortDir is a temporary folder in which a socket's path is short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "attach") //nolint:usetesting // t.TempDir's names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// oneShot accepts one host and does with it what the test says.
func oneShot(t *testing.T, act func(c *net.UnixConn)) string {
	t.Helper()
	dir := shortDir(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c, err := l.AcceptUnix(); err == nil {
			act(c)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return dir + "/s"
}

func TestAttachToASidecarThatRefuses(t *testing.T) {
	checkLeaks(t)
	path := oneShot(t, func(c *net.UnixConn) {
		f := handoff.Faultf(handoff.CodeNotAllowed, "user 7 may not attach here").Frame(handoff.TypeRefuse, 0)
		_, _ = c.Write(f.Append(nil))
	})
	_, err := host.Attach(t.Context(), host.Options{Path: path, Patience: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "user 7 may not attach here") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

func TestAttachToSomethingThatDoesNotAnswer(t *testing.T) {
	checkLeaks(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	hold := make(chan struct{})
	path := oneShot(t, func(*net.UnixConn) { <-hold })
	_, err := host.Attach(ctx, host.Options{Path: path})
	close(hold)
	if err == nil || !strings.Contains(err.Error(), "deadline exceeded") {
		t.Errorf("%v", err)
	}
}

func TestAttachFindsTheSidecarByTheEnvironment(t *testing.T) {
	checkLeaks(t)
	s := hosttest.Launch(t)
	t.Setenv(handoff.PathVariable, "unix://"+s.Path()) // as the sidecar's options have it
	h, err := host.Attach(t.Context(), host.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if h.Pool() == "" || h.Capacity() != host.DefaultCapacity {
		t.Errorf("pool %q, capacity %d", h.Pool(), h.Capacity())
	}
	h.Close()
}

func TestAttachWaitsForASidecarThatStartsLater(t *testing.T) {
	checkLeaks(t)
	s := hosttest.Start(t)
	s.Kill()
	restarted := make(chan struct{})
	time.AfterFunc(20*time.Millisecond, func() {
		s.Restart()
		close(restarted)
	})
	h, err := host.Attach(t.Context(), host.Options{Path: s.Path(), Patience: patience, Logger: quiet()})
	<-restarted
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
}

func TestASidecarThatIsKilledAndComesBack(t *testing.T) {
	checkLeaks(t)
	running := hosttest.Launch(t)
	hold := make(chan struct{})
	s := serveOn(t, running, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-hold
		}
		echo(w, r)
	})}, host.Options{})
	for range 2 {
		idle, busy := dial(t, s.addr), dial(t, s.addr)
		idle.send(get("/"))
		idle.want("GET", "GET / ")
		busy.send(get("/slow"))
		if line, err := busy.r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("%q, %v", line, err)
		}
		running.Kill()
		idle.wantEnd() // both copies are closed
		hold <- struct{}{}
		if rest := new(strings.Builder); true { // the request under way is served to its end
			_, _ = busy.r.WriteTo(rest)
			if !strings.Contains(rest.String(), "GET /slow ") {
				t.Errorf("got %q", rest)
			}
		}
		later := dial(t, s.addr) // waits in the listening socket's backlog
		later.send(get("/later"))
		running.Restart()
		later.want("GET", "GET /later ")
	}
}

func TestAHostThatIsAskedToLeaveComesBack(t *testing.T) {
	s := serve(t, &http.Server{Handler: echo}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	c.want("GET", "GET / ")
	s.sidecar.DrainHosts()
	eventually(t, "gone", func() bool { return s.sidecar.Counts().Hosts == 0 })
	eventually(t, "back", func() bool { return s.sidecar.Counts().Hosts == 1 })
	c = dial(t, s.addr)
	c.send(get("/"))
	c.want("GET", "GET / ")
}

func TestServeAndListenAndServe(t *testing.T) {
	checkLeaks(t)
	s := hosttest.Launch(t)
	ctx, cancel := context.WithCancel(t.Context())
	port, err := freeport.Reserve()
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	addr := port.Loopback()
	ended := make(chan error, 1)
	go func() {
		ended <- host.ListenAndServe(ctx, &http.Server{Addr: addr, Handler: echo}, host.Options{Path: s.Path(), Logger: quiet()})
	}()
	eventually(t, "listening", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	c := dial(t, addr)
	c.send(get("/"))
	c.want("GET", "GET / ")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ListenAndServe: %v", err)
	}
	if err := host.Serve(t.Context(), &http.Server{}, host.Options{Path: "/nowhere"}); err == nil {
		t.Error("Serve without a sidecar must fail")
	}
}

// A program that is asked to leave while it attaches has not failed: its exit status is 0.
func TestServeReturnsNilIfItsContextEndsWhileItAttaches(t *testing.T) {
	checkLeaks(t)
	silent, err := net.Listen("unix", filepath.Join(t.TempDir(), "s")) // takes connections, answers no HELLO
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	missing := filepath.Join(t.TempDir(), "missing")
	for name, path := range map[string]string{"no answer to HELLO": silent.Addr().String(), "no sidecar": missing} {
		options := host.Options{Path: path, Patience: time.Hour, Logger: quiet()}
		ctx, leave := context.WithCancelCause(t.Context())
		time.AfterFunc(20*time.Millisecond, func() { leave(errAsked) })
		if err := host.Serve(ctx, &http.Server{}, options); err != nil {
			t.Errorf("%s: Serve: %v", name, err)
		}
		if err := host.ListenAndServe(ctx, &http.Server{Addr: "127.0.0.1:0"}, options); err != nil {
			t.Errorf("%s: ListenAndServe: %v", name, err)
		}
		if _, err := host.Attach(ctx, options); !errors.Is(err, errAsked) {
			t.Errorf("%s: Attach: %v, want the context's cause", name, err)
		}
	}
	ended, leave := context.WithCancel(t.Context())
	leave()
	if err := host.Serve(ended, &http.Server{}, host.Options{Path: missing, Capacity: -1}); err == nil {
		t.Error("Serve with a mistake in its options must fail")
	}
}

var errAsked = errors.New("asked to leave")

// poolOf attaches with o and returns the host's pool.
func poolOf(t *testing.T, o host.Options) string {
	t.Helper()
	h, err := host.Attach(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return h.Pool()
}

// A host that serves what the sidecar listens on is in the default pool. One that brings a socket
// says so and has a pool of its own. A name wins over both.
func TestThePoolOfAHostThatNamesNone(t *testing.T) {
	checkLeaks(t)
	s := hosttest.Launch(t)
	for _, test := range []struct {
		name, variable, pool string
		private              bool
		want                 string
	}{
		{name: "nothing said", want: "default"},
		{name: "by the environment", variable: "web", want: "web"},
		{name: "by an option", variable: "web", pool: "api", want: "api"},
		{name: "private", private: true, want: "private-"},
		{name: "private, named by the environment", variable: "web", private: true, want: "web"},
		{name: "private, named by an option", pool: "api", private: true, want: "api"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv(host.PoolVariable, test.variable)
			o := host.Options{Path: s.Path(), Pool: test.pool, Private: test.private, Logger: quiet()}
			got := poolOf(t, o)
			isPrivate := test.want == "private-" && strings.HasPrefix(got, test.want)
			if got != test.want && !isPrivate {
				t.Errorf("pool %q, want %q", got, test.want)
			}
		})
	}
}

// A program whose connections would be lent to every host that names no pool is told so.
func TestSocketsDoNotGoToTheDefaultPoolUnnoticed(t *testing.T) {
	checkLeaks(t)
	s := hosttest.Launch(t)
	h, err := host.Attach(t.Context(), host.Options{Path: s.Path(), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	l := listenTCP(t)
	if _, err := h.Listen(t.Context(), l, host.ListenOptions{}); !errors.Is(err, host.ErrSharedPool) {
		t.Errorf("Listen: %v", err)
	}
	c := dial(t, l.Addr().String())
	if _, err := h.Adopt(t.Context(), c.Conn, 0); !errors.Is(err, host.ErrSharedPool) {
		t.Errorf("Adopt: %v", err)
	}
	named, err := host.Attach(t.Context(), host.Options{Path: s.Path(), Pool: handoff.DefaultPool, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	if _, err := named.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Errorf("Listen in a pool that was named: %v", err)
	}
}
