// Command worker is the app server that every arrangement of the benchmark has behind it: one thread, one epoll loop, no allocation per
// request. It answers on a listening socket of its own, alone or as the upstream of a proxy, or as a host of Anteroom; what it does to a
// request is the same code either way.
//
//	worker -listen 127.0.0.1:8081
//	worker -handoff /run/anteroom/handoff.sock -pool default
//
// It prints "ready" once it can be reached, and ends when it is told to (SIGTERM) or when the sidecar hangs up.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
)

func main() {
	listen := flag.String("listen", "", "serve on a listening socket at this IPv4 `address` and port")
	path := flag.String("handoff", "", "serve as a host of the sidecar whose handoff socket is at this `path`")
	pool := flag.String("pool", "default", "the pool to join, with -handoff")
	name := flag.String("name", "worker", "how the sidecar calls this host, with -handoff")
	capacity := flag.Int("capacity", 1024, "how many leases to take at once, with -handoff")
	flag.Parse()

	runtime.LockOSThread() // the loop's thread is the only one that ever works
	err := run(*listen, *path, hostOptions{name: *name, pool: *pool, capacity: *capacity})
	if errors.Is(err, io.EOF) { // the sidecar has hung up
		return
	}
	fmt.Fprintln(os.Stderr, "worker:", err)
	os.Exit(1)
}

// run serves until there is an error.
func run(listen, path string, o hostOptions) error {
	l, err := newLoop()
	if err != nil {
		return err
	}
	switch {
	case listen != "" && path == "":
		return serveAlone(l, listen)
	case path != "" && listen == "":
		return serveHosted(l, path, o)
	}
	return errors.New("give either -listen or -handoff (worker -h explains them)")
}
