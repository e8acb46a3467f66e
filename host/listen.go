package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/handoff"
)

// ErrSharedPool is returned by Listen and Adopt in a host that is in the default pool without
// having named it.
var ErrSharedPool = errors.New(`this host shares the pool "default" with other programs: set Options.Private, or name a pool`)

// ListenOptions says how the sidecar shall accept on a host's listening socket. The zero value is the sidecar's own way.
type ListenOptions struct {
	Name      string        // how operators see it: 1 to 64 of A-Z a-z 0-9 . _ : -; empty: its address
	Silent    bool          // lend also connections that have sent nothing in time (Lease.Silent), instead of closing them
	FirstByte time.Duration // how long a connection has for its first byte; 0: the sidecar's default
	Ready     string        // what must have arrived before a lease: a Ready constant of package handoff; empty: anything
	Backlog   int           // if positive, listen(2) again with it
}

// Listening is a listening socket of this process that the sidecar accepts on.
type Listening struct {
	host   *Host
	socket syscall.Conn
	how    handoff.Listen

	link *link // where id is valid; guarded by the host's mutex
	id   uint64
}

// Listen hands a listening socket (a *net.TCPListener, a *net.UnixListener, or an *os.File of one)
// to the sidecar, which accepts on it for this host's pool from now on. It stays the caller's, who
// must neither accept on it nor close it before Unlisten or the host's end; when the sidecar comes
// back after it has been away, it gets the socket again. It fails with ErrSharedPool as
// Options.Private says.
func (h *Host) Listen(ctx context.Context, socket syscall.Conn, o ListenOptions) (*Listening, error) {
	if h.opts.unnamed {
		return nil, fmt.Errorf("host: LISTEN: %w", ErrSharedPool)
	}
	l := &Listening{host: h, socket: socket, how: handoff.Listen{
		Name: o.Name, FirstByteTimeoutMS: int64(milliseconds(o.FirstByte)), Backlog: o.Backlog, Ready: o.Ready,
	}}
	if o.Silent {
		l.how.Silent = handoff.SilentLease
	}
	k := h.present()
	if k == nil {
		return nil, ErrLinkLost
	}
	if err := l.listen(ctx, k); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sockets = append(h.sockets, l)
	return l, nil
}

func (l *Listening) listen(ctx context.Context, k *link) error {
	fd, err := duplicate(l.socket)
	if err != nil {
		return fmt.Errorf("host: listening socket: %w", err)
	}
	f := l.how.Frame(0)
	answer, err := k.ask(ctx.Done(), &f, fd)
	if err != nil {
		return fmt.Errorf("host: LISTEN: %w", cancelled(ctx, err))
	}
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	l.link, l.id = k, answer.A
	return nil
}

// relisten hands this process's listening sockets to a sidecar that has come back.
func relisten(k *link, sockets []*Listening) {
	for _, l := range sockets {
		if err := l.listen(k.host.ctx, k); err != nil && !errors.Is(err, ErrLinkLost) {
			k.host.log.Error("a listening socket could not be handed to the sidecar again", "listener", l.how.Name, "error", err)
		}
	}
}

// Unlisten has the sidecar close its copy of the socket, and returns when it has.
func (l *Listening) Unlisten(ctx context.Context) error {
	h := l.host
	h.mu.Lock()
	h.sockets = slices.DeleteFunc(h.sockets, func(x *Listening) bool { return x == l })
	k, id := l.link, l.id
	h.mu.Unlock()
	_, err := k.ask(ctx.Done(), &handoff.Frame{Type: handoff.TypeUnlisten, A: id}, -1)
	if err == nil || errors.Is(err, ErrLinkLost) { // a sidecar that is gone has closed it
		return nil
	}
	return fmt.Errorf("host: UNLISTEN: %w", cancelled(ctx, err))
}

// Adopt gives a connection of this process, idle, to the sidecar, which lends it out when a request
// arrives. timeout is as in Lease.Put. On success c is closed here, and its id is returned; on
// failure c is untouched. It fails with ErrSharedPool as Options.Private says.
func (h *Host) Adopt(ctx context.Context, c net.Conn, timeout time.Duration) (id uint64, err error) {
	if h.opts.unnamed {
		return 0, fmt.Errorf("host: ADOPT: %w", ErrSharedPool)
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return 0, fmt.Errorf("host: ADOPT: a %T has no descriptor to hand over", c)
	}
	k := h.present()
	if k == nil {
		return 0, ErrLinkLost
	}
	fd, err := duplicate(socket)
	if err != nil {
		return 0, fmt.Errorf("host: ADOPT: %w", err)
	}
	answer, err := k.ask(ctx.Done(), &handoff.Frame{Type: handoff.TypeAdopt, A: milliseconds(timeout)}, fd)
	if err != nil {
		return 0, fmt.Errorf("host: ADOPT: %w", cancelled(ctx, err))
	}
	return answer.Conn, c.Close()
}

func cancelled(ctx context.Context, err error) error {
	if errors.Is(err, errCancelled) {
		return ctx.Err()
	}
	return err
}

// duplicate returns a descriptor of its own for what c is open on. It does not touch the flags, as File().Fd() would.
func duplicate(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	dup := -1
	if controlErr := raw.Control(func(fd uintptr) {
		dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	}); controlErr != nil {
		return -1, controlErr
	}
	return dup, err
}
