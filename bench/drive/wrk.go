// Package drive loads an address with a client and says what came back.
package drive

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Result is what a client found.
type Result struct {
	Requests int // answered
	Errors   int // failed, timed out, or answered with something other than success
	Duration time.Duration
	P50, P99 time.Duration // 0 where the client does not measure latency
	Client   time.Duration // processor time the client itself used
	Raw      string        // what it printed
}

// Clients are the programs, and the processors they may use.
type Clients struct {
	Load string // path of bench/load's binary
	Pin  string // a list of processors for taskset(1); empty: where the kernel likes
}

// Wrk runs wrk: every connection asks again as soon as it is answered. Its time is in whole seconds.
func (c *Clients) Wrk(ctx context.Context, url string, connections, threads int, d time.Duration) (Result, error) {
	threads = min(connections, threads)
	out, used, err := c.run(ctx, "wrk", "--latency", "--timeout", "10s", "--threads", strconv.Itoa(threads),
		"--connections", strconv.Itoa(connections), "--duration", strconv.Itoa(int(d.Seconds()))+"s", url)
	if err != nil {
		return Result{}, err
	}
	result, err := parseWrk(out)
	result.Client = used
	if result.Duration == 0 { // no request was answered
		result.Duration = d
	}
	return result, err
}

// What wrk prints.
var (
	wrkRequests = regexp.MustCompile(`(?m)^\s*(\d+) requests in `)
	wrkRate     = regexp.MustCompile(`(?m)^Requests/sec:\s*([0-9.]+)`)
	wrkP50      = regexp.MustCompile(`(?m)^\s*50%\s+([0-9.]+)(us|ms|s|m)$`)
	wrkP99      = regexp.MustCompile(`(?m)^\s*99%\s+([0-9.]+)(us|ms|s|m)$`)
	wrkErrors   = regexp.MustCompile(`(?m)^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkStatus   = regexp.MustCompile(`(?m)^\s*Non-2xx or 3xx responses: (\d+)`)
)

func parseWrk(out string) (r Result, err error) {
	r.Raw = out
	requests, rate := wrkRequests.FindStringSubmatch(out), wrkRate.FindStringSubmatch(out)
	if requests == nil || rate == nil {
		return r, fmt.Errorf("wrk printed no requests and no rate, but:\n%s", out)
	}
	if r.Requests, err = strconv.Atoi(requests[1]); err != nil {
		return r, err
	}
	perSecond, err := strconv.ParseFloat(rate[1], 64)
	if err != nil {
		return r, err
	}
	if r.Requests > 0 && perSecond > 0 { // the duration it prints has two digits behind the point, the rate is better
		r.Duration = time.Duration(float64(r.Requests) / perSecond * float64(time.Second))
	}
	r.P50, r.P99 = wrkTime(wrkP50, out), wrkTime(wrkP99, out)
	r.Errors = sum(wrkErrors.FindStringSubmatch(out)) + sum(wrkStatus.FindStringSubmatch(out))
	return r, nil
}

func wrkTime(pattern *regexp.Regexp, out string) time.Duration {
	found := pattern.FindStringSubmatch(out)
	if found == nil {
		return 0
	}
	d, err := time.ParseDuration(found[1] + found[2])
	if err != nil {
		return 0
	}
	return d
}

// sum adds up the numbers a pattern found.
func sum(found []string) (total int) {
	for _, text := range found[min(1, len(found)):] {
		n, err := strconv.Atoi(text)
		if err == nil {
			total += n
		}
	}
	return total
}
