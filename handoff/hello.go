package handoff

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// The features a host may ask for; PROTOCOL.md says what each one changes.
const (
	FeatureCache   = "cache"
	FeatureTrack   = "track"
	FeatureAddress = "address"
	FeatureFinish  = "finish"
)

// DefaultPath is where hosts look for the handoff socket when neither an argument nor PathVariable names it.
const (
	DefaultPath  = "/run/anteroom/handoff.sock"
	PathVariable = "ANTEROOM_HANDOFF"
)

// SocketPath returns the path of a Unix socket's address such as unix:///run/anteroom/handoff.sock;
// anything else is a path already.
func SocketPath(address string) string {
	if path, ok := strings.CutPrefix(address, "unix://"); ok && strings.HasPrefix(path, "/") {
		return path
	}
	return address
}

// DefaultPool is the pool of listeners and hosts that name none.
const DefaultPool = "default"

const magic = uint64('A') | uint64('N')<<8 | uint64('T')<<16 | uint64('R')<<24

// MaxName is the length in bytes of a host's or a pool's name.
const MaxName = 64

// MaxAgent is the length in bytes of Hello.Agent; more is cut.
const MaxAgent = 128

// Hello is what a host says first.
type Hello struct {
	Name     string   `json:"name"`
	Pool     string   `json:"pool"`     // empty: a private pool
	Capacity int      `json:"capacity"` // leases at once, 1 to MaxCapacity
	Features []string `json:"features,omitempty"`
	Agent    string   `json:"agent,omitempty"`
}

// Frame encodes the HELLO.
func (h *Hello) Frame() Frame {
	return Frame{Type: TypeHello, A: magic | Version<<32, Payload: encode(h)}
}

// HelloOf reads the first frame of a host. What is wrong comes back as a Fault, ready to be sent as REFUSE.
func HelloOf(f *Frame) (*Hello, *Fault) {
	switch {
	case f.Type != TypeHello || uint32(f.A) != uint32(magic):
		return nil, Faultf(CodeBadMagic, "the first frame must be HELLO with ANTR in bytes 16 to 19, this was %s", f.Type)
	case f.A>>32 != Version:
		return nil, Faultf(CodeBadVersion, "version %d is not spoken here, only %d", f.A>>32, Version)
	}
	var h Hello
	if err := json.Unmarshal(f.Payload, &h); err != nil {
		return nil, Faultf(CodeBadPayload, "HELLO: %v", err)
	}
	return &h, h.check()
}

func (h *Hello) check() *Fault {
	switch {
	case !ValidName(h.Name):
		return Faultf(CodeBadPayload, "HELLO: name %q must be %s", h.Name, nameRule)
	case h.Pool != "" && !ValidName(h.Pool):
		return Faultf(CodeBadPayload, "HELLO: pool %q must be empty or %s", h.Pool, nameRule)
	case h.Capacity < 1:
		return Faultf(CodeBadPayload, "HELLO: capacity %d must be at least 1", h.Capacity)
	}
	h.Capacity = min(h.Capacity, MaxCapacity)
	h.Agent = cut(h.Agent, MaxAgent)
	return nil
}

// cut shortens a text to at most n bytes, between two characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Has reports whether the host asked for the feature.
func (h *Hello) Has(feature string) bool { return slices.Contains(h.Features, feature) }

const nameRule = "1 to 64 of A-Z a-z 0-9 . _ : -"

// ValidName reports whether s may name a host or a pool: 1 to MaxName bytes of A-Z a-z 0-9 . _ : -
func ValidName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != ':' && c != '-' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= MaxName
}

// Welcome is the sidecar's answer to Hello.
type Welcome struct {
	Host               uint64   `json:"host"`
	Pool               string   `json:"pool"`
	Capacity           int      `json:"capacity"`
	Features           []string `json:"features"`
	Listeners          []string `json:"listeners"`
	KeepAliveTimeoutMS int64    `json:"keep_alive_timeout_ms"`
	Epoch              string   `json:"epoch"`
}

// Frame encodes the WELCOME. Listeners that would make it longer than a frame can be are left out, last first.
func (w Welcome) Frame() Frame {
	payload := encode(&w)
	for len(payload) > MaxPayload && len(w.Listeners) > 0 {
		w.Listeners = w.Listeners[:len(w.Listeners)-1]
		payload = encode(&w)
	}
	return Frame{Type: TypeWelcome, A: Version, Payload: payload}
}

