cat >"$DIR/main.go" <<'END'
package main

import (
	"context"
	"io"
	"log"
	"net/http"

	"github.com/anteroom-io/anteroom/host"
)

func main() {
	ctx := context.Background()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello\n") })}
	log.Fatal(host.Serve(ctx, server, host.Options{}))
}
END
cd "$ROOT"
go build -o "$DIR/hello" "$DIR/main.go"
exec "$DIR/hello"
