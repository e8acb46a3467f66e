package host_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/host/hosttest"
)

// App servers come and go while clients keep their connections: none may notice.
func TestRollingRestartUnderLoadLosesNothing(t *testing.T) {
	checkLeaks(t)
	running := hosttest.Launch(t)
	door, err := host.Attach(t.Context(), host.Options{Path: running.Path(), Pool: "shared", Capacity: 1, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	if err := door.SetCapacity(0); err != nil { // it only brings the listening socket
		t.Fatal(err)
	}
	l := listenTCP(t)
	if _, err := door.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() {
			ended <- host.Serve(ctx, &http.Server{Handler: echo}, host.Options{Path: running.Path(), Pool: "shared", Logger: quiet()})
		}()
		return func() {
			t.Helper()
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Serve: %v", err)
			}
		}
	}
	stopFirst := start()
	var group sync.WaitGroup
	var requests atomic.Int32
	done := make(chan struct{})
	for worker := range 10 {
		group.Go(func() {
			c := dial(t, l.Addr().String())
			defer c.Close()
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				path := fmt.Sprintf("/%d/%d", worker, i)
				c.send(get(path))
				c.want("GET", "GET "+path+" ")
				requests.Add(1)
			}
		})
	}
	for range 10 {
		from := requests.Load()
		eventually(t, "requests go on", func() bool { return requests.Load() > from+100 })
		stopNext := start()
		stopFirst()
		stopFirst = stopNext
	}
	close(done)
	group.Wait()
	stopFirst()
}

func TestDrainWaitsForRequestsUnderWay(t *testing.T) {
	hold := make(chan struct{})
	s := serve(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-hold
		echo(w, r)
	})}, host.Options{})
	c := dial(t, s.addr)
	c.send(get("/"))
	eventually(t, "leased", func() bool { return s.sidecar.Counts().Leased == 1 })
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	eventually(t, "draining", func() bool { // its listener is closed in the sidecar: nobody accepts any more
		n := s.sidecar.Counts().Accepted
		dial(t, s.addr).Close()
		return s.sidecar.Counts().Accepted == n
	})
	select {
	case err := <-stopped:
		t.Errorf("stopped with a request under way: %v", err)
	default:
	}
	close(hold)
	c.want("GET", "GET / ")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := s.sidecar.Counts(); n.Puts != 1 || n.Hosts != 0 {
		t.Errorf("%+v", n)
	}
}

func TestAGraceThatIsOverCutsWhatIsLeft(t *testing.T) {
	checkLeaks(t)
	sidecar := hosttest.Start(t)
	h, err := host.Attach(t.Context(), host.Options{Path: sidecar.Path(), Private: true, Grace: 20 * time.Millisecond, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	l := listenTCP(t)
	if _, err := h.Listen(t.Context(), l, host.ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Serve(ctx, &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
		})})
	}()
	c := dial(t, l.Addr().String())
	c.send(get("/"))
	<-begun
	cancel()
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want DeadlineExceeded", err)
	}
}

func TestDrainWithoutASidecar(t *testing.T) {
	checkLeaks(t)
	sidecar := hosttest.Start(t)
	h, err := host.Attach(t.Context(), host.Options{Path: sidecar.Path(), Private: true, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	sidecar.Kill()
	if err := h.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := h.Next(t.Context()); !errors.Is(err, host.ErrClosed) {
		t.Errorf("Next: %v", err)
	}
	h.Close()
}
