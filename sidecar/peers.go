package sidecar

import (
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/listener"
)

// checkFor returns the check of one socket, "handoff" or "control". Its error names the socket's
// options: the sidecar sends it to a host that it refuses, which shows it to an operator.
func (p Peers) checkFor(socket string) func(listener.Credentials) error {
	return func(who listener.Credentials) error {
		if err := p.check(who); err != nil {
			return fmt.Errorf("%w; %s-allow-uid and %s-allow-gid let others in", err, socket, socket)
		}
		return nil
	}
}

// check judges who may connect: the sidecar's own user and root always (they could take the sidecar over anyway), and those who are named.
func (p Peers) check(who listener.Credentials) error {
	own := uint32(os.Geteuid())
	if who.UID == own || who.UID == 0 || slices.Contains(p.UIDs, who.UID) || slices.Contains(p.GIDs, who.GID) {
		return nil
	}
	return fmt.Errorf("user %d (group %d) is not allowed here, only %s", who.UID, who.GID, p.names(own))
}

func (p Peers) names(own uint32) string {
	s := fmt.Sprintf("user %d and root", own)
	if len(p.UIDs) > 0 {
		s += fmt.Sprintf(", users %v", p.UIDs)
	}
	if len(p.GIDs) > 0 {
		s += fmt.Sprintf(", groups %v", p.GIDs)
	}
	return s
}

func (p Peers) none() bool { return len(p.UIDs) == 0 && len(p.GIDs) == 0 }

// guarded is a Unix listener that hangs up on peers who are not allowed before a byte of theirs is read.
type guarded struct {
	net.Listener
	allow func(listener.Credentials) error
	log   hclog.Logger
}

// Accept waits for a peer who is allowed.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, err := credentials(conn)
		if err == nil {
			err = g.allow(who)
		}
		if err == nil {
			return &identified{conn, who}, nil
		}
		g.log.Warn("refused a peer of the control socket", "peer", peerName(who), "error", err)
		_ = conn.Close() // nothing was read or written, so nothing can be lost
	}
}

// credentials are those of a Unix connection's peer.
func credentials(conn net.Conn) (who listener.Credentials, err error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return who, fmt.Errorf("a %T has no peer credentials", conn)
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return who, err
	}
	controlErr := raw.Control(func(fd uintptr) { who, err = listener.PeerCredentials(int(fd)) })
	if controlErr != nil {
		return who, controlErr
	}
	return who, err
}

// identified is a Unix connection whose remote address tells who is there; the kernel's own is empty.
type identified struct {
	net.Conn
	who listener.Credentials
}

// RemoteAddr is the peer's user and process.
func (c *identified) RemoteAddr() net.Addr { return userAddr(c.who) }

type userAddr listener.Credentials

// Network is the one that has users.
func (userAddr) Network() string { return "unix" }

func (a userAddr) String() string { return peerName(listener.Credentials(a)) }

func peerName(who listener.Credentials) string {
	return listener.PeerAddress{Network: listener.Unix, Credentials: who}.String()
}
