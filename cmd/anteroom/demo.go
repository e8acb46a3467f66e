package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/sidecar"
)

func demoCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a sidecar with a Go app behind it, and show what to try",
		Long: `Runs a sidecar and, in the same process, a small Go app that is attached to it as a host. The sockets are in a private folder that is removed
at the end. Ctrl-C ends both.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), listen, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "tcp://127.0.0.1:8080", "where clients connect: tcp://HOST:PORT; port 0 lets the kernel pick")
	return cmd
}

// demo runs until a signal, or until sidecar or app fail.
func demo(ctx context.Context, listen string, out io.Writer) (err error) {
	address, err := sidecar.ParseListen(listen)
	if err != nil || address.Address.Network != listener.TCP {
		return usage("--listen %q: %w", listen, cmp.Or(err, errors.New("give tcp://HOST:PORT")))
	}
	folder, err := privateFolder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	signalled, abort, stop := untilSignal(ctx)
	defer stop()
	ctx, cancel := context.WithCancelCause(signalled)
	defer cancel(nil)
	app := &demoApp{socket: filepath.Join(folder, "handoff.sock"), ended: make(chan struct{})}
	err = sidecar.Run(ctx, sidecar.Config{
		Listen:   []sidecar.Listen{{Address: address.Address, Name: "demo"}},
		Handoff:  listener.Address{Network: listener.Unix, Path: app.socket},
		Control:  listener.Address{Network: listener.Unix, Path: filepath.Join(folder, "control.sock")},
		LogLevel: "warn",
		Version:  version,
		Abort:    abort,
		OnReady: func(listening []listener.Address) {
			go app.run(ctx, cancel)
			showDemo(out, folder, listening[0])
		},
	})
	return demoResult(ctx, err, app)
}

// demoResult explains a sidecar that did not start, or else says why the app ended, if that came first.
func demoResult(ctx context.Context, err error, app *demoApp) error {
	if errors.Is(err, listener.ErrInUse) {
		return fmt.Errorf("%w\nHint: --listen tcp://127.0.0.1:0 lets the kernel pick a free port", err)
	}
	if app.started.Load() {
		<-app.ended
	}
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// privateFolder makes a folder that only this user can enter: where such folders belong, else where there is room.
func privateFolder() (folder string, err error) {
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run", os.TempDir()} {
		if parent == "" {
			continue
		}
		if folder, err = os.MkdirTemp(parent, "anteroom-demo-"); err == nil {
			return folder, nil
		}
	}
	return "", fmt.Errorf("there is no place for a folder with the sockets; set TMPDIR to a folder that may be written to: %w", err)
}

// demoApp is the app behind the sidecar.
type demoApp struct {
	socket   string
	requests atomic.Int64
	started  atomic.Bool
	ended    chan struct{}
}

// run serves until ctx ends; if it cannot, it ends everything.
func (a *demoApp) run(ctx context.Context, end context.CancelCauseFunc) {
	a.started.Store(true)
	defer close(a.ended)
	if err := serveDemoApp(ctx, a.socket, a.handler()); err != nil && ctx.Err() == nil {
		end(fmt.Errorf("the app behind the sidecar failed: %w", err))
	}
}

func (a *demoApp) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello %s, this is request %d to the app behind Anteroom (process %d).\n", r.RemoteAddr, a.requests.Add(1), os.Getpid())
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(slowAnswer):
		case <-r.Context().Done():
		}
		fmt.Fprintf(w, "That took %v; meanwhile the connection was leased.\n", slowAnswer)
	})
	return mux
}

const slowAnswer = 10 * time.Second

var demoText = template.Must(template.New("demo").Parse(`Anteroom serves a Go app at {{.URL}}/ . Ctrl-C ends it.
Its sockets are in {{.Folder}}: control.sock for operators, handoff.sock for more hosts (ANTEROOM_HANDOFF={{.Folder}}/handoff.sock).

Two requests over one connection, which the sidecar keeps between them:
  curl -v {{.URL}}/ {{.URL}}/
A request that takes ten seconds, to see a leased connection:
  curl {{.URL}}/slow

What the sidecar knows:
  export ANTEROOM_CONTROL=unix://{{.Folder}}/control.sock
  {{.Program}} status
  {{.Program}} conns
  {{.Program}} hosts
  {{.Program}} watch

The same over gRPC, with grpcurl (in this repository: go tool -modfile=tools/go.mod grpcurl):
  grpcurl -plaintext unix://{{.Folder}}/control.sock list
  grpcurl -plaintext unix://{{.Folder}}/control.sock anteroom.v1.ConnectionManagerService/GetConnectionCounts
  grpcurl -plaintext unix://{{.Folder}}/control.sock anteroom.v1.ConnectionManagerService/ListConnections
  grpcurl -plaintext -d '{"all": true}' unix://{{.Folder}}/control.sock anteroom.v1.ConnectionManagerService/Close
`))

func showDemo(out io.Writer, folder string, at listener.Address) {
	if !at.Host.IsValid() || at.Host.IsUnspecified() {
		at.Host = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // every address: this one is always there
	}
	_ = demoText.Execute(out, struct{ URL, Folder, Program string }{ // a reader who has gone is told nothing
		URL:     "http://" + netip.AddrPortFrom(at.Host, at.Port).String(),
		Folder:  folder,
		Program: os.Args[0],
	})
}
