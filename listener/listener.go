package listener

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// DefaultBacklog is how many connections wait to be accepted where nothing else is said. The kernel cuts it, and any other, down to
// net.core.somaxconn without a word (listen(2)), which is 4096 since Linux 5.4.
const DefaultBacklog = 4096

// DefaultMode is the mode of a Unix socket's file where nothing else is said: connecting needs the right to write.
const DefaultMode fs.FileMode = 0o660

// What callers act on; test with errors.Is. Other errors carry the system call's name and its errno.
var (
	// ErrInUse: somebody listens there already.
	ErrInUse = errors.New("address in use")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("listener is closed")
)

// Options are how a listener is opened. The zero value is the default. Sockets that are inherited keep what their maker chose, but for Backlog.
type Options struct {
	Backlog   int          // connections that wait to be accepted; 0: DefaultBacklog. An inherited socket keeps its own where this is 0
	Mode      fs.FileMode  // of a Unix socket's file, permission bits only; 0: DefaultMode
	ReusePort bool         // SO_REUSEPORT: several sockets share a TCP address, and the kernel deals connections out
	Inherited *Inheritance // where FD addresses are looked up; nil: a number still works, a name does not
}

// Listener is a listening socket. It belongs to one goroutine: no two methods may run at the same time.
type Listener struct {
	fd     int
	addr   Address
	file   socketFile // of a Unix socket that this Listener created, else zero
	shared bool
}

// Open opens the listener at a. An address that somebody listens at gives ErrInUse.
//
// TCP sockets get SO_REUSEADDR, so that a restart need not wait for old connections to be forgotten. A Unix socket whose process has died is
// replaced; see the type socketFile for how. An FD address takes over a descriptor that this process was started with; if that fails, the
// descriptor is left as it was.
func Open(a Address, o Options) (*Listener, error) {
	l, err := open(a, o)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", a, err)
	}
	return l, nil
}

func open(a Address, o Options) (*Listener, error) {
	switch a.Network {
	case TCP:
		return openTCP(a, o)
	case Unix:
		return openUnix(a, o)
	case FD:
		return openInherited(a.Name, o)
	}
	return nil, fmt.Errorf("the network %q is not known: it is tcp, unix or fd", a.Network)
}

// Take makes a Listener of a descriptor that came from elsewhere, for example over a socket. It takes ownership: if it fails, fd is closed.
//
// The socket must be listening already, and accept streams over TCP or Unix. O_NONBLOCK,
// TCP_NODELAY and SO_OOBINLINE are set on it, for all its holders. The file of a Unix socket stays
// its creator's: Close does not remove it. Errors: ErrNotSocket, ErrNotListening, ErrNotStream,
// ErrFamily.
func Take(fd int) (*Listener, error) {
	l, err := Adopt(fd)
	if err != nil {
		_ = unix.Close(fd) // the reason for the refusal is what counts
		return nil, err
	}
	return l, nil
}

// Adopt is Take, but for one thing: if it fails, fd stays the caller's.
func Adopt(fd int) (*Listener, error) {
	kind, err := inspect(fd)
	if err != nil {
		return nil, err
	}
	if !kind.listening {
		return nil, ErrNotListening
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("fcntl(F_SETFL): %w", err)
	}
	l, err := listenerOn(fd, kind.family)
	if err == nil {
		l.shared = true
	}
	return l, err
}

// listenerOn finishes a listening socket, whoever made it.
func listenerOn(fd, family int) (*Listener, error) {
	if family != unix.AF_UNIX {
		// Accepted sockets inherit it, which saves a system call on each.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return nil, fmt.Errorf("setsockopt(TCP_NODELAY): %w", err)
		}
	}
	// Over TCP this is inherited, too: an urgent byte is one of the stream, so that the length of
	// the queue (SIOCINQ) is the number of bytes that can be read. Multipath TCP knows neither the
	// option nor such bytes.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	addr, err := localAddress(fd)
	if err != nil {
		return nil, err
	}
	return &Listener{fd: fd, addr: addr}, nil
}

// FD returns the descriptor, for a selector. It stays the Listener's; -1 after Close.
func (l *Listener) FD() int { return l.fd }

// Shared reports whether other processes may hold the socket: it came from elsewhere. They can
// clear O_NONBLOCK, so that Accept may block.
func (l *Listener) Shared() bool { return l.shared }

// Addr returns the address as the kernel has it: with the port that it picked, and for an inherited socket with where it is bound.
func (l *Listener) Addr() Address { return l.addr }

// String returns the text of Addr.
func (l *Listener) String() string { return l.addr.String() }

// Relisten calls listen(2) again, with another backlog (0: DefaultBacklog). Connections that wait stay in the queue.
//
// It also revives a TCP socket that another holder has shut down. A port that the kernel had picked is lost by then, and it picks another:
// look at Addr again. A Unix socket stays shut down.
func (l *Listener) Relisten(backlog int) error {
	if l.fd < 0 {
		return ErrClosed
	}
	if err := listen(l.fd, backlog); err != nil {
		return err
	}
	addr, err := localAddress(l.fd)
	if err != nil {
		return err
	}
	l.addr = addr
	return nil
}

// Close closes the descriptor. With it go the connections that wait to be accepted, unless another process holds the socket too. The file of
// a Unix socket is removed if this Listener created it and it is still the same. Called again it does nothing and returns nil.
func (l *Listener) Close() error {
	if l.fd < 0 {
		return nil
	}
	err := l.file.remove() // first, while we still listen: see socketFile
	fd := l.fd
	l.fd = -1
	if cerr := unix.Close(fd); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close: %w", cerr))
	}
	return err
}

// Release is Close, but for the descriptor, which is the caller's to close; -1 if it was closed before.
func (l *Listener) Release() (fd int, err error) {
	fd = l.fd
	if fd >= 0 {
		err = l.file.remove()
		l.fd = -1
	}
	return fd, err
}

func listen(fd, backlog int) error {
	if backlog == 0 {
		backlog = DefaultBacklog
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}
