package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-io/anteroom/listener"
	"github.com/anteroom-io/anteroom/manager"
)

// A setting is a key of the configuration: the flag --key, the variable ANTEROOM_KEY and the key of a file, with one reader for all three.
type setting struct {
	key      string
	value    string // what kind of value, for the manual
	usage    string
	standard string // the default, for people
	list     bool   // may be given several times
	toggle   bool   // its flag alone says true
	inline   bool   // may be a mapping in a file, whose text is its value
	parse    func(c *Config, values []string) error
	show     func(c *Config) string // the value in force
}

// settings lists every key, in the order of the manual.
var settings = append([]setting{
	{
		key: "listen", value: "address", list: true, standard: "none: hosts bring their own sockets",
		usage: "where clients connect: tcp://HOST:PORT, unix:///PATH or fd://NAME, with ?pool=POOL&name=NAME&ready=bytes|head|request&expect=handover|answer&proxy=NETWORK where wanted (several may be given)",
		parse: each(func(c *Config, v string) error {
			l, err := ParseListen(v)
			c.Listen = append(c.Listen, l)
			return err
		}),
		show: func(c *Config) string { return joined(c.Listen) },
	},
	socket("handoff", DefaultHandoff, "where hosts attach", func(c *Config) *listener.Address { return &c.Handoff }),
	mode("handoff-mode", DefaultHandoffMode, "mode of the handoff socket's file", func(c *Config) *fs.FileMode { return &c.HandoffMode }, (*Config).handoffMode),
	ids("handoff-allow-uid", "users", func(c *Config) *[]uint32 { return &c.HandoffAllow.UIDs }),
	ids("handoff-allow-gid", "groups", func(c *Config) *[]uint32 { return &c.HandoffAllow.GIDs }),
	{
		key: "control", value: "address", standard: DefaultControl,
		usage: "where operators connect over gRPC, or none",
		parse: one(parseControl),
		show:  (*Config).controlText,
	},
	mode("control-mode", DefaultControlMode, "mode of the control socket's file", func(c *Config) *fs.FileMode { return &c.ControlMode }, (*Config).controlMode),
	ids("control-allow-uid", "users", func(c *Config) *[]uint32 { return &c.ControlAllow.UIDs }),
	ids("control-allow-gid", "groups", func(c *Config) *[]uint32 { return &c.ControlAllow.GIDs }),
	address("control-tcp", "where operators connect from other machines, with mutual TLS", func(c *Config) *listener.Address { return &c.ControlTCP.Address }),
	file("control-tcp-cert", "certificate chain of control-tcp, PEM", func(c *Config) *string { return &c.ControlTCP.Cert }),
	file("control-tcp-key", "private key of control-tcp, PEM", func(c *Config) *string { return &c.ControlTCP.Key }),
	file("control-tcp-client-ca", "authorities whose certificates let clients of control-tcp in, PEM", func(c *Config) *string { return &c.ControlTCP.ClientCA }),
	address("metrics", "where metrics and the status page are served over HTTP, to everybody who can connect", func(c *Config) *listener.Address { return &c.Metrics }),
	{
		key: "client-exempt", value: "network", list: true, standard: "none",
		usage: "networks or addresses of clients that the limits of clients do not hold for (several may be given)",
		parse: each(func(c *Config, v string) error {
			n, err := listener.ParseSubnet(v)
			c.Exempt = append(c.Exempt, n)
			return err
		}),
		show: func(c *Config) string { return joined(c.Exempt) },
	},
	{
		key: "answers", value: "file", standard: "none", inline: true,
		usage: "what the sidecar itself says with a status: a YAML file, or that YAML",
		parse: one(func(c *Config, v string) (err error) {
			if v != "none" {
				c.Answers, err = readAnswers(v)
			}
			return err
		}),
		show: func(c *Config) string { return showAnswers(c.Answers) },
	},
	{
		key: "supervise", value: "bool", standard: "false", toggle: true,
		usage: "run the sidecar as a child, with a keeper that takes its place if it dies: no connection is lost",
		parse: one(func(c *Config, v string) (err error) {
			if c.Supervise, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("%q is neither true nor false", v)
			}
			return nil
		}),
		show: func(c *Config) string { return strconv.FormatBool(c.Supervise) },
	},
	word("log-level", DefaultLogLevel, logLevels, func(c *Config) *string { return &c.LogLevel }),
	word("log-format", DefaultLogFormat, logFormats, func(c *Config) *string { return &c.LogFormat }),
	{
		key: "drain-timeout", value: "duration", standard: DefaultDrainTimeout.String(),
		usage: "how long leases may take to come back when the sidecar ends",
		parse: one(func(c *Config, v string) error { return parseTimeout(&c.DrainTimeout, v) }),
		show:  func(c *Config) string { return c.drainTimeout().String() },
	},
}, limitSettings()...)

