package status

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/anteroom-io/anteroom/manager"
)

// source answers what a test puts in it.
type source struct {
	counts   manager.Counts
	capacity manager.Capacity
	err      error
}

func (s *source) Counts(context.Context) (manager.Counts, error)     { return s.counts, s.err }
func (s *source) Capacity(context.Context) (manager.Capacity, error) { return s.capacity, s.err }

func busy() *source {
	s := &source{capacity: manager.Capacity{Limit: 100, InUse: 40, CanAdd: true}}
	s.counts = manager.Counts{
		States: manager.StateCounts{Idle: 38, Ready: 3, Leased: 2, Closing: 1},
		Listeners: []manager.ListenerCounts{
			{ID: 1, Name: "public", Address: "tcp://192.0.2.1:80", Pool: "web", Service: manager.Hung, States: manager.StateCounts{Idle: 30}, Accepted: 70},
			{ID: 2, Name: "app", Address: "tcp://192.0.2.1:81", Pool: "p7", Host: 3, States: manager.StateCounts{Idle: 8}, Accepted: 7, Paused: true, Service: manager.Serving},
		},
		Pools: []manager.PoolCounts{
			{Name: "web", Service: manager.Hung, Fed: true, Hosts: 2, States: manager.StateCounts{Idle: 30}},
			{Name: "p7", Service: manager.Serving, Private: true, Hosts: 1, States: manager.StateCounts{Idle: 5}},
			{Name: "p8", Service: manager.Serving, Private: true, Hosts: 1, States: manager.StateCounts{Idle: 3}},
		},
		Hosts: []manager.HostInfo{
			{ID: 1, Name: "worker", Pool: "web", Agent: "<b>go", Capacity: 8, Leased: 1, Leases: 100, Nacks: 1, Service: manager.Serving},
			{ID: 2, Name: "worker", Pool: "web", Capacity: 8, Leased: 1, Leases: 50, Stale: 2, Service: manager.Serving},
			{ID: 3, Name: "alone", Pool: "p7", Capacity: 1, Leases: 5, Violations: 4, Draining: true, Hung: true, Service: manager.Hung},
		},
		Totals: manager.Totals{Accepted: 77, Leases: 155, Requests: 150},
		Uptime: 90 * time.Second,

		Helpers:     manager.HelperCounts{Busy: 1, Stuck: 2, Waiting: 5},
		Successions: 3,
		Running:     true,
		State:       manager.Hung,
	}
	s.counts.Totals.Closed[manager.ReasonExpired] = 9
	s.counts.Totals.Answers[3] = 4 // 429
	s.counts.Totals.LeaseWaits.Buckets[0], s.counts.Totals.LeaseWaits.Buckets[3] = 100, 20
	s.counts.Totals.LeaseWaits.Buckets[17], s.counts.Totals.LeaseWaits.Sum = 3, 100*time.Second
	return s
}

func ask(t *testing.T, h http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	return r
}

func handler(s Source, serving bool) http.Handler {
	condition := func(pool string) (bool, string) {
		switch {
		case pool == "web" || pool == "" && !serving:
			return false, "not serving: pool web is hung"
		case pool == "nosuch":
			return false, "not serving: there is no pool \"nosuch\""
		}
		return true, "serving"
	}
	return Handler(s, condition, "v1.2.3", hclog.NewNullLogger())
}

