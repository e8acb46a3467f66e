package host_test

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// What conn relies on in net/http, without documentation to point to. If one of these fails after a new Go version, look at conn.Read first.

// spy records how net/http uses a connection.
type spy struct {
	net.Conn
	mu        sync.Mutex
	serving   bool // from a request's arrival to its handler's end
	beside    []int
	between   []int
	deadlines int
	reading   chan struct{} // one for each Read that begins
}

func (s *spy) Read(p []byte) (int, error) {
	s.note(len(p))
	s.reading <- struct{}{}
	n, err := s.Conn.Read(p)
	if len(p) > 1 && n > 0 {
		s.set(true) // a request has come
	}
	return n, err
}

func (s *spy) note(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving {
		s.beside = append(s.beside, size)
	} else {
		s.between = append(s.between, size)
	}
}

func (s *spy) SetDeadline(t time.Time) error {
	s.mu.Lock()
	s.deadlines++
	s.mu.Unlock()
	return s.Conn.SetDeadline(t)
}

func (s *spy) set(serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving = serving
}

// spied is a listener whose first connection is a spy.
type spied struct {
	net.Listener
	spy *spy
}

func (l *spied) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.spy.Conn = c
	return l.spy, nil
}

// spyOn serves handler on an ordinary socket, with every timeout set.
func spyOn(t *testing.T, handler http.HandlerFunc) (*spy, *client) {
	t.Helper()
	checkLeaks(t)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &spy{reading: make(chan struct{}, 100)}
	srv := &http.Server{
		Handler:     http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(w, r); s.set(false) }),
		ReadTimeout: patience, ReadHeaderTimeout: patience, WriteTimeout: patience, IdleTimeout: patience,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(&spied{inner, s}) }()
	t.Cleanup(func() { srv.Close(); <-ended })
	return s, dial(t, inner.Addr().String())
}

func TestNetHTTPReadsOneByteBesideAHandlerAndMoreOnlyForTheNextRequest(t *testing.T) {
	var s *spy
	s, c := spyOn(t, func(w http.ResponseWriter, r *http.Request) {
		for len(s.reading) == 0 { // drained below: the next Read is the one beside this handler
			time.Sleep(time.Millisecond)
		}
		fmt.Fprint(w, "x")
	})
	for range 3 {
		<-s.reading // for the request
		c.send(get("/"))
		c.want("GET", "x")
		<-s.reading // beside the handler
	}
	<-s.reading
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.beside {
		if n != 1 {
			t.Errorf("reads beside a handler: %v bytes", s.beside)
		}
	}
	for _, n := range s.between {
		if n <= 1 {
			t.Errorf("reads for a request: %v bytes", s.between)
		}
	}
	if len(s.beside) != 3 || len(s.between) != 4 || s.deadlines != 0 {
		t.Errorf("%d and %d reads, %d deadlines for both ways", len(s.beside), len(s.between), s.deadlines)
	}
}

func TestNetHTTPSetsADeadlineForBothWaysOnlyToHijack(t *testing.T) {
	s, c := spyOn(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/hijack" {
			return
		}
		own, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		own.Close()
	})
	deadlines := func() int { s.mu.Lock(); defer s.mu.Unlock(); return s.deadlines }
	c.send(get("/"))
	c.want("GET", "")
	if n := deadlines(); n != 0 {
		t.Errorf("%d without hijacking", n)
	}
	c.send(get("/hijack"))
	c.wantEnd()
	if n := deadlines(); n != 1 {
		t.Errorf("%d with hijacking", n)
	}
}
