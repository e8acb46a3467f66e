package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// server answers five bytes to everything, and counts connections.
func server(t *testing.T, delay func(n int64) time.Duration) (options, *atomic.Int64) {
	t.Helper()
	var requests, opened atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(delay(requests.Add(1)))
		_, _ = w.Write([]byte("hello"))
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	target, err := parseTarget(s.URL + "/100")
	if err != nil {
		t.Fatal(err)
	}
	return options{connections: 4, threads: 2, rate: 500, duration: 400 * time.Millisecond, seed: 1, target: target}, &opened
}

// do runs a mode and returns its result, which is a T.
func do[T any](t *testing.T, mode func(options) (any, error), o options) T {
	t.Helper()
	found, err := mode(o)
	if err != nil {
		t.Fatal(err)
	}
	result, ok := found.(T)
	if !ok {
		t.Fatalf("the result is a %T", found)
	}
	return result
}

func atOnce(int64) time.Duration { return 0 }

func TestRateOffersWhatItWasTold(t *testing.T) {
	o, opened := server(t, atOnce)
	result := do[*RateResult](t, rate, o)
	// 200 are expected; a Poisson process of that mean stays within 100 of it but once in ten billion times, and the seed is fixed.
	if result.Requests < 100 || result.Requests > 300 || result.Errors != 0 || opened.Load() != 4 {
		t.Errorf("%+v on %d connections", result, opened.Load())
	}
	if result.Latency.P50 <= 0 || result.Latency.P99 < result.Latency.P50 {
		t.Errorf("latencies %+v", result.Latency)
	}
}

// A server that stops for a while makes all requests late that were due meanwhile, sent or not.
func TestRateCountsFromWhenRequestsWereDue(t *testing.T) {
	const stop = 200 * time.Millisecond
	o, _ := server(t, func(n int64) time.Duration {
		if n == 20 {
			return stop
		}
		return 0
	})
	o.connections = 1
	result := do[*RateResult](t, rate, o)
	// About half of the requests fall due within the stop; had they been counted from when they were sent, only one would be late.
	if late := time.Duration(result.Latency.P90); late < stop/4 {
		t.Errorf("p90 is %v though the server stopped for %v of %v", late, stop, o.duration)
	}
}

func TestFreshOpensAConnectionForEachRequest(t *testing.T) {
	o, opened := server(t, atOnce)
	result := do[*FreshResult](t, fresh, o)
	if result.Requests == 0 || result.Errors != 0 || opened.Load() < int64(result.Requests) {
		t.Errorf("%+v on %d connections", result, opened.Load())
	}
}