func limitSettings() (all []setting) {
	for _, l := range limits {
		kind := "number"
		if l.isTimeout() {
			kind = "duration"
		}
		all = append(all, setting{
			key: l.key, value: kind, usage: l.usage, standard: l.standard,
			parse: one(func(c *Config, v string) error { return l.parse(&c.Limits, v) }),
			show:  func(c *Config) string { return l.show(&c.Limits) },
		})
	}
	return all
}

// one reads a setting that has one value.
func one(parse func(*Config, string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		if len(values) != 1 || values[0] == "" {
			return errors.New("takes one value; give one, or leave it out for the default")
		}
		return parse(c, values[0])
	}
}

// each reads a setting that has any number of values and reports what is wrong with all of them. The
// one value none is no value, as it is shown.
func each(parse func(*Config, string) error) func(*Config, []string) error {
	return func(c *Config, values []string) error {
		if len(values) == 1 && values[0] == "none" {
			return nil
		}
		var errs []error
		for _, v := range values {
			errs = append(errs, parse(c, v))
		}
		return errors.Join(errs...)
	}
}

func socket(key, standard, usage string, field func(*Config) *listener.Address) setting {
	return setting{
		key: key, value: "address", standard: standard, usage: usage,
		parse: one(func(c *Config, v string) (err error) {
			*field(c), err = parseSocket(v)
			return err
		}),
		show: func(c *Config) string { return orAddress(*field(c), standard).String() },
	}
}

func parseControl(c *Config, v string) (err error) {
	if v == "none" {
		c.ControlOff = true
		return nil
	}
	c.Control, err = parseSocket(v)
	return err
}

// parseSocket reads the address of a Unix socket, for which a bare path will do.
func parseSocket(v string) (listener.Address, error) {
	if strings.HasPrefix(v, "/") || strings.HasPrefix(v, "@") {
		v = "unix://" + v
	}
	a, err := listener.ParseAddress(v)
	if err != nil && !strings.HasPrefix(v, "unix://") {
		return a, fmt.Errorf("%q is not the address of a Unix socket; give a path such as unix:///run/anteroom/NAME.sock", v)
	}
	return a, err
}

func address(key, usage string, field func(*Config) *listener.Address) setting {
	return setting{
		key: key, value: "address", standard: "none", usage: usage,
		parse: one(func(c *Config, v string) (err error) {
			if v == "none" {
				return nil
			}
			*field(c), err = listener.ParseAddress(v)
			return err
		}),
		show: func(c *Config) string {
			if *field(c) == (listener.Address{}) {
				return "none"
			}
			return field(c).String()
		},
	}
}

func file(key, usage string, field func(*Config) *string) setting {
	return setting{
		key: key, value: "file", usage: usage,
		parse: one(func(c *Config, v string) error {
			*field(c) = v
			return nil
		}),
		show: func(c *Config) string { return *field(c) },
	}
}

func word(key, standard string, words []string, field func(*Config) *string) setting {
	return setting{
		key: key, value: "word", standard: standard, usage: strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1],
		parse: one(func(c *Config, v string) error {
			if err := oneOf(v, words); err != nil {
				return err
			}
			*field(c) = v
			return nil
		}),
		show: func(c *Config) string { return or(*field(c), standard) },
	}
}

