package listener

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Network is the kind of an Address.
type Network string

// The networks, which are the schemes of an address's text.
const (
	TCP  Network = "tcp"
	Unix Network = "unix"
	FD   Network = "fd"
)

// Address is where a listener listens. Its text is one of
//
//	tcp://127.0.0.1:8080   tcp://[::1]:8080   one address; port 0 lets the kernel pick
//	tcp://0.0.0.0:8080     tcp://[::]:8080    every address of that family, and of that one only
//	tcp://:8080                               every address of both families, on one socket
//	unix:///run/app.sock                      a path, at most 107 bytes (unix(7))
//	unix://@app                               an abstract name, which has no file; at most 107 bytes with the @
//	fd://3   fd://http                        inherited: a number, or a name given by LISTEN_FDNAMES
type Address struct {
	Network Network
	Host    netip.Addr // TCP; the zero Addr stands for every address of both families
	Port    uint16     // TCP
	Path    string     // Unix; "@name" is abstract
	Name    string     // FD; a number or a name
}

// maxPath is what sockaddr_un holds beside the NUL at its end. (An abstract name needs none, but x/sys keeps to the same length.)
const maxPath = 107

// String returns the text that ParseAddress reads.
func (a Address) String() string {
	switch a.Network {
	case TCP:
		return "tcp://" + a.hostPort()
	case Unix:
		return "unix://" + a.Path
	default:
		return string(a.Network) + "://" + a.Name
	}
}

func (a Address) hostPort() string {
	if !a.Host.IsValid() {
		return ":" + strconv.Itoa(int(a.Port))
	}
	return netip.AddrPortFrom(a.Host, a.Port).String()
}

// Abstract reports whether the address is a Unix socket's abstract name.
func (a Address) Abstract() bool { return a.Network == Unix && strings.HasPrefix(a.Path, "@") }

// ParseAddress reads the text of an address. Its errors say what is wrong and what would be right.
func ParseAddress(s string) (Address, error) {
	a, err := parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("listen address %q: %w", s, err)
	}
	return a, nil
}

func parse(s string) (Address, error) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return Address{}, fmt.Errorf("there is no scheme: write %s", withScheme(s))
	}
	switch Network(scheme) {
	case TCP:
		return parseTCP(rest)
	case Unix:
		return parseUnix(rest)
	case FD:
		return parseFD(rest)
	}
	return Address{}, unknownScheme(scheme, rest)
}

// examples are addresses of every kind.
const examples = "tcp://127.0.0.1:8080, unix:///run/app.sock or fd://3"

// suggest returns the first of the texts that is an address, else examples: what an error proposes is
// not refused itself.
func suggest(texts ...string) string {
	for _, text := range texts {
		if _, err := parse(text); err == nil {
			return text
		}
	}
	return examples
}

// withScheme guesses what was meant by an address without one.
func withScheme(s string) string {
	scheme, rest, _ := strings.Cut(s, ":")
	path := "unix:///" + strings.TrimLeft(s, "./")
	switch {
	case s == "":
		return examples
	case Network(scheme) == TCP || Network(scheme) == FD:
		return suggest(scheme + "://" + strings.TrimLeft(rest, "/"))
	case Network(scheme) == Unix:
		return suggest("unix://"+rest, "unix:///"+strings.TrimLeft(rest, "./"))
	case strings.HasPrefix(s, "@"):
		return suggest("unix://" + s)
	case strings.Contains(s, "/"):
		return suggest(path)
	}
	return suggest(tcpLike(s)...)
}

// tcpLike is what may be meant by a host and a port, one of which may be missing or a name.
func tcpLike(s string) []string {
	port := s[strings.LastIndexByte(s, ':')+1:]
	return []string{"tcp://" + s, "tcp://127.0.0.1:" + port, "tcp://" + s + ":8080"}
}

func unknownScheme(scheme, rest string) error {
	switch lower := strings.ToLower(scheme); lower {
	case "http", "https", "tcp4", "tcp6":
		return fmt.Errorf("the scheme %q is not known here: write %s", scheme, suggest(tcpLike(strings.TrimRight(rest, "/"))...))
	case string(TCP), string(Unix), string(FD):
		return fmt.Errorf("the scheme %q is written in small letters: write %s", scheme, suggest(lower+"://"+rest))
	}
	return fmt.Errorf("the scheme %q is not known: it is tcp, unix or fd", scheme)
}

func parseTCP(rest string) (Address, error) {
	colon := strings.LastIndexByte(rest, ':')
	if colon < 0 || strings.HasSuffix(rest, "]") {
		return Address{}, fmt.Errorf("there is no port: write %s", suggest("tcp://"+rest+":8080", "tcp://127.0.0.1:8080"))
	}
	port, err := parsePort(rest[colon+1:])
	if err != nil {
		return Address{}, err
	}
	host, err := parseHost(rest[:colon], port)
	if err != nil {
		return Address{}, err
	}
	return Address{Network: TCP, Host: host, Port: port}, nil
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '+' {
		return 0, fmt.Errorf("the port %q is no number from 0 to 65535, and nothing may follow it", s)
	}
	return uint16(port), nil
}

// parseHost refuses names: a name may stand for several addresses, or for none while its server is away, and a sidecar should
// listen where it was told to.
func parseHost(s string, port uint16) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	text, bracketed := s, strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]")
	if bracketed {
		text = s[1 : len(s)-1]
	}
	host, err := netip.ParseAddr(text)
	switch {
	case s == "*":
		return host, fmt.Errorf("%q is not an address: write tcp://:%d for every address", s, port)
	case err != nil:
		return host, fmt.Errorf("%q is not an IP address, and names are not looked up: write tcp://127.0.0.1:%d or tcp://[::1]:%d", s, port, port)
	case host.Is6() && !bracketed:
		return host, fmt.Errorf("an IPv6 address stands in brackets: write tcp://[%s]:%d", host, port)
	case host.Is4() && bracketed:
		return host, fmt.Errorf("an IPv4 address stands without brackets: write tcp://%s:%d", host, port)
	}
	return host.Unmap(), nil
}

func parseUnix(path string) (Address, error) {
	if err := checkPath(path); err != nil {
		return Address{}, err
	}
	return Address{Network: Unix, Path: path}, nil
}

func checkPath(path string) error {
	switch {
	case path == "" || path == "@":
		return errors.New("there is no path: write unix:///run/app.sock or unix://@app")
	case path[0] != '/' && path[0] != '@':
		return fmt.Errorf("a path starts with a slash: write %s", suggest("unix:///"+strings.TrimLeft(path, "./"), "unix:///run/app.sock"))
	case strings.HasSuffix(path, "/") && path[0] == '/':
		return errors.New("the path is a directory's: write unix:///run/app.sock")
	case strings.ContainsRune(path, 0):
		return errors.New("the path contains a NUL byte")
	case len(path) > maxPath:
		return fmt.Errorf("the path has %d bytes, the kernel allows %d: choose a shorter one", len(path), maxPath)
	}
	return nil
}

func parseFD(name string) (Address, error) {
	if name == "" || strings.ContainsAny(name, ":/") || !printable(name) {
		return Address{}, errors.New("there is no descriptor: write fd://3, or fd://http for one named in LISTEN_FDNAMES")
	}
	return Address{Network: FD, Name: name}, nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}
