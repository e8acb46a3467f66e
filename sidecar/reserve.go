package sidecar

import (
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// A process that takes over opens descriptors of its own before it can close those of its
// predecessor. So that it can, also where every descriptor is in use, a process that serves has a
// soft limit of open files below the hard one: what lies between is the reserve. Who starts a
// successor lifts the soft limit for it (keeper).

// keepReserve leaves the reserve to a successor.
func keepReserve() error {
	d, err := manager.ProcessDescriptors()
	if err != nil {
		return err
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("getrlimit(RLIMIT_NOFILE): %w", err)
	}
	limit.Cur = uint64(d.Process)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("setrlimit(RLIMIT_NOFILE): %w", err)
	}
	return nil
}

// bounded is a listener for operators, which keeps what this process needs itself free: it hangs up
// on who would take it.
type bounded struct {
	net.Listener
	most int // no connection gets a descriptor from here on
	log  hclog.Logger

	refused  int       // since the log last said so
	warnNext time.Time // the log says nothing of it before
}

// refusalWarning is how often the log tells of refused connections.
const refusalWarning = time.Minute

// Accept waits for a connection there is room for.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil || descriptorOf(conn) < b.most {
			return conn, err
		}
		_ = conn.Close() // nothing was read or written, so nothing can be lost
		b.warn()
	}
}

// warn tells the log of refused connections, once in refusalWarning with their number.
func (b *bounded) warn() {
	b.refused++
	if now := time.Now(); now.After(b.warnNext) {
		b.log.Warn("refused operators' connections: the limit of open files is reached", "address", b.Addr(), "refused", b.refused)
		b.refused, b.warnNext = 0, now.Add(refusalWarning)
	}
}

// descriptorOf is a connection's descriptor, 0 if it has none.
func descriptorOf(conn net.Conn) (fd int) {
	if with, ok := conn.(syscall.Conn); ok {
		if raw, err := with.SyscallConn(); err == nil {
			_ = raw.Control(func(its uintptr) { fd = int(its) })
		}
	}
	return fd
}

// operatorListener makes a net.Listener of l for operators.
func (s *sidecar) operatorListener(l *listener.Listener) (net.Listener, error) {
	d, err := manager.ProcessDescriptors()
	if err != nil {
		return nil, err
	}
	plain, err := netListener(l)
	if err != nil {
		return nil, err
	}
	return &bounded{Listener: plain, most: d.Operators, log: s.log}, nil
}