func mode(key string, standard fs.FileMode, usage string, field func(*Config) *fs.FileMode, inForce func(*Config) fs.FileMode) setting {
	return setting{
		key: key, value: "mode", standard: octal(standard) + ", or " + octal(SharedMode) + " if others are let in", usage: usage,
		parse: one(func(c *Config, v string) error {
			n, err := strconv.ParseUint(strings.TrimPrefix(v, "0o"), 8, 32)
			if err != nil || n == 0 || n > 0o777 {
				return fmt.Errorf("%q is not a mode; give an octal number such as 0660", v)
			}
			*field(c) = fs.FileMode(n)
			return nil
		}),
		show: func(c *Config) string { return octal(inForce(c)) },
	}
}

func octal(m fs.FileMode) string { return fmt.Sprintf("%04o", uint32(m)) }

func ids(key, whom string, field func(*Config) *[]uint32) setting {
	return setting{
		key: key, value: "id", list: true, standard: "none",
		usage: "numbers of " + whom + " who may connect there beside the sidecar's own user and root (several may be given)",
		parse: each(func(c *Config, v string) error {
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				return fmt.Errorf("%q is not an id; give a number such as 1000 (id -u and id -g show them)", v)
			}
			*field(c) = append(*field(c), uint32(n))
			return nil
		}),
		show: func(c *Config) string { return joined(*field(c)) },
	}
}

func joined[T any](values []T) string {
	if len(values) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(values), "[]")
}

func parseTimeout(field *time.Duration, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return fmt.Errorf("%q is not a duration; give a number with a unit, such as 500ms, 30s or 1h", v)
	}
	if d < manager.MinTimeout || d > manager.MaxTimeout {
		return fmt.Errorf("%v is out of range, give %v to %v", d, manager.MinTimeout, manager.MaxTimeout)
	}
	*field = d
	return nil
}

// ParseListen reads a listener: an address (listener.Address), then perhaps ?pool=POOL&name=NAME&ready=READINESS&expect=WHO&proxy=NETWORK&proxy=NETWORK.
func ParseListen(v string) (Listen, error) {
	where, what, _ := strings.Cut(v, "?")
	a, err := listener.ParseAddress(where)
	if err != nil {
		return Listen{}, err
	}
	given, err := url.ParseQuery(what)
	if err != nil {
		return Listen{}, fmt.Errorf("listen address %q: what follows ? is not KEY=VALUE&KEY=VALUE (write %%25 for a %%): %w", a, err)
	}
	l := Listen{Address: a}
	for key, values := range given {
		if err := l.option(key, values); err != nil {
			return Listen{}, fmt.Errorf("listen address %q: %s: %w", a, key, err)
		}
	}
	return l, nil
}

func (l *Listen) option(key string, values []string) error {
	if key == "proxy" {
		return l.trust(values)
	}
	field, known := map[string]*string{"pool": &l.Pool, "name": &l.Name, "ready": &l.Ready, "expect": &l.Expect}[key]
	switch {
	case !known:
		return unknown("option", key, []string{"pool", "name", "ready", "expect", "proxy"})
	case len(values) != 1 || values[0] == "":
		return errors.New("give it one value")
	}
	*field = values[0]
	return nil
}

// trust reads networks, or single addresses.
func (l *Listen) trust(networks []string) error {
	for _, text := range networks {
		network, err := listener.ParseSubnet(text)
		if err != nil {
			return err
		}
		l.Proxies = append(l.Proxies, network)
	}
	return nil
}

// String returns the text that ParseListen reads.
func (l Listen) String() string {
	options := url.Values{}
	for key, value := range map[string]string{"pool": l.Pool, "name": l.Name, "ready": l.Ready, "expect": l.Expect} {
		if value != "" {
			options.Set(key, value)
		}
	}
	for _, network := range l.Proxies {
		options.Add("proxy", network.String())
	}
	if len(options) == 0 {
		return l.Address.String()
	}
	text := strings.ReplaceAll(options.Encode(), "%2F", "/") // a slash needs no escape in a query (RFC 3986)
	return l.Address.String() + "?" + strings.ReplaceAll(text, "%3A", ":")
}
