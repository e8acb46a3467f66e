package sidecar

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/anteroom-io/anteroom/handoff"
	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// Defaults of Config. Those of Config.Limits stand at manager.Limits.
const (
	DefaultHandoff      = "unix://" + handoff.DefaultPath
	DefaultHandoffMode  = fs.FileMode(0o660)
	DefaultControl      = "unix:///run/anteroom/control.sock"
	DefaultControlMode  = fs.FileMode(0o600)
	DefaultReady        = "request"
	DefaultLogLevel     = "info"
	DefaultLogFormat    = "text"
	DefaultDrainTimeout = 30 * time.Second
)

// Config is everything that can be chosen about a sidecar. The zero value of each field is its default; the fields with a key in settings.go
// can be given as flag, environment variable or in a file. Run checks a Config and never modifies it.
type Config struct {
	// Listen is where clients connect. None: hosts bring their own listening sockets.
	Listen []Listen

	// Handoff is where hosts attach: a Unix socket, or an inherited one. Default: DefaultHandoff.
	Handoff listener.Address
	// HandoffMode is the mode of its file. Default: DefaultHandoffMode, or SharedMode if HandoffAllow
	// names anyone.
	HandoffMode fs.FileMode
	// HandoffAllow names who may attach beside the sidecar's own user and root.
	HandoffAllow Peers

	// Control is where operators connect: a Unix socket, or an inherited one. Default: DefaultControl.
	Control listener.Address
	// ControlOff leaves that socket out.
	ControlOff bool
	// ControlMode is the mode of its file. Default: DefaultControlMode, or SharedMode if ControlAllow
	// names anyone.
	ControlMode fs.FileMode
	// ControlAllow names who may connect beside the sidecar's own user and root.
	ControlAllow Peers
	// ControlTCP is where operators connect from elsewhere, with mutual TLS. Zero: nowhere.
	ControlTCP ControlTCP

	// Metrics is where metrics and the status page are served over HTTP, to everybody who can connect. Zero: nowhere.
	Metrics listener.Address

	// Exempt are the networks of clients that limits of clients do not hold for.
	Exempt []listener.Subnet
	// Answers take the place of the sidecar's own answers, by status.
	Answers manager.Answers

	// Supervise has the sidecar run as a child of this process, with a keeper that takes its place if it dies (Supervise).
	Supervise bool

	// Limits bound everything that can grow or wait.
	Limits manager.Limits
	// DrainTimeout is how long leases may take to come back when the sidecar ends, 1 ms to 7 days. Default: DefaultDrainTimeout.
	DrainTimeout time.Duration

	// LogLevel is trace, debug, info, warn, error or off. Default: DefaultLogLevel.
	LogLevel string
	// LogFormat is text or json. Default: DefaultLogFormat.
	LogFormat string

	// Logger takes the place of the one that LogLevel and LogFormat describe, which writes to standard error.
	Logger hclog.Logger `json:"-"`
	// Inherited is where fd addresses are looked up. Nil: what a service manager passed to this process (listener.Inherited).
	Inherited *listener.Inheritance `json:"-"`
	// Version is what the sidecar calls itself in metrics and logs. Default: "devel".
	Version string
	// OnReady is told once that everything is open, and where clients connect.
	OnReady func(listening []listener.Address) `json:"-"`
	// Args are the flags of this process as the command line had them: a new program checks them before it takes over in an upgrade.
	Args []string
	// Upgrades asks for an upgrade, as the rpc does.
	Upgrades <-chan struct{} `json:"-"`
	// Reloads asks for a reload, as the rpc does.
	Reloads <-chan struct{} `json:"-"`
	// Abort, once closed, ends a drain at once.
	Abort <-chan struct{} `json:"-"`
	// Choices are the settings as Load has read them: a reload shows what differs.
	Choices []Choice `json:"-"`
}

// Listen is one listener of the sidecar's own.
type Listen struct {
	Address listener.Address
	Pool    string // whose hosts get its connections; empty: manager.DefaultPool
	Name    string // how operators see it; empty: its address
	Expect  string // who answers Expect: 100-continue: handover (the host, before its body is waited for) or answer (the sidecar); empty: handover
	Ready   string // what must have arrived before a host gets a connection: bytes, head or request (manager.Readiness); empty: DefaultReady
	// Proxies are the networks of load balancers that send a PROXY header before the first request. Who connects from elsewhere is taken for
	// the client itself.
	Proxies []listener.Subnet
}

// Peers names users and groups of processes, as SO_PEERCRED shows them (unix(7)): of a process' groups only its effective one counts.
type Peers struct {
	UIDs, GIDs []uint32
}

// ControlTCP is a control socket for other machines. With an Address all files are needed: without mutual TLS everybody could close connections.
type ControlTCP struct {
	Address  listener.Address
	Cert     string // file, PEM: the sidecar's certificate chain
	Key      string // file, PEM: its private key
	ClientCA string // file, PEM: the authorities whose certificates let clients in
}

// Check reports every mistake as Mistakes, or nil. It reads the files of ControlTCP.
func (c *Config) Check() error {
	var m Mistakes
	c.checkListen(&m)
	c.checkSockets(&m)
	c.checkControlTCP(&m)
	c.checkLog(&m)
	m.addErr("answers", c.Answers.Check())
	if c.DrainTimeout != 0 && (c.DrainTimeout < manager.MinTimeout || c.DrainTimeout > manager.MaxTimeout) {
		m.add("drain-timeout", "%v is out of range, give %v to %v", c.DrainTimeout, manager.MinTimeout, manager.MaxTimeout)
	}
	m = append(m, limitMistakes(c.Limits.Check())...)
	if d, err := manager.ProcessDescriptors(); err == nil && !m.about("max-connections") {
		m = append(m, limitMistakes(d.Check(c.Limits))...)
	}
	return m.err()
}

