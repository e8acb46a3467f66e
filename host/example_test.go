package host_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/anteroom-io/anteroom/host"
)

// An app behind a sidecar's own listeners. SIGTERM lets it finish what it has begun; its clients
// stay connected.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", r.RemoteAddr)
	})}
	if err := host.Serve(ctx, srv, host.Options{}); err != nil {
		log.Print(err)
	}
}

// An app that brings its own address: the sidecar accepts on its socket.
func ExampleListenAndServe() {
	srv := &http.Server{Addr: ":8080", Handler: http.FileServer(http.Dir("."))}
	log.Fatal(host.ListenAndServe(context.Background(), srv, host.Options{}))
}

// A server that is not net/http: one lease at a time, by hand.
func ExampleHost_Next() {
	h, err := host.Attach(context.Background(), host.Options{Pool: "lines", Capacity: 1})
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		lease, err := h.Next(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		n, err := lease.Read(buf)
		if err == nil {
			_, err = lease.Write(buf[:n])
		}
		if err != nil {
			_ = lease.Close(host.Client)
			continue
		}
		_ = lease.Put(0)
	}
}