// WelcomeOf reads the sidecar's first frame; a REFUSE comes back as its Fault.
func WelcomeOf(f *Frame) (*Welcome, error) {
	if f.Type == TypeRefuse || f.Type == TypeError {
		return nil, FaultOf(f)
	}
	if f.Type != TypeWelcome {
		return nil, fmt.Errorf("handoff: the sidecar's first frame is %s, not WELCOME", f.Type)
	}
	var w Welcome
	if err := json.Unmarshal(f.Payload, &w); err != nil {
		return nil, fmt.Errorf("handoff: WELCOME: %w", err)
	}
	return &w, nil
}

// Listen is the payload of LISTEN: how the sidecar shall accept on a host's own listening socket.
type Listen struct {
	Name               string `json:"name,omitempty"`
	Silent             string `json:"silent,omitempty"` // SilentClose (also if empty) or SilentLease
	FirstByteTimeoutMS int64  `json:"first_byte_timeout_ms,omitempty"`
	Ready              string `json:"ready,omitempty"` // what must have arrived before a LEASE: one of the Ready constants, empty is ReadyBytes
	Backlog            int    `json:"backlog,omitempty"`
}

// What happens to a connection that never sends a byte: values of Listen.Silent.
const (
	SilentClose = "close"
	SilentLease = "lease"
)

// What must have arrived on a connection before it is leased: values of Listen.Ready.
const (
	ReadyBytes   = "bytes"
	ReadyHead    = "head"
	ReadyRequest = "request"
)

// maxMS bounds durations that come from a peer: a week.
const maxMS = 7 * 24 * 3600 * 1000

// Frame encodes the LISTEN; tag comes back in the answer.
func (l *Listen) Frame(tag uint32) Frame {
	return Frame{Type: TypeListen, Flags: FlagFD, Seq: tag, Payload: encode(l)}
}

// ListenOf reads a LISTEN frame.
func ListenOf(f *Frame) (*Listen, *Fault) {
	var l Listen
	if err := json.Unmarshal(f.Payload, &l); err != nil {
		return nil, Faultf(CodeBadPayload, "LISTEN: %v", err)
	}
	switch {
	case l.Name != "" && !ValidName(l.Name):
		return nil, Faultf(CodeBadPayload, "LISTEN: name %q must be empty or %s", l.Name, nameRule)
	case l.Silent != "" && l.Silent != SilentClose && l.Silent != SilentLease:
		return nil, Faultf(CodeBadPayload, "LISTEN: silent %q must be %q or %q", l.Silent, SilentClose, SilentLease)
	case l.Ready != "" && l.Ready != ReadyBytes && l.Ready != ReadyHead && l.Ready != ReadyRequest:
		return nil, Faultf(CodeBadPayload, "LISTEN: ready %q must be %q, %q or %q", l.Ready, ReadyBytes, ReadyHead, ReadyRequest)
	case l.FirstByteTimeoutMS < 0 || l.FirstByteTimeoutMS > maxMS:
		return nil, Faultf(CodeBadPayload, "LISTEN: first_byte_timeout_ms %d must be 0 to %d", l.FirstByteTimeoutMS, maxMS)
	}
	return &l, nil
}

// Finish is the payload of FINISH, which may be left out.
type Finish struct {
	KeepAliveTimeoutMS uint64 `json:"keep_alive_timeout_ms,omitempty"` // of the connection once all is sent; 0: the pool's default
}

// Frame encodes the FINISH of length bytes from offset on.
func (how Finish) Frame(offset, length int64) Frame {
	f := Frame{Type: TypeFinish, Flags: FlagFD, A: uint64(offset), B: uint64(length)}
	if how != (Finish{}) {
		f.Payload = encode(how)
	}
	return f
}

// FinishOf reads the payload of a FINISH frame.
func FinishOf(f *Frame) (Finish, *Fault) {
	var how Finish
	if len(f.Payload) == 0 {
		return how, nil
	}
	if err := json.Unmarshal(f.Payload, &how); err != nil {
		return how, Faultf(CodeBadPayload, "FINISH: %v", err)
	}
	return how, nil
}

// encode cannot fail: the payload types hold only strings, numbers and lists of them.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
