package process

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-io/anteroom/host"
	"github.com/anteroom-io/anteroom/test/processes"
)

// A host process: net/http behind package host. It answers /WORD/SIZE/MILLISECONDS, after so long, with WORD and so many bytes more.

// aHost starts a host and does not wait until it is attached.
func aHost(t testing.TB, s *processes.Sidecar, name string) *processes.Process {
	t.Helper()
	return as(t, "host", "ANTEROOM_HANDOFF="+s.Handoff(), "ANTEROOM_TEST_NAME="+name)
}

func beHost() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
	return host.Serve(ctx, server, host.Options{
		Name: os.Getenv("ANTEROOM_TEST_NAME"), Capacity: 64, Patience: processes.Patience,
	})
}

func answer(w http.ResponseWriter, r *http.Request) {
	word, size, wait, err := parse(r.URL.Path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	time.Sleep(wait)
	_, _ = w.Write(body(word, size)) // a client that has gone does not want it
}

func parse(path string) (word string, size int, wait time.Duration, err error) {
	parts := strings.Split(path, "/")
	if len(parts) != 4 {
		return "", 0, 0, fmt.Errorf("%q is not /WORD/SIZE/MILLISECONDS", path)
	}
	if size, err = strconv.Atoi(parts[2]); err != nil {
		return "", 0, 0, err
	}
	ms, err := strconv.Atoi(parts[3])
	return parts[1], size, time.Duration(ms) * time.Millisecond, err
}

// body is what a request for a word is answered with: no two words have the same.
func body(word string, size int) []byte {
	return append([]byte(word+"\n"), strings.Repeat(word+".", size/(len(word)+1)+1)[:size]...)
}
