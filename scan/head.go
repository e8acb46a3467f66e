package scan

import "bytes"

// head is what has been read of a head: where it ends, and what the length of the body depends on.
type head struct {
	end     int
	length  int64
	framing framing
	old     bool // HTTP/1.0: knows neither chunks (6.1) nor Expect (RFC 9110, 10.1.1)
	connect bool
	expects bool // something
	waits   bool // what it expects is 100-continue, and nothing else
	unsure  bool // parsers differ about the framing
}

type framing uint8

const (
	none framing = iota
	contentLength
	chunked
)

// readHead takes lines up to the empty one, which must end within limit bytes, if there is a limit.
// It answers HeadOnly when the end is there.
func (s *Scanner) readHead(b []byte, limit int) Verdict {
	missing := More
	if limit > 0 && len(b)-s.start >= limit {
		b, missing = b[:s.start+limit], HeadTooLong
	}
	s.bodiless = bytes.HasPrefix(b[s.start:], methodHead)
	for {
		first := s.at == s.start
		line, strict, ok := s.line(b)
		if !ok {
			return missing
		}
		s.head.unsure = s.head.unsure || !strict
		switch {
		case len(line) == 0:
			s.head.end = s.at
			return HeadOnly
		case dirty(line) || first && !s.head.requestLine(line) || !first && !s.head.field(line):
			return Malformed
		}
	}
}

var methodHead = []byte("HEAD ")

var http11, http10 = []byte(" HTTP/1.1"), []byte(" HTTP/1.0")

// requestLine is false for a line without a version. HTTP/0.9, which has none and no head either, is no longer part of HTTP/1 (appendix C).
// A line with any other version, such as the one that begins HTTP/2 (RFC 9113, 3.4), has a head and is for the host to understand.
func (h *head) requestLine(line []byte) bool {
	switch {
	case bytes.HasSuffix(line, http11):
	case bytes.HasSuffix(line, http10):
		h.old = true
	case bytes.Contains(line, http11[:len(" HTTP/")]):
		h.unsure = true
	default:
		return false
	}
	h.unsure = h.unsure || bytes.Count(line, http11[:1]) != 2
	h.connect = bytes.HasPrefix(line, []byte("CONNECT "))
	return true
}

// field is false for what has to be refused.
func (h *head) field(line []byte) bool {
	colon := nameLength(line)
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		h.unsure = true
		return !spaceBeforeColon(line)
	}
	name, value := line[:colon], line[colon+1:]
	switch {
	case is(name, "content-length"):
		return h.contentLength(trim(value))
	case is(name, "transfer-encoding"):
		h.transferEncoding(trim(value))
	case is(name, "expect"):
		h.waits = !h.expects && is(trim(value), "100-continue")
		h.expects = true
	}
	return true
}

// spaceBeforeColon tells what section 5.1 forbids from a folded line (5.2), which the host may join to the one before.
func spaceBeforeColon(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	return colon > 0 && isSpace(line[colon-1]) && !isSpace(line[0])
}

// contentLength is false for what is no number, or not the one given before. A list of equal numbers might be taken for one (6.3), but
// hardly a parser does.
func (h *head) contentLength(value []byte) bool {
	n, ok := decimal(value)
	if !ok || h.framing == contentLength && n != h.length {
		return false
	}
	h.length = n
	h.frame(contentLength)
	return true
}

// transferEncoding knows one coding. Whatever else is said, in one field or two, the host understands or refuses.
func (h *head) transferEncoding(value []byte) {
	if h.framing == chunked || !is(value, "chunked") {
		h.unsure = true
	}
	h.frame(chunked)
}

// frame notes that both lengths are given: some parsers refuse that, some take one, some the other (6.3).
func (h *head) frame(f framing) {
	h.unsure = h.unsure || h.framing != none && h.framing != f
	h.framing = f
}

// request decides how much to wait for, once the head is there.
func (s *Scanner) request(b []byte, avail int, limits Limits) Seen {
	h := &s.head
	switch {
	case h.unsure || h.old && h.framing == chunked:
		return Seen{Verdict: Opaque}
	case h.framing == none || h.framing == contentLength && h.length == 0:
		return h.whole(h.end)
	case h.connect: // some take what follows for the tunnel, whatever length is given (RFC 9110, 9.3.6)
		return h.only()
	}
	seen := s.body(b, avail, limits)
	if seen.Verdict != More || !h.expects || h.old {
		return seen
	}
	if !h.waits || !limits.Expect {
		return h.only()
	}
	seen.Expects = avail == h.end
	return seen
}

func (s *Scanner) body(b []byte, avail int, limits Limits) Seen {
	h := &s.head
	if h.framing == chunked {
		return s.chunks(b, limits)
	}
	total := int64(h.end) + h.length
	switch {
	case limits.Body > 0 && h.length > limits.Body:
		return refuse(BodyTooLong)
	case total <= int64(avail):
		return h.whole(int(total))
	case h.length <= int64(limits.Wait):
		return more(int(total))
	}
	return h.only()
}

func (h *head) only() Seen { return Seen{Verdict: HeadOnly, Head: h.end} }

func (h *head) whole(total int) Seen { return Seen{Verdict: Whole, Head: h.end, Total: total} }

// decimal refuses signs, spaces, the empty value, and numbers beyond any body (2^53).
func decimal(digits []byte) (int64, bool) {
	n := int64(0)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int64(c-'0'); n > 1<<53 {
			return 0, false
		}
	}
	return n, len(digits) > 0
}

// is compares without regard to case; want is in lower case.
func is(b []byte, want string) bool {
	return len(b) == len(want) && bytes.EqualFold(b, []byte(want))
}

func trim(value []byte) []byte { return bytes.Trim(value, " \t") }

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// nameLength is how far line begins with a token, as a field name must.
func nameLength(line []byte) int {
	for i, c := range line {
		if !token[c] {
			return i
		}
	}
	return len(line)
}

// token holds the bytes of methods and field names (RFC 9110, 5.6.2).
var token = func() (set [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		set[c] = true
	}
	return set
}()
