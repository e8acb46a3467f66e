package conformance

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"
)

// TestMain makes this test binary the faulty host too.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "faulty-host" {
		runFaulty(os.Args[2], os.Args[3])
	}
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0") // the faulty host would live on for a second when it has ended
	dir, err := os.MkdirTemp("", "kit-test-")
	if err != nil {
		panic(err)
	}
	app = filepath.Join(dir, "app")
	build := exec.Command("go", "build", "-o", app, "../host/conformance")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		panic(err)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// app is the built Go conformance app.
var app string

// judge runs the cases that match.
func judge(t *testing.T, only string, timeout time.Duration, command ...string) Report {
	t.Helper()
	r, err := Run(t.Context(), Options{Command: command, Only: regexp.MustCompile(only), Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) == 0 {
		t.Fatalf("no case matches %s", only)
	}
	return r
}

// TestTheGoHostConforms: through a process in between that changes nothing, so that the faults below are the faults alone.
func TestTheGoHostConforms(t *testing.T) {
	t.Parallel()
	for _, r := range judge(t, "", 20*time.Second, os.Args[0], "faulty-host", "none", app).Results {
		if r.Outcome == Fail {
			t.Errorf("%s: %s\n%s", r.Name, r.Reason, r.Output)
		}
	}
}

// TestFaultsAreFound: each fault, and the cases that must find it.
func TestFaultsAreFound(t *testing.T) {
	t.Parallel()
	for fault, finders := range map[string][]string{
		"hello-late":                  {"hello/in-time"},
		"other-name":                  {"hello/fields"},
		"other-capacity":              {"hello/fields"},
		"private-pool":                {"hello/default-pool"},
		"no-magic":                    {"hello/in-time"},
		"strict-json":                 {"hello/welcome-unknown-members"},
		"spins":                       {"hello/refused-for-now", "hello/refused-for-good", "hello/hung-up-on"},
		"torn":                        {"hello/welcome-in-pieces", "frames/cut", "frames/merged"},
		"ignores-ping":                {"frames/ping", "frames/batched"},
		"busy":                        {"frames/ping-busy"},
		"small-numbers":               {"frames/ping"},
		"fails-at-unknown":            {"frames/unknown", "frames/batched"},
		"keeps-stray":                 {"frames/unknown-with-descriptor"},
		"forgets-put":                 {"requests/get"},
		"early-put":                   {"requests/bytes"},
		"puts-twice":                  {"requests/get"},
		"wrong-seq":                   {"requests/get"},
		"miscounts":                   {"requests/pipelined-5"},
		"forgets-close":               {"requests/close-asked", "requests/http10", "clients/gone-in-body"},
		"puts-what-it-should-close":   {"requests/close-told", "requests/last", "clients/gone-in-head"},
		"shutdown-then-close":         {"requests/close-told", "requests/http10"},
		"ignores-last":                {"requests/last", "requests/last-after-put"},
		"ignores-peer":                {"requests/peer-told"},
		"one-at-a-time":               {"requests/capacity", "clients/slow-sender"},
		"ignores-forget":              {"reuse/forget", "reuse/forget-leased", "descriptors/leaks"},
		"shuts-down-forgotten":        {"reuse/forget", "reuse/forget-leased"},
		"nack-overload":               {"reuse/unknown-id", "link/new-life"},
		"reads-after-put":             {"reuse/deaf"},
		"leaks":                       {"reuse/forget", "descriptors/leaks", "descriptors/leaks-closed", "descriptors/idle-dropped", "hello/without-features", "link/hang-up-idle"},
		"inherits":                    {"descriptors/close-on-exec"},
		"silent-about-lost":           {"descriptors/none-left"},
		"silent-about-dropped":        {"descriptors/idle-dropped"},
		"clears-nonblock":             {"descriptors/nonblocking"},
		"finishes-more-than-there-is": {"clients/slow-reader"},
		"forgets-detach":              {"upgrade/echo"},
		"ignores-draining":            {"leaving/asked", "leaving/asked-idle"},
		"closes-idle":                 {"reuse/idle-long"},
		"prints":                      {"leaving/quiet"},
		"ends-with-the-link":          {"link/hang-up-idle", "link/hang-up-leased", "link/away", "link/error"},
		"keeps-a-dead-link":           {"link/crash"},
		"no-draining":                 {"leaving/term-idle", "leaving/term-busy"},
		"exit-1":                      {"leaving/term-idle"},
	} {
		for _, finder := range finders {
			t.Run(fault+"/"+finder, func(t *testing.T) {
				t.Parallel()
				r := judge(t, "^"+finder+"$", time.Second, os.Args[0], "faulty-host", fault, app)
				if got := r.Results[0]; got.Outcome != Fail {
					t.Errorf("%s %s: the fault was not found", got.Outcome, got.Reason)
				} else {
					t.Log(got.Reason)
				}
			})
		}
	}
}

// TestOneAnswerForAllIsNotEnough: every case looks at what was answered.
func TestOneAnswerForAllIsNotEnough(t *testing.T) {
	t.Parallel()
	r := judge(t, "^(requests|clients|upgrade|reuse|frames|link)/", 300*time.Millisecond, os.Args[0], "faulty-host", "answers-all-alike", app)
	for _, got := range r.Results {
		if got.Outcome == Pass && got.Name != "frames/ping" { // which asks for no response
			t.Errorf("%s passed", got.Name)
		}
	}
}

// TestAProgramThatDoesNotAttachIsGivenUp: soon, and with what it printed.
func TestAProgramThatDoesNotAttachIsGivenUp(t *testing.T) {
	t.Parallel()
	r := judge(t, "^requests/", time.Second, "sh", "-c", "echo no such module >&2; exit 7")
	if r.Passed != 0 || r.OK() {
		t.Errorf("%d of %d passed", r.Passed, r.Total)
	}
	if why := r.Results[0].Reason; !regexp.MustCompile(`(?s)ended \(exit status 7\).*no such module`).MatchString(why) {
		t.Errorf("the reason is %q", why)
	}
}

// TestNothingIsLeftRunning: the program and what it has started are killed.
func TestNothingIsLeftRunning(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Run(ctx, Options{Command: []string{"sh", "-c", "sleep 1000 & echo $! >>" + pids + "; wait"}})
		done <- err
	}()
	for {
		if text, _ := os.ReadFile(pids); len(text) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("a run that was interrupted has a result")
	}
	text, _ := os.ReadFile(pids)
	if _, err := os.Stat("/proc/" + string(slices.Concat(text[:len(text)-1])) + "/exe"); err == nil {
		t.Errorf("process %s is still there", text)
	}
}