func (c *Config) checkListen(m *Mistakes) {
	for i, l := range c.Listen {
		if l.Pool != "" && !handoff.ValidName(l.Pool) {
			m.add("listen", "pool %q of %s must be 1 to 64 of A-Z a-z 0-9 . _ : -", l.Pool, l.Address)
		}
		if l.Name != "" && !handoff.ValidName(l.Name) {
			m.add("listen", "name %q of %s must be 1 to 64 of A-Z a-z 0-9 . _ : -", l.Name, l.Address)
		}
		_, err := l.readiness()
		m.addErr("listen", err)
		if err := oneOf(or(l.Expect, expectHandover), expectations); err != nil {
			m.addErr("listen", fmt.Errorf("expect of %s: %w", l.Address, err))
		}
		sameAddress := func(other Listen) bool { return other.Address == l.Address && !picksPort(l.Address) }
		if slices.ContainsFunc(c.Listen[:i], sameAddress) {
			m.add("listen", "%s is given twice; leave one of them out", l.Address)
		}
	}
}

func picksPort(a listener.Address) bool { return a.Network == listener.TCP && a.Port == 0 }

func (c *Config) checkSockets(m *Mistakes) {
	sockets := []struct {
		key     string
		address listener.Address
		mode    fs.FileMode
	}{{"handoff", c.handoff(), c.HandoffMode}, {"control", c.control(), c.ControlMode}}
	for _, s := range sockets {
		if s.address.Network == listener.TCP {
			m.add(s.key, "%s is not a Unix socket; give a path such as unix:///run/anteroom/%s.sock", s.address, s.key)
		}
		if s.mode&^fs.ModePerm != 0 {
			m.add(s.key+"-mode", "%o is not a mode; give 0 to 0777", uint32(s.mode))
		}
	}
	if !c.ControlOff && c.handoff() == c.control() {
		m.add("control", "%s is also the handoff socket; give each its own path", c.control())
	}
}

func (c *Config) checkControlTCP(m *Mistakes) {
	t := c.ControlTCP
	missing := t.missing()
	switch {
	case t == ControlTCP{}:
	case t.Address == listener.Address{}:
		m.add("control-tcp", "there are TLS files for it but no address; give one such as tcp://127.0.0.1:7411, or leave them out")
	case t.Address.Network == listener.Unix:
		m.add("control-tcp", "%s is not a TCP address; for a Unix socket give control", t.Address)
	case missing != nil:
		m.add("control-tcp", "needs mutual TLS; give %s too", strings.Join(missing, ", "))
	default:
		if _, err := t.tls(); err != nil {
			m.addErr("control-tcp", err)
		}
	}
}

func (t ControlTCP) missing() (keys []string) {
	for _, f := range []struct{ key, file string }{
		{"control-tcp-cert", t.Cert}, {"control-tcp-key", t.Key}, {"control-tcp-client-ca", t.ClientCA},
	} {
		if f.file == "" {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// The values of Listen.Expect.
const (
	expectHandover = "handover"
	expectAnswer   = "answer"
)

var (
	expectations = []string{expectHandover, expectAnswer}

	logLevels  = []string{"trace", "debug", "info", "warn", "error", "off"}
	logFormats = []string{"text", "json"}
)

func (c *Config) checkLog(m *Mistakes) {
	m.addErr("log-level", oneOf(c.logLevel(), logLevels))
	m.addErr("log-format", oneOf(c.logFormat(), logFormats))
}

func oneOf(given string, words []string) error {
	if slices.Contains(words, given) {
		return nil
	}
	return fmt.Errorf("%q is not one of %s", given, strings.Join(words, ", "))
}

// The values in force, defaults filled in.

func (l Listen) readiness() (manager.Readiness, error) {
	r, err := manager.ParseReadiness(or(l.Ready, DefaultReady))
	if err != nil {
		return r, fmt.Errorf("ready of %s: %w", l.Address, err)
	}
	return r, nil
}

func (c *Config) handoff() listener.Address { return orAddress(c.Handoff, DefaultHandoff) }
func (c *Config) control() listener.Address { return orAddress(c.Control, DefaultControl) }
func (c *Config) controlText() string {
	if c.ControlOff {
		return "none"
	}
	return c.control().String()
}
func (c *Config) handoffMode() fs.FileMode {
	return socketMode(c.HandoffMode, DefaultHandoffMode, c.HandoffAllow)
}
func (c *Config) controlMode() fs.FileMode {
	return socketMode(c.ControlMode, DefaultControlMode, c.ControlAllow)
}
func (c *Config) logLevel() string            { return or(c.LogLevel, DefaultLogLevel) }
func (c *Config) logFormat() string           { return or(c.LogFormat, DefaultLogFormat) }
func (c *Config) drainTimeout() time.Duration { return or(c.DrainTimeout, DefaultDrainTimeout) }
func (c *Config) version() string             { return or(c.Version, "devel") }
func (c *Config) hasMetrics() bool            { return c.Metrics != listener.Address{} }
func (c *Config) hasControlTCP() bool         { return c.ControlTCP.Address != listener.Address{} }
func or[T comparable](given, standard T) T {
	var zero T
	if given == zero {
		return standard
	}
	return given
}

func orAddress(given listener.Address, standard string) listener.Address {
	a, err := listener.ParseAddress(standard)
	if err != nil {
		panic(err) // a default of ours
	}
	return or(given, a)
}
