package host

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"

	"github.com/anteroom-io/anteroom/handoff"
)

// Serve attaches to the sidecar and serves the connections of Options.Pool with srv, until ctx ends.
// Then it drains: it finishes requests under way, gives connections back to the sidecar, and returns
// nil. If draining takes longer than Options.Grace, Serve cuts the rest and returns
// context.DeadlineExceeded. If ctx ends while it attaches, Serve returns nil.
//
// srv is an ordinary http.Server, whose timeouts, hooks and Shutdown keep their meaning; IdleTimeout is told to the sidecar with each put.
// Serve wraps its Handler and ConnContext.
func Serve(ctx context.Context, srv *http.Server, o Options) error {
	h, err := Attach(ctx, o)
	if err != nil {
		return unlessInterrupted(err)
	}
	defer func() { _ = h.Close() }()
	return h.Serve(ctx, srv)
}

// unlessInterrupted returns nil for an attempt to attach that its context ended, else err.
func unlessInterrupted(err error) error {
	if errors.Is(err, errInterrupted) {
		return nil
	}
	return err
}

// ListenAndServe is Serve for a server that brings its own address: it listens on srv.Addr (":http" if empty) and hands that socket to the
// sidecar, which accepts on it for this host's pool, a private one unless a name is given, and lends
// connections when their requests are complete.
func ListenAndServe(ctx context.Context, srv *http.Server, o Options) error {
	address := srv.Addr
	if address == "" {
		address = ":http"
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	o.Private = true
	h, err := Attach(ctx, o)
	if err != nil {
		return unlessInterrupted(err)
	}
	defer func() { _ = h.Close() }()
	_, err = h.Listen(ctx, l, ListenOptions{Ready: handoff.ReadyRequest})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil
	case err != nil:
		return err
	}
	return h.Serve(ctx, srv)
}

// Serve is the function Serve for a host that is attached already. When it has drained the host is closed.
func (h *Host) Serve(ctx context.Context, srv *http.Server) error {
	handler, done, err := h.opts.sendFiles(srv.Handler)
	if err != nil {
		return err
	}
	defer done()
	srv.Handler = handler
	prepare(srv)
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.opts.Grace)
		defer cancel()
		drained <- h.drainServer(grace, srv)
	})
	err = srv.Serve(h.Listener())
	if stop() {
		return err
	}
	return <-drained
}

// drainServer lets the sidecar take the connections back before the server is told to stop, since it drops a request that comes just then.
func (h *Host) drainServer(grace context.Context, srv *http.Server) error {
	if err := h.Drain(grace); err != nil {
		_ = srv.Close()
		return err
	}
	return srv.Shutdown(grace)
}

type connKey struct{}

// prepare lets the handler know the connection, for what only a response's header can say.
func prepare(srv *http.Server) {
	before := srv.ConnContext
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if before != nil {
			ctx = before(ctx, c)
		}
		return context.WithValue(ctx, connKey{}, c)
	}
	srv.Handler = Handler(srv.Handler)
}

// Handler makes next answer "Connection: close" where the sidecar wants a connection to end, or where nobody can say where its next request
// would begin. Serve does this by itself. A nil next is http.DefaultServeMux.
func Handler(next http.Handler) http.Handler {
	if next == nil {
		next = http.DefaultServeMux
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		if c.ends() {
			w.Header().Set("Connection", "close")
		}
		c.why.Store(uint64(App)) // stands if the handler panics
		next.ServeHTTP(w, r)
		c.why.Store(uint64(Done))
	})
}

// Listener delivers lent connections to net/http: http.Serve(h.Listener(), handler) works as it stands, and connections go back between
// requests. Serve also sends "Connection: close" where it should.
//
// The listener's Close, and so http.Server.Shutdown, pauses the host: leases that still come go to other hosts. Another Listener resumes it.
func (h *Host) Listener() net.Listener {
	ctx, cancel := context.WithCancel(h.ctx)
	h.listening(+1)
	return &listener{host: h, ctx: ctx, close: sync.OnceFunc(func() {
		cancel()
		h.listening(-1)
	})}
}

type listener struct {
	host  *Host
	ctx   context.Context
	close func()
}

// Accept waits for the first lease of a connection that has no goroutine here.
func (l *listener) Accept() (net.Conn, error) {
	for {
		lease, err := l.host.Next(l.ctx)
		if err != nil {
			return nil, l.why(err)
		}
		if !lease.Silent {
			return newConn(lease), nil
		}
		answerSilent(lease)
	}
}

// why: the listener was closed, or the host it belongs to has ended.
func (l *listener) why(err error) error {
	if !errors.Is(err, context.Canceled) {
		return err
	}
	if l.host.ctx.Err() == nil {
		return net.ErrClosed
	}
	<-l.host.done
	return l.host.why()
}

// answerSilent tells a client that has sent nothing in time.
func answerSilent(l Lease) {
	_, _ = l.Write([]byte("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
	_ = l.Close(TooSlow)
}

// Close ends Accept, and pauses the host if no other listener is left.
func (l *listener) Close() error {
	l.close()
	return nil
}

// Addr is the handoff socket's.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.host.opts.Path, Net: "unix"} }

// listening counts the listeners. When the last one closes, leases that nobody will take are given back.
func (h *Host) listening(change int) {
	h.mu.Lock()
	h.listeners += change
	refuse := h.listeners == 0
	h.mu.Unlock()
	h.refusing.Store(refuse)
	h.pause(refuse)
	for refuse {
		select {
		case c := <-h.queue:
			if l, ok := c.link.take(c); ok {
				_ = l.Nack()
			}
		default:
			return
		}
	}
}