// series are the sidecar's own metrics, by what stands before the value.
func series(t *testing.T, h http.Handler) map[string]float64 {
	t.Helper()
	answer := ask(t, h, "/metrics")
	if answer.Code != http.StatusOK {
		t.Fatalf("status %d: %s", answer.Code, answer.Body)
	}
	found := map[string]float64{}
	for line := range strings.Lines(answer.Body.String()) {
		at := strings.LastIndexByte(line, ' ')
		if !strings.HasPrefix(line, "anteroom_") || at < 0 {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		if err != nil {
			t.Fatal(err)
		}
		found[line[:at]] = v
	}
	return found
}

func TestMetrics(t *testing.T) {
	got := series(t, handler(busy(), true))
	for name, want := range map[string]float64{
		`anteroom_running`:             1,
		`anteroom_state{state="hung"}`: 1, `anteroom_pool_state{pool="web",state="hung"}`: 1,
		`anteroom_pool_state{pool="(private)",state="serving"}`: 2, `anteroom_host_draining{host="alone",pool="(private)"}`: 1,
		`anteroom_successions_total`:                                                  3,
		`anteroom_connections{state="idle"}`:                                          38,
		`anteroom_connections{state="ready"}`:                                         3,
		`anteroom_connections{state="leased"}`:                                        2,
		`anteroom_connections{state="closing"}`:                                       1,
		`anteroom_keep_alive_limit`:                                                   100,
		`anteroom_keep_alive_in_use`:                                                  40,
		`anteroom_helpers{state="busy"}`:                                              1,
		`anteroom_helpers{state="stuck"}`:                                             2,
		`anteroom_helper_calls_waiting`:                                               5,
		`anteroom_connections_accepted_total`:                                         77,
		`anteroom_leases_total`:                                                       155,
		`anteroom_connections_closed_total{reason="expired"}`:                         9,
		`anteroom_connections_closed_total{reason="hung_up"}`:                         0,
		`anteroom_answers_total{status="429"}`:                                        4,
		`anteroom_answers_total{status="503"}`:                                        0,
		`anteroom_lease_wait_seconds_bucket{le="0.0001"}`:                             100,
		`anteroom_lease_wait_seconds_bucket{le="0.001"}`:                              120,
		`anteroom_lease_wait_seconds_bucket{le="30"}`:                                 120,
		`anteroom_lease_wait_seconds_bucket{le="+Inf"}`:                               123,
		`anteroom_lease_wait_seconds_sum`:                                             100,
		`anteroom_host_hung{host="alone",pool="(private)"}`:                           1,
		`anteroom_host_hung{host="worker",pool="web"}`:                                0,
		`anteroom_listener_accepted_total{listener="public",pool="web"}`:              70,
		`anteroom_listener_paused{listener="app",pool="(private)"}`:                   1,
		`anteroom_listener_connections{listener="app",pool="(private)",state="idle"}`: 8,
		`anteroom_pool_connections{pool="(private)",state="idle"}`:                    8,
		`anteroom_pool_hosts{pool="(private)"}`:                                       2,
		`anteroom_host_capacity{host="worker",pool="web"}`:                            16,
		`anteroom_host_leased{host="worker",pool="web"}`:                              2,
		`anteroom_host_leases_total{host="worker",pool="web"}`:                        150,
		`anteroom_host_nacks_total{host="worker",pool="web"}`:                         1,
		`anteroom_host_stale_answers_total{host="worker",pool="web"}`:                 2,
		`anteroom_host_nonblock_violations_total{host="alone",pool="(private)"}`:      4,
	} {
		if v, there := got[name]; !there || v != want {
			t.Errorf("%s is %v (there: %v), want %v", name, v, there, want)
		}
	}
	if n := strings.Count(ask(t, handler(busy(), true), "/metrics").Body.String(), `anteroom_build_info{go_version="go`); n != 1 {
		t.Errorf("build info is there %d times", n)
	}
}

func TestMetricsFollowPrometheusHabits(t *testing.T) {
	problems, err := promlint.New(ask(t, handler(busy(), true), "/metrics").Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "anteroom_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestCountersDoNotFallWhenAHostLeaves(t *testing.T) {
	const workers = `anteroom_host_leases_total{host="worker",pool="web"}`
	s := busy()
	h := handler(s, true)
	step := func(want float64, hosts ...manager.HostInfo) {
		t.Helper()
		s.counts.Hosts = hosts
		got := series(t, h)
		if v, there := got[workers]; v != want || there != (len(hosts) > 0) {
			t.Errorf("%v (there: %v), want %v", v, there, want)
		}
	}
	worker := func(id manager.HostID, leases uint64) manager.HostInfo {
		return manager.HostInfo{ID: id, Name: "worker", Pool: "web", Leases: leases}
	}
	step(150, worker(1, 100), worker(2, 50))
	step(160, worker(2, 60))               // 1 left
	step(161, worker(2, 60), worker(5, 1)) // another came
	step(171, worker(5, 11))               // 2 left
	step(0)                                // nobody is left
	step(3, worker(6, 3))                  // a new beginning
}

func TestAScrapeFailsRatherThanLie(t *testing.T) {
	if answer := ask(t, handler(&source{err: manager.ErrStopped}, false), "/metrics"); answer.Code != http.StatusInternalServerError {
		t.Errorf("status %d, want 500: %s", answer.Code, answer.Body)
	}
}

func TestChecks(t *testing.T) {
	dead := &source{err: errors.New("it hangs")}
	for _, c := range []struct {
		source  *source
		serving bool
		path    string
		want    int
	}{
		{busy(), true, "/healthz", 200}, {busy(), false, "/healthz", 200}, {dead, false, "/healthz", 503},
		{busy(), true, "/readyz", 200}, {busy(), false, "/readyz", 503},
		{busy(), true, "/readyz?pool=p7", 200}, {busy(), false, "/readyz?pool=p7", 200},
		{busy(), true, "/readyz?pool=web", 503}, {busy(), true, "/readyz?pool=nosuch", 503},
		{busy(), true, "/", 200}, {dead, true, "/", 503},
		{busy(), true, "/other", 404},
	} {
		if answer := ask(t, handler(c.source, c.serving), c.path); answer.Code != c.want {
			t.Errorf("%s, serving %v: %d, want %d", c.path, c.serving, answer.Code, c.want)
		}
	}
	r := httptest.NewRecorder()
	handler(busy(), true).ServeHTTP(r, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/metrics", nil))
	if r.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d, want 405", r.Code)
	}
}

func TestPage(t *testing.T) {
	answer := ask(t, handler(busy(), true), "/")
	page := answer.Body.String()
	for _, want := range []string{
		"serving</span>", "v1.2.3 · up 1m30s", "<b>38</b>idle", "40 of 100 connections kept", "alone (hung)", "<td>web</td><td>hung</td>", "p7 (private)", "paused of host 3",
		"<dt>expired</dt><dd class=\"n\">9</dd>", "&lt;b&gt;go",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "<b>go") {
		t.Error("the page runs what it should show")
	}
	if diff := cmp.Diff("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'", answer.Header().Get("Content-Security-Policy")); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func TestPageSaysWhatIsMissing(t *testing.T) {
	if page := ask(t, handler(&source{}, false), "/").Body.String(); !strings.Contains(page, `<span class="is">not serving: pool web is hung</span>`) {
		t.Error("it does not say what is not served")
	}
}

func TestLongTablesAreCut(t *testing.T) {
	s := &source{counts: manager.Counts{Hosts: make([]manager.HostInfo, maxRows+7)}}
	if page := ask(t, handler(s, true), "/").Body.String(); !strings.Contains(page, "and 7 more") || strings.Count(page, "<tr>") > maxRows+10 {
		t.Error("the table of hosts was not cut")
	}
	if len(s.counts.Hosts) != maxRows+7 {
		t.Error("the source's own counts were changed")
	}
}

// TestTheManualHasEveryMetric: docs/metrics.md lists each of them.
func TestTheManualHasEveryMetric(t *testing.T) {
	manual, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range series(t, handler(busy(), true)) {
		name, _, _ = strings.Cut(name, "{")
		for _, part := range []string{"_bucket", "_sum", "_count"} { // of a histogram
			name = strings.TrimSuffix(name, part)
		}
		if !strings.Contains(string(manual), "| `"+name+"` |") {
			t.Errorf("%s is not in docs/metrics.md", name)
		}
	}
}
