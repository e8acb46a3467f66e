package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"github.com/anteroom-io/anteroom/host"
)

// serveDemoApp attaches to the sidecar as any app would, and serves until ctx ends.
func serveDemoApp(ctx context.Context, socket string, h http.Handler) error {
	return host.Serve(ctx, &http.Server{Handler: h}, host.Options{
		Path:   socket,
		Name:   "demo",
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
}
