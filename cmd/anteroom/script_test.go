package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/host"
)

// TestMain makes this test binary three programs: anteroom itself, and an app and a visitor to go with it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"anteroom": main, "app": app, "visit": visit})
}

// TestScripts runs testdata/script. Beside testscript's own commands there are:
//
//	exits CODE PROGRAM ARGS…     the program ends with this exit code
//	await REGEXP PROGRAM ARGS…   the program prints it, within ten seconds
//	json PATH WANT               the JSON on stdout has this value there: names and indexes, with dots between; length is a list's
//	jsonenv NAME PATH            the value there becomes a variable
//	terminate PROGRAM            SIGTERM for the program of that name in the background
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("ANTEROOM_CONTROL", "unix://"+e.WorkDir+"/run/control.sock")
			e.Setenv("ANTEROOM_HANDOFF", e.WorkDir+"/run/handoff.sock")
			e.Setenv("GORACE", "atexit_sleep_ms=0") // every process waits a second at its end otherwise
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "await": await, "json": wantJSON, "jsonenv": jsonEnv, "terminate": terminate,
		},
	})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s never showed %s: %v\n%s", args[1:], args[0], err, ts.ReadFile("stdout"))
		}
	}
}

func terminate(ts *testscript.TestScript, _ bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		if filepath.Base(cmd.Args[0]) == args[0] {
			ts.Check(cmd.Process.Signal(unix.SIGTERM))
			return
		}
	}
	ts.Fatalf("no %s runs in the background", args[0])
}

func wantJSON(ts *testscript.TestScript, _ bool, args []string) {
	if got := jsonAt(ts, args[0]); got != args[1] {
		ts.Fatalf("%s is %s, want %s", args[0], got, args[1])
	}
}

func jsonEnv(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], jsonAt(ts, args[1]))
}

func jsonAt(ts *testscript.TestScript, path string) string {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for step := range strings.SplitSeq(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			v = item(ts, at, step)
		default:
			ts.Fatalf("%s: there is no %s in %v", path, step, v)
		}
	}
	return fmt.Sprint(v)
}

func item(ts *testscript.TestScript, list []any, step string) any {
	if step == "length" {
		return len(list)
	}
	i, err := strconv.Atoi(step)
	ts.Check(err)
	if i >= len(list) {
		ts.Fatalf("there is no item %d in a list of %d", i, len(list))
	}
	return list[i]
}

// app is a host with the name in its argument. / answers at once, /hold when the client has gone or a signal comes.
func app() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := serveApp(ctx)
	stop()
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serveApp(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("/hold", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-ctx.Done():
		case <-r.Context().Done():
		}
	})
	return host.Serve(ctx, &http.Server{Handler: mux}, host.Options{
		Name: os.Args[1], Pool: "default", Patience: 10 * time.Second, Grace: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
}

// visit asks for the paths in its arguments, over one connection to the Unix socket in its first, and keeps that open until the other side or a
// signal ends it.
func visit() {
	conn, err := net.Dial("unix", os.Args[1])
	if err == nil {
		err = browse(conn, os.Args[2:])
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func browse(conn net.Conn, paths []string) error {
	in := bufio.NewReader(conn)
	for _, path := range paths {
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\n\r\n", path); err != nil {
			return err
		}
		answer, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		if err := errors.Join(err, answer.Body.Close()); err != nil {
			return err
		}
		fmt.Printf("%s: %s\n", path, body)
	}
	_, err := in.ReadByte()
	return err
}
