// Package proxied finds out who the client behind a load balancer is, from the PROXY protocol header (versions 1 and 2) that comes before its
// first request. The format is https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt; the parser is github.com/pires/go-proxyproto.
package proxied

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"
)

// Verdict says what the first bytes of a connection are.
type Verdict uint8

// The verdicts.
const (
	More    Verdict = iota // a header has begun; look again when there are Need bytes
	Whole                  // Length bytes are a header
	None                   // there is no header
	Invalid                // a header that breaks the rules
)

// Seen is what a look has found.
type Seen struct {
	Verdict Verdict
	Need    int            // with More
	Length  int            // with Whole: bytes of the header, to be taken away before the request
	Source  netip.AddrPort // with Whole: the client; not valid if the header names none (UNKNOWN, LOCAL), and the socket's peer is the client
}

// MaxLength is the longest header looked at: version 2's fixed part and 2 KiB of addresses and extensions. A longer one is Invalid.
const MaxLength = 16 + 2048

// maxLine is the longest header of version 1 (section 2.1).
const maxLine = 107

var (
	lineStart = []byte("PROXY ")
	signature = []byte("\r\n\r\n\x00\r\nQUIT\n") // version 2 (section 2.2)
)

// Header looks at b, the first bytes of a connection.
func Header(b []byte) Seen {
	switch {
	case begins(b, signature):
		return binaryHeader(b)
	case begins(b, lineStart):
		return textHeader(b)
	}
	return Seen{Verdict: None}
}

// begins reports whether b begins with start, or is the beginning of it.
func begins(b, start []byte) bool {
	return bytes.HasPrefix(b, start) || len(b) < len(start) && bytes.HasPrefix(start, b)
}

func binaryHeader(b []byte) Seen {
	const fixed = 16
	if len(b) < fixed {
		return Seen{Verdict: More, Need: fixed}
	}
	length := fixed + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case length > MaxLength:
		return Seen{Verdict: Invalid}
	case len(b) < length:
		return Seen{Verdict: More, Need: length}
	}
	return parse(b[:length])
}

func textHeader(b []byte) Seen {
	end := bytes.Index(b[:min(len(b), maxLine)], []byte("\r\n"))
	switch {
	case end >= 0:
		return parse(b[:end+2])
	case len(b) >= maxLine:
		return Seen{Verdict: Invalid}
	}
	return Seen{Verdict: More, Need: len(b) + 1}
}

// parse reads a header of known length.
func parse(b []byte) Seen {
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return Seen{Verdict: Invalid}
	}
	seen := Seen{Verdict: Whole, Length: len(b)}
	if source, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command != proxyproto.LOCAL {
		at := source.AddrPort()
		seen.Source = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return seen
}
