package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/host"
)

// hostVariable makes this program a host of that name; the others say where.
const (
	hostVariable    = "CHAOS_HOST"
	handoffVariable = "CHAOS_HANDOFF"
	dirVariable     = "CHAOS_DIR"
)

// beHost serves requests for numbers, until SIGTERM.
func beHost() error {
	name, dir := os.Getenv(hostVariable), os.Getenv(dirVariable)
	journal, err := os.OpenFile(journalPath(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	server := &http.Server{Handler: numbers(journal)}
	return host.Serve(ctx, server, host.Options{
		Path: os.Getenv(handoffVariable), Name: name, Pool: "default", Capacity: 8, Patience: time.Minute,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

// numbers answers a request with its own number, and bytes that follow from it.
func numbers(journal io.Writer) http.Handler {
	write := func(what string, seq uint64) { fmt.Fprintf(journal, "%s %d\n", what, seq) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seq, err := strconv.ParseUint(r.Header.Get("X-Seq"), 10, 64)
		if err != nil {
			http.Error(w, "X-Seq: "+err.Error(), http.StatusBadRequest)
			return
		}
		write(lineRead, seq)
		if n, err := io.Copy(io.Discard, newChecker(r.Body, seq)); err != nil || n != r.ContentLength {
			http.Error(w, fmt.Sprintf("the body is wrong: %d of %d bytes, %v", n, r.ContentLength, err), http.StatusBadRequest)
			return
		}
		pause, _ := strconv.Atoi(r.Header.Get("X-Pause"))
		time.Sleep(time.Duration(pause) * time.Millisecond)
		size, _ := strconv.Atoi(r.Header.Get("X-Size"))
		w.Header().Set("X-Seq", r.Header.Get("X-Seq"))
		w.Header().Set("X-Client", r.Header.Get("X-Client"))
		w.Header().Set("Content-Length", strconv.Itoa(size))
		write(lineBegun, seq)
		_, _ = w.Write(content(seq, size))
		write(lineDone, seq)
	})
}

// content is the bytes of a body: they depend on the request's number.
func content(seq uint64, size int) []byte {
	b := make([]byte, size)
	x := seq*2862933555777941757 + 3037000493
	for i := range b {
		x = x*2862933555777941757 + 3037000493
		b[i] = byte(x >> 56)
	}
	return b
}

// checker reads a body and compares it.
type checker struct {
	r    io.Reader
	want []byte
}

// maxBody is the longest that clients send.
const maxBody = 64 << 10

func newChecker(r io.Reader, seq uint64) *checker { return &checker{r, content(seq, maxBody)} }

func (c *checker) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > len(c.want) || string(p[:n]) != string(c.want[:n]) {
		return 0, fmt.Errorf("a byte is not what it should be")
	}
	c.want = c.want[n:]
	return n, err
}
