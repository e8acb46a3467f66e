package listener

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Credentials are those of the process that connected a Unix socket, at the moment it did (SO_PEERCRED, unix(7)). A process that is not visible
// from our pid namespace has PID 0, a user without a place in our user namespace 65534: authorise by user, never by process.
type Credentials struct {
	PID int32
	UID uint32
	GID uint32
}

// PeerAddress is where a connection comes from.
type PeerAddress struct {
	Network     Network        // TCP or Unix
	AddrPort    netip.AddrPort // TCP
	Credentials Credentials    // Unix
}

// String returns "192.0.2.1:40000", "[2001:db8::1]:40000" or "unix uid=1000 pid=4242".
func (p PeerAddress) String() string {
	if p.Network == Unix {
		return fmt.Sprintf("unix uid=%d pid=%d", p.Credentials.UID, p.Credentials.PID)
	}
	return p.AddrPort.String()
}

// Peer returns where the accepted socket fd comes from. ErrNotConnected: the peer has reset the connection, and its address is gone.
func Peer(fd int) (PeerAddress, error) {
	where, err := unix.Getpeername(fd)
	switch {
	case errors.Is(err, unix.ENOTCONN):
		return PeerAddress{}, ErrNotConnected
	case errors.Is(err, unix.ENOTSOCK):
		return PeerAddress{}, ErrNotSocket
	case err != nil:
		return PeerAddress{}, fmt.Errorf("getpeername: %w", err)
	}
	switch where.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
		return PeerAddress{Network: TCP, AddrPort: addrPort(fd, where)}, nil
	case *unix.SockaddrUnix:
		c, err := PeerCredentials(fd)
		return PeerAddress{Network: Unix, Credentials: c}, err
	}
	return PeerAddress{}, ErrFamily
}

// ConnectedWhere reports whether fd is a Unix socket that is connected to where the Unix socket
// accepted was accepted.
func ConnectedWhere(accepted, fd int) bool {
	ours, err := unix.Getsockname(accepted)
	if err != nil {
		return false
	}
	its, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	where, ok := ours.(*unix.SockaddrUnix)
	there, alsoUnix := its.(*unix.SockaddrUnix)
	return ok && alsoUnix && where.Name != "" && where.Name == there.Name
}

// PeerCredentials returns who connected the Unix socket fd. ErrNotUnix: other sockets do not know.
func PeerCredentials(fd int) (Credentials, error) {
	family, err := socketOption(fd, unix.SO_DOMAIN, "SO_DOMAIN")
	if err != nil {
		return Credentials{}, err
	}
	if family != unix.AF_UNIX {
		return Credentials{}, ErrNotUnix
	}
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Credentials{}, fmt.Errorf("getsockopt(SO_PEERCRED): %w", err)
	}
	return Credentials{PID: c.Pid, UID: c.Uid, GID: c.Gid}, nil
}
