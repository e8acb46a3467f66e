package listener

import (
	"golang.org/x/sys/unix"
)

// Resume is Take for a socket that a predecessor of this process has opened: owned and shared say
// what its Owned and Shared said.
func Resume(fd int, owned, shared bool) (*Listener, error) {
	l, err := Take(fd)
	if err != nil {
		return nil, err
	}
	l.shared = shared
	if !owned {
		return l, nil
	}
	if l.file, err = identify(l.addr.Path); err != nil {
		l.file = socketFile{} // it is gone, so nobody has to remove it
	}
	return l, nil
}

// Listening reports whether a descriptor is a listening socket.
func Listening(fd int) bool {
	kind, err := inspect(fd)
	return err == nil && kind.listening
}

// Owned reports whether Close removes the file of a Unix socket.
func (l *Listener) Owned() bool { return l.file != socketFile{} }

// Accepted reports whether a connection may have been accepted here: its local address is the listener's, or its port is and the listener takes any address.
func (l *Listener) Accepted(fd int) bool {
	ours, err := unix.Getsockname(l.fd)
	if err != nil {
		return false
	}
	its, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	switch ours := ours.(type) {
	case *unix.SockaddrUnix:
		its, ok := its.(*unix.SockaddrUnix)
		return ok && ours.Name != "" && its.Name == ours.Name
	case *unix.SockaddrInet4:
		its, ok := its.(*unix.SockaddrInet4)
		return ok && its.Port == ours.Port && (ours.Addr == [4]byte{} || its.Addr == ours.Addr)
	case *unix.SockaddrInet6:
		its, ok := its.(*unix.SockaddrInet6)
		return ok && its.Port == ours.Port && (ours.Addr == [16]byte{} || its.Addr == ours.Addr)
	}
	return false
}
