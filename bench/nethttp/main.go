// Command nethttp answers as the benchmark's worker does, with Go's net/http alone: what people would write.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"strconv"
)

func main() {
	address := flag.String("listen", "127.0.0.1:0", "the `address` to listen on")
	flag.Parse()

	l, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	http.Handle("/100", body(100))
	http.Handle("/10k", body(10_000))
	http.Handle("/1m", body(1<<20))
	http.Handle("/10m", body(10<<20))
	fmt.Println("ready")
	log.Fatal(http.Serve(l, nil))
}

func body(size int) http.Handler {
	content := bytes.Repeat([]byte("x"), size)
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(content) // the client has gone: nobody is left to be told
	})
}
