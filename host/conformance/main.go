// Command conformance is the conformance app of docs/hosts.md: an ordinary net/http server behind host.Serve, or, to compare, alone.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/host"
)

func main() {
	alone := flag.String("alone", "", "serve at this `address` without a sidecar")
	flag.Parse()
	server := &http.Server{Handler: echoHeader(app()), Addr: *alone}
	run := serve
	if *alone != "" {
		run = (*http.Server).ListenAndServe
	}
	if err := run(server); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve serves what the sidecar has, until SIGTERM.
func serve(server *http.Server) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return host.Serve(ctx, server, host.Options{Patience: 365 * 24 * time.Hour})
}

// echoHeader repeats X-Echo in every response.
func echoHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v := r.Header.Get("X-Echo"); v != "" {
			w.Header().Set("X-Echo", v)
		}
		next.ServeHTTP(w, r)
	})
}

func app() http.Handler {
	mux := http.NewServeMux()
	text := func(pattern string, body func(r *http.Request) string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, body(r)) })
	}
	text("GET /{$}", func(*http.Request) string { return "hello from go\n" })
	text("GET /pid", func(*http.Request) string { return strconv.Itoa(os.Getpid()) + "\n" })
	text("GET /peer", peer)
	text("GET /sleep", func(r *http.Request) string {
		time.Sleep(time.Duration(number(r, "ms")) * time.Millisecond)
		return "slept\n"
	})
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("PUT /echo", echo)
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n := number(r, "n")
		w.Header().Set("Content-Length", strconv.Itoa(n))
		_, _ = io.Copy(w, pattern(n))
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush() // the head first, so that no length can be known
		_, _ = io.Copy(w, pattern(number(r, "n")))
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		code := number(r, "code")
		w.WriteHeader(code)
		if code != http.StatusNoContent && code != http.StatusNotModified {
			fmt.Fprintln(w, code)
		}
	})
	mux.HandleFunc("GET /close", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "bye\n")
	})
	mux.HandleFunc("GET /file", file)
	mux.HandleFunc("GET /upgrade", upgrade)
	mux.HandleFunc("GET /crash", func(http.ResponseWriter, *http.Request) { os.Exit(1) })
	return mux
}

// number reads a number of the query.
func number(r *http.Request, name string) int {
	n, _ := strconv.Atoi(r.URL.Query().Get(name))
	return max(0, min(n, 100_000_000))
}

// pattern is n bytes, of which byte i is 'a' + i % 26.
func pattern(n int) io.Reader { return io.LimitReader(&alphabet{}, int64(n)) }

type alphabet struct{ at int }

func (a *alphabet) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a' + byte((a.at+i)%26)
	}
	a.at += len(p)
	return len(p), nil
}

func peer(r *http.Request) string {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr + "\n"
	}
	return ip + "\n"
}

// echo answers with the request's body, which net/http lets a handler read only before it answers.
func echo(w http.ResponseWriter, r *http.Request) {
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body.Bytes())
}

// file sends /bytes as a file.
func file(w http.ResponseWriter, r *http.Request) {
	f, err := memoryFile(number(r, "n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "text/plain")
	http.ServeContent(w, r, "", time.Time{}, f)
}

func memoryFile(n int) (*os.File, error) {
	fd, err := unix.MemfdCreate("file", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "file")
	_, err = io.Copy(f, pattern(n))
	return f, err
}

// upgrade switches to a protocol in which every byte comes back.
func upgrade(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" {
		http.Error(w, "upgrade to echo", http.StatusBadRequest)
		return
	}
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = conn.Close() }()
	_, err = both.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if err = errors.Join(err, both.Flush()); err == nil {
		_, _ = io.Copy(conn, both.Reader)
	}
}
