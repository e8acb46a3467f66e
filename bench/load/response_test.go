package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

const answer = "HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\nConnection: keep-alive\r\n\r\nhello"

func TestResponseInAnyPieces(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var r response
	for range 1000 {
		complete := 0
		for left := []byte(answer); len(left) > 0; {
			n := 1 + random.IntN(len(left))
			done, err := r.take(left[:n])
			if err != nil {
				t.Fatal(err)
			}
			left = left[n:]
			if done {
				complete++
				if len(left) > 0 {
					t.Fatalf("complete %d bytes early", len(left))
				}
			}
		}
		if complete != 1 {
			t.Fatalf("complete %d times", complete)
		}
	}
}

func TestBadResponses(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
		answer + "!",
	} {
		var r response
		if _, err := r.take([]byte(text)); err == nil {
			t.Errorf("no error for %q", text)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var d []time.Duration
	for i := 1000; i >= 0; i-- {
		d = append(d, time.Duration(i))
	}
	if got, want := percentilesOf(d), (percentiles{P50: 500, P90: 900, P99: 990, P999: 999, Max: 1000}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := percentilesOf(nil); got != (percentiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
