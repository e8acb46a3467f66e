package drive

import (
	"net"
	"os"
	"testing"
	"time"
)

const wrkOutput = `Running 1s test @ http://127.0.0.1:18081/100
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.12ms    5.39ms  35.28ms   87.26%
    Req/Sec    30.98k    20.77k   75.47k    65.00%
  Latency Distribution
     50%  478.00us
     75%    3.39ms
     90%   10.38ms
     99%   25.21ms
  62097 requests in 1.01s, 11.25MB read
`

const wrkTail = `Requests/sec:  61449.69
Transfer/sec:     11.13MB
`

func TestParseWrk(t *testing.T) {
	for _, test := range []struct {
		name, middle string
		errors       int
	}{
		{"clean", "", 0},
		{"socket errors", "  Socket errors: connect 1, read 20, write 300, timeout 4000\n", 4321},
		{"bad answers", "  Non-2xx or 3xx responses: 17\n", 17},
		{"both", "  Socket errors: connect 0, read 2, write 0, timeout 0\n  Non-2xx or 3xx responses: 3\n", 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := parseWrk(wrkOutput + test.middle + wrkTail)
			if err != nil {
				t.Fatal(err)
			}
			if r.Requests != 62097 || r.P50 != 478*time.Microsecond || r.P99 != 25210*time.Microsecond || r.Errors != test.errors {
				t.Errorf("got %+v", r)
			}
			if d := r.Duration; d < 1010*time.Millisecond || d > 1011*time.Millisecond {
				t.Errorf("duration %v, want 62097/61449.69 s", d)
			}
		})
	}
}

func TestParseWrkWithoutResults(t *testing.T) {
	if _, err := parseWrk("unable to connect to 127.0.0.1:1 Connection refused\n"); err == nil {
		t.Error("no error for an output without results")
	}
}

// wrk prints this for a server that answers nothing.
func TestParseWrkOfNothing(t *testing.T) {
	r, err := parseWrk("  0 requests in 3.00s, 0.00B read\nRequests/sec:      0.00\nTransfer/sec:       0.00B\n")
	if err != nil || r.Requests != 0 || r.Errors != 0 || r.Duration != 0 {
		t.Errorf("%+v (%v)", r, err)
	}
}

func TestSocketsAreCounted(t *testing.T) {
	before, err := sockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
	}
	// Go's own epoll instance is no socket.
	if after, err := sockets(os.Getpid()); err != nil || after != before+3 {
		t.Errorf("%d sockets, then %d (%v)", before, after, err)
	}
}

func TestColoursAreTakenOut(t *testing.T) {
	s := slowhttptest{}
	s.output.WriteString("\x1b[H\x1b[2J\x1b[1;32mconnected:   \x1b[1;31m 300\x1b[0m")
	if got, want := s.said(), "connected:    300"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
