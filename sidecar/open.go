package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/anteroom-io/anteroom/listener"
)

// sockets are what a sidecar listens on. What is not configured is nil. They are owned until somebody takes them and sets the field to nil.
type sockets struct {
	clients    []*listener.Listener // as Config.Listen
	handoff    *listener.Listener
	control    *listener.Listener
	controlTCP *listener.Listener
	metrics    *listener.Listener

	opened map[string]*listener.Listener // all of them by key
	fresh  []*listener.Listener          // of these, those that are not a predecessor's
}

// openSockets opens everything or nothing.
func openSockets(c *Config, from *succession, log hclog.Logger) (_ *sockets, err error) {
	inherited, err := c.inheritance()
	if err != nil {
		return nil, err
	}
	c.dropUnnamed(inherited, log)
	s := &sockets{opened: map[string]*listener.Listener{}}
	defer func() {
		if err != nil {
			s.giveUp()
		}
	}()
	if err := s.openRunDirectory(c); err != nil {
		return nil, err
	}
	if err := s.openAll(c, from, inherited); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Config) inheritance() (*listener.Inheritance, error) {
	if c.Inherited != nil {
		return c.Inherited, nil
	}
	return listener.Inherited()
}

func (s *sockets) openAll(c *Config, from *succession, in *listener.Inheritance) error {
	openOne := func(key string, into **listener.Listener, wanted bool, a listener.Address, o listener.Options) error {
		return s.openOne(from, key, into, wanted, a, o)
	}
	plain := listener.Options{Inherited: in}
	errs := []error{
		openOne("handoff", &s.handoff, true, c.handoff(), listener.Options{Inherited: in, Mode: c.handoffMode()}),
		openOne("control", &s.control, !c.ControlOff, c.control(), listener.Options{Inherited: in, Mode: c.controlMode()}),
		openOne("control-tcp", &s.controlTCP, c.hasControlTCP(), c.ControlTCP.Address, plain),
		openOne("metrics", &s.metrics, c.hasMetrics(), c.Metrics, plain),
	}
	s.clients = make([]*listener.Listener, len(c.Listen))
	for i, l := range c.Listen {
		errs = append(errs, openOne("listen", &s.clients[i], true, l.Address, plain))
	}
	return errors.Join(errs...)
}

func (s *sockets) openOne(from *succession, key string, into **listener.Listener, wanted bool, a listener.Address, o listener.Options) (err error) {
	if !wanted {
		return nil
	}
	*into, err = from.opened(socketKey(key, a))
	if *into == nil && err == nil {
		if *into, err = listener.Open(a, o); err == nil {
			s.fresh = append(s.fresh, *into)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	s.opened[socketKey(key, a)] = *into
	return nil
}

// socketKey is how a successor finds a socket: by what it is for, and its address as it is configured.
func socketKey(key string, a listener.Address) string { return key + " " + a.String() }

// dropUnnamed closes sockets that were passed to this process and that no setting names: their
// clients would wait for ever.
func (c *Config) dropUnnamed(in *listener.Inheritance, log hclog.Logger) {
	dropped, err := in.Drop(c.passedNames())
	for _, p := range dropped {
		log.Warn("a socket was passed to this process and no setting names it, so it is closed", "listener", fmt.Sprintf("fd://%d (%s)", p.FD, p.Name))
	}
	if err != nil {
		log.Warn("closing sockets that no setting names failed", "error", err)
	}
}

// passedNames are the names and numbers of passed sockets that settings name.
func (c *Config) passedNames() (names []string) {
	all := []listener.Address{c.handoff(), c.ControlTCP.Address, c.Metrics}
	if !c.ControlOff {
		all = append(all, c.control())
	}
	for _, l := range c.Listen {
		all = append(all, l.Address)
	}
	for _, a := range all {
		if a.Network == listener.FD {
			names = append(names, a.Name)
		}
	}
	return names
}

// giveUp closes what was opened, but for the sockets of a predecessor: who takes over next has the very same.
func (s *sockets) giveUp() {
	for _, l := range s.fresh {
		_ = l.Close() // the error that brought us here is what counts
	}
}

func (s *sockets) close() {
	for _, l := range append(s.clients, s.handoff, s.control, s.controlTCP, s.metrics) {
		if l != nil {
			_ = l.Close() // the error that brought us here is what counts
		}
	}
}

// openRunDirectory creates the folders of the handoff and control sockets where they are missing: private, or for others to pass through if
// others may connect. The sockets' own modes, and the check of each peer, decide who gets further.
func (s *sockets) openRunDirectory(c *Config) error {
	mode := fs.FileMode(0o700)
	if !c.HandoffAllow.none() || !c.ControlAllow.none() {
		mode = 0o711
	}
	for _, a := range []listener.Address{c.handoff(), c.control()} {
		if a.Network != listener.Unix || a.Abstract() {
			continue
		}
		if err := makeDirectory(filepath.Dir(a.Path), mode); err != nil {
			return err
		}
	}
	return nil
}

func makeDirectory(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("create the folder for the sockets: %w", err)
	}
	switch err := os.Mkdir(dir, mode); {
	case errors.Is(err, fs.ErrExist):
		return widen(dir, mode)
	case err != nil:
		return fmt.Errorf("create the folder for the sockets: %w; create it for user %d, or give other paths by handoff and control", err, os.Geteuid())
	}
	return os.Chmod(dir, mode) // the umask may have taken bits away
}

// widen gives a folder that an earlier sidecar has made for its user alone the wider mode that is
// wanted now. It leaves every other folder as it is: one of another user or mode, and one that holds
// anything but sockets.
func widen(dir string, mode fs.FileMode) error {
	if mode == 0o700 || !isOurOwn(dir) {
		return nil
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("let others pass through the folder of the sockets: %w", err)
	}
	return nil
}

// isOurOwn reports whether a folder is one that a sidecar of this user has made for it alone.
func isOurOwn(dir string) bool {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid != uint32(os.Geteuid()) || fs.FileMode(st.Mode)&fs.ModePerm != 0o700 {
		return false
	}
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Type() != fs.ModeSocket })
}

// netListener makes a net.Listener of l for servers that want one. It has a descriptor of its own; l stays the caller's.
func netListener(l *listener.Listener) (net.Listener, error) {
	fd, err := unix.FcntlInt(uintptr(l.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fcntl(F_DUPFD_CLOEXEC): %w", err)
	}
	file := os.NewFile(uintptr(fd), l.String())
	defer func() { _ = file.Close() }() // net.FileListener has made its own
	return net.FileListener(file)
}
